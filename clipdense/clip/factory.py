"""Create published CLIP models and tokenizers by name, and list them."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.weights import zoo

from .checkpoint.config_files import from_zoo
from .checkpoint.load import load
from .checkpoint.open_clip_models import open_clip_size
from .checkpoint.section import Section
from .checkpoint.settings import default_preprocess
from .model import CLIP, build_clip
from .sizes import PUBLISHED, ClipSize, TextSize
from .tokenizers import FolderTokenizer, MissingTokenizer, OpenAITokenizer

__all__ = ['create_model', 'get_tokenizer', 'list_models', 'model_table']


def list_models(pattern: str = '') -> list[str]:
    """Names of published weights, '<model>/<tag>' such as 'ViT-B-16/openai'; OpenAI's first.

    Args:
        pattern: part of a name, or a shell pattern for the whole name if it contains one of ``*?[``; case is
            ignored.
    """
    pattern = pattern.lower()
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    return [name for name in zoo.ZOO if fnmatchcase(name.lower(), pattern)]


def model_table(pattern: str = '') -> list[dict[str, Any]]:
    """Source, license, checksum, activation and preprocessing of each name in ``list_models``."""
    rows = []
    for name in list_models(pattern):
        entry = zoo.ZOO[name]
        recorded = from_zoo(entry)
        row: dict[str, Any] = {
            'name': entry.name,
            'source': entry.source,
            'license': entry.license,
            'sha256': entry.sha256,
            'activation': recorded.text.activation,
        }
        rows.append(row | (recorded.preprocess or {}))
    return rows


def create_model(
    name: str,
    pretrained: str | Path | None = None,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | None = None,
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
    if '/' in name or ':' in name:
        if pretrained is not None:
            raise InputError(f'{name!r} already specifies weights; remove pretrained={str(pretrained)!r}')
        return load(name, device, dtype)
    if pretrained is None:
        return _fresh(name).to(device=device, dtype=dtype or torch.float32).eval()
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
    recorded = from_zoo(entry)
    if recorded.size is not None:
        standard = isinstance(recorded.size.text, TextSize) and recorded.size.text.vocab_size == VOCAB_SIZE
        if standard and not entry.companions:
            return OpenAITokenizer(recorded.size.text.context_length)
        return FolderTokenizer(zoo.fetch_tokenizer(entry), recorded.size.text, recorded.tokenizer)
    text = recorded.text
    length = text.context_length or 77
    if not entry.companions:
        return OpenAITokenizer(length)
    flavour: Literal['openai', 'siglip'] = 'openai' if text.eos_token_id else 'siglip'
    eos = text.eos_token_id if isinstance(text.eos_token_id, int) else None
    sizes = text.width or 0, text.layers or 0, text.num_heads or 0, 0, text.embed_dim or 0
    size = TextSize(*sizes, text.vocab_size or VOCAB_SIZE, length, flavour=flavour, eos_token_id=eos)
    return FolderTokenizer(zoo.fetch_tokenizer(entry), size, recorded.tokenizer)


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
    return build_clip(size, default_preprocess(size), tokenizer)


def _shape(size: ClipSize) -> tuple[Any, ...]:
    """The part of a size that determines tensor shapes: widths and depths, not activations."""
    keys = ('model', 'projection', 'width', 'layers', 'patch_size', 'embed_dim', 'vocab_size')
    return tuple(getattr(tower, key, None) for tower in (size.image, size.text) for key in keys)
