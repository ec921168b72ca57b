"""Config files of GroupViT in the Hugging Face layout: ``config.json``, ``preprocessor_config.json``.

Source: transformers ``GroupViTConfig`` and its defaults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdense.clip.preprocess import Preprocess
from clipdense.utils.errors import InputError

from .model import GroupVit
from .sizes import GroupVitImageSize


def read_beside(path: Path) -> dict[str, Any]:
    """Overrides from ``config.json`` in the folder of the weights; {} without one."""
    config = path.with_name('config.json')
    if not config.is_file():
        return {}
    values = json.loads(config.read_text('utf-8'))
    if values.get('model_type') != 'groupvit':
        return {}
    vision, text = values.get('vision_config') or {}, values.get('text_config') or {}
    return {
        'num_heads': vision.get('num_attention_heads', 6),  # transformers' defaults
        'text_num_heads': text.get('num_attention_heads', 4),
        'text_activation': text.get('hidden_act', 'quick_gelu'),
        'image_size': vision.get('image_size', 224),
    }


def check_fits(size: GroupVitImageSize) -> None:
    """Refuse sizes that transformers' ``GroupViTModel`` does not support.

    Raises:
        InputError: stages of different width or heads, a number of groups that differs from the group tokens
            before another grouping stage, or an MLP ratio other than 4.
    """
    if size.mlp_ratio != 4:
        raise InputError(f'GroupViT in transformers supports mlp_ratio 4 only, got {size.mlp_ratio:g}')
    widths = {(stage.width, stage.num_heads) for stage in size.stages}
    if len(widths) > 1:
        raise InputError('GroupViT in transformers supports stages of equal width and heads only')
    for before, now in zip(size.stages, size.stages[1:], strict=False):
        if now.group_tokens and before.groups != before.group_tokens:
            raise InputError(
                f'GroupViT in transformers requires as many groups as group tokens before another grouping '
                f'stage, got {before.groups} groups and {before.group_tokens} group tokens'
            )


def configs(model: GroupVit) -> dict[str, dict[str, Any]]:
    """The contents of both files, by name without ending."""
    return {'config': _model(model), 'preprocessor_config': _images(model.preprocess)}


def _model(model: GroupVit) -> dict[str, Any]:
    image, text = model.size.image, model.size.text
    stages = image.stages
    outputs = [stage.groups or stages[max(index - 1, 0)].groups for index, stage in enumerate(stages)]
    shared = {'layer_norm_eps': 1e-5}
    return {
        'architectures': ['GroupViTModel'],
        'model_type': 'groupvit',
        'projection_dim': image.embed_dim,
        'projection_intermediate_dim': image.projector_width,
        'vision_config': {
            'model_type': 'groupvit_vision_model',
            'hidden_size': stages[0].width,
            'intermediate_size': int(image.mlp_ratio * stages[0].width),
            'depths': [stage.depth for stage in stages],
            'num_hidden_layers': sum(stage.depth for stage in stages),
            'num_group_tokens': [stage.group_tokens for stage in stages],
            'num_output_groups': outputs,
            'num_attention_heads': stages[0].num_heads,
            'image_size': image.image_size,
            'patch_size': image.patch_size,
            'hidden_act': 'gelu',
            **shared,
        },
        'text_config': {
            'model_type': 'groupvit_text_model',
            'vocab_size': text.vocab_size,
            'hidden_size': text.width,
            'intermediate_size': text.mlp_width,
            'num_hidden_layers': text.layers,
            'num_attention_heads': text.num_heads,
            'max_position_embeddings': text.context_length,
            'hidden_act': text.activation,
            'bos_token_id': text.vocab_size - 2,
            'eos_token_id': text.vocab_size - 1,
            'pad_token_id': 0,
            **shared,
        },
    }


def _images(preprocess: Preprocess) -> dict[str, Any]:
    side = preprocess.image_size
    return {
        'image_processor_type': 'CLIPImageProcessor',
        'size': {'shortest_edge': side},
        'crop_size': {'height': side, 'width': side},
        'image_mean': preprocess.mean,
        'image_std': preprocess.std,
        'resample': {'bilinear': 2, 'bicubic': 3}[preprocess.interpolation],
    }
