"""Sizes of BLIP.  W: width of image tokens, C: width of text, D: joint space of the contrastive loss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipdense.clip.sizes import ImageSize, ResNetSize, VitSize, image_size_of
from clipdense.utils.errors import InputError, refuse_unknown


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the vocabulary that are not words.

    Args:
        pad: fills texts to a common length.
        cls: starts a text that is encoded alone.
        sep: ends a text.
        dec: starts a text that is generated, ``[DEC]``.
        enc: starts a text that is compared with an image, ``[ENC]``.
    """

    pad: int
    cls: int
    sep: int
    dec: int
    enc: int


BERT = SpecialIds(pad=0, cls=101, sep=102, dec=30522, enc=30523)  # bert-base-uncased and two added ids
OPENAI = SpecialIds(
    pad=0, cls=49406, sep=49407, dec=49408, enc=49409
)  # OpenAI's byte pairs and two added ids
BERT_WORDS, OPENAI_WORDS = 30524, 49410
OWN = SpecialIds(pad=0, cls=1, sep=2, dec=3, enc=4)  # of a list of words
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
UNKNOWN, FIRST_WORD = 5, 6  # ids of a list of words


@dataclass(frozen=True)
class MedSize:
    """The text transformer (MED, "multimodal mixture of encoder-decoder").

    Args:
        width: C.
        layers, num_heads, mlp_width: of the transformer.
        vocab_size: number of ids, the two added ones included.
        context_length: number of positions.
        ids: the special ids, or a dict of them.
        eps: of the normalizations.
        dropout: in training.
        words: a vocabulary of whole words, for a model of one's own whose captions have few; it determines
            ``vocab_size`` and ``ids``.

    Raises:
        InputError: special ids that are not in the vocabulary, or words that are repeated or no words.
    """

    width: int = 768
    layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    vocab_size: int = BERT_WORDS
    context_length: int = 512
    ids: SpecialIds = BERT
    eps: float = 1e-12
    dropout: float = 0.1
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.ids, dict):
            object.__setattr__(self, 'ids', SpecialIds(**self.ids))
        check_words(self.words)
        object.__setattr__(self, 'words', tuple(self.words))
        if self.words:
            object.__setattr__(self, 'vocab_size', FIRST_WORD + len(self.words))
            object.__setattr__(self, 'ids', OWN)
        given = asdict(self.ids)
        if wrong := [name for name, value in given.items() if not 0 <= value < self.vocab_size]:
            raise InputError(
                f'the vocabulary of {self.vocab_size} ids lacks {", ".join(wrong)} of {given}; BLIP needs a '
                'vocabulary with two added ids, [DEC] and [ENC]'
            )


@dataclass(frozen=True)
class BlipSize:
    """Both transformers and the heads.

    Args:
        image: image tower; a ``VitSize`` of flavour 'slip' is BLIP's own ViT.
        text: a ``MedSize``, or a dict of its fields.
        encoder, decoder: whether the model understands and generates texts.
        shared: whether encoder and decoder share all but their self-attention, as in pre-training.
        embed_dim: D of the projections of the contrastive loss; 0 for a model without them and without the
            matching head.
        image_eps: of the normalizations of a ViT.

    Raises:
        InputError: neither encoder nor decoder, sharing or a joint space without what it needs.
    """

    image: ImageSize
    text: MedSize
    encoder: bool = True
    decoder: bool = True
    shared: bool = True
    embed_dim: int = 256
    image_eps: float = 1e-6

    def __post_init__(self) -> None:
        if isinstance(self.image, dict):
            object.__setattr__(self, 'image', image_size_of(self.image))
        if isinstance(self.text, dict):
            object.__setattr__(self, 'text', MedSize(**self.text))
        if not (self.encoder or self.decoder):
            raise InputError('a BLIP needs an encoder, a decoder or both')
        if self.shared and not (self.encoder and self.decoder):
            object.__setattr__(self, 'shared', False)
        if self.embed_dim and not self.encoder:
            raise InputError('a BLIP without encoder has no joint space: set embed_dim=0')

    @property
    def answers(self) -> bool:
        """Whether the decoder reads an encoded question, not the image (visual question answering)."""
        return self.encoder and self.decoder and not self.shared

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BlipSize:
        """The inverse of ``to_dict``."""
        return cls(**values)

    @classmethod
    def named(cls, name: str) -> BlipSize:
        """A size of ``PUBLISHED``.

        Raises:
            InputError: an unknown name.
        """
        refuse_unknown([name], PUBLISHED, 'unknown BLIP size')
        return PUBLISHED[name]


def check_words(words: Sequence[str]) -> None:
    """Check a vocabulary of whole words.

    Raises:
        InputError: not a list, a repeated word, or an entry that no text is split into.
    """
    if isinstance(words, str):
        raise InputError(f'words must be a list of words, got {words!r:.80}')
    for word in words:
        if not isinstance(word, str) or split_words(word) != [word]:
            raise InputError(f'words must be single words in lower case, or single signs; got {word!r:.80}')
    if len(set(words)) < len(words):
        twice = next(word for word in words if list(words).count(word) > 1)
        raise InputError(f'words has {twice!r} twice')


def split_words(text: str) -> list[str]:
    """The words and signs of a text in lower case."""
    return _WORD.findall(text.lower())


def image_width(size: ImageSize) -> int:
    """W, the width of the tokens of an image tower.

    Raises:
        InputError: a tower of timm, whose width only the built tower has.
    """
    if isinstance(size, VitSize):
        return size.width
    if isinstance(size, ResNetSize):
        return 32 * size.width
    raise InputError('the width of the tokens of a timm tower is that of the built tower')


def _published(side: int, width: int, layers: int, **parts: Any) -> BlipSize:
    image = VitSize(side, 16, width, layers, width // 64, 4 * width, 256, activation='gelu', flavour='slip')
    return BlipSize(image, MedSize(), **parts)


_CAPTION: dict[str, Any] = {'encoder': False, 'embed_dim': 0}
_RETRIEVAL: dict[str, Any] = {'decoder': False}
_ANSWERS: dict[str, Any] = {'shared': False, 'embed_dim': 0}

# Li et al., arXiv 2201.12086; the released files of salesforce/BLIP.
PUBLISHED: dict[str, BlipSize] = {
    'BLIP-B': _published(224, 768, 12),
    'BLIP-L': _published(224, 1024, 24),
    'BLIP-B-caption': _published(384, 768, 12, **_CAPTION),
    'BLIP-L-caption': _published(384, 1024, 24, **_CAPTION),
    'BLIP-B-retrieval': _published(384, 768, 12, **_RETRIEVAL),
    'BLIP-L-retrieval': _published(384, 1024, 24, **_RETRIEVAL),
    'BLIP-B-vqa': _published(480, 768, 12, **_ANSWERS),
}


def with_openai_words(size: MedSize, context_length: int = 77) -> MedSize:
    """The same transformer with OpenAI's byte pairs and the two added ids, for a model of one's own."""
    return replace(size, vocab_size=OPENAI_WORDS, ids=OPENAI, context_length=context_length)
