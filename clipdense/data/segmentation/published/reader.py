"""Read a published dataset from the folder where it was unpacked, and report missing files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipdense.data.image_lists import NamedFiles, first_of, read_split
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.image_io import MAX_PIXELS
from clipdense.vocab.class_names import named_vocabulary
from clipdense.vocab.vocabulary import Vocabulary

from ..datasets import LabeledImages
from .table import Benchmark, find_benchmark


@dataclass
class Found:
    """The files of a dataset that exist."""

    images: list[Path] = field(default_factory=list)  # images with a mask
    masks: list[Path] = field(default_factory=list)  # of these images
    faults: list[str] = field(default_factory=list)  # missing files, and where to get them


@DATASETS.register_module()
class BenchmarkSegmentation(LabeledImages):
    """A published dataset, ordered by its list or by file name.

    Args:
        benchmark: a name in ``BENCHMARKS``.
        root: its own folder, or the parent folder of all datasets.
        vocabulary: the classes to return, or the name of a class list; the dataset's own by default.
        partial: use the existing files of an incomplete dataset.
        limit: maximum number of images.
        max_pixels: larger images raise an error.

    Attributes:
        benchmark: description of the dataset.
        complete: whether all published images are used.

    Raises:
        InputError: an unknown dataset, or missing files: which, and where to get them.
    """

    def __init__(
        self,
        benchmark: str | Benchmark,
        root: str | Path,
        vocabulary: Vocabulary | str | None = None,
        partial: bool = False,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        facts = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
        root = find_root(facts, root)
        found = find_files(facts, root)
        if found.faults and not (partial and found.images):
            raise InputError(f'{facts.title} in {root} is incomplete: {"; ".join(found.faults)}')
        self.benchmark = facts
        self.complete = not found.faults and (limit is None or limit >= len(found.images))
        chosen = named_vocabulary(vocabulary) if isinstance(vocabulary, str) else vocabulary
        super().__init__(
            root,
            found.images[:limit],
            found.masks[:limit],
            facts.classes(),
            chosen,
            facts.ignore_index,
            facts.zero_is_unlabeled,
            max_pixels,
        )


def find_root(benchmark: Benchmark, root: str | Path) -> Path:
    """The dataset's own folder: ``root``, or one of its usual places below it.

    Raises:
        InputError: the dataset is in none of them.
    """
    root = Path(root)
    places = [root, *(root / folder for folder in benchmark.folders)]
    there = [place for place in places if (place / benchmark.images).is_dir()]
    if not there:  # a folder with the usual name: its missing files can be listed
        there = [place for place in places[1:] if place.is_dir()]
    if not there:
        raise InputError(
            f'{benchmark.title} not found in {root}: neither {benchmark.images} nor '
            f'{" nor ".join(benchmark.folders)} exists; download it from {benchmark.source}'
        )
    converted = (
        place for place in there if any((place / benchmark.masks).rglob(f'*{benchmark.mask_suffix}'))
    )
    return next(converted, there[0])


def find_files(benchmark: Benchmark, root: Path) -> Found:
    """Images with their masks, and the missing files."""
    found = Found()
    endings = IMAGE_SUFFIXES if benchmark.image_suffix in IMAGE_SUFFIXES else {benchmark.image_suffix}
    images = _files(root / benchmark.images, endings)
    masks = _files(root / benchmark.masks, {benchmark.mask_suffix})
    if benchmark.split_list:
        path = root / benchmark.split_list
        try:
            names = read_split(root, str(Path(benchmark.split_list).parent), path.stem)
        except InputError as error:
            found.faults.append(f'{error}; {_remedy(benchmark, root)}')
            return found
    else:
        names = sorted({*(images.stems() if images else ()), *(masks.stems() if masks else ())})
    image_of = {name: images.find(name) if images else None for name in names}
    mask_of = {
        name: masks.find(_stem(name, images, image)) if masks else None for name, image in image_of.items()
    }
    whole = [(image, mask_of[name]) for name, image in image_of.items() if image and mask_of[name]]
    found.images, found.masks = [image for image, _ in whole], [mask for _, mask in whole if mask]
    missing = [name for name in names if not image_of[name]]
    if missing:
        found.faults.append(
            f'{_list_missing(missing, len(names), benchmark.images, benchmark.image_suffix)}; '
            f'download them from {benchmark.source}'
        )
    missing = [name for name in names if not mask_of[name]]
    if missing:
        found.faults.append(
            f'{_list_missing(missing, len(names), benchmark.masks, benchmark.mask_suffix)}; '
            f'{_remedy(benchmark, root)}'
        )
    if not found.faults and len(whole) < benchmark.num_images:
        found.faults.append(
            f'found {len(whole)} of {benchmark.num_images} images; download the rest from {benchmark.source}'
        )
    return found


def _files(folder: Path, suffixes: Collection[str]) -> NamedFiles | None:
    return NamedFiles(folder, suffixes) if folder.is_dir() else None


def _stem(name: str, images: NamedFiles | None, image: Path | None) -> str:
    """The name of an image without its ending, which a list may give."""
    return images.name_of(image) if images and image else name


def _list_missing(names: Sequence[str], total: int, folder: str, suffix: str) -> str:
    files = first_of([f'{name}{suffix}' for name in names])
    return f'{len(names)} of {total} files are not in {folder}: {files}'


def _remedy(benchmark: Benchmark, root: Path) -> str:
    if benchmark.prepare:
        return f'create them with `clipdense prepare {benchmark.prepare} {root}`'
    return f'download them from {benchmark.source}'
