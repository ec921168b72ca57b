"""Convert checkpoints losslessly from any official layout to that of clipdense, open_clip or Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import atomic_write
from clipdense.weights.io import write_weights

from ..flavours import TEXT_FLAVOURS
from ..preprocess import Preprocess
from ..sizes import ClipSize, ResNetSize, TextSize, TimmSize, VitSize
from ..tokenizers import FolderTokenizer, copy_tokenizer, open_clip_rules
from .config_files import LARGEST, huggingface_special_ids
from .contents import ClipWeights
from .layouts import from_ours
from .loading import OpenedWeights, fitting_model, read_clip
from .open_clip_models import open_clip_config, open_clip_layout
from .saving import describe
from .settings import Overrides

Target = Literal['clipdense', 'openclip', 'huggingface']

_HIDDEN_ACT = {'quick_gelu': 'quick_gelu', 'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh'}
_RESAMPLE = {'nearest': 0, 'bilinear': 2, 'bicubic': 3}  # Pillow's codes


def convert(
    source: str | Path | OpenedWeights,
    destination: str | Path,
    to: Target = 'clipdense',
    *,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Write weights in another layout; values and dtypes are unchanged.

    Args:
        source: weights as ``load`` takes them.
        destination: a ``.safetensors`` file for 'clipdense'; a folder for 'huggingface', for transformers'
            ``from_pretrained``; for 'openclip' a ``.safetensors`` file, or a folder for open_clip's
            ``local-dir:FOLDER``.
        to: the layout.
        overwrite: replace an existing destination.
        overrides: see ``Overrides``.

    Returns:
        The weights file that was written.

    Raises:
        InputError: the destination exists or is the source, or the layout does not support this model.
        CheckpointError: as ``load``.
    """
    if to not in get_args(Target):
        known = get_args(Target)
        raise InputError(f'unknown layout {to!r}: choose from {", ".join(known)}.{nearest(to, known)}')
    weights = read_clip(source, Overrides.of(overrides))
    fitting_model(weights)
    if to == 'clipdense':
        return _write_ours(weights, Path(destination), overwrite)
    if to == 'openclip':
        return _write_open_clip(weights, Path(destination), overwrite)
    return _write_huggingface(weights, Path(destination), overwrite)


def _write_ours(weights: ClipWeights, file: Path, overwrite: bool) -> Path:
    _check_target(file, weights, overwrite)
    write_weights(file, weights.tensors, describe(weights.size, weights.preprocess))
    copy_tokenizer(weights.tokenizer, file.with_name(f'{file.stem}-tokenizer'))
    return file


def _write_open_clip(weights: ClipWeights, destination: Path, overwrite: bool) -> Path:
    size = weights.size
    if getattr(size.image, 'flavour', '') == 'slip':
        raise InputError('open_clip does not support the image tower of SLIP: convert to clipdense instead')
    tensors = from_ours(weights.tensors, open_clip_layout(size))
    if destination.suffix:
        _check_target(destination, weights, overwrite)
        write_weights(destination, tensors)
        return destination
    file = destination / 'open_clip_model.safetensors'
    _check_target(file, weights, overwrite)
    model = open_clip_config(size)
    if isinstance(weights.tokenizer, FolderTokenizer):
        copy_tokenizer(weights.tokenizer, destination)
        model['text_cfg'] |= open_clip_rules(weights.tokenizer)
    preprocess = weights.preprocess.to_dict()
    preprocess['resize_mode'] = preprocess.pop('resize')
    preprocess['size'] = preprocess.pop('image_size')
    write_weights(file, tensors)
    _write_json(destination / 'open_clip_config.json', {'model_cfg': model, 'preprocess_cfg': preprocess})
    return file


