"""Episodes of zero-shot and few-shot segmentation: one image and one class; all other pixels are 'others'.

(H, W): pixels.  The lists are those of HSNet's code, which LSeg uses without support images.

Source: Shaban et al. (arXiv 1709.03410) for PASCAL-5i; Nguyen and Todorovic (arXiv 1909.13140) for COCO-20i;
Li et al. (arXiv 1907.12347) for FSS-1000; isl-org/lang-seg ``fewshot_data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.image_lists import NamedFiles, first_of, read_lines
from clipdense.registry import DATASETS
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.image_io import read_image, read_mask
from clipdense.utils.json_files import read_json
from clipdense.vocab.class_names import CLASS_NAMES
from clipdense.vocab.vocabulary import Vocabulary

from .few_shot_lists import LARGEST_JSON, read_class_lists, read_pairs

OTHERS = 'others'
IGNORED = 255
_VOC_NAMES = {'motorcycle': 'motorbike', 'airplane': 'aeroplane', 'couch': 'sofa', 'tv': 'tvmonitor'}
Split = Literal['train', 'val']


@dataclass
class EpisodeSample(SegmentationSample):
    """A sample whose mask is 1 on one class and 0 elsewhere.

    Args:
        class_id: of that class, an index into ``Episodes.class_names``.
    """

    class_id: int = 0


class Episode(NamedTuple):
    """An image, its mask and the queried class."""

    image: Path
    mask: Path
    class_id: int


class Episodes(Dataset):
    """Square images of one size with masks of one class.

    Args:
        class_names: of all folds, so that a class has the same index everywhere.
        class_ids: the classes of this fold.
        size: side of the square that images and masks are resized to, whatever their shape.
    """

    def __init__(self, class_names: Sequence[str], class_ids: Sequence[int], size: int = 480) -> None:
        self.class_names, self.class_ids, self.size = tuple(class_names), tuple(class_ids), size
        self.vocabulary = Vocabulary((OTHERS, *self.class_names))

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {'vocabulary': self.vocabulary, 'class_ids': self.class_ids, 'class_names': self.class_names}

    def __len__(self) -> int:
        raise NotImplementedError

    def episode(self, index: int) -> Episode:
        """Image, mask and class of episode ``index``."""
        raise NotImplementedError

    def read_mask(self, episode: Episode) -> np.ndarray:
        """(H, W): 1 on the class, 0 elsewhere, 255 for ignored pixels."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Tensor | EpisodeSample]:
        """``images`` (3, size, size) uint8 and ``samples``."""
        if not 0 <= index < len(self):
            raise IndexError(f'episode {index} of {len(self)}')
        episode = self.episode(index)
        image = to_tensor(read_image(episode.image))
        mask = torch.from_numpy(self.read_mask(episode).astype(np.int64))
        if image.shape[-2:] != mask.shape:
            raise InputError(f'the mask {episode.mask} and the image {episode.image} differ in size')
        size = [self.size, self.size]
        mask = torch.nn.functional.interpolate(mask[None, None].float(), size, mode='nearest')[0, 0].long()
        image = vision.resize(image, size, InterpolationMode.BILINEAR, antialias=True)
        sample = EpisodeSample(str(episode.image), (self.size, self.size), mask, class_id=episode.class_id)
        return {'images': image.contiguous(), 'samples': sample}


