"""Load and save BLIP weights in the layouts of salesforce/BLIP, Hugging Face and clipdense.

Attention heads cannot be inferred from tensors; the default is width / 64, as in the released models.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.checkpoint import describe
from clipdense.clip.checkpoint.layouts import strip_wrappers
from clipdense.clip.checkpoint.saving import write_huggingface_folder
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import VitSize
from clipdense.utils.errors import CheckpointError, InputError, refuse_unknown
from clipdense.utils.json_files import parse_json
from clipdense.utils.modules import meta_device
from clipdense.weights.io import WeightsFile, read_weights, write_weights
from clipdense.weights.key_map import from_ours, to_ours
from clipdense.weights.strict import first_names, mismatches
from clipdense.weights.values import check_values

from . import huggingface
from .layouts import HEAD, HUGGINGFACE, OFFICIAL
from .model import TEMPERATURE, Blip, build_blip
from .sizes import BERT, BERT_WORDS, OPENAI, OPENAI_WORDS, BlipSize, MedSize, SpecialIds
from .tokenizer import BlipTokenizer, find_vocabulary

_OVERRIDES = ('num_heads', 'text_num_heads', 'image_size', 'preprocess', 'ids', 'image_eps', 'text_eps')
_MARKS = {  # a tensor name that only this layout has
    OFFICIAL: 'visual_encoder.patch_embed.proj.weight',
    HUGGINGFACE: 'vision_model.embeddings.patch_embedding.weight',
}
_WORDS = 'text_decoder.bert.embeddings.word_embeddings.weight'
_HEAD_WIDTH = 64
_SHARED = re.compile(r'(embed|layers\.\d+\.(cross|feed))\.')


def from_official(state_dict: Mapping[str, Tensor], **overrides: Any) -> Blip:
    """A BLIP in evaluation mode from tensors under official names.

    Args:
        state_dict: names of salesforce/BLIP or of transformers; wrappers such as ``module.`` are stripped,
            and the momentum copies and queues of training are left out.
        overrides: settings that tensors do not specify: ``num_heads`` of the image tower,
            ``text_num_heads``, ``image_size`` if it is not a multiple of the patch size, ``preprocess``,
            ``ids`` (``SpecialIds``), ``image_eps`` and ``text_eps`` of the normalizations.

    Raises:
        CheckpointError: not a BLIP, or missing, unexpected, contradicting or mis-shaped tensors, by name.
        InputError: an unknown override.
    """
    refuse_unknown(overrides, _OVERRIDES, 'BLIP weights have no override')
    tensors = strip_wrappers(state_dict)
    layout = next((name for name, mark in _MARKS.items() if mark in tensors), None)
    if any('.crossattention.self0.' in name for name in tensors):
        raise CheckpointError(
            'BLIP weights for NLVR2, which compares two images, are not supported: use weights for '
            'captioning, retrieval or question answering'
        )
    if layout is None or not any(name.startswith(('text_encoder.', 'text_decoder.')) for name in tensors):
        raise CheckpointError(f'not a BLIP: {len(tensors)} tensors, {first_names(sorted(tensors))}')
    ours, leftover = to_ours(_without_copies(tensors), layout)
    if 'itm_head.weight' in ours:  # transformers does not store it
        ours.setdefault('joint.temperature', torch.tensor(TEMPERATURE))
    eps = 1e-6 if layout == OFFICIAL else huggingface.VISION_EPS
    return _assemble(
        _infer(ours, {'image_eps': eps, **overrides}), ours, leftover, overrides.get('preprocess')
    )


def load(weights: str | Path, device: str | torch.device = 'cpu', **overrides: Any) -> Blip:
    """A BLIP in evaluation mode from a file, or a folder of Hugging Face; see ``from_official``.

    Raises:
        CheckpointError: a damaged or unsafe file, not a BLIP, tensors that do not match, or an override of a
            file that records its settings.
        InputError: an unknown override.
    """
    path = Path(weights).expanduser()
    for name in ('model.safetensors', 'pytorch_model.bin') if path.is_dir() else ():
        if (path / name).is_file():
            path = path / name
            break
    return from_file(read_weights(path), **overrides).to(device)


def from_file(file: WeightsFile, **overrides: Any) -> Blip:
    """As ``load``, for a file that has been read."""
    refuse_unknown(overrides, _OVERRIDES, 'BLIP weights have no override')
    meta = file.extra.get('meta')
    own = meta.get('blip') if isinstance(meta, dict) and isinstance(meta.get('blip'), dict) else file.metadata
    if own and own.get('format') == 'clipdense':
        model = _from_own(file, own, overrides)
    elif any(name.endswith(_MARKS[HUGGINGFACE]) for name in file.tensors):
        model = _from_huggingface(file, overrides)
    else:
        model = from_official(file.tensors, **overrides)
    size = model.text_size
    model.tokenizer = BlipTokenizer(size, None if size.words else find_vocabulary(file.path))
    return model


def _from_own(file: WeightsFile, own: Mapping[str, Any], overrides: Mapping[str, Any]) -> Blip:
    given = {name: value for name, value in overrides.items() if value is not None and name != 'preprocess'}
    if given:
        raise CheckpointError(f'{file.path} records its settings: remove the override {next(iter(given))!r}')
    try:
        size = BlipSize.from_dict(parse_json(own['size'], 'size'))
        preprocess = Preprocess.from_dict(parse_json(own['preprocess'], 'preprocess'))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'{file.path}: cannot read the sizes of the model ({error})') from error
    tensors = strip_wrappers(file.tensors)
    if any(name.startswith('blip.') for name in tensors):  # a training checkpoint, with averages and queue
        inner = {name: x for name, x in tensors.items() if name.startswith('blip.')}
        tensors = {name.removeprefix('blip.'): x for name, x in inner.items()}
    return _assemble(size, tensors, [], overrides.get('preprocess') or preprocess)


def _from_huggingface(file: WeightsFile, overrides: Mapping[str, Any]) -> Blip:
    """With the settings next to the weights."""
    if any(name.startswith('text_model.') for name in file.tensors):
        raise CheckpointError(
            f"{file.path} is a transformers BlipModel, whose projections are not those of BLIP's losses: use "
            'weights of BlipForImageTextRetrieval, BlipForConditionalGeneration or BlipForQuestionAnswering'
        )
    model = from_official(file.tensors, **{**huggingface.read_beside(file.path), **overrides})
    if overrides.get('preprocess') is None:
        found = huggingface.preprocess_beside(file.path.parent, model.image.size)
        model.preprocess = found or model.preprocess
    return model


def save(model: Blip, path: str | Path) -> None:
    """Write a clipdense file: a safetensors file that records the sizes of the model.

    A vocabulary file is copied into ``<name of the file>-tokenizer``.

    Raises:
        InputError: no disk space or no permission; an existing file is left intact.
    """
    path = Path(path)
    write_weights(path, model.state_dict(), describe(model.size, model.preprocess))  # type: ignore[arg-type]
    _copy_vocabulary(model, path.with_name(f'{path.stem}-tokenizer'))


def to_official(model: Blip, layout: str = 'salesforce') -> dict[str, Tensor]:
    """Tensors under the names of salesforce/BLIP ('salesforce') or of transformers ('huggingface').

    Raises:
        InputError: an unknown layout, an image tower other than BLIP's, or parts that transformers has no
            class for.
    """
    if layout not in ('salesforce', 'huggingface'):
        raise InputError(f"layout must be 'salesforce' or 'huggingface', got {layout!r}")
    size = model.size
    if not isinstance(size.image, VitSize) or size.image.flavour != 'slip':
        raise InputError("the layouts of BLIP support its own ViT only (flavour 'slip')")
    if size.text.words:
        raise InputError('the layouts of BLIP have no place for a list of words: keep the clipdense file')
    state = dict(model.state_dict())
    if layout == 'huggingface':
        huggingface.architecture(size)
        state.pop('joint.temperature', None)
    tensors = from_ours(state, OFFICIAL if layout == 'salesforce' else HUGGINGFACE)
    if size.decoder:
        tensors[f'{HEAD}.decoder.weight'] = tensors[_WORDS]
        tensors[f'{HEAD}.decoder.bias'] = tensors[f'{HEAD}.bias']
    return tensors


def write_clipdense(model: Blip, file: Path) -> None:
    """``save``, with the signature of ``Method.export``."""
    save(model, file)


def write_salesforce(model: Blip, file: Path) -> None:
    """Write a file with the names of salesforce/BLIP, whose code reads the entry 'model' of a .pth file."""
    write_weights(file, to_official(model, 'salesforce'))
    _copy_vocabulary(model, file.with_name(f'{file.stem}-tokenizer'))


def write_huggingface(model: Blip, folder: Path) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``preprocessor_config.json`` for transformers.

    Raises:
        InputError: a model that transformers does not support, or a folder that cannot be written.
    """
    tensors, folder = to_official(model, 'huggingface'), Path(folder)
    write_huggingface_folder(folder, tensors, huggingface.configs(model))
    _copy_vocabulary(model, folder)


