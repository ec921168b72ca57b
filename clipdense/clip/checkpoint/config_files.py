"""Config files that Hugging Face and open_clip write next to the weights.

Attention heads, activations, image size and preprocessing are read from them.  Settings that the towers here
do not support are refused by name, because they would silently change the results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdense.utils.errors import CheckpointError
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.vocab.tokenizer_classes import Clean
from clipdense.weights.zoo import Entry

from ..sizes import Activation, TextSize
from ..tokenizers import TokenizerRules
from .image_settings import huggingface_images, open_clip_images
from .open_clip_models import open_clip_size, siglip_size, with_tanh
from .section import Section
from .settings import EndOfText, Recorded, TowerFacts

HUGGINGFACE_FILES = (  # preferred first
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)

ACTIVATIONS = {
    'quick_gelu': 'quick_gelu',
    'gelu': 'gelu',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu_new': 'gelu_tanh',
}

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

_HUGGINGFACE_DEFAULTS['metaclip_2'] = _HUGGINGFACE_DEFAULTS['clip']
_HUGGINGFACE_LAYOUTS = {
    'clip': 'huggingface_clip',
    'metaclip_2': 'huggingface_clip',
    'siglip': 'huggingface_siglip',
}
_ONE_TOWER = re.compile(r'_(text|vision)_model$')
_DEFAULT_EOS = VOCAB_SIZE - 1  # of configs that omit it
LARGEST = 2  # ``eos_token_id`` of transformers that means the largest id of a text
_FIXED = ('layer_norm_eps', 'vision_use_head')  # settings that have one value in each model type

# Settings of open_clip that the towers here support; a config with other values is refused.
_VISION = {
    'pool_type': 'tok',
    'attentional_pool': False,
    'no_ln_pre': False,
    'final_ln_after_pool': False,
    'pos_embed_type': 'learnable',
}
_TEXT = {'no_causal_mask': False, 'proj_bias': False}
_SIGLIP_TEXT = {'pool_type': 'last', 'no_causal_mask': True, 'proj_bias': True}
_ANY_TEXT = {'embed_cls': False, 'proj_type': 'linear', 'hf_model_name': None, 'final_ln_after_pool': False}
_CLEAN: dict[str, Clean] = {
    'canonicalize': 'canonicalize',
    'whitespace': 'whitespace',
    'lower': 'whitespace_lower',
}  # of open_clip's tokenizers


def declared_layout(path: Path) -> tuple[str | None, str | None]:
    """What ``config.json`` declares in the folder of ``path``: the layout of the tensors, and their tower.

    The tower is 'image' or 'text' if the model has one only.

    Only for files under the names of Hugging Face; others have their own config files.

    Raises:
        CheckpointError: a damaged config, or a ``model_type`` that is not supported.
    """
    config = path.with_name('config.json')
    if path.name not in HUGGINGFACE_FILES or not config.is_file():
        return None, None
    section = Section.of_file(config)
    if 'model_type' not in section:
        return None, None
    return _HUGGINGFACE_LAYOUTS[_model_type(section)], _tower(section)


def from_huggingface(folder: Path) -> Recorded:
    """Read ``config.json``, and the preprocessing if the folder has one.

    Raises:
        CheckpointError: the model type or a setting is not supported, or an entry has a wrong type.
    """
    config = _of_both(Section.of_file(folder / 'config.json'))
    kind = _model_type(config)
    image, text = (
        _huggingface_tower(config, name, defaults)
        for name, defaults in zip(('vision', 'text'), _HUGGINGFACE_DEFAULTS[kind], strict=True)
    )
    text = replace(text, eos_token_id=huggingface_end_of_text(config) if kind != 'siglip' else None)
    return Recorded(
        str(config.source),
        image,
        text,
        huggingface_images(folder, kind),
        TokenizerRules(family=kind, beside=True),
    )


def huggingface_config_beside(path: Path, model_type: str, name: str) -> Section | None:
    """``config.json`` in the folder of weights; None without one.

    Args:
        path: the weights.
        model_type: that of transformers, which the file must have.
        name: of the model, for the message.

    Raises:
        CheckpointError: a damaged file, or a config of another kind of model.
    """
    file = path.with_name('config.json')
    if not file.is_file():
        return None
    config = Section.of_file(file)
    kind = config.text('model_type')
    if kind != model_type:
        raise CheckpointError(f'{file} is the config of a model_type {kind!r}, but the tensors are a {name}')
    return config


def huggingface_section(config: Section, tower: str) -> Section:
    """The entry of a tower, 'vision' or 'text'; ``*_config_dict`` of old files comes first."""
    old = f'{tower}_config_dict'
    return config.part(old if config.get(old) else f'{tower}_config')


def huggingface_end_of_text(config: Section) -> EndOfText | None:
    """The token whose features are those of a text, by the rule of transformers; None if it cannot be told.

    Configs before transformers 4.31 have ``eos_token_id`` 2, which means the largest id of the text.

    Raises:
        CheckpointError: several ids.
    """
    text = huggingface_section(config, 'text')
    value = text.get('eos_token_id')
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return _DEFAULT_EOS if text.integer('vocab_size', 0) > _DEFAULT_EOS else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise text.error('eos_token_id', 'must be one id')
    return 'largest' if value == LARGEST and config.get('model_type') != 'metaclip_2' else value


def huggingface_special_ids(size: TextSize) -> dict[str, int]:
    """The entries of ``text_config`` that make transformers use the same end-of-text token."""
    if size.eos_token_id is not None:
        return {'eos_token_id': size.eos_token_id}
    if size.vocab_size != VOCAB_SIZE:
        return {'eos_token_id': LARGEST}
    return {'bos_token_id': size.vocab_size - 2, 'eos_token_id': size.vocab_size - 1}


def from_open_clip(values: Mapping[str, Any], source: str) -> Recorded:
    """Read ``open_clip_config.json``, or the same from open_clip's model list.

    Raises:
        CheckpointError: a setting is not supported, or an entry has a wrong type.
    """
    config = Section(values, source)
    model = config.part('model_cfg') if 'model_cfg' in config else config
    vision, text = model.part('vision_cfg'), model.part('text_cfg')
    embed_dim = model.integer('embed_dim')
    activation: Activation = 'quick_gelu' if model.get('quick_gelu') else 'gelu'
    if embed_dim and not _inferable(vision, text):
        return _whole(config, model)
    timm = vision.text('timm_model_name')
    if timm:
        image = _timm_facts(timm, vision)
        text.require(**_SIGLIP_TEXT, **_ANY_TEXT)
    else:
        vision.require(**_VISION)
        text.require(**_TEXT, **_ANY_TEXT)
        image = _open_clip_image(activation, vision, embed_dim)
    for tower, eps in ((vision, 1e-5), (text, 1e-6 if timm else 1e-5)):
        if tower.part('norm_kwargs').get('eps', 1e-5) != eps:
            raise CheckpointError(f'{source}: unsupported norm_kwargs {tower.get("norm_kwargs")}')
    facts = TowerFacts(
        with_tanh(activation, text),
        text.integer('heads'),
        eos_token_id=None if timm else _open_clip_end_of_text(text),
        width=text.integer('width'),
        layers=text.integer('layers'),
        embed_dim=embed_dim,
        vocab_size=text.integer('vocab_size'),
        context_length=text.integer('context_length'),
    )
    preprocess = open_clip_images(config.part('preprocess_cfg'), image.image_size)
    return Recorded(source, image, facts, preprocess, _open_clip_tokenizer(text))


def _whole(config: Section, model: Section) -> Recorded:
    """Settings of towers that the tensors do not tell."""
    size = open_clip_size(model)
    text, image = size.text, size.image
    preprocess = open_clip_images(config.part('preprocess_cfg'), image.image_size)
    facts = TowerFacts(getattr(text, 'activation', None), getattr(text, 'num_heads', None))
    rules = _open_clip_tokenizer(model.part('text_cfg'))
    return Recorded(
        str(config.source), TowerFacts(image_size=image.image_size), facts, preprocess, rules, size=size
    )


def from_zoo(entry: Entry) -> Recorded:
    """What the list of published weights records about a named model.

    Raises:
        CheckpointError: as ``from_open_clip``.
    """
    recorded = from_open_clip(entry.config, f'the list of published weights ({entry.name})')
    if not entry.tokenizer or recorded.tokenizer is None:
        return recorded
    return replace(recorded, tokenizer=replace(recorded.tokenizer, entry=entry.name))


def _model_type(config: Section) -> str:
    kind = config.text('model_type')
    whole = _ONE_TOWER.sub('', str(kind))
    if whole in _HUGGINGFACE_DEFAULTS:
        return whole
    raise CheckpointError(
        f'{config.source}: unsupported model_type {kind!r}; supported: {", ".join(_HUGGINGFACE_DEFAULTS)}'
    )


def _tower(config: Section) -> str | None:
    """The tower of a config of one tower, whose ``model_type`` is such as 'clip_vision_model'."""
    match = _ONE_TOWER.search(config.text('model_type') or '')
    return None if match is None else {'vision': 'image', 'text': 'text'}[match[1]]


def _of_both(config: Section) -> Section:
    """The config of one tower in the form of that of a whole model."""
    match = _ONE_TOWER.search(config.text('model_type') or '')
    if match is None:
        return config
    kind = _model_type(config)
    values = {'model_type': kind, f'{match[1]}_config': config.values}
    if kind != 'siglip':  # which has no projection of this width
        values['projection_dim'] = config.get('projection_dim')
    return Section(values, config.source)


def _huggingface_tower(config: Section, name: str, defaults: Mapping[str, Any]) -> TowerFacts:
    tower = huggingface_section(config, name)
    tower.require(num_channels=3, **{key: defaults[key] for key in _FIXED if key in defaults})
    activation = tower.text('hidden_act', defaults['hidden_act'])
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f'{config.source}: unsupported hidden_act {activation!r}; supported: {", ".join(ACTIVATIONS)}'
        )
    heads, width = (
        tower.integer('num_attention_heads', defaults['num_attention_heads']),
        tower.integer('hidden_size'),
    )
    if width and width % heads:
        raise tower.error('num_attention_heads', f'must divide hidden_size={width}')
    size = tower.get('image_size', defaults.get('image_size'))
    return TowerFacts(
        ACTIVATIONS[activation],
        heads,
        _square(tower, 'image_size', size),
        width=width,
        layers=tower.integer('num_hidden_layers'),
        mlp_width=tower.integer('intermediate_size'),
        embed_dim=config.integer('projection_dim'),
        patch_size=_square(tower, 'patch_size', tower.get('patch_size')),
        vocab_size=tower.integer('vocab_size'),
        context_length=tower.integer('max_position_embeddings'),
    )


def _square(tower: Section, key: str, size: Any) -> int | None:
    """A size that may be given as [height, width]."""
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size <= 0):
        raise tower.error(key, 'must be one positive integer')
    return size


def _open_clip_image(activation: Activation, vision: Section, embed_dim: int | None) -> TowerFacts:
    width, vit = vision.integer('width', 768), not isinstance(vision.get('layers'), list)
    return TowerFacts(
        with_tanh(activation, vision),
        width // vision.integer('head_width', 64) if vit and 'layers' in vision else None,
        _square(vision, 'image_size', vision.get('image_size')),
        width=vision.integer('width'),
        layers=vision.integer('layers') if vit else None,
        embed_dim=embed_dim,
        patch_size=vision.integer('patch_size') if vit else None,
    )


def _open_clip_end_of_text(text: Section) -> EndOfText:
    pool = text.text('pool_type', 'argmax')
    if pool not in ('argmax', 'eos'):
        raise CheckpointError(f'{text.source}: unsupported pool_type={pool!r}; supported: argmax, eos')
    return 'largest' if pool == 'argmax' else text.integer('eos_id', 2)


def _open_clip_tokenizer(text: Section) -> TokenizerRules:
    """What open_clip does with the texts: its own tokenizer, or that of Hugging Face after cleaning."""
    options = text.part('tokenizer_kwargs')
    options.require(reduction_mask='', additional_special_tokens=[])
    named = bool(text.get('hf_tokenizer_name'))
    clean = options.text('clean', 'whitespace' if named else 'lower')
    if clean not in _CLEAN or (not named and clean != 'lower'):
        known = ', '.join(_CLEAN) if named else 'lower'
        raise CheckpointError(
            f'{text.source}: unsupported tokenizer_kwargs.clean={clean!r}; supported: {known}'
        )
    mode: Any = text.text('tokenizer_mode') or ''
    if mode not in ('', 'clips'):
        raise CheckpointError(f'{text.source}: unsupported tokenizer_mode={mode!r}; supported: clips')
    strip, language = options.flag('strip_sep_token', False), options.text('language')
    return TokenizerRules(_CLEAN[clean], beside=named, strip_end=strip, language=language, mode=mode)


def _timm_facts(name: str, vision: Section) -> TowerFacts:
    size = siglip_size(name, _square(vision, 'image_size', vision.get('image_size')) or 224)
    if size is None or vision.get('timm_pool') != 'map':
        raise CheckpointError(
            f'{vision.source}: unsupported timm image tower {name!r}; supported: SigLIP towers of timm'
        )
    return TowerFacts(size.activation, size.num_heads, size.image_size)


def _inferable(vision: Section, text: Section) -> bool:
    """Whether the tensors tell the kinds of the towers, so that the config only completes them."""
    timm = vision.text('timm_model_name')
    image = siglip_size(timm, 224) is not None if timm else not vision.get('no_ln_pre', False)
    plain = not text.get('no_causal_mask', False) or bool(text.get('proj_bias', False))
    coca = vision.get('attentional_pool', False) or text.get('embed_cls', False)
    return image and plain and not coca and 'hf_model_name' not in text
