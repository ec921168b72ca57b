"""CLIPs by name: which there are, one of them as a model, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.weights import zoo

from .checkpoint.config_files import from_zoo
from .checkpoint.load import load
from .checkpoint.settings import default_preprocess
from .model import CLIP, build_clip
from .sizes import PUBLISHED
from .tokenizers import FolderTokenizer, MissingTokenizer, OpenAITokenizer

__all__ = ['create_model', 'get_tokenizer', 'list_models', 'model_table']


def list_models(pattern: str = '') -> list[str]:
    """Names of published weights, '<model>/<tag>' such as 'ViT-B-16/openai'; OpenAI's come first.

    Args:
        pattern: part of a name, or a shell pattern for the whole of it where it has one of ``*?[``; upper and
            lower case are the same.
    """
    pattern = pattern.lower()
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    return [name for name in zoo.ZOO if fnmatchcase(name.lower(), pattern)]


def model_table(pattern: str = '') -> list[dict[str, Any]]:
    """What is known about the weights that ``list_models`` names, as plain values."""
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
    """A CLIP in evaluation mode, with its ``preprocess`` and ``tokenizer``.

    Args:
        name: a model such as 'ViT-B-16', or published weights such as 'ViT-B-16/openai'.
        pretrained: weights for the model: a tag of published weights such as 'openai', or a file or folder as
            ``clipdense.load`` takes it.  None gives fresh weights where ``name`` has no tag.
        device: where the model goes.
        dtype: of its numbers; fp32 unless said.

    Raises:
        InputError: an unknown name or tag, with the nearest known one; a file that holds a model of another
            size; or as ``clipdense.load``.
        CheckpointError: as ``clipdense.load``.
    """
    if '/' in name or ':' in name:
        if pretrained is not None:
            raise InputError(f'{name!r} names its weights; remove pretrained={str(pretrained)!r}')
        return load(name, device, dtype)
    if pretrained is None:
        return _fresh(name).to(device=device, dtype=dtype or torch.float32).eval()
    path, tagged = Path(pretrained).expanduser(), f'{name}/{pretrained}'
    if tagged in zoo.ZOO or not path.exists():
        return load(tagged, device, dtype)
    clip = load(path, device, dtype)
    if name in PUBLISHED and _shape(clip.size) != _shape(PUBLISHED[name]):
        raise InputError(f'{path} does not hold a {name}: its towers have other sizes; use clipdense.load')
    return clip


def get_tokenizer(name: str) -> Callable[..., Tensor]:
    """The tokenizer of a model: one text or several -> (K, L) int64 token ids, for ``encode_text``.

    Args:
        name: a model such as 'ViT-B-16', or published weights such as 'ViT-B-16/openai'.

    Raises:
        InputError: an unknown name, with the nearest known one; or tokenizer files that are not on this
            machine and cannot be downloaded.
    """
    if name in PUBLISHED and PUBLISHED[name].text.vocab_size == VOCAB_SIZE:
        return OpenAITokenizer(PUBLISHED[name].text.context_length)
    tagged = next((known for known in zoo.ZOO if known.split('/')[0] == name), name)
    entry = zoo.find(tagged)
    text = entry.config['model_cfg'].get('text_cfg') or {}
    length = text.get('context_length', 77)
    if not entry.companions:
        return OpenAITokenizer(length)
    return FolderTokenizer(zoo.fetch_tokenizer(entry), length, from_zoo(entry).clean)


def _fresh(name: str) -> CLIP:
    """A published size with fresh weights."""
    if name not in PUBLISHED:
        raise InputError(
            f'unknown model {name!r}.{nearest(name, PUBLISHED)} `clipdense models` lists all weights'
        )
    size = PUBLISHED[name]
    tokenizer: Callable[..., Any] | None = None
    if size.text.vocab_size != VOCAB_SIZE:
        tokenizer = MissingTokenizer(f'fresh weights of {name} come without a tokenizer: use get_tokenizer')
    return build_clip(size, default_preprocess(size), tokenizer)


def _shape(size: Any) -> tuple[Any, ...]:
    """What tensors tell of a size: widths and depths, not activations."""
    image, text = size.image, size.text
    return (
        image.width,
        image.layers,
        getattr(image, 'patch_size', 32),
        text.width,
        text.layers,
        text.embed_dim,
    )