def _copy_vocabulary(model: Blip, folder: Path) -> None:
    file = getattr(model.tokenizer, 'file', None)
    if file is not None and not (folder / file.name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file.name)


def _without_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the second names of tied tensors, which must be equal."""
    tensors = dict(tensors)
    for copy, original in {f'{HEAD}.decoder.weight': _WORDS, f'{HEAD}.decoder.bias': f'{HEAD}.bias'}.items():
        if copy in tensors:
            value = tensors.pop(copy)
            _check_equal(copy, value, original, tensors.setdefault(original, value))
    return tensors


def _check_equal(name: str, one: Tensor, other_name: str, other: Tensor) -> None:
    if not torch.equal(one, other):
        raise CheckpointError(f'{name} and {other_name} are one tensor in BLIP, but differ in the weights')


def _infer(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> BlipSize:
    """Sizes from tensors under our names."""
    given = {name: value for name, value in overrides.items() if value is not None}
    encoder = any(name.startswith('encoder.') for name in tensors)
    decoder = any(name.startswith('decoder.') for name in tensors)
    heads = 'itm_head.weight' in tensors
    try:
        return BlipSize(
            _image(tensors, given),
            _text(tensors, 'encoder' if encoder else 'decoder', given),
            encoder=encoder,
            decoder=decoder,
            shared=heads,
            embed_dim=len(tensors['joint.image.weight']) if heads else 0,
            image_eps=given['image_eps'],
        )
    except KeyError as error:
        raise CheckpointError(f'{error.args[0]} is missing: the weights are incomplete') from None
    except (IndexError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f'the weights have invalid sizes: {error}') from None


def _image(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> VitSize:
    positions, width = tensors['image.pos_embed'].shape
    patch = tensors['image.patch_embed.weight'].shape[-1]
    cells = positions - 1
    if isqrt(cells) ** 2 != cells:
        raise CheckpointError(f'{cells} position embeddings do not form a square grid')
    return VitSize(
        given.get('image_size') or isqrt(cells) * patch,
        patch,
        width,
        layers=_count(tensors, 'image.blocks'),
        num_heads=given.get('num_heads') or max(1, width // _HEAD_WIDTH),
        mlp_width=len(tensors['image.blocks.0.mlp.fc1.weight']),
        embed_dim=len(tensors['joint.image.weight']) if 'joint.image.weight' in tensors else width,
        activation='gelu',
        flavour='slip',
    )


def _text(tensors: Mapping[str, Tensor], stack: str, given: Mapping[str, Any]) -> MedSize:
    words, width = tensors[f'{stack}.embed.words.weight'].shape
    if words == BERT_WORDS - 2 and 'ids' not in given:
        raise CheckpointError(
            f'the word embeddings have {words} rows, a plain BERT: the two ids that BLIP adds, [DEC] and '
            '[ENC], are missing, and their embeddings are trained'
        )
    known = {BERT_WORDS: BERT, OPENAI_WORDS: OPENAI}.get(words)
    ids = given.get('ids') or known or SpecialIds(0, words - 4, words - 3, words - 2, words - 1)
    return MedSize(
        width,
        layers=_count(tensors, f'{stack}.layers'),
        num_heads=given.get('text_num_heads') or max(1, width // _HEAD_WIDTH),
        mlp_width=len(tensors[f'{stack}.layers.0.feed.mlp.fc1.weight']),
        vocab_size=words,
        context_length=len(tensors[f'{stack}.embed.positions.weight']),
        ids=ids,
        eps=given.get('text_eps', 1e-12),
    )


def _count(tensors: Iterable[str], prefix: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(rf'{re.escape(prefix)}\.(\d+)\.', name))}
    if not found:
        raise KeyError(f'{prefix}.0')
    return max(found) + 1


def _assemble(
    size: BlipSize, tensors: Mapping[str, Tensor], leftover: list[str], preprocess: Preprocess | str | None
) -> Blip:
    """The model with these weights; names and shapes must match exactly."""
    if isinstance(preprocess, str):
        preprocess = Preprocess.named(preprocess, size.image.image_size)
    with meta_device():
        model = build_blip(size, preprocess)
    if found := mismatches(model.state_dict(), tensors, leftover):
        raise CheckpointError(f'the tensors do not match a BLIP of this size: {found}')
    check_values(tensors, 'the checkpoint')
    for name in tensors if size.shared else ():
        if name.startswith('decoder.') and _SHARED.match(rest := name.removeprefix('decoder.')):
            _check_equal(name, tensors[name], f'encoder.{rest}', tensors[f'encoder.{rest}'])
    state = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()
