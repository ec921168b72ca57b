"""``clipdense test``: scores on the test data of a config, or on data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipdense.config import parse_options
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted

from .early import check_config, check_device, check_files, check_weights
from .options import AdapterFile, AsJson, Device, EmbedderFile, SafeConfig, grouped
from .output import print_json
from .train import Modules, import_own


@dataclass(frozen=True)
class OwnDataArguments:
    """Data of one's own, and what is scored on it."""

    data: Annotated[
        str | None,
        typer.Option('--data', help='Your data; weights are then scored without a config.'),
    ] = None
    part: Annotated[
        str | None,
        typer.Option(
            '--part',
            help='With --data: train, val, test, all or a list of PASCAL VOC [default: what validates a '
            'training, or all].',
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option('--classes', '-c', help='With --data: class names in place of its own, in their order.'),
    ] = None
    novel: Annotated[
        str | None,
        typer.Option('--novel', help='With --data: classes to score apart from the others as well.'),
    ] = None
    wording: Annotated[
        Path | None,
        typer.Option(
            '--wording',
            help='With --data: file with the words around the class names of boxes, or a sentence that has '
            'them as phrases.',
        ),
    ] = None
    embedder: EmbedderFile = None
    adapter: AdapterFile = None
    device: Device = None

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        assert self.data is not None
        if '{' not in self.data and not Path(self.data).expanduser().exists():
            raise InputError(f'--data {self.data} does not exist')
        check_files(self.wording, self.embedder, self.adapter)
        check_device(self.device)


@dataclass(frozen=True)
class ConfigTestArguments:
    """A test by a config."""

    work_dir: Annotated[Path | None, typer.Option(help='Output folder.')] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            '--option',
            '-o',
            help="Override a config setting: 'train_cfg.max_steps=100'; with --data an option of the method: "
            "'image_size=640'. May be repeated.",
        ),
    ] = None
    safe_config: SafeConfig = False
    modules: Modules = None


@grouped
def test(
    config: Annotated[
        str, typer.Argument(help='A config (file or name); with --data the weights.', show_default=False)
    ],
    own: OwnDataArguments,
    run: ConfigTestArguments,
    checkpoint: Annotated[
        str | None,
        typer.Argument(help='Weights or checkpoint to evaluate; not with --data.', show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate weights on the test data of a config, or on data of your own.

    Example: `clipdense test dense_clip/maskclip_voc runs/clip/clip.safetensors`

    Example: `clipdense test runs/lseg/lseg.safetensors --data data/mine`

    Example: `clipdense test ViT-B-16/openai --data photos/ --prompts runs/coop/prompts.safetensors`
    """
    if own.data is not None:
        metrics = _on_own_data(config, checkpoint, own, run)
    else:
        metrics = _by_config(config, checkpoint, own, run)
    if as_json:
        print_json(metrics)
        return
    from clipdense.engine.hooks import grouped as lines

    print(lines(metrics))


def _by_config(
    config: str, checkpoint: str | None, own: OwnDataArguments, given: ConfigTestArguments
) -> dict[str, float]:
    if own != OwnDataArguments():
        raise InputError(
            '--part, --classes, --novel, --wording, --prompts, --adapter and --device need --data; a config '
            'has its own settings (--option)'
        )
    if checkpoint is None:
        raise InputError(
            f'test needs weights: `clipdense test CONFIG WEIGHTS`, or `clipdense test {config} --data DATA` '
            'if these are weights'
        )
    check_config(config, given.safe_config)
    check_weights(checkpoint)
    parse_options(given.option or ())
    import_own(given.modules or [], config)
    from clipdense.config import load_config
    from clipdense.engine.launch import test as run

    source = load_config(config, safe=given.safe_config)
    return run(source, checkpoint, work_dir=given.work_dir, options=given.option or ())


def _on_own_data(
    weights: str, checkpoint: str | None, own: OwnDataArguments, given: ConfigTestArguments
) -> dict[str, float]:
    assert own.data is not None
    if checkpoint is not None:
        raise InputError(f'with --data there is no config: `clipdense test {checkpoint} --data {own.data}`')
    if given.work_dir or given.safe_config or given.modules:
        raise InputError('--work-dir, --safe-config and --import are for configs; remove them with --data')
    check_weights(weights)
    own.check()
    options = parse_options(given.option or ())
    from clipdense.inference.measuring import measure
    from clipdense.vocab.vocabulary import Vocabulary

    def names(text: str | None) -> tuple[str, ...]:
        return () if text is None else Vocabulary.parse(text, strict=True).class_names

    metrics, scored = measure(
        weights,
        own.data,
        own.part,
        classes=names(own.classes),
        novel=names(own.novel),
        wording=own.wording,
        embedder=own.embedder,
        adapter=own.adapter,
        device=own.device,
        method_options=options,
    )
    layout, count = scored.layout, scored.count
    samples = counted(count, 'sample' if layout.kind in ('captions', 'questions') else 'image')
    typer.echo(
        f'clipdense: {samples} of {own.data} scored: {layout.kind} ({layout.layout}), part '
        f'{scored.part_name!r}',
        err=True,
    )
    return metrics
