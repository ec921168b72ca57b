"""``clipdense adapt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.methods import adapting_method, list_methods
from clipdense.utils.errors import InputError
from clipdense.utils.files import check_outputs

from .early import check_choice, check_method, check_templates
from .options import Options, Overwrite, Templates, WeightsArguments, grouped

if TYPE_CHECKING:
    from clipdense.data.labeled import LabeledData

_NAMES = ', '.join(method.name for method in list_methods() if method.adapt)
_DENSE = ', '.join(method.name for method in list_methods('segmentation', any_clip=True))


@dataclass(frozen=True)
class ExampleArguments:
    """``LabeledData`` on the command line."""

    data: Annotated[
        Path,
        typer.Argument(
            help='A folder of class folders, a folder in the layout of PASCAL VOC with masks or boxes, '
            'a split file of CoOp, or boxes in COCO JSON.',
            show_default=False,
        ),
    ]
    labels: Annotated[
        str | None, typer.Option(help='images, masks or boxes [default: recognized; masks before boxes].')
    ] = None
    split: Annotated[str, typer.Option(help='Split of datasets in PASCAL VOC format.')] = 'train'
    shots: Annotated[
        int | None,
        typer.Option(min=1, help='Examples of each class, or images with masks [default: all].'),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help='Random seed.')] = 0
    validation: Annotated[
        str | None,
        typer.Option(
            help='Other labeled data to search alpha and beta on, never the test images: a folder, a list '
            "of the VOC folder such as 'val', a JSON file, or 'rest' for the examples that are not drawn."
        ),
    ] = None
    image_folder: Annotated[
        Path | None, typer.Option(help='Folder of the images of a JSON file [default: its own folder].')
    ] = None
    classes: Annotated[
        str,
        typer.Option(help="Of labeled images: all, base (the first half), new (the others) or 'cat, dog'."),
    ] = 'all'

    def check(self) -> None:
        """Check the paths before anything heavy is imported.

        Raises:
            InputError: no data, or an unknown kind of labels.
        """
        check_choice(self.labels, ('images', 'masks', 'boxes'), '--labels')
        for path in (self.data, self.image_folder):
            if path is not None and not path.exists():
                raise InputError(f'{path} does not exist')

    def read(self) -> LabeledData:
        """The data, not yet opened.

        Raises:
            InputError: an unknown kind of labels, or numbers out of range.
        """
        from clipdense.data.classification.few_shot import HALVES
        from clipdense.data.labeled import LabeledData
        from clipdense.vocab.vocabulary import Vocabulary

        labels: Any = self.labels  # checked there
        classes = self.classes if self.classes in HALVES else Vocabulary.parse(self.classes).class_names
        return LabeledData(
            self.data,
            labels,
            self.split,
            self.shots,
            self.seed,
            self.validation,
            self.image_folder,
            classes,
        )


@grouped
def adapt(
    examples: ExampleArguments,
    weights: WeightsArguments,
    method: Annotated[str, typer.Option(help=f'Kind of adapter: {_NAMES}.')] = 'tip',
    option: Options = None,
    dense_method: Annotated[
        str | None, typer.Option(help=f'For masks and plain CLIP weights, what embeds pixels: {_DENSE}.')
    ] = None,
    templates: Templates = None,
    out: Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')] = Path(
        'adapter.safetensors'
    ),
    overwrite: Overwrite = False,
) -> None:
    """Make an adapter from a few labeled images, masks or boxes, for `--adapter` of other commands.

    `-o` sets an option of the method (see `clipdense methods NAME`).

    Example: `clipdense adapt pets/ --shots 16 --validation rest --out pets.safetensors`
    """
    from clipdense.config import parse_options

    examples.check()
    weights.check()
    adapting_method(method).check_options(parse_options(option or []))
    check_method(dense_method, 'segmentation')
    check_templates(templates)
    if out.suffix != '.safetensors':
        raise InputError(f'--out {out}: adapters are written as safetensors; use {out.stem}.safetensors')
    check_outputs([out], overwrite, [weights.weights, weights.embedder])
    from clipdense.inference.adapters import make_adapter

    adapter = make_adapter(
        weights.weights,
        examples.read(),
        method,
        options=parse_options(option or []),
        dense_method=dense_method,
        templates=templates,
        embedder=weights.embedder,
        device=weights.device,
        cache=weights.cache,
        **weights.overrides(),
    )
    adapter.save(out)
    print(f'{out}: {adapter.summary()}')
