"""Config files of GroupViT in the Hugging Face layout: ``config.json``, ``preprocessor_config.json``.

Source: transformers ``GroupViTConfig`` and its defaults.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from clipdense.clip.checkpoint.config_files import (
    ACTIVATIONS,
    LARGEST,
    huggingface_config_beside,
    huggingface_end_of_text,
    huggingface_section,
    huggingface_special_ids,
)
from clipdense.clip.checkpoint.image_settings import huggingface_images
from clipdense.clip.checkpoint.settings import recorded_preprocess, warn_of_default
from clipdense.clip.preprocess import STATISTICS, Preprocess
from clipdense.utils.errors import InputError

from .model import GroupVit, default_preprocess
from .sizes import GroupVitImageSize


def read_beside(path: Path) -> dict[str, Any]:
    """Overrides from ``config.json`` in the folder of the weights; {} without one.

    Raises:
        CheckpointError: a damaged file, a config of another kind of model, or an unsupported setting.
    """
    config = huggingface_config_beside(path, 'groupvit', 'GroupViT')
    if config is None:
        return {}
    vision, text = huggingface_section(config, 'vision'), huggingface_section(config, 'text')
    vision.require(hidden_act='gelu', layer_norm_eps=1e-5, num_channels=3)
    text.require(layer_norm_eps=1e-5)
    activation = text.text('hidden_act', 'quick_gelu')  # here and below: the defaults of transformers
    return {
        'num_heads': vision.integer('num_attention_heads', 6),
        'text_num_heads': text.integer('num_attention_heads', 4),
        'text_activation': ACTIVATIONS.get(activation, activation),
        'image_size': vision.integer('image_size', 224),
        'eos_token_id': huggingface_end_of_text(config),
    }


def preprocess_beside(folder: Path, image_size: int, patch_size: int) -> Preprocess | None:
    """The preprocessing that a folder records; None, with a warning, for that of the training.

    The published folder records the statistics of CLIP, which GroupViT was not trained with.

    Raises:
        CheckpointError: a damaged file, or a setting that is not supported.
    """
    fields = huggingface_images(folder, 'groupvit')
    if fields is None:
        warn_of_default(default_preprocess(image_size), folder)
        return None
    if (fields['mean'], fields['std']) == STATISTICS['openai']:
        warnings.warn(
            f'{folder} records image statistics of CLIP, but GroupViT was trained with those of ImageNet, '
            "and they are used; pass preprocess='clip' for the recorded ones"
        )
        return None
    return recorded_preprocess(fields, image_size, patch_size, folder)


def check_fits(size: GroupVitImageSize, eos_token_id: int | None = None) -> None:
    """Refuse sizes that transformers' ``GroupViTModel`` does not support.

    Raises:
        InputError: stages of different width or heads, a number of groups that differs from the group tokens
            before another grouping stage, an MLP ratio other than 4, or the end-of-text token 2.
    """
    if eos_token_id == LARGEST:
        raise InputError(f'GroupViT in transformers does not support the end-of-text token {eos_token_id}')
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
            **huggingface_special_ids(text),
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
        'resample': {'nearest': 0, 'bilinear': 2, 'bicubic': 3}[preprocess.interpolation],
    }
