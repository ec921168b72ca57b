"""Commands of ViLD, shown under ``clipdense embed``; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdense.utils.command_options import ConfigOptions, Device, JobPart, SafeConfig
from clipdense.utils.wording import counted


def regions(
    config: Annotated[str, typer.Argument(help='Config with the detector, its CLIP and the images.')],
    checkpoint: Annotated[Path, typer.Argument(help='Weights of a detector trained on base classes.')],
    out: Annotated[Path, typer.Argument(help='Output folder; an incomplete one is completed.')],
    most: Annotated[
        int, typer.Option('--max', '--regions', min=1, help='Maximum number of regions per image.')
    ] = 300,
    workers: Annotated[int, typer.Option(min=0, help='Number of worker processes; 0: none.')] = 0,
    option: ConfigOptions = None,
    safe_config: SafeConfig = False,
    device: Device = None,
    part: JobPart = None,
) -> None:
    """Write CLIP embeddings of proposed regions, for training ViLD. Run it again after an interruption.

    Example: `clipdense embed regions vild/vild_scenes work_dirs/vild_scenes_rpn/step_1000.pth data/regions`
    """
    from clipdense.config import load_config
    from clipdense.utils.devices import choose_device
    from clipdense.utils.files import check_output_folder
    from clipdense.utils.jobs import Part

    own = Part.parse(part)  # refused before torch is imported
    check_output_folder(out)
    from .region_embeddings import embed_regions

    store = embed_regions(
        load_config(config, safe=safe_config),
        checkpoint,
        out,
        option or (),
        most,
        workers=workers,
        device=choose_device(device),
        part=own,
    )
    about = f'up to {store.facts.regions} regions of {store.facts.width} values'
    print(f'{store.folder}: {counted(len(store), "image")}, {about}')
