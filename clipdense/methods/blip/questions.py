"""Fine-tuning of BLIP for visual question answering.

B: questions, K: answers of a question, L: tokens of a question, A: tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.preprocess import Preprocess
from clipdense.layers.depth import keep_locked, lock_layers
from clipdense.registry import MODELS
from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.utils.errors import InputError

from .answers import answer_loss
from .model import Blip
from .sizes import MedSize
from .text import Med, MedDecoder
from .tokenizer import BlipTokenizer, Tokens
from .trainer import BlipTrainer, load_blip, with_first


@MODELS.register_module()
class BlipAnswerTrainer(BlipTrainer):
    """Answers to questions: the encoder reads image and question, from which the decoder generates answers.

    The data has ``token_ids`` (B, L), ``answer_ids`` (B, K, A) and ``answer_weights`` (B, K), those of
    ``QuestionIds``.  The loss is the weighted sum of the losses of all answers, over the number of questions.

    Args:
        blip: a pre-trained BLIP with encoder and decoder, or one that answers questions; its config, or
            weights for ``checkpoint.load``.  A matching head and projections are left out.
        smoothing: of the labels.
        words: of questions and answers, added to a vocabulary of whole words that lacks them.
        image_size: of the images, see ``load_blip``.
        drop_path: stochastic depth of the image tower, see ``load_blip``.
        lock_image: do not train the image tower.

    Raises:
        InputError: a model without encoder or decoder, words for another kind of vocabulary, or a setting out
            of range.

    Source: salesforce/BLIP models/blip_vqa.py; the padding of questions is masked here too.
    """

    tokenizer_name, text_name = 'QuestionIds', 'question'

    def __init__(
        self,
        blip: nn.Module | dict | str | Path,
        smoothing: float = 0.1,
        words: Sequence[str] = (),
        image_size: int | None = None,
        drop_path: float | None = None,
        lock_image: bool = False,
    ) -> None:
        super().__init__(answering_blip(with_words(load_blip(blip, image_size, drop_path), words)), smoothing)
        if lock_image:
            lock_layers(self.blip.image)

    def train(self, mode: bool = True) -> BlipAnswerTrainer:
        """Set training mode; a locked tower stays in evaluation mode."""
        super().train(mode)
        keep_locked(self.blip.image)
        return self

    @property
    def preprocess(self) -> Preprocess:
        """Of the images, see ``tasks.answering.AnswerModel``."""
        return self.blip.preprocess

    def check_answers(self, rules: AnswerRules) -> None:
        """See ``tasks.answering.AnswerModel``."""
        self.blip.check_answers(rules)

    def answer_each(self, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
        """See ``tasks.answering.AnswerModel``."""
        return self.blip.answer_each(images, questions, rules)

    def inputs(self, data: Mapping[str, Any]) -> tuple[Any, ...]:
        """Arguments of ``losses`` from a batch.

        Raises:
            InputError: questions or answers of another tokenizer, or a question without a weighted answer.
        """
        questions = self.tokens(data.get('token_ids'))
        ids, weights = data.get('answer_ids'), data.get('answer_weights')
        if ids is None or weights is None or ids.shape[:2] != weights.shape:
            raise InputError('the dataset gives no answers: use the tokenizer QuestionIds for it')
        if not bool((weights >= 0).all() & (weights > 0).any(dim=1).all()):
            raise InputError('each question needs an answer with a weight above 0, and none below')
        return data['images'], questions, self.tokens(ids[weights > 0]), weights

    def losses(
        self, images: Tensor, questions: Tokens, answers: Tokens, weights: Tensor
    ) -> dict[str, Tensor]:
        """'answer_loss'.

        Args:
            images: (B, 3, H, W), normalized.
            questions: B texts that start with ``ids.cls``.
            answers: texts that start with ``ids.cls``, one of each weight that is not 0, row by row.
            weights: (B, K).
        """
        blip, special = self.blip, self.blip.text_size.ids
        asked = Tokens(with_first(questions.ids, special.enc), questions.keep)
        given = Tokens(with_first(answers.ids, special.dec), answers.keep)
        tokens = blip.encode_image(images)  # (B, S, W)
        return {'answer_loss': answer_loss(blip, tokens, asked, given, weights, self.smoothing)}


def answering_blip(blip: Blip) -> Blip:
    """The model for questions that starts from a pre-trained one; one that answers questions is unchanged.

    Both keep all weights of encoder and decoder, which no longer share any.  Keys and values of the decoder
    read the encoder's states instead of the image: they keep their weights where both have one width, as in
    the release.

    Raises:
        InputError: a model without encoder or decoder.
    """
    if blip.size.answers:
        return blip
    if blip.encoder is None or blip.decoder is None:
        raise InputError(
            'answering questions needs a BLIP with encoder and decoder: give pre-trained weights, or those '
            'of a model that answers questions'
        )
    size = blip.text_size
    decoder = MedDecoder(size, size.width)
    own, known = decoder.state_dict(), blip.decoder.state_dict()
    decoder.load_state_dict(
        {name: known[name] if known[name].shape == x.shape else x for name, x in own.items()}
    )
    return Blip(blip.image, blip.encoder, decoder, preprocess=blip.preprocess, tokenizer=blip.tokenizer)


@torch.no_grad()
def with_words(blip: Blip, words: Sequence[str]) -> Blip:
    """Add words to a vocabulary of whole words; their embeddings are random, others keep ids and weights.

    Args:
        blip: changed in place.
        words: those that it has are left out.

    Raises:
        InputError: another kind of vocabulary, or words that are no words.
    """
    size = blip.text_size
    if isinstance(words, str) or (words and not size.words):
        raise InputError(
            'words must be a list of words for a model with a vocabulary of whole words, got '
            f'{list(words)[:3] if not isinstance(words, str) else words!r} for one of {size.vocab_size} ids'
        )
    new = [word for word in words if word not in size.words]
    if not new:
        return blip
    larger = replace(size, words=(*size.words, *new))
    for stack in filter(None, (blip.encoder, blip.decoder)):
        _enlarge(stack, larger)
    blip.tokenizer = BlipTokenizer(larger)
    return blip


def _enlarge(stack: Med, size: MedSize) -> None:
    """More words for an encoder or decoder; the embedding may be shared, and large enough already."""
    old = stack.embed.words.weight
    if len(old) < size.vocab_size:
        rows = torch.empty(size.vocab_size - len(old), size.width, dtype=old.dtype, device=old.device)
        weight = torch.cat([old, nn.init.normal_(rows, std=0.02)])
        stack.embed.words = nn.Embedding.from_pretrained(weight, freeze=False)
    if isinstance(stack, MedDecoder):
        bias = stack.head.bias
        stack.head.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(size.vocab_size - len(bias))]))
    stack.size = size
