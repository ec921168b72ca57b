"""Config files that Hugging Face and open_clip write next to the weights.

Attention heads, activations, image size and preprocessing are read from them.  Settings that the towers here
do not support are refused by name, because they would silently change the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipdense.utils.errors import CheckpointError
from clipdense.weights.zoo import Entry

from ..preprocess import STATISTICS
from .settings import Recorded, TowerFacts

_ACTIVATIONS = {
    'quick_gelu': 'quick_gelu',
    'gelu': 'gelu',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu_new': 'gelu_tanh',
}
_INTERPOLATIONS = {2: 'bilinear', 3: 'bicubic'}  # Pillow's codes, as Hugging Face writes them

# Defaults of transformers for settings that config.json omits: (vision, text) of each model type.
_HUGGINGFACE_DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'clip': (
        {'hidden_act': 'quick_gelu', 'num_attention_heads': 12, 'layer_norm_eps': 1e-5, 'image_size': 224},
        {'hidden_act': 'quick_gelu', 'num_attention_heads': 8, 'layer_norm_eps': 1e-5},
    ),
    'siglip': (
        {
            'hidden_act': 'gelu_pytorch_tanh',
            'num_attention_heads': 12,
            'layer_norm_eps': 1e-6,
            'image_size': 224,
            'vision_use_head': True,
        },
        {'hidden_act': 'gelu_pytorch_tanh', 'num_attention_heads': 12, 'layer_norm_eps': 1e-6},
    ),
}

# Settings of open_clip that the towers here support; a config with other values is refused.
_VISION = {
    'pool_type': 'tok',
    'attentional_pool': False,
    'no_ln_pre': False,
    'final_ln_after_pool': False,
    'pos_embed_type': 'learnable',
}
_TEXT = {'pool_type': 'argmax', 'no_causal_mask': False, 'proj_bias': False}
_SIGLIP_TEXT = {'pool_type': 'last', 'no_causal_mask': True, 'proj_bias': True}
_ANY_TEXT = {'embed_cls': False, 'proj_type': 'linear', 'hf_model_name': None, 'final_ln_after_pool': False}
_TIMM_SIGLIP = re.compile(r'vit_(base|large|so400m|giantopt)_patch\d+_siglip_\d+')
_TIMM_HEADS = {'base': 12, 'large': 16, 'so400m': 16, 'giantopt': 16}
_TIMM_TANH = re.compile(r'vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt)')


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read, or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} cannot be read as JSON: {error}') from error
    if not isinstance(values, dict):
        raise CheckpointError(f'{path} is not a JSON object')
    return values


def from_huggingface(folder: Path) -> Recorded:
    """Read ``config.json`` and, if it exists, ``preprocessor_config.json``.

    Raises:
        CheckpointError: the model type or a setting is not supported.
    """
    source = folder / 'config.json'
    config = read_json(source)
    kind = config.get('model_type')
    if kind not in _HUGGINGFACE_DEFAULTS:
        raise CheckpointError(f'{source}: unsupported model_type {kind!r}; supported: clip, siglip')
    towers = []
    for name, defaults in zip(('vision', 'text'), _HUGGINGFACE_DEFAULTS[kind], strict=True):
        given = config.get(f'{name}_config_dict') or config.get(f'{name}_config') or {}
        values = {**defaults, **given}
        _check(
            {key: values[key] for key in ('layer_norm_eps', 'vision_use_head') if key in values},
            defaults,
            source,
        )
        if values['hidden_act'] not in _ACTIVATIONS:
            raise CheckpointError(
                f'{source}: unsupported hidden_act {values["hidden_act"]!r}; supported: '
                f'{", ".join(_ACTIVATIONS)}'
            )
        towers.append(
            TowerFacts(
                _ACTIVATIONS[values['hidden_act']],
                values['num_attention_heads'],
                values.get('image_size'),
                values.get('hidden_size'),
                values.get('num_hidden_layers'),
            )
        )
    image, text = towers
    file = folder / 'preprocessor_config.json'
    preprocess = _huggingface_preprocess(file, image.image_size) if file.is_file() else None
    return Recorded(str(source), image, text, preprocess)


def from_open_clip(config: Mapping[str, Any], source: str) -> Recorded:
    """Read ``open_clip_config.json``, or the same from open_clip's model list.

    Raises:
        CheckpointError: a setting is not supported.
    """
    model = config.get('model_cfg', config)
    vision, text = model.get('vision_cfg') or {}, model.get('text_cfg') or {}
    activation = 'quick_gelu' if model.get('quick_gelu') else 'gelu'
    if timm := vision.get('timm_model_name'):
        image = _timm_facts(timm, vision, source)
        _check(text, {**_SIGLIP_TEXT, **_ANY_TEXT}, source)
        eps = 1e-6
    else:
        _check(vision, _VISION, source)
        _check(text, {**_TEXT, **_ANY_TEXT}, source)
        heads = (
            vision.get('width', 768) // vision.get('head_width', 64)
            if isinstance(vision.get('layers'), int)
            else None
        )
        image = TowerFacts(
            _open_clip_activation(activation, vision), heads, vision.get('image_size'), vision.get('width')
        )
        eps = 1e-5
    for tower in (vision, text):
        if (tower.get('norm_kwargs') or {}).get('eps', 1e-5) != (1e-5 if tower is vision else eps):
            raise CheckpointError(f'{source}: unsupported norm_kwargs {tower.get("norm_kwargs")}')
    preprocess = _open_clip_preprocess(config.get('preprocess_cfg') or {}, image.image_size, source)
    clean = (text.get('tokenizer_kwargs') or {}).get('clean', 'lower')
    facts = TowerFacts(
        _open_clip_activation(activation, text),
        text.get('heads'),
        width=text.get('width'),
        layers=text.get('layers'),
    )
    return Recorded(source, image, facts, preprocess, clean if clean in ('canonicalize', 'lower') else 'none')


def from_zoo(entry: Entry) -> Recorded:
    """What the list of published weights records about a named model.

    Raises:
        CheckpointError: as ``from_open_clip``.
    """
    return from_open_clip(entry.config, f'the list of published weights ({entry.name})')


def timm_activation(name: str) -> str:
    """The activation of a SigLIP tower of timm; open_clip has no other setting for it."""
    return 'gelu_tanh' if _TIMM_TANH.match(name) else 'gelu'


def _check(given: Mapping[str, Any], required: Mapping[str, Any], source: object) -> None:
    for key, value in required.items():
        if key in given and given[key] != value:
            raise CheckpointError(f'{source}: unsupported {key}={given[key]!r}; supported: {value!r}')


def _timm_facts(name: str, vision: Mapping[str, Any], source: str) -> TowerFacts:
    match = _TIMM_SIGLIP.fullmatch(name)
    if match is None or vision.get('timm_pool') != 'map':
        raise CheckpointError(
            f'{source}: unsupported timm image tower {name!r}; only SigLIP towers of timm are supported'
        )
    return TowerFacts(timm_activation(name), _TIMM_HEADS[match[1]], vision.get('image_size'))


def _open_clip_activation(activation: str, tower: Mapping[str, Any]) -> str:
    approximate = (tower.get('act_kwargs') or {}).get('approximate')
    return 'gelu_tanh' if approximate == 'tanh' and activation == 'gelu' else activation


def _open_clip_preprocess(config: Mapping[str, Any], size: int | None, source: str) -> dict[str, Any] | None:
    if size is None:
        return None
    resize = config.get('resize_mode', 'shortest')
    if resize not in ('shortest', 'squash'):
        raise CheckpointError(f'{source}: unsupported resize_mode={resize!r}; supported: shortest, squash')
    return {
        'image_size': size,
        'mean': tuple(config.get('mean', STATISTICS['openai'][0])),
        'std': tuple(config.get('std', STATISTICS['openai'][1])),
        'interpolation': config.get('interpolation', 'bicubic'),
        'resize': resize,
    }


def _huggingface_preprocess(path: Path, image_size: int | None) -> dict[str, Any]:
    config = read_json(path)
    size = config.get('size') or image_size
    squash = isinstance(size, dict) and 'height' in size
    side = (size.get('height') or size.get('shortest_edge')) if isinstance(size, dict) else size
    crop = config.get('crop_size') or side
    crop = crop.get('height') if isinstance(crop, dict) else crop
    if config.get('do_center_crop') and crop != side:
        raise CheckpointError(f'{path}: resize to {side} and crop to {crop}; both must be the same size')
    half = STATISTICS['half'][0]
    siglip = 'Siglip' in str(config.get('image_processor_type') or config.get('feature_extractor_type'))
    return {
        'image_size': side,
        'mean': tuple(config.get('image_mean') or (half if siglip else STATISTICS['openai'][0])),
        'std': tuple(config.get('image_std') or (half if siglip else STATISTICS['openai'][1])),
        'interpolation': _INTERPOLATIONS.get(config.get('resample', 3), 'bicubic'),
        'resize': 'squash' if squash else 'shortest',
    }
