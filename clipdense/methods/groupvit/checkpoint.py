"""Load and save GroupViT weights in the layouts of NVlabs, Hugging Face and clipdense.

Attention heads and the activation of the text tower cannot be inferred from tensors; the defaults are
width / 64 and quick_gelu, as in the released models.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.checkpoint import describe
from clipdense.clip.checkpoint.layouts import strip_wrappers
from clipdense.clip.checkpoint.saving import write_huggingface_folder
from clipdense.clip.checkpoint.settings import Recorded, end_of_text_id
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import TextSize
from clipdense.clip.tokenizers import TokenizerRules, copy_tokenizer, find_tokenizer
from clipdense.utils.errors import CheckpointError, InputError, refuse_unknown
from clipdense.utils.json_files import parse_json
from clipdense.utils.modules import meta_device
from clipdense.weights.io import WeightsFile, read_weights, write_weights
from clipdense.weights.key_map import from_ours, to_ours
from clipdense.weights.strict import first_names, mismatches
from clipdense.weights.values import check_values

from . import huggingface
from . import layouts as _layouts  # noqa: F401 (registers the tables)
from .model import GroupVit, build_group_vit
from .sizes import GroupVitImageSize, GroupVitSize, StageSize

_OVERRIDES = ('num_heads', 'text_num_heads', 'text_activation', 'image_size', 'preprocess', 'eos_token_id')
_MARKS = {  # a tensor name that only this layout has
    'clipdense': 'image.norm_patch.weight',
    'groupvit_nvlabs': 'img_encoder.patch_embed.proj.weight',
    'groupvit_huggingface': 'vision_model.embeddings.patch_embeddings.projection.weight',
}
_HEAD_WIDTH = 64


def from_official(state_dict: Mapping[str, Tensor], **overrides: Any) -> GroupVit:
    """A GroupViT in evaluation mode from tensors under official names.

    Args:
        state_dict: NVlabs', Hugging Face's or our names; wrappers such as ``module.`` are stripped.
        overrides: settings that tensors do not specify: ``num_heads`` of the image tower (one value, or one
            per stage), ``text_num_heads``, ``text_activation``, ``image_size`` if it is not a multiple of the
            patch size, ``preprocess`` ('clip' as in the Hugging Face files, or a ``Preprocess``),
            ``eos_token_id`` as in ``clip.checkpoint.Overrides``.

    Raises:
        CheckpointError: not a GroupViT, or missing, unexpected or mis-shaped tensors, by name.
        InputError: an unknown override.
    """
    _check_names(overrides)
    tensors = strip_wrappers(state_dict)
    layout = _layout(tensors)
    if layout is None:
        raise CheckpointError(f'not a GroupViT: {len(tensors)} tensors, {first_names(sorted(tensors))}')
    ours, leftover = to_ours(tensors, layout)
    size = _infer(ours, overrides)
    return _assemble(size, ours, leftover, _preprocess(overrides.get('preprocess'), size.image.image_size))


def load(weights: str | Path, device: str | torch.device = 'cpu', **overrides: Any) -> GroupVit:
    """A GroupViT in evaluation mode from a file or a folder of Hugging Face.

    Args:
        weights: a file of NVlabs (``group_vit_gcc_yfcc_30e-879422e0.pth``), of Hugging Face or of ours, a
            training checkpoint, or a folder with ``config.json``.
        device: device of the model.
        overrides: as in ``from_official``; clipdense files record their sizes, only ``preprocess`` can be
            overridden.

    Raises:
        CheckpointError: a damaged or unsafe file, not a GroupViT, tensors that do not match, or an override
            that contradicts the file.
        InputError: an unknown override.
    """
    path = Path(weights).expanduser()
    file = read_weights(_in_folder(path) if path.is_dir() else path)
    return from_file(file, **overrides).to(device)


def from_file(file: WeightsFile, **overrides: Any) -> GroupVit:
    """As ``load``, for a file that has been read."""
    path = file.path
    _check_names(overrides)
    meta = file.extra.get('meta')
    own = meta.get('clip') if isinstance(meta, dict) and isinstance(meta.get('clip'), dict) else file.metadata
    try:
        if own and own.get('format') == 'clipdense':
            size = GroupVitSize.from_dict(parse_json(own['size'], 'size'))
            _check_sizes(size, overrides)
            preprocess = _preprocess(overrides.get('preprocess'), size.image.image_size)
            preprocess = preprocess or Preprocess.from_dict(parse_json(own['preprocess'], 'preprocess'))
            model = _assemble(size, strip_wrappers(file.tensors), [], preprocess)
        else:
            model = _from_foreign(file, overrides)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise CheckpointError(f'{path}: {error}') from error
        raise CheckpointError(f'{path}: cannot read the sizes of the model ({error})') from error
    beside = _layout(file.tensors) == 'groupvit_huggingface'
    tokenizer = find_tokenizer(model.text.size, path, TokenizerRules(family='groupvit', beside=beside))
    if tokenizer is not None:
        model.tokenizer = tokenizer
    return model.eval()


def _from_foreign(file: WeightsFile, overrides: Mapping[str, Any]) -> GroupVit:
    """A GroupViT from an official file; one of Hugging Face with the settings beside it."""
    if _layout(file.tensors) != 'groupvit_huggingface':
        return from_official(file.tensors, **overrides)
    given = {**huggingface.read_beside(file.path), **overrides}
    model = from_official(file.tensors, **given)
    if given.get('preprocess') is None:
        image = model.size.image
        found = huggingface.preprocess_beside(file.path.parent, image.image_size, image.patch_size)
        model.preprocess = found or model.preprocess
    return model


def save(model: GroupVit, path: str | Path) -> None:
    """Write a clipdense file: a safetensors file that records the sizes of the model.

    Raises:
        InputError: no disk space or no permission; an existing file is left intact.
    """
    write_weights(path, model.state_dict(), describe(model.size, model.preprocess))  # type: ignore[arg-type]
    copy_tokenizer(model.tokenizer, Path(path).with_name(f'{Path(path).stem}-tokenizer'))


def to_official(model: GroupVit, layout: str = 'huggingface') -> dict[str, Tensor]:
    """Tensors under the names of NVlabs ('nvlabs') or of transformers ('huggingface').

    Raises:
        InputError: an unknown layout, or a model that transformers' ``GroupViTModel`` does not support.
    """
    if layout not in ('nvlabs', 'huggingface'):
        raise InputError(f"layout must be 'nvlabs' or 'huggingface', got {layout!r}")
    state = dict(model.state_dict())
    state.pop('background', None)  # not in the official layouts
    if layout == 'huggingface':
        huggingface.check_fits(model.size.image, model.size.text.eos_token_id)
        state.pop('multi_label_logit_scale', None)  # transformers has no such loss
    return from_ours(state, f'groupvit_{layout}')


def save_huggingface(model: GroupVit, folder: str | Path) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``preprocessor_config.json`` for transformers.

    Raises:
        InputError: a model that transformers does not support, or a folder that cannot be written.
    """
    tensors, folder = to_official(model, 'huggingface'), Path(folder)
    write_huggingface_folder(folder, tensors, huggingface.configs(model))
    copy_tokenizer(model.tokenizer, folder)


