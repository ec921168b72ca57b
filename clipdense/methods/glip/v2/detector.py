"""GLIP trained with GLIPv2's further objectives; boxes and scores are found as before.

Zhang et al., GLIPv2, NeurIPS 2022 (arXiv 2206.05836), section 3.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from clipdense.clip.preprocess import Preprocess
from clipdense.registry import MODELS
from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.utils.errors import InputError, nearest

from ..detector import GLIP
from ..inference import Reading
from ..scores import Candidates
from ..text import EncodedPrompts
from ..training import TrainingBatch, counted_tokens
from ..training_prompts import TrainingText
from .answer_head import AnswerHead
from .answering import answer_all, answer_each, need_head, training_question
from .captioning import CaptionHead, check_captions, decoder_of, describe
from .contrast import OF_CAPTION, RegionWordContrast, token_classes
from .mask_regions import training_regions, with_masks
from .masked_words import MaskedWords, TokenMasker
from .whole_images import check_square, square_preprocess, without_boxes
from .word_masks import WordMasks, mask_loss

_KNOWN = ('contrast', 'masked_words', 'masks', 'answers', 'captions')
_BATCHES = 50  # without masks, before a warning


@MODELS.register_module()
class GLIPv2(GLIP):
    """A ``GLIP`` with more objectives.

    Args:
        objectives: settings by name; an objective that is left out, or None, is not trained.
            ``contrast``: those of ``RegionWordContrast``; ``masked_words``: those of ``MaskedWords``;
            ``masks``: those of ``WordMasks``; ``answers``: those of ``AnswerHead``, with which the model
            answers questions (``tasks.answering.AnswerModel``); ``captions``: those of ``CaptionHead``, with
            which it describes images (``tasks.captioning.CaptionModel``).
        weights: of the losses, by name; 1 by default.
        options: of ``GLIP``.

    Raises:
        InputError: an unknown objective, masked words where each name is encoded by itself, or masked words,
            answers or captions where the head does not fuse, or answers and captions of images of two sizes.
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
            self._check_masked_words()
            self.masked_words = _made(MaskedWords, words, size.text_width, self.clip.text.size.vocab_size)
        self.masks: WordMasks | None = None
        self._without_masks = 0  # batches so far
        if (masks := objectives.get('masks')) is not None:
            self.masks = _made(WordMasks, masks, size.channels, size.text_width, size.strides)
        self.answers: AnswerHead | None = None
        if (answers := objectives.get('answers')) is not None:
            self._need_fused('answers', 'them')
            self.answers = _made(AnswerHead, answers, size.text_width)
        self.captions: CaptionHead | None = None
        if (captions := objectives.get('captions')) is not None:
            self._need_fused('captions', 'them')
            self.captions = _made(CaptionHead, captions, size.text_width, self.clip.text.size.vocab_size)
            if self.answers is not None and self.answers.image_size != self.captions.image_size:
                raise InputError(
                    f'objectives.answers.image_size is {self.answers.image_size}, and that of captions '
                    f'{self.captions.image_size}: the images of both are prepared alike, give them one'
                )

    @property
    def preprocess(self) -> Preprocess:
        """Of the images of questions and captions."""
        head = need_head(self) if self.captions is None else self.captions
        return square_preprocess(self.data_preprocessor, head.image_size)

    def check_captions(self, rules: CaptionRules) -> None:
        """See ``tasks.captioning.CaptionModel``."""
        check_captions(self, rules)

    @torch.no_grad()
    def caption(self, images: Tensor, rules: CaptionRules, numbers: Sequence[int] = ()) -> list[Caption]:
        """See ``tasks.captioning.CaptionModel``."""
        return describe(self, images, rules, numbers)

    def check_answers(self, rules: AnswerRules) -> None:
        """See ``tasks.answering.AnswerModel``; how answers are generated has no meaning here."""
        need_head(self).check_choices(rules.choices)

    @torch.no_grad()
    def answer(self, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[list[Answer]]:
        """See ``tasks.answering.AnswerModel``."""
        return answer_all(self, images, questions, rules)

    @torch.no_grad()
    def answer_each(self, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
        """See ``tasks.answering.AnswerModel``."""
        return answer_each(self, images, questions, rules)

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """As ``GLIP``; answers of a file are written out."""
        found = super().portable_config(cfg)
        if self.answers is not None:
            objectives = found['model']['objectives']
            answers = {**objectives['answers'], 'answers': list(self.answers.answers)}
            found['model']['objectives'] = {**objectives, 'answers': answers}
        return found

    def losses_of(self, levels: Sequence[Tensor], samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """As ``GLIP``; images with a caption to learn are read in a pass of their own, where text is causal.

        If a batch has no others, the first of them, as an image without boxes, gives the other losses (0), so
        that all processes have gradients of the same parameters.

        Raises:
            InputError: images of captions of another size than the model describes.
        """
        if self.captions is None:
            return super().losses_of(levels, samples)
        described = [row for row, one in enumerate(samples) if 'description' in one.metainfo]
        others = [row for row, one in enumerate(samples) if 'description' not in one.metainfo]
        for row in described:
            check_square(samples[row].metainfo, self.captions.image_size, 'captions', 'CaptionDetection')
        rows = others or described[:1]
        found = super().losses_of([level[rows] for level in levels], [samples[row] for row in rows])
        texts = [samples[row].metainfo['description'] for row in described]
        loss = decoder_of(self).loss([level[described] for level in levels], texts)
        return {**found, 'loss_captions': self.weights.get('captions', 1.0) * loss}

    def training_texts(self, samples: Sequence[DetDataSample]) -> list[TrainingText]:
        """The text of each image of a training batch; that of a question is the question.

        Raises:
            InputError: images of questions of another size than the model answers them with.
        """
        own = [self._own_text(one.metainfo) for one in samples]
        others = [one for one, text in zip(samples, own, strict=True) if text is None]
        found = iter(super().training_texts(others))
        return [next(found) if text is None else text for text in own]

    def _own_text(self, about: Mapping[str, Any]) -> TrainingText | None:
        if self.answers is not None and 'question' in about:
            check_square(about, self.answers.image_size, 'answers', 'QuestionDetection')
            return training_question(about['question'], self.clip)
        if self.captions is not None and 'description' in about:
            return without_boxes('')  # the caption is read apart
        return None

    def _check_masked_words(self) -> None:
        if self.prompts.per_phrase:
            raise InputError(
                'masked_words needs the names in one text: set prompts.per_phrase=False, or remove it'
            )
        self._need_fused('masked_words', 'it')

    def _need_fused(self, name: str, what: str) -> None:
        if not self.head.size.fused:
            raise InputError(
                f'{name} are predicted from the fused text: set head.size.fused=True, or remove {what}'
            )

    def read_training(self, texts: Sequence[TrainingText]) -> EncodedPrompts:
        """The texts of a training batch, encoded, with some words hidden."""
        if self.masked_words is None:
            return super().read_training(texts)
        phrases = [sorted(set(one.rows[one.rows >= 0].tolist())) for one in texts]
        words, size = self.masked_words, self.clip.text.size.vocab_size
        self._masker = TokenMasker(phrases, words.share, self.clip.mask, size)
        return self.clip([one.prompt for one in texts], change=self._masker)

    def more_losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """``loss_contrast``, ``loss_masked_words``, ``loss_masks`` and ``loss_answers``."""
        found = {}
        features, device = batch.encoded.features, batch.owner.device
        length = features.mask.shape[1]
        if self.contrast is not None:
            classes = [one.classes for one in batch.texts]
            labels = [_labels(one).to(device) for one in batch.texts]
            tokens = token_classes(batch.encoded.phrases, classes, length).to(device)
            words = features._replace(mask=counted_tokens(batch.texts, batch.encoded))
            parts = batch.levels, words, batch.owner, batch.targets, labels, tokens
            found['loss_contrast'] = self.weights.get('contrast', 1.0) * self.contrast(*parts)
        if self.masked_words is not None and self._masker is not None:
            assert batch.output.text is not None
            loss = self.masked_words(batch.output.text, self._masker.targets(length, device))
            found['loss_masked_words'] = self.weights.get('masked_words', 1.0) * loss
        if self.masks is not None:
            found['loss_masks'] = self.weights.get('masks', 1.0) * self._mask_loss(batch, self.masks)
        if self.answers is not None:
            found['loss_answers'] = self.weights.get('answers', 1.0) * _answer_loss(batch, self.answers)
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


def _answer_loss(batch: TrainingBatch, answers: AnswerHead) -> Tensor:
    rows = [row for row, sample in enumerate(batch.samples) if 'question' in sample.metainfo]
    assert batch.output.text is not None
    given = [batch.samples[row].metainfo['answers'] for row in rows]
    return answers.loss(batch.output.text[rows], batch.encoded.features.mask[rows], given)


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
