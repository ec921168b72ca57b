"""GLIP trained with GLIPv2's further objectives; boxes and scores are found as before.

Zhang et al., GLIPv2, NeurIPS 2022 (arXiv 2206.05836), section 3.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest

from .contrast import OF_CAPTION, RegionWordContrast, token_classes
from .detector import GLIP
from .inference import Reading
from .mask_regions import training_regions, with_masks
from .masked_words import MaskedWords, TokenMasker
from .scores import Candidates
from .text import EncodedPrompts
from .training import TrainingBatch
from .training_prompts import TrainingText
from .word_masks import WordMasks, mask_loss

_KNOWN = ('contrast', 'masked_words', 'masks')
_BATCHES = 50  # without masks, before the user is told


@MODELS.register_module()
class GLIPv2(GLIP):
    """A ``GLIP`` with more objectives.

    Args:
        objectives: settings by name; an objective that is left out, or None, is not trained.
            ``contrast``: those of ``RegionWordContrast``; ``masked_words``: those of ``MaskedWords``;
            ``masks``: those of ``WordMasks``.
        weights: of the losses, by name; 1 by default.
        options: of ``GLIP``.

    Raises:
        InputError: an unknown objective, or masked words where each name is encoded by itself or the head
            does not fuse.
    """

    def __init__(
        self,
        objectives: Mapping[str, Mapping[str, Any] | None],
        weights: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.weights = dict(weights or {})
        for name in (*objectives, *self.weights):
            if name not in _KNOWN:
                raise InputError(
                    f'unknown objective {name!r}.{nearest(name, _KNOWN)} Objectives: {", ".join(_KNOWN)}'
                )
        size = self.head.size
        self._masker: TokenMasker | None = None
        self.contrast: RegionWordContrast | None = None
        self.masked_words: MaskedWords | None = None
        if (contrast := objectives.get('contrast')) is not None:
            self.contrast = _made(RegionWordContrast, contrast, size.channels, size.text_width)
        if (words := objectives.get('masked_words')) is not None:
            if self.prompts.per_phrase:
                raise InputError(
                    'masked_words needs the names in one text: set prompts.per_phrase=False, or remove it'
                )
            if not size.fused:
                raise InputError(
                    'masked_words are predicted from the fused text: set head.size.fused=True, or remove it'
                )
            self.masked_words = _made(MaskedWords, words, size.text_width, self.clip.text.size.vocab_size)
        self.masks: WordMasks | None = None
        self._without_masks = 0  # batches so far
        if (masks := objectives.get('masks')) is not None:
            self.masks = _made(WordMasks, masks, size.channels, size.text_width, size.strides)

    def read_training(self, texts: Sequence[TrainingText]) -> EncodedPrompts:
        """The texts of a training batch, encoded, with some words hidden."""
        if self.masked_words is None:
            return super().read_training(texts)
        phrases = [sorted(set(one.rows[one.rows >= 0].tolist())) for one in texts]
        words, size = self.masked_words, self.clip.text.size.vocab_size
        self._masker = TokenMasker(phrases, words.share, self.clip.mask, size)
        return self.clip([one.prompt for one in texts], change=self._masker)

    def more_losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """``loss_contrast``, ``loss_masked_words`` and ``loss_masks``."""
        found = {}
        features, device = batch.encoded.features, batch.owner.device
        length = features.mask.shape[1]
        if self.contrast is not None:
            classes = [one.classes for one in batch.texts]
            labels = [_labels(one).to(device) for one in batch.texts]
            tokens = token_classes(batch.encoded.phrases, classes, length).to(device)
            parts = batch.levels, features, batch.owner, batch.targets, labels, tokens
            found['loss_contrast'] = self.weights.get('contrast', 1.0) * self.contrast(*parts)
        if self.masked_words is not None and self._masker is not None:
            assert batch.output.text is not None
            loss = self.masked_words(batch.output.text, self._masker.targets(length, device))
            found['loss_masked_words'] = self.weights.get('masked_words', 1.0) * loss
        if self.masks is not None:
            found['loss_masks'] = self.weights.get('masks', 1.0) * self._mask_loss(batch, self.masks)
        return found

    def _mask_loss(self, batch: TrainingBatch, masks: WordMasks) -> Tensor:
        output, anchors = batch.output, self.head.anchors(batch.levels)
        assert output.text is not None
        regions = training_regions(batch, anchors, masks.side, masks.max_regions)
        self._warn_without_masks(batch)
        return mask_loss(masks(output.levels, output.text, regions.boxes, regions.tokens), regions.targets)

    def _warn_without_masks(self, batch: TrainingBatch) -> None:
        if any('masks' in one.gt_instances for one in batch.samples):
            self._without_masks = -1
        elif self._without_masks >= 0:
            self._without_masks += 1
            if self._without_masks == _BATCHES:
                warnings.warn(
                    f'the first {_BATCHES} batches have no masks, so that the objective masks learns '
                    'nothing: set masks=True in a dataset whose annotations have masks'
                )

    def instances(self, best: Sequence[Candidates], reading: Reading) -> list[InstanceData]:
        """What was found in each image, with masks if they are an objective."""
        found = super().instances(best, reading)
        if self.masks is None:
            return found
        return with_masks(found, best, reading, self.head, self.masks)

    def _own_state(self) -> dict[str, Tensor]:
        parts = tuple(f'{name}.' for name in _KNOWN)
        return {name: value for name, value in self.state_dict().items() if name.startswith(parts)}


def _labels(text: TrainingText) -> Tensor:
    """The class of each box that has a phrase."""
    rows = text.rows[text.rows >= 0]
    if text.classes is None:
        return torch.full_like(rows, OF_CAPTION)
    return torch.tensor(text.classes, device=rows.device)[rows]


def _made(kind: type[nn.Module], settings: Mapping[str, Any], *sizes: Any) -> Any:
    try:
        return kind(*sizes, **settings)
    except TypeError as error:
        raise InputError(f'{kind.__name__}: {error}') from error
