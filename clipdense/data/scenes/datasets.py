"""Datasets of scenes, drawn on demand.  S: side of an image, N: images, L: tokens."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...registry import DATASETS
from ...structures import SegmentationSample
from ..image_text.datasets import TokenizerLike, caption_tokenizer, encode
from .combinations import SPLITS
from .painting import GROUNDS
from .scene import Scene, Scenes

if TYPE_CHECKING:
    from ...vocab.vocabulary import Vocabulary

_GROUNDS = tuple(GROUNDS)


class SceneImages:
    """The N images of one stream, each drawn once, by the first process that needs it.

    They are kept in anonymous shared memory, which forked workers share and which the system allocates
    page by page.  A spawned process starts with an empty cache.
    """

    def __init__(self, draw: Callable[[int], Scene], count: int, scenes: Scenes, keep: bool) -> None:
        size, objects = scenes.image_size, scenes.difficulty.objects[1]
        self._draw = draw
        self._shape = (count,)
        self._layout = np.dtype(
            [
                ('image', np.uint8, (size, size, 3)),
                ('mask', np.uint8, (size, size)),
                ('boxes', np.float32, (objects, 4)),
                ('class_ids', np.int64, objects),
                ('count', np.uint8),  # 0: not drawn yet
                ('ground', np.uint8),
            ]
        )
        self._keep = keep
        self._records = self._allocate()

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self._shape[0]:
            raise IndexError(f'image {index} of {self._shape[0]}')
        if self._records is None:
            return self._draw(index)
        record = self._records[index]
        if not record['count']:
            scene = self._draw(index)
            count = len(scene.class_ids)
            record['image'], record['mask'] = scene.image, scene.mask
            record['boxes'][:count], record['class_ids'][:count] = scene.boxes, scene.class_ids
            record['ground'] = _GROUNDS.index(scene.ground)
            record['count'] = count  # written last: other processes may read the record from here on
        count = int(record['count'])
        ground = _GROUNDS[record['ground']]
        boxes, class_ids = record['boxes'][:count], record['class_ids'][:count]
        return Scene(record['image'], '', record['mask'], boxes, class_ids, ground)

    def _allocate(self) -> np.ndarray | None:
        size = self._shape[0] * self._layout.itemsize
        return np.frombuffer(mmap.mmap(-1, size), self._layout) if self._keep and size else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_records': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records = self._allocate()


@DATASETS.register_module()
class SceneCaptions(Dataset):
    """Images with captions, for pre-training.

    Args:
        num_images: N.
        difficulty, seed, image_size: as in ``Scenes``.
        splits: which classes occur; unseen classes do not, by default.
        tokenizer: texts -> (K, L) token ids, or its config; OpenAI's with 77 tokens by default.
        stream: name of the random stream; different streams give independent images.
        keep: keep drawn images in memory (N x S x S x 4 bytes).
        vary_captions: write a new caption for each image in each epoch.
    """

    def __init__(
        self,
        num_images: int,
        difficulty: str = 'standard',
        seed: int = 0,
        splits: Sequence[str] = ('base', 'novel'),
        tokenizer: TokenizerLike | dict | None = None,
        image_size: int | None = None,
        stream: str = 'train',
        keep: bool = True,
        vary_captions: bool = True,
    ) -> None:
        self.scenes = Scenes(difficulty, seed, image_size)
        self.num_images, self.splits, self.stream = num_images, tuple(splits), stream
        self.vary_captions = vary_captions
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # seen by workers that persist
        self.tokenizer = caption_tokenizer(tokenizer)
        self._images = SceneImages(self._draw, num_images, self.scenes, keep)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``images`` (3, S, S) uint8 and ``token_ids`` (L,) int64."""
        token_ids = encode(self.tokenizer, self.caption(index))
        return {'images': image_tensor(self._images[index]), 'token_ids': token_ids}

    def caption(self, index: int) -> str:
        """The caption of this epoch, the text of ``token_ids``."""
        scene = self._images[index]
        variant = int(self._epoch) if self.vary_captions else 0
        return self.scenes.caption(index, scene.class_ids, scene.boxes, scene.ground, self.stream, variant)

    def captions_of(self, index: int) -> list[str]:
        """The one caption of an image, for retrieval."""
        return [self.caption(index)]

    def set_epoch(self, epoch: int) -> None:
        """Select the captions of this epoch, also in running workers."""
        self._epoch.fill_(epoch)

    def _draw(self, index: int) -> Scene:
        return self.scenes.draw(index, self.splits, stream=self.stream)


