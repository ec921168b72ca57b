"""Questions about images as samples of a detector, which have no boxes.  S: side of an image."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.image_text.questions import Question
from clipdense.data.transforms import CenterCrop
from clipdense.registry import DATASETS, build
from clipdense.utils.errors import InputError


@DATASETS.register_module()
class QuestionDetection(Dataset):
    """Images with a question each, in the layout of detection data, for one training with boxes.

    A sample has ``question`` and ``answers`` (each different answer and its weight, by default the share of
    the people who gave it), and no boxes: the image may show anything.  Images are squares of S pixels; an
    unreadable one is counted, and replaced by the next question whose image is readable.

    Args:
        questions: dataset with ``question(index)``, such as ``VqaQuestions``, or its config; without
            transform and tokenizer.
        image_size: S, that of the model (``objectives.answers.image_size`` of a GLIPv2).
        seed: that of a mixture; nothing is drawn here.

    Raises:
        InputError: a dataset without questions, one with a transform, or a size that is not a whole number.
    """

    vocabulary = None
    has_texts = True  # in place of a vocabulary

    def __init__(self, questions: Any, image_size: int, seed: int = 0) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise InputError(f'image_size must be a whole number, at least 1, got {image_size!r}')
        self.questions: Any = build(questions, DATASETS)
        if not hasattr(self.questions, 'question'):
            raise InputError(
                f'{type(self.questions).__name__} has no question(index): use a dataset of questions, such '
                'as VqaQuestions'
            )
        if getattr(self.questions, 'transform', None) is not None:
            raise InputError('the images of questions are resized to image_size: remove transform')
        self.image_size = image_size
        self._crop = CenterCrop(image_size, 'bilinear', 'squash')
        self._images = self.questions
        if hasattr(self.questions, 'unreplaced'):
            self._images = self.questions.unreplaced()  # says which question an image belongs to
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
        """Select what the dataset of questions draws in this epoch, also in running workers."""
        self._epoch.fill_(epoch)
        self.questions.set_epoch(epoch)

    def question(self, index: int) -> Question:
        """The question at ``index``."""
        return self.questions.question(index)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, S, S) uint8 and ``data_samples``.

        Raises:
            InputError: too many or all images are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'question {index} of {len(self)}')
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
        asked, size = self.question(index), (self.image_size, self.image_size)
        meta = {'img_id': index, 'ori_shape': size, 'img_shape': size, 'scale_factor': (1.0, 1.0)}
        sample = DetDataSample(metainfo={**meta, 'question': asked.text, 'answers': asked.targets})
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        return sample
