"""Which official layout is this, and what sizes do its tensors tell?  C: width, D: joint space."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from clipdense.utils.errors import CheckpointError

from .key_map import DROPPED, to_ours

_PREFIXES = ('module.', 'model.', 'clip_model.', 'clip.', 'state_dict.')
_OPENAI_KEYS = {'input_resolution', 'context_length', 'vocab_size'}

# Layouts that look like CLIP and that have no tower here: a key that gives them away, and what they are.
_FOREIGN = (
    ('text.transformer.embeddings.', 'an open_clip model with a Hugging Face text tower'),
    ('text_decoder.', 'a CoCa model, whose captioning decoder has no place here'),
    ('visual.trunk.', 'an open_clip model whose image tower is a timm network other than SigLIP'),
    ('image_encoder.model.', 'a MobileCLIP model'),
    ('img_encoder.', 'a GroupViT model: load it with its method, not as a CLIP'),
    ('decoder.fuse.', 'an LSeg without its config: `clipdense segment` takes both (--config)'),
    ('roi_head.bbox_head.', 'a detector: `clipdense detect` and clipdense.Detector open it'),
    ('vision_model.', 'a Hugging Face image tower without its text tower'),
    ('text_model.', 'a Hugging Face text tower without its image tower'),
    ('optimizer', 'the state of an optimiser'),
)


@dataclass(frozen=True)
class Recognised:
    """Weights under our names.

    Args:
        layout: a key of ``key_map.LAYOUTS``.
        tensors: under our names, in the file's dtypes.
        leftover: names that have no place with us.
        openai: the weights carry the three extra keys of OpenAI's own archives.
    """

    layout: str
    tensors: dict[str, Tensor]
    leftover: list[str]
    openai: bool = False


def recognise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Recognised:
    """Find the layout by its keys, strip known wrappers, and rename to our names.

    Raises:
        CheckpointError: no known layout; names what it looks like, or its first keys.
    """
    tensors = strip_wrappers(tensors)
    layout = _layout(tensors, metadata or {})
    ours, leftover = to_ours(tensors, layout)
    return Recognised(layout, ours, leftover, openai=tensors.keys() >= _OPENAI_KEYS)


def strip_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, ``torch.compile`` and training programs put before all of them."""
    stripped = {re.sub(r'(^|\.)_orig_mod\.', r'\1', name): tensor for name, tensor in tensors.items()}
    while prefix := next((prefix for prefix in _PREFIXES if _all_start(stripped, prefix)), ''):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def infer_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes from tensors under our names: the fields of ``clip.sizes.ClipSize`` but for heads and activation.

    ``image_size`` is the grid times the patch, which may fall short of the published one by a rim.

    Raises:
        CheckpointError: a tensor that the sizes are read from is missing or of an impossible shape.
    """
    try:
        image = _resnet_size(tensors) if 'image.attn_pool.pos_embed' in tensors else _vit_size(tensors)
        return {'image': image, 'text': _text_size(tensors), 'logit_bias': 'logit_bias' in tensors}
    except KeyError as error:
        raise CheckpointError(f'{error.args[0]} is missing: the weights are incomplete') from None
    except (IndexError, ValueError) as error:
        raise CheckpointError(f'the weights have impossible shapes: {error}') from None


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], leftover: Iterable[str] = ()) -> str:
    """What is missing, without a place or of another shape, with counts and first names; '' where all fits.

    Args:
        expected, found: tensors by name, of the model and of the weights.
        leftover: names in the file that were not even renamed.
    """
    problems = {
        'missing': [name for name in expected if name not in found],
        'without a place': [*leftover, *(name for name in found if name not in expected)],
        'of another shape': [
            f'{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if found.get(name, tensor).shape != tensor.shape
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({first_names(names)})' for what, names in problems.items() if names
    )


def first_names(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and dots where there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _all_start(names: Iterable[str], prefix: str) -> bool:
    names = [name for name in names if not DROPPED.fullmatch(name)]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    if (
        metadata.get('format') == 'clipdense'
        or {'text.blocks.0.attn.qkv.weight', 'text.proj'} <= tensors.keys()
    ):
        return 'clipdense'
    if 'text_model.embeddings.token_embedding.weight' in tensors:
        if 'vision_model.embeddings.class_embedding' in tensors:
            return 'huggingface_clip'
        if 'vision_model.head.probe' in tensors:
            return 'huggingface_siglip'
    if 'visual.trunk.attn_pool.latent' in tensors and 'text.ln_final.weight' in tensors:
        return 'openclip_siglip'
    if 'visual.cls_token' in tensors and 'image_projection' in tensors:
        return 'slip'
    custom = {'text.ln_final.weight': 'custom_', 'ln_final.weight': ''}
    text = next((kind for name, kind in custom.items() if name in tensors), None)
    coca = any(name.startswith('text_decoder.') for name in tensors)
    if text is not None and not coca:
        if 'visual.class_embedding' in tensors:
            return f'openclip_{text}vit'
        if 'visual.attnpool.positional_embedding' in tensors:
            return f'openclip_{text}resnet'
    raise CheckpointError(_unknown(tensors))


def _unknown(tensors: Mapping[str, Tensor]) -> str:
    for beginning, what in _FOREIGN:
        if any(name.startswith(beginning) for name in tensors):
            return f'the weights look like {what}'
    shown = ', '.join(sorted(tensors)[:10])
    return (
        'the weights have no known CLIP layout (OpenAI, open_clip, SLIP, SigLIP, Hugging Face, ours); '
        f'{len(tensors)} tensors: {shown}'
    )


def _vit_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = tensors['image.patch_embed.weight'].shape
    siglip = 'image.pool.query' in tensors
    side = _side(len(tensors['image.pos_embed']) - (not siglip))
    flavour = 'siglip' if siglip else 'openai' if 'image.norm_pre.weight' in tensors else 'slip'
    return {
        'image_size': side * patch,
        'patch_size': patch,
        'width': width,
        'layers': _count(tensors, r'image\.blocks\.(\d+)\.'),
        'mlp_width': len(tensors['image.blocks.0.mlp.fc1.weight']),
        'embed_dim': width if siglip else tensors['image.proj'].shape[1],
        'flavour': flavour,
    }


def _resnet_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        'image_size': 32 * _side(len(tensors['image.attn_pool.pos_embed']) - 1),
        'width': len(tensors['image.conv3.weight']),
        'layers': [_count(tensors, rf'image\.layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)],
        'embed_dim': len(tensors['image.attn_pool.proj.weight']),
    }


def _text_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    vocab_size, width = tensors['text.token_embed.weight'].shape
    return {
        'width': width,
        'layers': _count(tensors, r'text\.blocks\.(\d+)\.'),
        'mlp_width': len(tensors['text.blocks.0.mlp.fc1.weight']),
        'embed_dim': tensors['text.proj'].shape[1],
        'vocab_size': vocab_size,
        'context_length': len(tensors['text.pos_embed']),
        'flavour': 'siglip' if 'text.proj_bias' in tensors else 'openai',
    }


def _side(cells: int) -> int:
    side = isqrt(max(cells, 0))
    if not side or side * side != cells:
        raise ValueError(f'position embeddings for {cells} places, which is no square grid')
    return side


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if not found:
        raise KeyError(pattern.replace('\\', '').replace('(d+)', '0'))
    if len(found) != max(found) + 1:
        raise ValueError(f'layers are numbered 0 to {max(found)}, but {len(found)} are there')
    return max(found) + 1
