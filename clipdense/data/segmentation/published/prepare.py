"""Label conversions that published datasets need before use.

Each finds its sources, writes masks next to them under the names that readers expect, and lists last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clipdense.data.image_lists import read_split
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.json_files import read_json

from . import labels
from .conversion import (
    Job,
    Report,
    convert_ade20k_mask,
    convert_annotations,
    convert_mask,
    convert_mat,
    copy_file,
    run_jobs,
    shrink_ade20k_image,
)
from .reader import Found, find_files, find_root
from .table import BENCHMARKS, TRAINING_DATA, find_benchmark

_CONTEXT_LISTS = 'ImageSets/SegmentationContext'
_VOC_LISTS = 'ImageSets/Segmentation'
_LARGEST_JSON = 2_000_000_000  # bytes
_SBD = 'http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz'


def prepare(
    dataset: str, root: str | Path, source: str | Path | None = None, train: bool = False, workers: int = 0
) -> Report:
    """Write the masks that a dataset is evaluated on; call it again after an interruption.

    Args:
        dataset: a name in ``CONVERSIONS``, or a benchmark that needs one of them.
        root: the dataset's own folder, or the folder of all datasets.
        source: folder of the labels, if not in the usual place below ``root``: another ``annotations`` of
            COCO-Stuff, ``gtFine`` of Cityscapes or ``images/ADE`` of ADE20K; of 'context'
            ``trainval_merged.json`` or the folder of the .mat files of the first release; of 'voc_aug' the
            folder of the Semantic Boundaries Dataset with ``cls``, ``train.txt`` and ``val.txt``.
        train: convert the training images too, not only those for validation.
        workers: number of additional processes.

    Raises:
        InputError: an unknown dataset, or missing sources: which, and where to get them.
    """
    name = dataset.lower().replace('-', '_')
    if name not in CONVERSIONS:
        name = find_benchmark(dataset).prepare
    if not name:
        return Report()
    return CONVERSIONS[name](Path(root), None if source is None else Path(source), train, workers)


def check(dataset: str, root: str | Path) -> Iterator[tuple[str, Path, Found]]:
    """Look for the files of a dataset, after conversion.

    Args:
        dataset: as in ``prepare``; a conversion for several benchmarks yields each of them.
        root: the dataset's own folder, or the folder of all datasets.

    Yields:
        Title, folder, and files with what is missing.

    Raises:
        InputError: an unknown dataset, or its folder does not exist.
    """
    name = dataset.lower().replace('-', '_')
    if name in TRAINING_DATA:
        place = find_root(BENCHMARKS['voc21'], root)
        yield 'VOC, augmented', place, _find_augmented(place)
        return
    same = [known for known in BENCHMARKS.values() if known.prepare == name]
    for benchmark in same if name in CONVERSIONS and name not in BENCHMARKS else [find_benchmark(dataset)]:
        place = find_root(benchmark, root)
        yield benchmark.title, place, find_files(benchmark, place)


def _coco(root: Path, source: Path | None, train: bool, workers: int, *, things: bool) -> Report:
    benchmark = BENCHMARKS['coco_object' if things else 'coco_stuff']
    table = labels.coco_object() if things else labels.coco_stuff()
    place = find_root(benchmark, root) / 'annotations'
    folder = source or place
    jobs = []
    for split in ('val2017', 'train2017') if train else ('val2017',):
        maps = [file for file in sorted((folder / split).glob('*.png')) if '_' not in file.stem]
        if not maps:
            raise InputError(
                f'no label maps (*.png) in {folder / split}; download them from {benchmark.source}'
            )
        jobs += [
            Job(place / split / f'{file.stem}{benchmark.mask_suffix}', partial(convert_mask, file, table))
            for file in maps
        ]
    return run_jobs(jobs, f'labels of {benchmark.title}', workers)


def _cityscapes(root: Path, source: Path | None, train: bool, workers: int) -> Report:
    benchmark = BENCHMARKS['cityscapes']
    place = find_root(benchmark, root) / 'gtFine'
    folder = source or place
    table = labels.cityscapes()
    jobs = []
    for split in ('val', 'train') if train else ('val',):
        files = sorted((folder / split).rglob('*_labelIds.png'))
        if not files:
            raise InputError(f'no *_labelIds.png in {folder / split}; download them from {benchmark.source}')
        for file in files:
            name = file.name.replace('_labelIds.png', '_labelTrainIds.png')
            target = place / file.relative_to(folder).with_name(name)
            jobs.append(Job(target, partial(convert_mask, file, table)))
    return run_jobs(jobs, 'labels of Cityscapes', workers)


def _context(root: Path, source: Path | None, train: bool, workers: int) -> Report:
    benchmark = BENCHMARKS['context60']
    root = find_root(benchmark, root)
    source = source or root / 'trainval_merged.json'
    splits = ('val', 'train') if train else ('val',)
    if source.is_dir():
        names = {split: read_split(root, 'ImageSets/Main', split) for split in splits}
        make = _context_mats(source)
    elif source.is_file():
        names, make = _context_json(source)
    else:
        raise InputError(f'{source} does not exist; download it from {benchmark.source}')
    jobs = [
        Job(root / benchmark.masks / f'{name}.png', make(name)) for split in splits for name in names[split]
    ]
    report = run_jobs(jobs, 'labels of PASCAL-Context', workers)
    for split in splits:
        _write_list(root / _CONTEXT_LISTS / f'{split}.txt', names[split])
    return report


def _context_mats(folder: Path) -> Callable[[str], Callable[[], bytes]]:
    if not any(folder.glob('*.mat')):
        raise InputError(f'no .mat files in {folder}; pass the folder of PASCAL-Context that contains them')
    table = labels.context()
    return lambda name: partial(convert_mat, folder / f'{name}.mat', ('LabelMap',), table)


def _context_json(path: Path) -> tuple[dict[str, list[str]], Callable[[str], Callable[[], bytes]]]:
    """Names by split, and a function that gives the conversion of each name."""
    names: dict[str, list[str]] = defaultdict(list)
    sizes: dict[Any, tuple[int, int]] = {}
    annotations: dict[Any, list[dict]] = defaultdict(list)
    ids: dict[str, Any] = {}
    content = read_json(path, _LARGEST_JSON)
    try:
        for image in content['images']:
            name = Path(image['file_name']).stem
            names[image['phase']].append(name)
            ids[name] = image['image_id']
            sizes[name] = (image['height'], image['width'])
        for annotation in content['annos_segmentation']:
            annotations[annotation['image_id']].append(annotation)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} is not the trainval_merged.json of PASCAL in Detail: {error!r}') from error
    table = labels.context()
    return names, lambda name: partial(convert_annotations, name, sizes[name], annotations[ids[name]], table)


def _voc_aug(root: Path, source: Path | None, train: bool, workers: int) -> Report:
    """VOC's own masks and, for other images, those of the Semantic Boundaries Dataset, in one folder."""
    root = find_root(BENCHMARKS['voc21'], root)
    source = source or root.parent / 'VOCaug' / 'dataset'
    if not (source / 'cls').is_dir():
        raise InputError(
            f'{source} has no folder cls; pass the folder dataset of the Semantic Boundaries Dataset, '
            f'from {_SBD}'
        )
    own = {split: read_split(root, _VOC_LISTS, split) for split in ('train', 'val')}
    more = {name for split in ('train', 'val') for name in read_split(source, '.', split)}
    added = sorted(more - {*own['train'], *own['val']})
    folder = root / 'SegmentationClassAug'
    jobs = [
        Job(folder / f'{name}.png', partial(copy_file, root / 'SegmentationClass' / f'{name}.png'))
        for name in (*own['train'], *own['val'])
    ]
    jobs += [
        Job(
            folder / f'{name}.png',
            partial(convert_mat, source / 'cls' / f'{name}.mat', ('GTcls', 'Segmentation')),
        )
        for name in added
    ]
    report = run_jobs(jobs, 'labels of VOC, augmented', workers)
    _write_list(root / _VOC_LISTS / 'aug.txt', added)
    _write_list(root / _VOC_LISTS / 'trainaug.txt', sorted({*own['train'], *added}))
    return report


