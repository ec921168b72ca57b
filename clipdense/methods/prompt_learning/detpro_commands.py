"""``clipdense embed region-features`` and ``embed detpro``; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdense.utils.command_options import Classes, Overwrite, VocabFile, Weights
from clipdense.utils.wording import counted

_Out = Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')]


def region_features(
    store: Annotated[
        Path, typer.Argument(help='Embeddings of proposed regions (`clipdense embed regions`).')
    ],
    annotations: Annotated[Path, typer.Argument(help='COCO or LVIS JSON with the boxes of its images.')],
    out: _Out = Path('regions.safetensors'),
    classes: Annotated[
        str | None,
        typer.Option(
            '--classes',
            '-c',
            help="Class names with commas, or a split: 'base', 'ov_coco/base'. [default: all]",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the regions with the class of the object that each overlaps most, for learning prompts (DetPro).

    Example: `clipdense embed region-features data/regions instances_train.json -c base --out r.safetensors`
    """
    from clipdense.data.detection.coco import read_coco
    from clipdense.data.detection.region_features import label_regions
    from clipdense.data.detection.splits import SPLITS
    from clipdense.data.detection.store import RegionStore
    from clipdense.vocab.vocabulary import Vocabulary

    _check_out(out, overwrite, store, annotations)
    chosen: str | list[str] | None = classes
    if classes is not None and classes not in SPLITS:
        chosen = list(Vocabulary.parse(classes).class_names)
    found = label_regions(RegionStore(store), read_coco(annotations), chosen)
    found.save(out)
    labeled = int((found.labels >= 0).sum())
    print(f'{out}: {len(found)} regions, {labeled} overlap an object of {len(found.class_names)} classes')


def detpro(
    files: Annotated[
        list[Path],
        typer.Argument(help='Learned contexts, one or several; or embeddings of the classes (DetPro).'),
    ],
    out: _Out = Path('embeddings.safetensors'),
    classes: Classes = None,
    vocab: VocabFile = None,
    weights: Weights = 'ViT-B-32/openai',
    overwrite: Overwrite = False,
) -> None:
    """Write class embeddings of a detector: the normalized sum over the contexts of several ranges of IoU.

    `--vocab` also takes COCO or LVIS JSON with categories.

    Example: `clipdense embed detpro iou5.safetensors iou6.safetensors --vocab lvis.json --out e.safetensors`
    """
    from clipdense.clip.embedding_files import save_embeddings
    from clipdense.utils.errors import InputError
    from clipdense.vocab.class_names import read_class_names
    from clipdense.vocab.vocabulary import Vocabulary

    from .detpro_files import class_embeddings

    if (classes is None) == (vocab is None):
        raise InputError('give the class names, either with --classes or with --vocab')
    _check_out(out, overwrite, *files, vocab)
    vocabulary = Vocabulary.parse(classes) if classes is not None else read_class_names(str(vocab))
    save_embeddings(out, vocabulary, class_embeddings(files, vocabulary, weights))
    print(f'{out}: {counted(len(vocabulary), "class")} from {counted(len(files), "file")}')


def _check_out(out: Path, overwrite: bool, *inputs: Path | None) -> None:
    from clipdense.utils.errors import InputError
    from clipdense.utils.files import check_outputs

    if out.suffix != '.safetensors':
        raise InputError(f'--out {out}: the file is written as safetensors; use {out.stem}.safetensors')
    check_outputs([out], overwrite, inputs)
