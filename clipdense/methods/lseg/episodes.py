"""One class against 'others': the model of the few-shot protocols.  B: images, D: joint space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .losses import pixel_cross_entropy
from .segmenter import LSeg


@MODELS.register_module()
class EpisodeLSeg(LSeg):
    """LSeg with two words for each image: 'others' and the class that its episode asks for.

    The vocabulary is 'others' and all classes (``data.few_shot``); samples carry a ``class_id``.

    Source: isl-org/lang-seg ``modules/models/lseg_net_zs.py``.
    """

    @property
    def num_labels(self) -> int:
        """Others, or the class."""
        return 2

    def loss(self, images: Tensor | Sequence[Tensor], samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross entropy over two logits a pixel.

        Raises:
            InputError: as ``LSeg.loss``, or samples that are no episodes.
        """
        images, labels = self.training_batch(images, samples)
        text = torch.stack([self.words_of(sample) for sample in samples])  # (B, 2, D)
        return {'loss': pixel_cross_entropy(self.pixel_logits(images, text), labels, **self.loss_options)}

    def words_of(self, sample: Any) -> Tensor:
        """(2, D): others, and the class."""
        class_id = getattr(sample, 'class_id', None)
        if class_id is None:
            raise InputError(
                f'{sample.image_path or "an image"} asks for no class: give a dataset of episodes'
            )
        return self._text()[[0, 1 + class_id]]

    def _predict(self, image: Tensor, sample: Any) -> Any:
        logits = self.pixel_logits(image[None], self.words_of(sample)[None])  # (1, 2, H, W)
        return replace(sample, prediction=logits[0].argmax(dim=0))
