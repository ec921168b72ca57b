"""Commands of ViLD, shown under ``clipdense embed``; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def regions(
    config: Annotated[str, typer.Argument(help='Config with the detector, its CLIP and the images.')],
    checkpoint: Annotated[Path, typer.Argument(help='Weights of a detector trained on base classes.')],
    out: Annotated[Path, typer.Argument(help='Output folder; an incomplete one is completed.')],
    most: Annotated[
        int, typer.Option('--max', '--regions', min=1, help='Maximum number of regions per image.')
    ] = 300,
    workers: Annotated[int, typer.Option(min=0, help='Number of worker processes; 0: none.')] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            '--option', '-o', help="Override a config setting: 'train_cfg.max_steps=100'. May be repeated."
        ),
    ] = None,
    safe_config: Annotated[
        bool,
        typer.Option(
            '--safe-config',
            help='Refuse a .py config, which is code; YAML, JSON and included configs are read.',
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help='cpu, cuda, cuda:1, ... [default: the GPU if there is one].')
    ] = None,
) -> None:
    """Write CLIP embeddings of proposed regions, for training ViLD. Run it again after an interruption.

    Example: `clipdense embed regions vild/vild_scenes work_dirs/vild_scenes_rpn/step_1000.pth data/regions`
    """
    from clipdense.config import load_config
    from clipdense.utils.devices import choose_device

    from .region_embeddings import embed_regions

    store = embed_regions(
        load_config(config, safe=safe_config),
        checkpoint,
        out,
        option or (),
        most,
        workers=workers,
        device=choose_device(device),
    )
    print(f'{out}: {len(store)} images, up to {store.facts.regions} regions of {store.facts.width} values')
