"""Model configs of open_clip, and the sizes of both towers: one from the other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.byte_pairs import VOCAB_SIZE

from ..flavours import PAD, TEXT_FLAVOURS, VIT_FLAVOURS
from ..sizes import (
    HF_TEXT_MODELS,
    Activation,
    ClipSize,
    HFTextSize,
    ImageSize,
    ResNetSize,
    TextSize,
    TimmSize,
    VitSize,
)
from .section import Section

_TIMM_SIGLIP = re.compile(r'vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_\d+')
_SIGLIP = {  # width, layers, heads, width of the MLP
    'base': (768, 12, 12, 3072),
    'large': (1024, 24, 16, 4096),
    'so400m': (1152, 27, 16, 4304),
    'giantopt': (1536, 40, 16, 6144),
}
_TIMM_TANH = re.compile(r'vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt)')
_POOLS = ('', 'avg', 'token', 'map', 'avgmax')
_PROJECTIONS: dict[str, dict[str, Any]] = {
    'plain': {},
    'bias': {'proj_bias': True},
    'none': {'proj_type': 'none'},
}
_NOT_SIZES = ('architectures', 'transformers_version', 'dtype', 'torch_dtype', '_name_or_path')
# (no_causal_mask, pool_type, proj_bias, projection): flavour of the text tower
_KINDS_OF_TEXT = {
    (False, 'argmax', False, True): 'openai',
    (False, 'eos', False, True): 'openai',
    (True, 'argmax', False, True): 'mobileclip',
    (True, 'last', False, True): 'clipa',
    (True, 'last', True, True): 'siglip',
    (True, 'last', False, False): 'siglip_plain',
}
# Variants of the blocks that no published weights have.
_PLAIN_BLOCKS: dict[str, Any] = dict.fromkeys(('ls_init_value', 'block_type'))
_PLAIN_BLOCKS |= dict.fromkeys(
    ('qk_norm', 'scaled_cosine_attn', 'scale_heads', 'scale_attn_inner', 'scale_attn', 'scale_fc'), False
)


def open_clip_size(model: Section) -> ClipSize:
    """Both towers of a ``model_cfg``; its decoder of captions (``multimodal_cfg`` of CoCa) is not built.

    Raises:
        CheckpointError: a setting or a tower that is not supported, named.
    """
    embed_dim = model.integer('embed_dim')
    activation: Activation = 'quick_gelu' if model.get('quick_gelu') else 'gelu'
    vision, text = model.part('vision_cfg'), model.part('text_cfg')
    image = _image(vision, embed_dim, activation)
    return ClipSize(image, _text(text, embed_dim, activation), 'init_logit_bias' in model)


def siglip_size(name: str, image_size: int) -> VitSize | None:
    """The SigLIP tower of this name in timm; None for other towers."""
    match = _TIMM_SIGLIP.fullmatch(name)
    if match is None:
        return None
    width, layers, heads, mlp = _SIGLIP[match[1]]
    activation = timm_activation(name)
    return VitSize(image_size, int(match[2]), width, layers, heads, mlp, width, activation, 'siglip')


def timm_activation(name: str) -> Activation:
    """The activation of a SigLIP tower of timm; open_clip has no other setting for it."""
    return 'gelu_tanh' if _TIMM_TANH.match(name) else 'gelu'


def _image(vision: Section, embed_dim: int, activation: Activation) -> ImageSize:
    side = vision.integer('image_size', 224)
    if name := vision.text('timm_model_name'):
        return _timm(name, vision, side, embed_dim)
    vision.require(pos_embed_type='learnable', **_PLAIN_BLOCKS)
    _check_eps(vision, 1e-5)
    width, layers = vision.integer('width', 768), vision.get('layers', 12)
    if isinstance(layers, list):
        return ResNetSize(
            side, width, tuple(layers), width * 32 // vision.integer('head_width', 64), embed_dim
        )
    mlp = int(width * vision.number('mlp_ratio', 4.0))
    heads = width // vision.integer('head_width', 64)
    size = VitSize(side, vision.integer('patch_size', 16), width, layers, heads, mlp, embed_dim, activation)
    pool = (
        vision.get('no_ln_pre', False),
        vision.text('pool_type', 'tok'),
        vision.get('final_ln_after_pool', False),
    )
    if pool == (True, 'avg', True) and not vision.get('attentional_pool'):
        return replace(size, flavour='clipa')
    if pool != (False, 'tok', False):
        raise CheckpointError(
            f'{vision.source}: unsupported no_ln_pre, pool_type, final_ln_after_pool = {pool}; '
            "supported: (False, 'tok', False) and CLIPA's (True, 'avg', True)"
        )
    size = replace(size, activation=with_tanh(activation, vision))
    if not vision.get('attentional_pool'):
        return size
    vision.require(attentional_pool=True, attn_pooler_heads=VIT_FLAVOURS['coca'].pool_heads)
    return replace(size, flavour='coca')


def _timm(name: str, vision: Section, side: int, embed_dim: int) -> ImageSize:
    pool, projection = vision.text('timm_pool', 'avg'), vision.values.get('timm_proj', 'linear')
    if pool == 'map' and projection == 'none' and (siglip := siglip_size(name, side)):
        return siglip
    if pool not in _POOLS or projection not in ('linear', 'mlp', 'none', '', None):
        raise CheckpointError(
            f'{vision.source}: unsupported timm_pool={pool!r}, timm_proj={projection!r}; supported: '
            f'{", ".join(map(repr, _POOLS))} and linear, mlp, none, null'
        )
    bias = vision.flag('timm_proj_bias', False)
    return TimmSize(name, side, embed_dim, pool, projection or None, bias)


def _text(text: Section, embed_dim: int, activation: Activation) -> TextSize | HFTextSize:
    if name := text.text('hf_model_name'):
        return _huggingface(name, text, embed_dim)
    text.require(**_PLAIN_BLOCKS)
    projection = text.text('proj_type', 'linear')
    pool = text.text('pool_type', 'argmax')
    kind = (text.flag('no_causal_mask', False), pool, text.flag('proj_bias', False), projection != 'none')
    flavour: Any = _KINDS_OF_TEXT.get(kind) if projection in ('linear', 'none') else None
    if text.flag('embed_cls', False):
        text.require(correct_cls_mask=False, pad_id=PAD)
        flavour = 'coca' if flavour == 'openai' else None  # the class token comes before any other pooling
    if flavour is None:
        raise CheckpointError(
            f'{text.source}: unsupported text tower: no_causal_mask, pool_type, proj_bias, embed_cls, '
            f'proj_type = {(*kind[:3], text.flag("embed_cls", False), projection)}'
        )
    _check_eps(text, TEXT_FLAVOURS[flavour].eps)
    width, vocab_size = text.integer('width', 512), text.integer('vocab_size', VOCAB_SIZE)
    eos = text.integer('eos_id', 2) if pool == 'eos' and flavour != 'coca' else None
    return TextSize(
        width,
        text.integer('layers', 12),
        text.integer('heads', 8),
        int(width * text.number('mlp_ratio', 4.0)),
        embed_dim,
        vocab_size,
        text.integer('context_length', 77),
        with_tanh(activation, text),
        flavour,
        None if eos == vocab_size - 1 else eos,
    )


def _huggingface(name: str, text: Section, embed_dim: int) -> HFTextSize:
    model_type, options = HF_TEXT_MODELS.get(name) or _of_folder(name, text)
    pooler = text.text('hf_pooler_type', 'mean_pooler')
    projection = text.values.get('hf_proj_type', 'mlp')
    if projection not in ('linear', 'mlp', None):
        raise text.error('hf_proj_type', "must be 'linear', 'mlp' or null")
    return HFTextSize(model_type, embed_dim, pooler, projection, text.integer('context_length', 77), options)


def _check_eps(tower: Section, eps: float) -> None:
    if tower.part('norm_kwargs').get('eps', 1e-5) != eps:
        raise CheckpointError(f'{tower.source}: unsupported norm_kwargs {tower.get("norm_kwargs")}')


def _of_folder(name: str, text: Section) -> tuple[str, dict[str, Any]]:
    """The model type and settings in ``config.json`` of a folder that ``hf_model_name`` names."""
    file = Path(name) / 'config.json'
    if not file.is_file():
        raise CheckpointError(
            f'{text.source}: unsupported hf_model_name={name!r}; supported: {", ".join(HF_TEXT_MODELS)}, '
            'or a folder with config.json'
        )
    values = dict(Section.of_file(file).values)
    return str(values.pop('model_type', '')), {key: values[key] for key in values if key not in _NOT_SIZES}


def with_tanh(activation: Activation, tower: Section) -> Activation:
    """The activation of a tower, whose GELU may be the approximation by tanh."""
    approximate = tower.part('act_kwargs').get('approximate')
    return 'gelu_tanh' if approximate == 'tanh' and activation == 'gelu' else activation


def open_clip_layout(size: ClipSize) -> str:
    """The layout of the tensors of a model in open_clip.

    Raises:
        InputError: a CoCa, whose decoder is not loaded; or towers that open_clip does not have.
    """
    if getattr(size.image, 'projection', '') == 'conse':
        raise InputError(
            'open_clip has no model that joins its towers by ConSE: convert to clipdense instead'
        )
    if 'coca' in (getattr(size.image, 'flavour', ''), getattr(size.text, 'flavour', '')):
        raise InputError(
            'the decoder of captions of a CoCa (text_decoder.*) was not loaded, and open_clip has no CoCa '
            'without it: convert to clipdense instead'
        )
    image = {ResNetSize: 'resnet', TimmSize: 'timm'}.get(type(size.image), 'vit')
    if getattr(size.image, 'flavour', '') == 'siglip':
        image = 'siglip'
    if isinstance(size.text, HFTextSize):
        return f'openclip_hf_{image}'
    return f'openclip_custom_{image}' if image == 'timm' else f'openclip_{image}'


def open_clip_config(size: ClipSize) -> dict[str, Any]:
    """The ``model_cfg`` of a size, which has one activation for both towers.

    Raises:
        InputError: activations or towers that ``model_cfg`` cannot specify, or the towers of a CoCa.
    """
    image, text = size.image, size.text
    quick = {tower.activation == 'quick_gelu' for tower in (image, text) if hasattr(tower, 'activation')}
    if isinstance(image, VitSize) and image.flavour != 'siglip' and len(quick) > 1:
        activation = getattr(text, 'activation', '')
        raise InputError(
            f'a config of open_clip has one activation for both towers, not {image.activation} and '
            f'{activation}: give a .safetensors file as destination instead of a folder'
        )
    config: dict[str, Any] = {'embed_dim': text.embed_dim, 'quick_gelu': True in quick}
    if size.logit_bias:
        config['init_logit_bias'] = -10
    if open_clip_layout(size) in ('openclip_siglip', 'openclip_hf_siglip', 'openclip_custom_timm'):
        config['custom_text'] = True
    return {**config, 'vision_cfg': _image_config(image), 'text_cfg': _text_config(text)}


def _image_config(image: ImageSize) -> dict[str, Any]:
    config: dict[str, Any] = {'image_size': image.image_size}
    if isinstance(image, TimmSize):
        if image.options:
            raise InputError(
                f'open_clip builds {image.model} without options, but these weights record {image.options}: '
                'give a .safetensors file as destination instead of a folder'
            )
        config |= {'timm_model_name': image.model, 'timm_pool': image.pool, 'timm_proj': image.projection}
        return config | ({'timm_proj_bias': True} if image.projection_bias else {})
    config['width'] = image.width
    if isinstance(image, ResNetSize):
        return {**config, 'layers': list(image.layers), 'head_width': image.width * 32 // image.num_heads}
    if image.flavour == 'siglip':
        return _siglip_config(image)
    config |= {
        'layers': image.layers,
        'patch_size': image.patch_size,
        'head_width': image.width // image.num_heads,
        'mlp_ratio': _ratio(image.mlp_width, image.width),
    }
    if image.activation == 'gelu_tanh':
        config['act_kwargs'] = {'approximate': 'tanh'}
    if image.flavour == 'clipa':
        config |= {'no_ln_pre': True, 'pool_type': 'avg', 'final_ln_after_pool': True}
    return config


def _siglip_config(image: VitSize) -> dict[str, Any]:
    names = {siglip[:2]: name for name, siglip in _SIGLIP.items()}
    start = names.get((image.width, image.layers))
    if start is None:
        raise InputError(
            f'timm has no SigLIP tower of width {image.width} with {image.layers} layers: give a '
            '.safetensors file as destination instead of a folder'
        )
    name = f'vit_{start}_patch{image.patch_size}_siglip_{image.image_size}'
    runs = timm_activation(name)
    if runs != image.activation:
        raise InputError(
            f'open_clip uses activation {runs} for {name}, but these weights record {image.activation}: give '
            'a .safetensors file as destination instead of a folder; open_clip will use its own activation'
        )
    return {'image_size': image.image_size, 'timm_model_name': name, 'timm_pool': 'map', 'timm_proj': 'none'}


def _text_config(text: TextSize | HFTextSize) -> dict[str, Any]:
    if isinstance(text, HFTextSize):
        return _huggingface_config(text)
    config: dict[str, Any] = {
        'context_length': text.context_length,
        'vocab_size': text.vocab_size,
        'width': text.width,
        'heads': text.num_heads,
        'layers': text.layers,
        'mlp_ratio': _ratio(text.mlp_width, text.width),
    }
    if text.activation == 'gelu_tanh':
        config['act_kwargs'] = {'approximate': 'tanh'}
    flavour = TEXT_FLAVOURS[text.flavour]
    if not flavour.causal:
        config['no_causal_mask'] = True
    if flavour.pool == 'last':
        config['pool_type'] = 'last'
    elif text.eos_token_id is not None:
        config |= {'pool_type': 'eos', 'eos_id': text.eos_token_id}
    config |= _PROJECTIONS[flavour.proj]
    return config if flavour.eps == 1e-5 else {**config, 'norm_kwargs': {'eps': flavour.eps}}


def _huggingface_config(text: HFTextSize) -> dict[str, Any]:
    found = (name for name, known in HF_TEXT_MODELS.items() if known == (text.model_type, text.options))
    name = next(found, None)
    if name is None:
        raise InputError(
            f'a {text.model_type} of width {text.width} has no known name on the hub, which the config of '
            'open_clip needs: give a .safetensors file as destination instead of a folder'
        )
    return {
        'hf_model_name': name,
        'hf_pooler_type': text.pooler,
        'hf_proj_type': text.projection,
        'context_length': text.context_length,
    }


def _ratio(hidden: int, width: int) -> float:
    """open_clip computes ``int(width * ratio)``; adding half a channel makes the rounding exact."""
    return hidden / width if hidden % width == 0 else (hidden + 0.5) / width