def _find_augmented(root: Path) -> Found:
    """The images and masks of the list ``trainaug``."""
    remedy = f'create them with `clipdense prepare voc_aug {root}`'
    try:
        names = read_split(root, _VOC_LISTS, 'trainaug')
    except InputError as error:
        return Found(faults=[f'{error}; {remedy}'])
    found = Found(
        [root / 'JPEGImages' / f'{name}.jpg' for name in names],
        [root / 'SegmentationClassAug' / f'{name}.png' for name in names],
    )
    for files, fix in (
        (found.images, f'download them from {BENCHMARKS["voc21"].source}'),
        (found.masks, remedy),
    ):
        missing = [file for file in files if not file.is_file()]
        if missing:
            found.faults.append(
                f'{len(missing)} of {len(files)} files are not in {missing[0].parent}, '
                f'the first is {missing[0].name}; {fix}'
            )
    return found


def _ade20k_full(root: Path, source: Path | None, train: bool, workers: int) -> Report:
    benchmark = BENCHMARKS['ade20k_full']
    below = root / benchmark.folders[0]
    root = below if below.is_dir() else root
    folder = source or root / 'images' / 'ADE'
    jobs = []
    for split in ('validation', 'training') if train else ('validation',):
        masks = sorted((folder / split).rglob('*_seg.png'))
        if not masks:
            raise InputError(f'no *_seg.png in {folder / split}; download them from {benchmark.source}')
        for mask in masks:
            name = mask.name.removesuffix('_seg.png')
            jobs += [
                Job(
                    root / 'annotations_detectron2' / split / f'{name}.tif',
                    partial(convert_ade20k_mask, mask),
                ),
                Job(
                    root / 'images_detectron2' / split / f'{name}.jpg',
                    partial(shrink_ade20k_image, mask.with_name(f'{name}.jpg')),
                ),
            ]
    return run_jobs(jobs, 'labels of ADE20K-847', workers)


def _write_list(path: Path, names: Iterable[str]) -> None:
    with atomic_write(path, 'w') as file:
        file.writelines(f'{name}\n' for name in sorted(names))


CONVERSIONS: dict[str, Callable[[Path, Path | None, bool, int], Report]] = {
    'coco_stuff': partial(_coco, things=False),
    'coco_object': partial(_coco, things=True),
    'cityscapes': _cityscapes,
    'context': _context,
    'voc_aug': _voc_aug,
    'ade20k_full': _ade20k_full,
}
