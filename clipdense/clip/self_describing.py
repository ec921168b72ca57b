"""A trained model in one file: its weights, and the config that builds it without any other file.

The config is plain data beside the tensors.  It may name what is registered here and what the model's class
lists; a file that names anything else is refused, so that reading one never runs foreign code.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch import Tensor

from clipdense.config import plain_config
from clipdense.registry import MODELS, TRANSFORMS, build_module
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import WeightsFile, write_weights
from clipdense.weights.strict import load_strict

from .frozen_text import FrozenText
from .model import CLIP
from .tokenizers import copy_tokenizer, find_tokenizer

FORMAT = 'clipdense-model'
PREFIX = 'clip.'  # before the names of the tensors of the CLIP


class Portable(Protocol):
    """A model that one file can hold.

    Attributes:
        portable_name: of the file, without its ending.
        portable_types: names that its config may have as ``type`` beside those of our registered classes and
            functions, and what they mean.
        clip: the text tower, or a whole CLIP.
        portable_clip: what of it the file holds: the ``FrozenText`` of a model that needs no image tower, or
            the ``CLIP`` itself.  Either has a ``config`` that builds it.
    """

    portable_name: str
    portable_types: Mapping[str, Any]
    clip: Any

    @property
    def portable_clip(self) -> FrozenText | CLIP | None: ...

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Of the config of a run, ``model`` without any file in it, and what else inference needs.

        A model that writes more than ``model`` reads it in ``apply_portable_config(config)``.
        """

    def state_dict(self) -> dict[str, Tensor]: ...


def is_portable(model: Any) -> bool:
    """Whether one file can hold the model, which needs a text tower for that."""
    return hasattr(model, 'portable_config') and getattr(model, 'clip', None) is not None


def describe(model: Portable, cfg: Config) -> dict[str, str]:
    """What stands beside the tensors; in a training checkpoint as ``meta['portable']``.

    Args:
        model: as the config of its run built it.
        cfg: that config.

    Raises:
        InputError: a model that no config describes, or one that is no plain data or names what no file may.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise InputError('its model was built in code, and no config describes it')
    config = model.portable_config(cfg.to_dict())
    config['model'] = {**config['model'], 'clip': _clip(model).config}
    text = repr(plain_config(config, strict=True))
    _parse(text, {kind.__module__.split('.')[0] for kind in (type(model), FrozenText)})
    return {'format': FORMAT, 'version': '1', 'config': text}


def meta(model: Any, cfg: Config) -> dict[str, Any]:
    """What lets a training checkpoint be opened alone, which then holds ``weights`` of the model."""
    if not is_portable(model):
        return {}
    try:
        return {'portable': describe(model, cfg)}
    except InputError:  # it then needs its config
        return {}


def weights(model: Portable) -> dict[str, Tensor]:
    """The tensors of a model with those of its CLIP, which a detector keeps outside its own."""
    clip = _clip(model).state_dict()
    return {**model.state_dict(), **{f'{PREFIX}{name}': tensor for name, tensor in clip.items()}}


def save(model: Portable, path: str | Path, cfg: Config) -> None:
    """Write a model with its CLIP, and the config of its run, into one safetensors file.

    A tokenizer that is not OpenAI's is copied into ``<name of the file>-tokenizer``.

    Raises:
        InputError: as ``describe``; no room, or no permission.
    """
    path = Path(path)
    write_weights(path, weights(model), describe(model, cfg))
    copy_tokenizer(model.clip.tokenizer, path.with_name(f'{path.stem}-tokenizer'))


def read_config(file: WeightsFile, packages: Collection[str] = ('clipdense',)) -> dict[str, Any] | None:
    """The config that a file brings with its weights; None where it brings none.

    Args:
        file: weights and metadata.
        packages: installed packages whose registered classes and functions the config may name.

    Raises:
        CheckpointError: a damaged one, or one that asks for what no file may name.
    """
    meta = file.extra.get('meta')
    own = meta.get('portable') if isinstance(meta, dict) else file.metadata
    if not isinstance(own, dict) or own.get('format') != FORMAT:
        return None
    try:
        return _parse(own['config'], packages)
    except (InputError, KeyError, TypeError) as error:
        raise CheckpointError(f'{file.path}: its config cannot be used ({error})') from error


def build(file: WeightsFile, config: Mapping[str, Any]) -> Any:
    """The model of a file, in evaluation mode.

    Args:
        file: the weights.
        config: what ``read_config`` found in it.

    Raises:
        CheckpointError: no model can be built so, or the weights do not fit it.
    """
    try:
        model = build_module(dict(config['model']))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise CheckpointError(f'{file.path}: {error}') from error
        raise CheckpointError(f'{file.path} describes an impossible model: {error}') from error
    clip = {
        name.removeprefix(PREFIX): tensor for name, tensor in file.tensors.items() if name.startswith(PREFIX)
    }
    load_strict(model.clip, clip, f'{file.path} (its CLIP)')
    load_strict(model, own_tensors(model, file.tensors), file.path)
    if hasattr(model, 'apply_portable_config'):
        model.apply_portable_config(config)
    tokenizer = find_tokenizer(model.clip.text.size, file.path)
    if tokenizer is not None:
        model.clip.tokenizer = tokenizer
    return model.eval()


def own_tensors(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the CLIP, where a portable model keeps it outside its weights."""
    if not hasattr(model, 'portable_config'):
        return dict(tensors)
    own = model.state_dict()
    return {name: x for name, x in tensors.items() if name in own or not name.startswith(PREFIX)}


def _clip(model: Portable) -> FrozenText | CLIP:
    assert model.portable_clip is not None  # is_portable has asked
    return model.portable_clip


def _parse(text: str, packages: Collection[str]) -> dict[str, Any]:
    """The config that a text is, with what it names in place of the names.

    Raises:
        InputError: no plain data with a model in it, or a ``type`` that is not allowed.
    """
    try:
        config = ast.literal_eval(text)
        kind = config['model']['type']
    except (KeyError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        raise InputError('it is no plain data that describes a model') from None
    return _resolved(config, getattr(_known(kind, {}, packages), 'portable_types', {}), packages)


def _resolved(value: Any, allowed: Mapping[str, Any], packages: Collection[str]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_resolved(item, allowed, packages) for item in value)
    if not isinstance(value, dict):
        return value
    return {
        key: _known(item, allowed, packages) if key == 'type' else _resolved(item, allowed, packages)
        for key, item in value.items()
    }


def _known(kind: Any, allowed: Mapping[str, Any], packages: Collection[str]) -> Any:
    """What a name means that a file may use.

    Raises:
        InputError: another one.
    """
    if not isinstance(kind, str):
        raise InputError(f'its type {kind!r} is no name')
    if kind in allowed:
        return allowed[kind]
    found = get_object_from_string(kind) if kind.split('.')[0] in packages else None
    ours = (*MODELS.module_dict.values(), *TRANSFORMS.module_dict.values(), *allowed.values())
    if found is None or not any(found is one for one in ours):
        raise InputError(f'it asks for {kind!r}, which is not a registered part of {", ".join(packages)}')
    return found