@DATASETS.register_module()
class PascalFold(Episodes):
    """PASCAL-5i: fold f holds out the classes 5 f ... 5 f + 4 of VOC's twenty.

    Args:
        root: ``JPEGImages`` and ``SegmentationClassAug`` (VOC 2012 with the added masks of SBD).
        fold: 0 to 3.
        split: 'val' queries the fold's classes, 'train' the others.
        lists: folder with ``SPLIT/foldF.txt``, lines such as ``2007_000033__01`` (image, class from 1); in
            'train' those of the other folds are joined.
        episodes: length; shorter lists repeat.  None for one of each pair.
        size: see ``Episodes``.

    Raises:
        InputError: no such fold, list, image or mask, or a line that is not of that form.
    """

    def __init__(
        self,
        root: str | Path,
        fold: int,
        split: Split = 'val',
        lists: str | Path = 'data/few_shot/pascal',
        episodes: int | None = 1000,
        size: int = 480,
    ) -> None:
        shown = fold_classes('pascal', fold, split)
        super().__init__(_unspaced(CLASS_NAMES['voc20']), shown, size)
        self.root = Path(root)
        folds = [fold] if split == 'val' else [other for other in range(4) if other != fold]
        folder = 'val' if split == 'val' else 'trn'
        pairs = [pair for one in folds for pair in read_pairs(Path(lists) / folder / f'fold{one}.txt', shown)]
        self._episodes = _find_episodes(self.root, pairs)
        self._length = episodes or len(pairs)

    def __len__(self) -> int:
        return self._length

    def episode(self, index: int) -> Episode:
        """Pair ``index`` of the list, which repeats."""
        return self._episodes[index % len(self._episodes)]

    def read_mask(self, episode: Episode) -> np.ndarray:
        """The class against all others; the void border is ignored."""
        stored = read_mask(episode.mask)
        return np.where(stored == IGNORED, IGNORED, stored == episode.class_id + 1)


