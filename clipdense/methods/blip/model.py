"""The BLIP model: an image tower, and one text transformer that encodes, compares and generates.

B: images or texts, L: tokens of a text, S: tokens of an image, W: their width, C: width of the text,
D: joint space, V: ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.preprocess import Preprocess
from clipdense.registry import MODELS, build_module
from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.tasks.generation import check_room, generate
from clipdense.utils.errors import InputError

from .answers import answer_all, answer_each, check_answers
from .sizes import BlipSize, MedSize
from .text import Context, Med, MedDecoder
from .tokenizer import BlipTokenizer
from .tower import build_tower, image_tokens, tower_width

TEMPERATURE = 0.07
TEMPERATURES = (0.001, 0.5)  # the range in training


class JointSpace(nn.Module):
    """Projections of whole images and texts, and the temperature of their similarities.

    Args:
        image_width, text_width: W and C.
        embed_dim: D.
    """

    def __init__(self, image_width: int, text_width: int, embed_dim: int = 256) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, embed_dim)
        self.text = nn.Linear(text_width, embed_dim)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))  # a divisor, not a logarithm


@MODELS.register_module()
class Blip(nn.Module):
    """BLIP with the parts that its weights have.

    Args:
        image: an image tower or its config; its tokens are read by ``tower.image_tokens``.
        encoder: encodes texts, alone or with an image.
        decoder: generates texts from an image, or from a question that the encoder has read with an image.
        joint: projections of the contrastive loss (ITC).
        itm_head: scores of "does not match" and "matches" (ITM), a linear layer C -> 2.
        preprocess: of the images; squashed to the image size of the tower by default.
        tokenizer: of the texts.

    Raises:
        InputError: neither encoder nor decoder.

    Source: Li et al., arXiv 2201.12086; salesforce/BLIP models/blip_pretrain.py.
    """

    method = 'blip'

    def __init__(
        self,
        image: nn.Module | dict,
        encoder: Med | None = None,
        decoder: MedDecoder | None = None,
        joint: JointSpace | None = None,
        itm_head: nn.Module | None = None,
        preprocess: Preprocess | None = None,
        tokenizer: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if encoder is None and decoder is None:
            raise InputError('a BLIP needs an encoder, a decoder or both')
        self.image: Any = build_module(image)
        self.encoder, self.decoder = encoder, decoder
        self.joint, self.itm_head = joint, itm_head
        self.preprocess = preprocess or default_preprocess(self.image.size.image_size)
        self.tokenizer: Any = tokenizer or BlipTokenizer(self.text_size)

    @property
    def text_size(self) -> MedSize:
        """Size of the text transformer."""
        stack = self.encoder or self.decoder
        assert stack is not None
        return stack.size

    @property
    def size(self) -> BlipSize:
        """The size that ``build_blip`` takes to build this model."""
        both = self.encoder is not None and self.decoder is not None
        return BlipSize(
            self.image.size,
            self.text_size,
            encoder=self.encoder is not None,
            decoder=self.decoder is not None,
            shared=both and self.encoder.embed is self.decoder.embed,  # type: ignore[union-attr]
            embed_dim=0 if self.joint is None else self.joint.image.out_features,
            image_eps=getattr(self.image, 'eps', 1e-6),
        )

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, any H and W -> tokens (B, S, W), the first for the whole image."""
        return image_tokens(self.image, images)[0]

    def embed_image(self, tokens: Tensor) -> Tensor:
        """Tokens of images (B, S, W) -> unit embeddings (B, D)."""
        return F.normalize(self.need_joint().image(tokens[:, 0]), dim=-1)

    def embed_text(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Texts that start with ``ids.cls`` (B, L), mask (B, L) -> unit embeddings (B, D)."""
        states = self.need_encoder()(ids, keep)  # (B, L, C)
        return F.normalize(self.need_joint().text(states[:, 0]), dim=-1)

    def match(self, context: Context, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Images and texts that start with ``ids.enc`` -> scores (B, 2) of no match and match.

        Args:
            context: of ``encoder.read(tokens)``, of B images or of fewer with equally many texts each.
            ids, keep: (B, L).

        Raises:
            InputError: weights without a matching head.
        """
        head = self.need_itm_head()
        states = self.need_encoder()(ids, keep, context)  # (B, L, C)
        return head(states[:, 0])

    def predict(self, context: Context, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Texts that start with ``ids.dec`` (B, L) -> scores of the next id at each position (B, L, V)."""
        decoder = self.need_decoder()
        return decoder.scores(decoder(ids, keep, context, causal=True))

    def caption(self, images: Tensor, rules: CaptionRules, numbers: Sequence[int] = ()) -> list[Caption]:
        """(B, 3, H, W), normalized -> a caption of each; see ``tasks.captioning.CaptionModel``."""
        decoder, prompt = self.need_decoder(), self._prompt(rules.prompt)
        start = torch.tensor([prompt] * len(images), device=images.device)  # (B, L)
        context = decoder.read(self.encode_image(images))
        ids, scores = generate(decoder, context, start, rules, numbers)
        texts = [self.tokenizer.decode(row) for row in ids[:, len(prompt) :].tolist()]
        return [Caption(text, score) for text, score in zip(texts, scores.tolist(), strict=True)]

    def check_captions(self, rules: CaptionRules) -> None:
        """See ``tasks.captioning.CaptionModel``."""
        decoder = self.need_decoder()
        if self.size.answers:
            raise InputError(
                'these BLIP weights answer questions (`clipdense answer`): use weights for captioning'
            )
        if self.encoder is not None:
            warnings.warn(
                'these BLIP weights are those of pre-training, whose captions are poor: use weights that '
                'were fine-tuned for captioning'
            )
        prompt = self._prompt(rules.prompt)
        self.tokenizer.warn_of_unknown([rules.prompt], [prompt])
        check_room(decoder, len(prompt), rules)

    def check_answers(self, rules: AnswerRules) -> None:
        """See ``tasks.answering.AnswerModel``."""
        check_answers(self, rules)

    def answer(self, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[list[Answer]]:
        """See ``tasks.answering.AnswerModel``."""
        return answer_all(self, images, questions, rules)

    def answer_each(self, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
        """See ``tasks.answering.AnswerModel``."""
        return answer_each(self, images, questions, rules)

    def _prompt(self, text: str) -> list[int]:
        """Ids of a prompt, without its end."""
        return [self.text_size.ids.dec, *(self.tokenizer.encode(text) if text.strip() else ())]

    def need_decoder(self) -> MedDecoder:
        """The decoder.

        Raises:
            InputError: weights without one.
        """
        if self.decoder is None:
            raise InputError(
                'these BLIP weights cannot generate text (they have an encoder only): use weights for '
                'captioning'
            )
        return self.decoder

    def need_encoder(self) -> Med:
        """The encoder.

        Raises:
            InputError: weights without one.
        """
        if self.encoder is None:
            raise InputError(
                'these BLIP weights have no text encoder (they generate only): use weights for retrieval'
            )
        return self.encoder

    def need_joint(self) -> JointSpace:
        """The projections to the joint space.

        Raises:
            InputError: weights without them.
        """
        if self.joint is None:
            raise InputError('these BLIP weights have no joint space: use weights for retrieval')
        return self.joint

    def need_itm_head(self) -> nn.Module:
        """The matching head.

        Raises:
            InputError: weights without one.
        """
        if self.itm_head is None:
            raise InputError('these BLIP weights have no matching head: use weights for retrieval')
        return self.itm_head


def default_preprocess(image_size: int) -> Preprocess:
    """What BLIP was evaluated with: the aspect ratio is ignored."""
    return replace(Preprocess.named('openai', image_size), resize='squash')


@MODELS.register_module()
def build_blip(
    size: BlipSize | dict | str,
    preprocess: Preprocess | None = None,
    tokenizer: Callable[..., Any] | None = None,
    image_weights: str | Path | None = None,
    text_weights: str | Path | None = None,
) -> Blip:
    """A BLIP with random weights, or with those that pre-training starts from.

    Args:
        size: a ``BlipSize``, its dict, or a published name such as 'BLIP-B'.
        preprocess, tokenizer: see ``Blip``; the normalization of the images is that of ``image_weights`` by
            default, if they record one.
        image_weights: of the image tower: a supervised ViT of timm, a CLIP or a BLIP, as a file or name; see
            ``start.start_image``.
        text_weights: of the text transformer: a BERT, such as 'bert-base-uncased'; see ``start.start_text``.

    Raises:
        InputError: an unknown name, or weights that do not fit.
    """
    if isinstance(size, str):
        size = BlipSize.named(size)
    elif isinstance(size, dict):
        size = BlipSize.from_dict(size)
    image, text = build_tower(size.image, size.image_eps), size.text
    width = tower_width(image)
    encoder = Med(text, width) if size.encoder else None
    decoder = None
    if size.decoder:
        share = encoder if size.shared else None
        decoder = MedDecoder(text, text.width if size.answers else width, share)
    joint = JointSpace(width, text.width, size.embed_dim) if size.embed_dim else None
    itm_head = nn.Linear(text.width, 2) if size.embed_dim else None
    blip = Blip(image, encoder, decoder, joint, itm_head, preprocess, tokenizer)
    if image_weights is not None or text_weights is not None:
        from .start import start

        start(blip, image_weights, text_weights, own_preprocess=preprocess is not None)
    return blip
