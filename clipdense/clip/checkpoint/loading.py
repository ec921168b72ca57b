"""Load CLIP weights of any official format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.devices import choose_device, choose_dtype
from clipdense.utils.errors import CheckpointError, InputError, MissingPackage
from clipdense.utils.json_files import parse_json
from clipdense.utils.modules import meta_device
from clipdense.weights import zoo
from clipdense.weights.hub import Repository, fetch_repository
from clipdense.weights.io import WeightsFile, read_weights
from clipdense.weights.lookup import SUFFIXES, look_up
from clipdense.weights.strict import first_names, mismatches, with_counters
from clipdense.weights.values import check_cast, check_values

from ..model import CLIP
from ..preprocess import Preprocess
from ..sizes import ClipSize, HFTextSize, ImageSize, TextSize, TimmSize
from ..tokenizers import OpenAITokenizer, find_tokenizer
from .config_files import HUGGINGFACE_FILES, declared_layout, from_huggingface, from_open_clip, from_zoo
from .contents import (
    BOTH,
    AnyClip,
    AnyWeights,
    ClipWeights,
    ImageWeights,
    TextWeights,
    check_single,
    not_full,
)
from .joined import joined_file
from .layouts import Recognized, infer_size, recognize
from .section import Section
from .settings import (
    Overrides,
    Recorded,
    TowerFacts,
    check_overrides,
    complete,
    default_preprocess,
    recorded_preprocess,
    warn_of_default,
)

_OPEN_CLIP_CONFIG = 'open_clip_config.json'
_FOLDER_FILES = {  # config file: its weights files, preferred first
    _OPEN_CLIP_CONFIG: (
        'open_clip_model.safetensors',
        'open_clip_pytorch_model.safetensors',
        'open_clip_pytorch_model.bin',
    ),
    'config.json': HUGGINGFACE_FILES,
}
_OPENAI = Recorded("OpenAI's archive", TowerFacts('quick_gelu'), TowerFacts('quick_gelu'), complete=True)
_SLIP = Recorded(
    "SLIP's layout", TowerFacts('gelu'), TowerFacts('quick_gelu'), complete=True
)  # facebookresearch/SLIP models.py


@dataclass(frozen=True)
class OpenedWeights:
    """A weights file that has been read; it may hold any model.

    Args:
        file: its contents.
        recorded: what the zoo records about it; None for a file given by path.
    """

    file: WeightsFile
    recorded: Recorded | None = None


def load(
    weights: str | Path | OpenedWeights,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | str | None = None,
    **overrides: Any,
) -> CLIP:
    """Load a CLIP in evaluation mode, with its ``preprocess`` and ``tokenizer``.

    Args:
        weights: a file of OpenAI, open_clip, SLIP, Hugging Face or clipdense, a folder of Hugging Face or
            open_clip, a training checkpoint, a name from `clipdense models` such as 'ViT-B-16/openai', a
            repository of Hugging Face such as 'openai/clip-vit-base-patch16' or
            'hf-hub:timm/ViT-B-16-SigLIP@main', or what ``open_weights`` returned for one of these.
        device: of the model.
        dtype: of the parameters, see ``choose_dtype``; fp32 by default, whatever the file stores.
        overrides: what the weights do not specify, see ``Overrides``, such as ``activation='quick_gelu'``.

    Raises:
        CheckpointError: the file is damaged or unsafe, its layout is unknown, keys or shapes do not match, or
            an override is needed.
        InputError: an unknown name, a failed download, or a device that is not available.
    """
    return _built(read_clip(weights, Overrides.of(overrides)), device, dtype)


def load_any(
    weights: str | Path | OpenedWeights,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | str | None = None,
    **overrides: Any,
) -> AnyClip:
    """As ``load``, also for weights with one tower: a ``FrozenImage`` or a ``FrozenText``.

    Raises:
        CheckpointError, InputError: as ``load``; or the features of the tower are not in the joint space.
    """
    return _built(read_any(weights, Overrides.of(overrides)), device, dtype)


def _built(found: AnyWeights, device: str | torch.device, dtype: torch.dtype | str | None) -> Any:
    place, kind = choose_device(device), choose_dtype(dtype)
    clip = fitting_model(found)
    state = {
        name: tensor.to(
            place,
            kind if tensor.is_floating_point() else tensor.dtype,
            copy=True,  # tensors may be mapped from the file
            memory_format=torch.contiguous_format,
        )
        for name, tensor in with_counters(clip.state_dict(), found.tensors).items()
    }
    check_cast(state, found.path, kind)
    clip.load_state_dict(state, assign=True)
    return clip.to(device=place, dtype=kind).eval()  # also buffers that no file contains


def open_weights(weights: str | Path | OpenedWeights) -> OpenedWeights:
    """Read weights given by file, folder or name; opened weights are returned unchanged.

    Raises:
        CheckpointError, InputError: as ``load``.
    """
    if isinstance(weights, OpenedWeights):
        return weights
    path, recorded = _locate(weights)
    return OpenedWeights(read_weights(path), recorded)


def read_clip(weights: str | Path | OpenedWeights, overrides: Overrides) -> ClipWeights:
    """Read the weights of a CLIP and recognize their layout, without building the model.

    Raises:
        CheckpointError, InputError: as ``load``.
    """
    found = read_any(weights, overrides)
    if not isinstance(found, ClipWeights):
        raise not_full(found.path, found.tower)
    return found


def read_any(weights: str | Path | OpenedWeights, overrides: Overrides) -> AnyWeights:
    """As ``read_clip``, also for weights with one tower.

    Raises:
        CheckpointError, InputError: as ``load_any``.
    """
    opened = open_weights(weights)
    path = opened.file.path
    try:
        found = recognize(_clip_part(opened.file), opened.file.metadata)
        sizes, preprocess, recorded = _settings(opened, found, overrides)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    if 'text' not in sizes:
        return ImageWeights.of(path, found, sizes['image'], preprocess)
    tokenizer = find_tokenizer(sizes['text'], path, recorded.tokenizer)
    if overrides.language is not None:
        (tokenizer or OpenAITokenizer()).set_language(overrides.language)
    if 'image' not in sizes:
        return TextWeights.of(path, found, sizes['text'], tokenizer)
    return ClipWeights(path, found.tensors, found.leftover, ClipSize(**sizes), preprocess, tokenizer)


def _settings(
    opened: OpenedWeights, found: Recognized, overrides: Overrides
) -> tuple[dict[str, Any], Any, Recorded]:
    """Arguments of ``ClipSize`` (without a tower that the weights lack), preprocessing, and their source."""
    path, towers = opened.file.path, found.towers
    single = len(towers) == 1
    if own := _own_facts(opened.file):
        size, preprocess, recorded = own
        check_overrides(recorded, overrides)
        if overrides.preprocess is not None:
            preprocess = _preprocess(size.image, recorded, overrides.preprocess, path)
        sizes = {name: getattr(size, name) for name in (*(towers if single else BOTH), 'logit_bias')}
        return sizes, preprocess, recorded
    if opened.recorded is None:
        _check_declared(path, found)
    recorded = opened.recorded or _next_to(path, found)
    recorded = recorded if overrides.model is None else _named(overrides.model, recorded)
    if single:
        check_single(found, overrides)
    sizes = complete(infer_size(found.tensors, towers if single else BOTH), recorded, overrides)
    image = sizes.get('image')
    return sizes, image and _preprocess(image, recorded, overrides.preprocess, path), recorded


def _check_declared(path: Path, found: Recognized) -> None:
    """Refuse the config file of another model.

    Raises:
        CheckpointError: naming both.
    """
    layout, tower = declared_layout(path)
    if layout not in (None, found.layout):
        raise CheckpointError(
            f'config.json declares a model of the layout {layout}, but the tensors have the layout '
            f'{found.layout}: it is the config of another model'
        )
    if tower and found.towers != (tower,):
        raise CheckpointError(
            f'config.json declares the {tower} tower of a CLIP, but the tensors are those of '
            f'{" and ".join(found.towers)}: it is the config of another model'
        )


def fitting_model(weights: AnyWeights) -> Any:
    """The model of these weights on the meta device (no memory, no initialization); names and shapes match.

    Raises:
        CheckpointError: invalid sizes; tensors that do not match (``mismatches``), or have values that are
            not finite or not plausible (``check_values``).
    """
    depths = [getattr(tower, 'layers', 0) for tower in weights.sizes]
    layers = sum(depth if isinstance(depth, int) else sum(depth) for depth in depths)
    if layers > len(weights.tensors):
        raise CheckpointError(
            f'{weights.path} describes {layers} layers but has only {len(weights.tensors)} tensors'
        )
    try:
        with meta_device():
            clip = weights.build()
    except MissingPackage as error:
        raise MissingPackage(f'{weights.path}: {error}') from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'{weights.path} describes an invalid model: {error}') from error
    if problems := mismatches(clip.state_dict(), weights.tensors, weights.leftover):
        raise CheckpointError(
            f'{weights.path} does not match its model; tensors: {problems}{_built_by(weights.sizes)}'
        )
    check_values(weights.tensors, weights.path)
    return clip


def _built_by(sizes: Iterable[Any]) -> str:
    """The installed packages that build towers, whose releases may name tensors in different ways."""
    towers = []
    for size in sizes:
        if isinstance(size, TimmSize):
            towers.append(f'{size.model} by timm {version("timm")}')
        elif isinstance(size, HFTextSize):
            towers.append(f'{size.model_type} by transformers {version("transformers")}')
    if not towers:
        return ''
    return f'; built: {", ".join(towers)}; another release may have other names, as the weights have'


def _preprocess(
    image: ImageSize, recorded: Recorded, asked: Preprocess | str | None, path: Path
) -> Preprocess:
    """The override, else the recorded preprocessing, else with a warning the default of the kind of model.

    Raises:
        CheckpointError: it is recorded for images of another size than those of the model.
    """
    side = image.image_size
    if asked is not None:
        return Preprocess.named(asked, side) if isinstance(asked, str) else asked
    if recorded.preprocess is not None:
        cell = getattr(image, 'patch_size', 32)
        return recorded_preprocess(recorded.preprocess, side, cell, recorded.source)
    found = default_preprocess(image)
    if not recorded.complete:
        warn_of_default(found, path)
    return found


def _locate(weights: str | Path) -> tuple[Path, Recorded | None]:
    """The file to read, and what the zoo records about it."""
    found, unknown = look_up(weights)
    if isinstance(found, Repository):
        return _in_repository(found, unknown), None
    if isinstance(found, Path):
        return (_in_folder(found) if found.is_dir() else found), None
    return (joined_file(found), None) if found.parts else (zoo.fetch(found), from_zoo(found))


def _in_repository(repository: Repository, unknown: str) -> Path:
    """The weights file of a repository; ``unknown`` says why its name is nothing else."""
    try:
        return _in_folder(fetch_repository(repository, _FOLDER_FILES))
    except InputError as error:
        raise InputError(f'{unknown}; on Hugging Face: {error}' if unknown else str(error)) from error


def _in_folder(folder: Path) -> Path:
    for config, names in _FOLDER_FILES.items():
        for name in names:
            if (folder / config).is_file() and (folder / name).is_file():
                return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    exported = [path for path in files if not path.name.startswith('step_')]  # of a training, when it ended
    if len(exported or files) == 1:
        return (exported or files)[0]
    held = (
        f'several weights files: {first_names(path.name for path in files)}' if files else 'no weights file'
    )
    raise CheckpointError(f'{folder} has {held}; give the path of the weights file')


def _clip_part(file: WeightsFile) -> dict[str, Tensor]:
    """The tensors of the CLIP in a training checkpoint of a larger model; all tensors of other files."""
    meta = file.extra.get('meta')
    part = {name: tensor for name, tensor in file.tensors.items() if name.startswith('clip.')}
    return part if part and isinstance(meta, dict) and 'clip' in meta else file.tensors


def _next_to(path: Path, found: Recognized) -> Recorded:
    """Settings that the layout implies or the config file in the same folder records."""
    try:
        return _read_next_to(path, found)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise CheckpointError(f'the config file next to {path.name} is invalid: {error!r}') from error


def _named(model: str, recorded: Recorded) -> Recorded:
    """The settings of an architecture of open_clip, for weights that record none."""
    if recorded != Recorded(recorded.source):
        raise CheckpointError(f'{recorded.source} records the model; remove the override model={model!r}')
    config = {'model_cfg': zoo.model_config(model)}
    return replace(from_open_clip(config, f'the architecture {model}'), preprocess=None)


def _read_next_to(path: Path, found: Recognized) -> Recorded:
    if found.openai:
        return _OPENAI
    if found.layout == 'slip':
        return _SLIP
    if found.layout.startswith('huggingface'):
        config = path.with_name('config.json')
        return (
            from_huggingface(path.parent)
            if config.is_file()
            else Recorded(f'no config.json next to {path.name}')
        )
    config = path.with_name(_OPEN_CLIP_CONFIG)
    if found.layout.startswith('openclip') and config.is_file():
        return _open_clip_folder(config)
    return Recorded(f'no {_OPEN_CLIP_CONFIG} next to {path.name}')


def _open_clip_folder(config: Path) -> Recorded:
    """Settings of ``open_clip_config.json``; without an entry ``preprocess_cfg`` none of the images."""
    section = Section.of_file(config)
    recorded = from_open_clip(section.values, str(config))
    return recorded if 'preprocess_cfg' in section else replace(recorded, preprocess=None)


def _own_facts(file: WeightsFile) -> tuple[ClipSize, Preprocess, Recorded] | None:
    """Settings in the format of clipdense: from the metadata, or from ``meta`` of a training checkpoint."""
    meta = file.extra.get('meta')
    own: Mapping[str, Any] = file.metadata
    if isinstance(meta, dict) and isinstance(meta.get('clip'), dict):
        own = meta['clip']
    if own.get('format') != 'clipdense':
        return None
    try:
        size = ClipSize.from_dict(parse_json(own['size'], 'size'))
        preprocess = Preprocess.from_dict(parse_json(own['preprocess'], 'preprocess'))
    except (KeyError, TypeError, ValueError) as error:
        if other := re.search(r"unexpected keyword argument ('\w+')", str(error)):
            raise CheckpointError(
                f'the recorded size has {other[1]}, which a CLIP does not have: these are weights of another '
                'model'
            ) from error
        raise CheckpointError(f'the recorded size or preprocessing cannot be read ({error})') from error
    image, text = (
        TowerFacts(getattr(tower, 'activation', None), getattr(tower, 'num_heads', None))
        for tower in (size.image, size.text)
    )
    if isinstance(size.text, TextSize):
        eos = size.text.vocab_size - 1 if size.text.eos_token_id is None else size.text.eos_token_id
        text = replace(text, eos_token_id=eos)
    return size, preprocess, Recorded('the file itself', image, text)
