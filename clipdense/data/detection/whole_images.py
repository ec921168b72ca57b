"""Questions about images and captions of images as samples of a detector, which have no boxes.

S: side of an image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.batches import sample_rng
from clipdense.data.image_text.questions import Question
from clipdense.data.transforms import CenterCrop
from clipdense.registry import DATASETS, build
from clipdense.utils.errors import InputError


class WholeImages(Dataset):
    """Images with a text each, in the layout of detection data, for one training with boxes.

    A sample has what ``about`` gives, and no boxes: the image may show anything.  Images are squares of S
    pixels; an unreadable one is counted, and replaced by the next that is readable, with its text.

    Args:
        source: dataset of images and texts, or its config; without transform.
        needs: its method that gives the texts of an index.
        kind: of the texts, for messages.
        others: datasets that have it, for messages.
        image_size: S.

    Raises:
        InputError: a dataset without such texts, one with a transform, or a size that is not a whole number.
    """

    vocabulary = None
    has_texts = True  # in place of a vocabulary

    def __init__(self, source: Any, needs: str, kind: str, others: str, image_size: int) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise InputError(f'image_size must be a whole number, at least 1, got {image_size!r}')
        self.source: Any = build(source, DATASETS)
        if not hasattr(self.source, needs) or not hasattr(self.source, '__getitem__'):
            raise InputError(
                f'{type(self.source).__name__} has no {needs}(index): use a dataset of {kind}, such as '
                f'{others}'
            )
        if getattr(self.source, 'transform', None) is not None:
            raise InputError(f'the images of {kind} are resized to image_size: remove transform')
        self.image_size, self._kind = image_size, kind
        self._crop = CenterCrop(image_size, 'bilinear', 'squash')
        self._images = self.source
        if hasattr(self.source, 'unreplaced'):
            self._images = self.source.unreplaced()  # says which text an image belongs to
        if hasattr(self._images, 'transform'):
            self._images = copy.copy(self._images)
            self._images.transform = self._crop
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared with persistent workers

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {}

    @property
    def epoch(self) -> int:
        """See ``set_epoch``."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Select what is drawn in this epoch, also in running workers."""
        self._epoch.fill_(epoch)
        self.source.set_epoch(epoch)

    def about(self, index: int) -> Mapping[str, Any]:
        """What the sample at ``index`` has."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, S, S) uint8 and ``data_samples``.

        Raises:
            InputError: too many or all images are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'image {index} of {len(self)} with {self._kind}')
        for shift in range(len(self)):
            at = (index + shift) % len(self)
            item = self._images[at]
            if item.get('index', at) >= 0:
                return {'inputs': self._sized(item['images']), 'data_samples': self._sample(at)}
        raise InputError(f'none of the {len(self)} images can be read; check the image folder')

    def _sized(self, image: Tensor) -> Tensor:
        side = self.image_size
        return image if image.shape[-2:] == (side, side) else self._crop(image)

    def _sample(self, index: int) -> DetDataSample:
        size = (self.image_size, self.image_size)
        meta = {'img_id': index, 'ori_shape': size, 'img_shape': size, 'scale_factor': (1.0, 1.0)}
        sample = DetDataSample(metainfo={**meta, **self.about(index)})
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        return sample


@DATASETS.register_module()
class QuestionDetection(WholeImages):
    """Images with a question each.

    A sample has ``question`` and ``answers`` (each different answer and its weight, by default the share of
    the people who gave it).

    Args:
        questions: dataset with ``question(index)``, such as ``VqaQuestions``, or its config; without
            transform and tokenizer.
        image_size: S, that of the model (``objectives.answers.image_size`` of a GLIPv2).
        seed: that of a mixture; nothing is drawn here.

    Raises:
        InputError: as ``WholeImages``.
    """

    def __init__(self, questions: Any, image_size: int, seed: int = 0) -> None:
        super().__init__(questions, 'question', 'questions', 'VqaQuestions', image_size)

    def question(self, index: int) -> Question:
        """The question at ``index``."""
        return self.source.question(index)

    def about(self, index: int) -> dict[str, Any]:
        """The question and its answers."""
        asked = self.question(index)
        return {'question': asked.text, 'answers': asked.targets}


@DATASETS.register_module()
class CaptionDetection(WholeImages):
    """Images with captions, of which one is drawn in each epoch.

    A sample has ``description``, the caption: what is learned is to write it (``caption`` of a sample is a
    text in which phrases have boxes, see ``GroundingDetection``).

    Args:
        captions: dataset with ``captions_of(index)``, such as ``CocoCaptions``, or its config; without
            transform and tokenizer.
        image_size: S, that of the model (``objectives.captions.image_size`` of a GLIPv2).
        seed: of the captions that are drawn.

    Raises:
        InputError: as ``WholeImages``, also of shards, which are a stream without an index.
    """

    def __init__(self, captions: Any, image_size: int, seed: int = 0) -> None:
        super().__init__(captions, 'captions_of', 'captions', 'CsvPairs or CocoCaptions', image_size)
        self.seed = seed

    def about(self, index: int) -> dict[str, Any]:
        """The caption of this epoch.

        Raises:
            InputError: it is empty or no text.
        """
        captions = self.source.captions_of(index)
        chosen = sample_rng(self.seed, self.epoch, index).randrange(len(captions)) if captions else 0
        text = captions[chosen] if captions else ''
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'the caption of image {index} must be a text with words, got {text!r:.60}')
        return {'description': text}