@DATASETS.register_module()
class SceneLabels(Dataset):
    """Images of one object each, the same number for each class of a split, for classification.

    Args:
        split: the split whose classes are drawn.
        num_images: N.
        difficulty, seed, image_size: as in ``Scenes``.
        all_names: ``class_names`` and labels are over all classes instead of the split's own.
        stream: name of the random stream; different streams give independent images.
        keep: keep drawn images in memory.
    """

    def __init__(
        self,
        split: str,
        num_images: int,
        difficulty: str = 'standard',
        seed: int = 0,
        image_size: int | None = None,
        all_names: bool = False,
        stream: str = 'val',
        keep: bool = True,
    ) -> None:
        self.scenes = Scenes(difficulty, seed, image_size)
        self.num_images, self.stream = num_images, f'{stream}/{split}/labels'
        self._shown = self.scenes.indices([split])
        offered = range(len(self.scenes.class_names)) if all_names else self._shown
        self.class_names = tuple(self.scenes.class_names[at] for at in offered)
        self._label = {at: label for label, at in enumerate(offered)}
        self._images = SceneImages(self._draw, num_images, self.scenes, keep)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """``images`` (3, S, S) uint8 and ``labels``, an index into ``class_names``."""
        scene = self._images[index]
        return {'images': image_tensor(scene), 'labels': self._label[int(scene.class_ids[0])]}

    def _draw(self, index: int) -> Scene:
        shown = self.scenes.class_names[self._shown[index % len(self._shown)]]
        return self.scenes.draw(index, [shown], num_objects=1, stream=self.stream)


@DATASETS.register_module()
class SceneSegmentation(Dataset):
    """Images with pixel labels.

    Args:
        split: the split whose classes are drawn.
        num_images: N.
        difficulty, seed, image_size: as in ``Scenes``.
        all_names: ``vocabulary`` and labels are over all classes instead of the split's own.
        unlabeled: further splits to draw, with ``ignore_index`` in the mask, as novel classes appear
            to a model trained on the masks of base classes.
        stream: name of the random stream; different streams give independent images.
        ignore_index: label of ignored pixels.
    """

    def __init__(
        self,
        split: str,
        num_images: int,
        difficulty: str = 'standard',
        seed: int = 0,
        image_size: int | None = None,
        all_names: bool = False,
        unlabeled: Sequence[str] = (),
        stream: str = 'val',
        ignore_index: int = 255,
    ) -> None:
        self.scenes = Scenes(difficulty, seed, image_size)
        self.num_images, self.stream = num_images, f'{stream}/{split}/masks'
        self.ignore_index = ignore_index
        self.splits = (split, *unlabeled)
        self.vocabulary: Vocabulary = self.scenes.vocabulary(SPLITS if all_names else [split])
        offered = range(len(self.scenes.class_names)) if all_names else self.scenes.indices([split])
        self._labels = np.full(len(self.scenes.class_names) + 1, ignore_index, np.int64)
        self._labels[0] = 0
        self._labels[[at + 1 for at in offered]] = np.arange(1, len(offered) + 1)
        self._labels[[at + 1 for at in self.scenes.indices(unlabeled)] if unlabeled else []] = ignore_index
        self._images = SceneImages(self._draw, num_images, self.scenes, keep=True)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {'vocabulary': self.vocabulary, 'classes': self.vocabulary.class_names}

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, Tensor | SegmentationSample]:
        """``images`` (3, S, S) uint8 and ``samples``, whose mask indexes ``vocabulary``."""
        scene = self._images[index]
        size = (self.scenes.image_size, self.scenes.image_size)
        mask = torch.from_numpy(self._labels[scene.mask])
        return {'images': image_tensor(scene), 'samples': SegmentationSample('', size, mask)}

    def _draw(self, index: int) -> Scene:
        return self.scenes.draw(index, self.splits, stream=self.stream)


def image_tensor(scene: Scene) -> Tensor:
    """A writable (3, S, S) copy of the image."""
    return torch.from_numpy(scene.image.transpose(2, 0, 1).copy())