def _write_huggingface(weights: ClipWeights, folder: Path, overwrite: bool) -> Path:
    size = weights.size
    if reason := _not_in_transformers(size):
        flavours = {getattr(tower, 'flavour', '') for tower in (size.image, size.text)}
        other = 'clipdense' if flavours & {'slip', 'coca'} else 'clipdense or openclip'
        raise InputError(f'transformers does not support a CLIP with {reason}: convert to {other} instead')
    assert isinstance(size.image, VitSize)
    if folder.suffix in ('.safetensors', '.bin', '.pt'):
        raise InputError(f'the destination of a Hugging Face model is a folder, but {folder} is a file name')
    kind = 'siglip' if size.image.flavour == 'siglip' else 'clip'
    tensors = from_ours(weights.tensors, f'huggingface_{kind}')
    file = folder / 'model.safetensors'
    _check_target(file, weights, overwrite)
    write_weights(file, tensors, {'format': 'pt'})
    _write_json(folder / 'config.json', _huggingface_config(size, kind))
    _write_json(folder / 'preprocessor_config.json', _huggingface_preprocess(weights.preprocess, kind))
    copy_tokenizer(weights.tokenizer, folder)
    return file


def _not_in_transformers(size: ClipSize) -> str:
    """The tower that no model of transformers has; '' if there is none."""
    image, text = size.image, size.text
    if not isinstance(image, VitSize) or image.flavour not in ('openai', 'siglip'):
        names = {ResNetSize: 'a ResNet', TimmSize: 'an image tower of timm'}
        flavours = {
            'slip': 'a SLIP image tower',
            'clipa': 'an image tower of CLIPA',
            'coca': 'an image tower of CoCa',
        }
        return names.get(type(image), '') or flavours[getattr(image, 'flavour', '')]
    if not isinstance(text, TextSize):
        return f'a text tower of the type {text.model_type}'
    return '' if text.flavour == image.flavour else f'a text tower of the flavour {text.flavour}'


def _check_target(file: Path, weights: ClipWeights, overwrite: bool) -> None:
    if file.suffix != '.safetensors' or file.is_dir():
        raise InputError(f'{file}: the destination must have the suffix .safetensors')
    if file.exists() and file.samefile(weights.path):
        raise InputError(f'{file} is the source file: give another destination')
    if file.exists() and not overwrite:
        raise InputError(f'{file} exists: pass overwrite=True (--overwrite) to replace it')


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path, 'w') as file:
        json.dump(values, file, indent=2)
        file.write('\n')


def _huggingface_config(size: ClipSize, kind: str) -> dict[str, Any]:
    assert isinstance(size.image, VitSize)
    assert isinstance(size.text, TextSize)
    if size.text.eos_token_id == LARGEST:  # which is an id in this type only
        kind = 'metaclip_2'
    vision, text = _huggingface_tower(size.image), _huggingface_tower(size.text)
    vision |= {'image_size': size.image.image_size, 'patch_size': size.image.patch_size}
    vision['model_type'] = f'{kind}_vision_model'
    text |= {'vocab_size': size.text.vocab_size, 'max_position_embeddings': size.text.context_length}
    text['model_type'] = f'{kind}_text_model'
    config: dict[str, Any] = {'model_type': kind, 'vision_config': vision, 'text_config': text}
    if kind == 'siglip':
        text['projection_size'] = size.text.embed_dim
        return {'architectures': ['SiglipModel'], **config}
    for part in (vision, text, config):
        part['projection_dim'] = size.text.embed_dim
    text |= huggingface_special_ids(size.text)
    return {'architectures': ['CLIPModel' if kind == 'clip' else 'MetaClip2Model'], **config}


def _huggingface_tower(tower: VitSize | TextSize) -> dict[str, Any]:
    return {
        'hidden_size': tower.width,
        'intermediate_size': tower.mlp_width,
        'num_hidden_layers': tower.layers,
        'num_attention_heads': tower.num_heads,
        'hidden_act': _HIDDEN_ACT[tower.activation],
        'layer_norm_eps': TEXT_FLAVOURS['siglip' if tower.flavour == 'siglip' else 'openai'].eps,
    }


def _huggingface_preprocess(preprocess: Preprocess, kind: str) -> dict[str, Any]:
    side = preprocess.image_size
    squash = preprocess.resize == 'squash'
    config = {
        'image_processor_type': 'SiglipImageProcessor' if squash else 'CLIPImageProcessor',
        'do_resize': True,
        'size': {'height': side, 'width': side} if squash else {'shortest_edge': side},
        'resample': _RESAMPLE[preprocess.interpolation],
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(preprocess.mean),
        'image_std': list(preprocess.std),
        'do_convert_rgb': True,
    }
    if not squash:
        config |= {'do_center_crop': True, 'crop_size': {'height': side, 'width': side}}
    return config
