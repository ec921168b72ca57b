"""Self-describing files: the weights of a trained model and the config that builds it, in one file.

The config is plain data in the metadata.  It may name registered classes and functions and those that the
model's class lists; a file that names anything else is refused, so that loading never runs foreign code.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from mmengine.config import Config
from torch import Tensor

from clipdense.config import plain_config
from clipdense.config.data_files import check_data
from clipdense.config.types import part_of_model, resolve_types
from clipdense.registry import build_module
from clipdense.utils.errors import CheckpointError, InputError, MissingPackage
from clipdense.weights.io import WeightsFile, write_weights
from clipdense.weights.strict import load_strict

from .frozen_text import FrozenText
from .model import CLIP
from .tokenizers import copy_tokenizer, find_tokenizer

FORMAT = 'clipdense-model'
PREFIX = 'clip.'  # of tensor names of the CLIP


class Portable(Protocol):
    """A model that can be saved as a self-describing file.

    Attributes:
        portable_name: of the file, without its suffix.
        portable_types: names that its config may have as ``type`` in addition to registered classes and
            functions, and their objects.
        clip: the text tower, or a whole CLIP.
        portable_clip: the part of it that is saved: a ``FrozenText`` for a model that needs no image tower,
            or the ``CLIP``.  Both have a ``config`` that builds them.
    """

    portable_name: str
    portable_types: Mapping[str, Any]
    clip: Any

    @property
    def portable_clip(self) -> FrozenText | CLIP | None: ...

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a run's config that inference needs, with ``model`` free of file paths.

        A model that needs more than ``model`` reads it in ``apply_portable_config(config)``.
        """

    def state_dict(self) -> dict[str, Tensor]: ...


def is_portable(model: Any) -> bool:
    """Whether the model can be saved as a self-describing file, which needs a text tower."""
    return hasattr(model, 'portable_config') and getattr(model, 'clip', None) is not None


def describe(model: Portable, cfg: Config) -> dict[str, str]:
    """The metadata of a self-describing file; in a training checkpoint it is ``meta['portable']``.

    Args:
        model: built from ``cfg``.
        cfg: the config of the run.

    Raises:
        InputError: the model has no config, or the config is not plain data or names something not allowed.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise InputError(
            'the config has no model: a model built in code cannot be saved as a self-describing file'
        )
    config = model.portable_config(cfg.to_dict())
    config['model'] = {**config['model'], 'clip': _clip(model).config}
    text = repr(plain_config(config, strict=True))
    _parse(text, {kind.__module__.split('.')[0] for kind in (type(model), FrozenText)})
    return {'format': FORMAT, 'version': '1', 'config': text}


def meta(model: Any, cfg: Config) -> dict[str, Any]:
    """Metadata that makes a training checkpoint with the ``weights`` of the model self-describing."""
    if not is_portable(model):
        return {}
    try:
        return {'portable': describe(model, cfg)}
    except InputError:  # the checkpoint then needs its config
        return {}


def weights(model: Portable) -> dict[str, Tensor]:
    """The tensors of a model and of its CLIP, which may not be part of its state dict."""
    clip = _clip(model).state_dict()
    return {**model.state_dict(), **{f'{PREFIX}{name}': tensor for name, tensor in clip.items()}}


def save(model: Portable, path: str | Path, cfg: Config, trained: Portable | None = None) -> None:
    """Save a model with its CLIP and the config of its run in one safetensors file.

    A tokenizer that is not OpenAI's is copied into ``<name of the file>-tokenizer``.

    Args:
        model: with the weights.
        path: of the file.
        cfg: see ``describe``.
        trained: the model that was trained and is described, of which ``model`` may be a copy.

    Raises:
        InputError: as ``describe``; or the disk is full or not writable.
    """
    path = Path(path)
    write_weights(path, weights(model), describe(trained or model, cfg))
    copy_tokenizer(model.clip.tokenizer, path.with_name(f'{path.stem}-tokenizer'))


def read_config(file: WeightsFile, packages: Collection[str] = ('clipdense',)) -> dict[str, Any] | None:
    """The config in a self-describing file; None in other files.

    Args:
        file: weights and metadata.
        packages: installed packages whose registered classes and functions the config may name.

    Raises:
        CheckpointError: the config is damaged, or names something not allowed.
        MissingPackage: a package of its model is not installed.
    """
    meta = file.extra.get('meta')
    own = meta.get('portable') if isinstance(meta, dict) else file.metadata
    if not isinstance(own, dict) or own.get('format') != FORMAT:
        return None
    try:
        return _parse(own['config'], packages)
    except MissingPackage as error:
        raise MissingPackage(f'{file.path}: {error}') from error
    except (InputError, KeyError, TypeError) as error:
        raise CheckpointError(f'{file.path}: the config in the file is invalid: {error}') from error


def build(file: WeightsFile, config: Mapping[str, Any]) -> Any:
    """Build the model of a self-describing file, in evaluation mode.

    Args:
        file: the weights.
        config: from ``read_config``.

    Raises:
        CheckpointError: the model cannot be built, or the weights do not match it.
    """
    try:
        model = build_module(dict(config['model']))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise CheckpointError(f'{file.path}: {error}') from error
        raise CheckpointError(f'{file.path} describes an invalid model: {error}') from error
    clip = {
        name.removeprefix(PREFIX): tensor for name, tensor in file.tensors.items() if name.startswith(PREFIX)
    }
    load_strict(model.clip, clip, f'{file.path} (its CLIP)')
    load_strict(model, own_tensors(model, file.tensors), file.path)
    if hasattr(model, 'apply_portable_config'):
        try:
            model.apply_portable_config(config)
        except InputError as error:
            raise CheckpointError(f'{file.path}: {error}') from error
    tokenizer = find_tokenizer(model.clip.text.size, file.path)
    if tokenizer is not None:
        model.clip.tokenizer = tokenizer
    return model.eval()


def own_tensors(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without those of the CLIP, if the CLIP is not part of the model's state dict."""
    if not hasattr(model, 'portable_config'):
        return dict(tensors)
    own = model.state_dict()
    return {name: x for name, x in tensors.items() if name in own or not name.startswith(PREFIX)}


def _clip(model: Portable) -> FrozenText | CLIP:
    assert model.portable_clip is not None  # checked by is_portable
    return model.portable_clip


def _parse(text: str, packages: Collection[str]) -> dict[str, Any]:
    """Parse a config, with names of types replaced by their objects.

    Raises:
        InputError: not plain data with a ``model``, or a ``type`` that is not allowed.
    """
    try:
        config = ast.literal_eval(text)
        kind = config['model']['type']
        check_data(config)
    except (AttributeError, KeyError, MemoryError, RecursionError, SyntaxError, TypeError):
        raise InputError('it is not plain data with an entry model') from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError('it is not plain data with an entry model') from None
    if not isinstance(kind, str):
        raise InputError(f'model.type must be the name of a class, got {kind!r}')
    model = part_of_model(kind, 'model.type', packages)
    allowed = getattr(model, 'portable_types', {})

    def look_up(name: str, where: str) -> Any:
        return allowed[name] if name in allowed else part_of_model(name, where, packages, allowed.values())

    return resolve_types(config, look_up=look_up)