@DATASETS.register_module()
class CocoFold(Episodes):
    """COCO-20i: fold f holds out the classes f, f + 4, f + 8, ... of COCO's eighty.

    Episodes draw a class, then one of its images, both uniformly: in 'val' from NumPy's generator, seed 0,
    as HSNet does; in 'train' newly in each epoch.

    Args:
        root: images and ``annotations``, PNG masks of class index + 1 with the same names.
        fold: 0 to 3.
        split: 'val' queries the fold's classes, 'train' the others.
        lists: JSON, class index -> paths under ``root``; ``class_lists`` makes one.
        episodes: length.
        seed: of the draws.
        size: see ``Episodes``.

    Raises:
        InputError: no such fold, a list in another format, or a class without images.
    """

    def __init__(
        self,
        root: str | Path,
        fold: int,
        lists: str | Path,
        split: Split = 'val',
        episodes: int = 1000,
        seed: int = 0,
        size: int = 480,
    ) -> None:
        super().__init__(_unspaced(CLASS_NAMES['coco']), fold_classes('coco', fold, split), size)
        self.root, self.split, self.seed = Path(root), split, seed
        self._images = read_class_lists(Path(lists), self.class_ids, self.root)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._length = episodes
        self._drawn = draw_episodes(self.class_ids, self._images, episodes, seed) if split == 'val' else []

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Draw new training episodes; those of evaluation stay the same."""
        self._epoch.fill_(epoch)

    def episode(self, index: int) -> Episode:
        """Episode ``index``."""
        if self._drawn:
            class_id, name = self._drawn[index]
        else:
            rng = sample_rng(self.seed, int(self._epoch), index)
            class_id = rng.choice(self.class_ids)
            name = rng.choice(self._images[class_id])
        mask = (self.root / 'annotations' / name).with_suffix('.png')
        return Episode(self.root / name, mask, class_id)

    def read_mask(self, episode: Episode) -> np.ndarray:
        """The class against all others."""
        return (read_mask(episode.mask) == episode.class_id + 1).astype(np.uint8)


@DATASETS.register_module()
class FSS1000(Episodes):
    """FSS-1000: a thousand classes with ten images each, one folder per class, masks next to the images.

    Args:
        root: folder of the class folders, with ``1.jpg``, ``1.png`` and so on.
        split: 'train' (520 classes), 'val' (240) or 'test' (240).
        lists: folder with ``trn.txt``, ``val.txt`` and ``test.txt``, one class a line.
        size: see ``Episodes``.

    Raises:
        InputError: no such list, or a class without images.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal['train', 'val', 'test'] = 'test',
        lists: str | Path = 'data/few_shot/fss',
        size: int = 480,
    ) -> None:
        parts = {'train': 'trn', 'val': 'val', 'test': 'test'}
        names = {part: sorted(read_lines(Path(lists) / f'{stem}.txt')) for part, stem in parts.items()}
        if split not in names:
            raise InputError(f"split must be 'train', 'val' or 'test', got {split!r}")
        first = sum(len(names[part]) for part in list(parts)[: list(parts).index(split)])
        shown = range(first, first + len(names[split]))
        super().__init__([name for part in parts for name in names[part]], shown, size)
        self._episodes = [
            Episode(path, path.with_suffix('.png'), class_id)
            for class_id in shown
            for path in sorted((Path(root) / self.class_names[class_id]).glob('*'), key=str)
            if path.suffix.lower() in IMAGE_SUFFIXES - {'.png'}
        ]
        empty = set(shown) - {episode.class_id for episode in self._episodes}
        if empty:
            missing = ', '.join(self.class_names[at] for at in sorted(empty)[:10])
            raise InputError(f'{len(empty)} of {len(shown)} classes have no images in {root}: {missing}')
        _check_files(self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> Episode:
        """Image ``index``, ordered by class."""
        return self._episodes[index]

    def read_mask(self, episode: Episode) -> np.ndarray:
        """Pixels brighter than 127 are the class."""
        return (np.asarray(read_image(episode.mask).convert('L')) >= 128).astype(np.uint8)


def fold_classes(benchmark: Literal['pascal', 'coco'], fold: int, split: Split) -> tuple[int, ...]:
    """Class indices of a fold: held out ('val'), or all others ('train').

    Raises:
        InputError: an unknown fold or split.
    """
    if fold not in range(4) or split not in ('train', 'val'):
        raise InputError(f"fold must be 0 to 3 and split 'train' or 'val', got {fold!r} and {split!r}")
    count = {'pascal': 20, 'coco': 80}[benchmark]
    held = range(5 * fold, 5 * fold + 5) if benchmark == 'pascal' else range(fold, count, 4)
    return tuple(at for at in range(count) if (at in held) == (split == 'val'))


def draw_episodes(
    class_ids: Sequence[int], images: dict[int, list[str]], episodes: int, seed: int
) -> list[tuple[int, str]]:
    """Classes and images drawn with NumPy's legacy generator, in the order of HSNet's calls."""
    generator = np.random.RandomState(seed)
    drawn = []
    for _ in range(episodes):
        class_id = int(generator.choice(list(class_ids), 1, replace=False)[0])
        drawn.append((class_id, str(generator.choice(images[class_id], 1, replace=False)[0])))
    return drawn


def class_lists(instances: str | Path, folder: str) -> dict[int, list[str]]:
    """The lists of ``CocoFold`` by name, from COCO's instances (HSNet's pickles may have another order).

    ``folder``, such as 'val2014', is put before the file names."""
    found = read_json(instances, LARGEST_JSON)
    try:
        ids = sorted(category['id'] for category in found['categories'])
        place = {category: at for at, category in enumerate(ids)}
        names = {image['id']: f'{folder}/{image["file_name"]}' for image in found['images']}
        shown: dict[int, set[str]] = {at: set() for at in place.values()}
        for annotation in found['annotations']:
            shown[place[annotation['category_id']]].add(names[annotation['image_id']])
    except (KeyError, TypeError) as error:
        raise InputError(f"{instances} is not a file of COCO's instances: {error!r} is missing") from error
    return {at: sorted(images) for at, images in shown.items()}


def _unspaced(names: Sequence[str]) -> tuple[str, ...]:
    """Names as in the few-shot checkpoints: VOC's where VOC and COCO differ, without spaces."""
    return tuple(_VOC_NAMES.get(name, name).replace(' ', '') for name in names)


def _find_episodes(root: Path, pairs: Sequence[tuple[str, int]]) -> list[Episode]:
    """The image and mask of each pair."""
    images = NamedFiles(root / 'JPEGImages')
    masks = NamedFiles(root / 'SegmentationClassAug', {'.png'})
    names = list(dict.fromkeys(name for name, _ in pairs))
    image_of = dict(zip(names, images.find_all(names, 'of the lists'), strict=True))
    stems = [images.name_of(image) for image in image_of.values()]
    mask_of = dict(zip(names, masks.find_all(stems, 'with a mask, of the lists,'), strict=True))
    return [Episode(image_of[name], mask_of[name], class_id) for name, class_id in pairs]


def _check_files(episodes: Sequence[Episode]) -> None:
    missing = [str(path) for episode in episodes for path in episode[:2] if not path.is_file()]
    if missing:
        raise InputError(f'{len(missing)} listed images and masks do not exist: {first_of(missing)}')