def write_clipdense(model: GroupVit, file: Path) -> None:
    """``save``, with the signature of ``Method.export``."""
    save(model, file)


def write_nvlabs(model: GroupVit, file: Path) -> None:
    """Write a file with the names of NVlabs; warns about settings that the layout does not record.

    Raises:
        InputError: the file cannot be written.
    """
    write_weights(file, to_official(model, 'nvlabs'))
    _warn_of_lost_settings(model, file)


def write_huggingface(model: GroupVit, folder: Path) -> None:
    """``save_huggingface``; warns about settings that the layout does not record."""
    save_huggingface(model, folder)
    _warn_of_lost_settings(model, folder / 'model.safetensors')


def _warn_of_lost_settings(model: GroupVit, written: Path) -> None:
    """Official layouts do not record attention heads and activations."""
    before, after = _beyond_tensors(model), _beyond_tensors(load(written))
    lost = [f'{name}={value!r}' for name, value in before.items() if after[name] != value]
    if lost:
        warnings.warn(f'{written} does not record {", ".join(lost)}: pass these values when loading it')


def _beyond_tensors(model: GroupVit) -> dict[str, Any]:
    image, text = model.size.image, model.size.text
    heads = [stage.num_heads for stage in image.stages if stage.depth]
    return {'num_heads': heads, 'text_num_heads': text.num_heads, 'text_activation': text.activation}


def _layout(keys: Iterable[str]) -> str | None:
    names = {name: name for name in keys}
    stripped = strip_wrappers(dict.fromkeys(names, torch.empty(0)))
    return next((layout for layout, mark in _MARKS.items() if mark in stripped), None)


def _check_names(overrides: Mapping[str, Any]) -> None:
    refuse_unknown(overrides, _OVERRIDES, 'GroupViT weights have no override')


