"""LSeg for few-shot protocols: one class against 'others'.  B: images, D: joint space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clipdense.registry import MODELS
from clipdense.tasks.mask_losses import pixel_cross_entropy
from clipdense.utils.errors import InputError

from .segmenter import LSeg


@MODELS.register_module()
class EpisodeLSeg(LSeg):
    """LSeg with two classes for each image: 'others' and the class of its episode.

    The vocabulary is 'others' and all classes (``data.few_shot``); samples carry a ``class_id``.

    Source: isl-org/lang-seg ``modules/models/lseg_net_zs.py``.
    """

    @property
    def num_labels(self) -> int:
        """2: others, and the class."""
        return 2

    def loss(self, images: Tensor | Sequence[Tensor], samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross entropy over two logits per pixel.

        Raises:
            InputError: as ``LSeg.loss``, or samples without a ``class_id``.
        """
        images, labels = self.training_batch(images, samples)
        text = torch.stack([self.episode_text(sample) for sample in samples])  # (B, 2, D)
        return {'loss': pixel_cross_entropy(self.pixel_logits(images, text), labels, **self.loss_options)}

    def episode_text(self, sample: Any) -> Tensor:
        """Class embeddings (2, D) of 'others' and the class of the episode.

        Raises:
            InputError: a sample without a ``class_id``.
        """
        class_id = getattr(sample, 'class_id', None)
        if class_id is None:
            raise InputError(
                f'the sample of {sample.image_path or "an image"} has no class_id: use a dataset of episodes'
            )
        return self._text()[[0, 1 + class_id]]

    def _predict(self, image: Tensor, sample: Any) -> Any:
        logits = self.pixel_logits(image[None], self.episode_text(sample)[None])  # (1, 2, H, W)
        return replace(sample, prediction=logits[0].argmax(dim=0))
