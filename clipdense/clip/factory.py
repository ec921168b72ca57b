"""Create published CLIP models and tokenizers by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.devices import choose_device, choose_dtype
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.weights import zoo

from .checkpoint.config_files import from_zoo
from .checkpoint.loading import load
from .checkpoint.open_clip_models import open_clip_size
from .checkpoint.section import Section
from .checkpoint.settings import default_preprocess
from .model import CLIP, build_clip
from .sizes import PUBLISHED, ClipSize, TextSize
from .tokenizers import FolderTokenizer, MissingTokenizer, OpenAITokenizer

__all__ = ['create_model', 'get_tokenizer']


def create_model(
    name: str,
    pretrained: str | Path | None = None,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | str | None = None,
) -> CLIP:
    """Create a CLIP in evaluation mode, with its ``preprocess`` and ``tokenizer``.

    Args:
        name: a model such as 'ViT-B-16', or published weights such as 'ViT-B-16/openai'.
        pretrained: weights for the model: a tag of published weights such as 'openai', or a file or folder as
            ``clipdense.load`` takes it.  None initializes the weights randomly if ``name`` has no tag.
        device: of the model.
        dtype: of the parameters; fp32 by default.

    Raises:
        InputError: an unknown name or tag, with the nearest known one; a file with a model of another size;
            or as ``clipdense.load``.
        CheckpointError: as ``clipdense.load``.
    """
    if '/' in name or ':' in name or name in zoo.SHORT_NAMES:
        if pretrained is not None:
            raise InputError(f'{name!r} already specifies weights; remove pretrained={str(pretrained)!r}')
        return load(name, device, dtype)
    if pretrained is None:
        return _fresh(name).to(device=choose_device(device), dtype=choose_dtype(dtype)).eval()
    path, tagged = Path(pretrained).expanduser(), f'{name}/{pretrained}'
    if tagged in zoo.ZOO or not path.exists():
        return load(tagged, device, dtype)
    clip = load(path, device, dtype)
    if _shape(clip.size) != _shape(published_size(name)):
        raise InputError(f'{path} is not a {name}: its towers have other sizes; use clipdense.load')
    return clip


def get_tokenizer(name: str) -> Callable[..., Tensor]:
    """The tokenizer of a model: one text or several -> (K, L) int64 token ids, for ``encode_text``.

    Args:
        name: a model such as 'ViT-B-16', or published weights such as 'ViT-B-16/openai'.

    Raises:
        InputError: an unknown name, with the nearest known one; or tokenizer files that are not cached and
            cannot be downloaded.
    """
    if name in PUBLISHED and PUBLISHED[name].text.vocab_size == VOCAB_SIZE:
        return OpenAITokenizer(PUBLISHED[name].text.context_length)
    tagged = next((known for known in zoo.ZOO if known.split('/')[0] == name), name)
    entry = zoo.find(tagged)
    if entry.parts:
        return load(entry.name).tokenizer
    model = Section(entry.config['model_cfg'], entry.name)
    if not entry.tokenizer:
        return OpenAITokenizer(model.part('text_cfg').integer('context_length', 77))
    size, rules = open_clip_size(model).text, from_zoo(entry).tokenizer
    return FolderTokenizer(zoo.fetch_tokenizer(entry), size, rules)


def published_size(name: str) -> ClipSize:
    """The size of an architecture: of the table ``sizes.PUBLISHED``, else of open_clip's configs.

    Raises:
        InputError: an unknown name, or towers that are not supported.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    try:
        config = zoo.model_config(name)
    except InputError:
        raise InputError(
            f'unknown model {name!r}.{nearest(name, [*PUBLISHED, *zoo.architectures()])} '
            '`clipdense models` lists all models'
        ) from None
    return open_clip_size(Section(config, f"open_clip's config of {name}"))


def _fresh(name: str) -> CLIP:
    """A published size with random weights."""
    size = published_size(name)
    tokenizer: Callable[..., Any] | None = None
    if not isinstance(size.text, TextSize) or size.text.vocab_size != VOCAB_SIZE:
        tokenizer = MissingTokenizer(
            f'{name} with random weights has no tokenizer: use get_tokenizer({name!r})'
        )
    return build_clip(size, default_preprocess(size.image), tokenizer)


def _shape(size: ClipSize) -> tuple[Any, ...]:
    """The part of a size that determines tensor shapes: widths and depths, not activations."""
    keys = ('model', 'projection', 'width', 'layers', 'patch_size', 'embed_dim', 'vocab_size')
    return tuple(getattr(tower, key, None) for tower in (size.image, size.text) for key in keys)