def _check_sizes(size: GroupVitSize, overrides: Mapping[str, Any]) -> None:
    """Refuse overrides that contradict the sizes that a clipdense file records."""
    stages = size.image.stages
    recorded = {
        'num_heads': [stage.num_heads for stage in stages],
        'text_num_heads': size.text.num_heads,
        'text_activation': size.text.activation,
        'image_size': size.image.image_size,
    }
    asked = {name: overrides[name] for name in recorded if overrides.get(name) is not None}
    if 'num_heads' in asked:
        heads = asked['num_heads']
        asked['num_heads'] = list(heads) if isinstance(heads, list | tuple) else [heads] * len(stages)
    for name, value in asked.items():
        if value != recorded[name]:
            raise InputError(
                f'the file records {name}={recorded[name]}, got {name}={overrides[name]}: remove the override'
            )


def _infer(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> GroupVitSize:
    """Sizes from tensors under our names."""
    try:
        stages = _stages(tensors, overrides.get('num_heads'))
        patch = tensors['image.patch_embed.weight'].shape[-1]
        cells = len(tensors['image.pos_embed'])
        if isqrt(cells) ** 2 != cells:
            raise CheckpointError(f'{cells} position embeddings do not form a square grid')
        hidden = len(tensors['image.stages.0.blocks.0.mlp.fc1.weight'])
        projector = tensors['image.projector.out.weight']
        image = GroupVitImageSize(
            overrides.get('image_size') or isqrt(cells) * patch,
            patch,
            stages,
            embed_dim=projector.shape[0],
            projector_width=projector.shape[1],
            mlp_ratio=hidden / stages[0].width,
        )
        text = _text(tensors, overrides)
        return GroupVitSize(image, text, 'multi_label_logit_scale' in tensors, 'background' in tensors)
    except KeyError as error:
        raise CheckpointError(f'{error.args[0]} is missing: the weights are incomplete') from None
    except (IndexError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f'the weights have invalid shapes: {error}') from None


def _stages(tensors: Mapping[str, Tensor], heads: int | list[int] | None) -> tuple[StageSize, ...]:
    stages = []
    for index in range(_count(tensors, r'image\.stages\.(\d+)\.')):
        own = f'image.stages.{index}'
        width = len(tensors[f'{own}.blocks.0.norm1.weight'])
        asked = heads[index] if isinstance(heads, (list, tuple)) else heads
        tokens = tensors.get(f'{own}.group_tokens')
        stages.append(
            StageSize(
                depth=_count(tensors, rf'image\.stages\.{index}\.blocks\.(\d+)\.'),
                width=width,
                num_heads=asked or max(1, width // _HEAD_WIDTH),
                group_tokens=0 if tokens is None else len(tokens),
                groups=0 if tokens is None else len(tensors[f'{own}.grouping.mixer.fc2.weight']),
            )
        )
    return tuple(stages)


def _text(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> TextSize:
    vocab_size, width = tensors['text.token_embed.weight'].shape
    asked = overrides.get('eos_token_id')
    return TextSize(
        width=width,
        layers=_count(tensors, r'text\.blocks\.(\d+)\.'),
        num_heads=overrides.get('text_num_heads') or max(1, width // _HEAD_WIDTH),
        mlp_width=len(tensors['text.blocks.0.mlp.fc1.weight']),
        embed_dim=len(tensors['text.projector.out.weight']),
        vocab_size=vocab_size,
        context_length=len(tensors['text.pos_embed']),
        activation=overrides.get('text_activation') or 'quick_gelu',
        eos_token_id=end_of_text_id(vocab_size, Recorded('the weights'), asked),
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if not found:
        raise KeyError(pattern.replace('\\', '').replace('(d+)', '0'))
    return max(found) + 1


def _assemble(
    size: GroupVitSize, tensors: Mapping[str, Tensor], leftover: list[str], preprocess: Preprocess | None
) -> GroupVit:
    """The model with these weights; names and shapes must match exactly."""
    with meta_device():
        model = build_group_vit(size, preprocess=preprocess)
    if found := mismatches(model.state_dict(), tensors, leftover):
        raise CheckpointError(f'the tensors do not match a GroupViT of this size: {found}')
    check_values(tensors, 'the checkpoint')
    state = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def _preprocess(asked: str | Preprocess | None, image_size: int) -> Preprocess | None:
    """The preprocessing; None means the model's default (ImageNet statistics, bilinear)."""
    if isinstance(asked, str):
        return Preprocess.named('openai' if asked == 'clip' else asked, image_size)
    return asked


def _in_folder(folder: Path) -> Path:
    for name in ('model.safetensors', 'pytorch_model.bin'):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f'{folder} has no model.safetensors or pytorch_model.bin: pass the weights file')
