"""Load any weights by name or file, and build the segmenter or detector that they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from torch import nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip import self_describing
from clipdense.clip.class_embeddings import ClassEmbedder, StoredEmbeddings, class_embedder
from clipdense.clip.model import CLIP
from clipdense.config import load_config, part_class
from clipdense.methods import Method, default_method, find_method, get_method, list_methods, method_packages
from clipdense.registry import MODELS
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.devices import choose_device
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import WeightsFile, read_weights
from clipdense.weights.strict import load_strict

Embedder = ClassEmbedder | str | Path
ClassNames = Vocabulary | str | list[str] | tuple[str, ...]


def load(
    weights: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Any:
    """Any model from its weights, in evaluation mode.

    What comes out depends on the file: a ``CLIP``, or the model of a method in ``list_methods()`` (another
    kind of CLIP, a ``SegmentationModel``, a detector).

    Args:
        weights: a name from ``clipdense models`` such as 'ViT-B-16/openai', a file or folder in any official
            format, a file that training exported, or a training checkpoint.
        device: where the model goes; None means a GPU if there is one.
        dtype: of its parameters; fp32 by default, whatever the file stores.
        overrides: what the file does not specify, such as ``activation='quick_gelu'`` or ``num_heads=8``; an
            unknown name is refused with the names that the layout takes.

    Raises:
        CheckpointError: a damaged or unsafe file, an unknown layout, keys and shapes that do not fit, or
            something that only an override can specify.
        InputError: an unknown name or override, a failed download, or a device that is not available.
    """
    place = choose_device(device)
    opened = clip_checkpoint.open_weights(weights)
    file = opened.file
    if config := self_describing.read_config(file, method_packages()):
        if overrides:
            raise InputError(f'{weights} is self-describing; remove the override {next(iter(overrides))!r}')
        model = self_describing.build(file, config)
    elif method := find_method(file.tensors):
        model = method.load_file(file, overrides)
    else:
        try:
            return clip_checkpoint.load(opened, place, dtype, **overrides)
        except CheckpointError as error:
            raise _with_known_layouts(error, file) from error
    return model.to(place, dtype).eval()


def load_clip(weights: str | Path | CLIP, device: str | torch.device | None = None, **overrides: Any) -> CLIP:
    """A CLIP in evaluation mode; ``overrides`` are those of ``load``.

    Raises:
        InputError: weights of a segmenter or detector, which hold at most the text tower of a CLIP.
    """
    if isinstance(weights, CLIP):
        return weights.to(choose_device(device)).eval()
    model = load(weights, device, **overrides)
    if not isinstance(model, CLIP):
        raise InputError(
            f'{weights} ({type(model).__name__}) is not a full CLIP checkpoint: '
            'give weights with an image tower and a text tower'
        )
    return model


def load_segmenter(
    weights: str | Path | CLIP | SegmentationModel,
    method: str | None = None,
    device: str | torch.device | None = None,
    *,
    options: SegmentationOptions | None = None,
    method_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> SegmentationModel:
    """A segmenter from any weights: a trained one as it is, a plain CLIP by a training-free method.

    Args:
        weights: as ``load`` takes them, or a model.
        method: name of a training-free method (``list_methods('segmentation', any_clip=True)``); for plain
            CLIP weights only.
        device: where the model goes; None means a GPU if there is one.
        options: settings that every segmenter has; the method's own by default.
        method_options: settings of this method, see ``get_method(name).options``.
        overrides: as in ``load``.

    Raises:
        InputError: a method for weights that were trained to segment, an option that the method does not
            have, or weights of a detector.
    """
    model = load(weights, device, **overrides) if isinstance(weights, str | Path) else weights
    entry, given = _segmentation_method(model, method, weights), dict(method_options or {})
    if isinstance(model, SegmentationModel):
        for name in given:
            raise InputError(f'a trained {type(model).__name__} has no method options; remove {name!r}')
    else:
        assert entry is not None
        entry.check_options(given)
        model = entry.part('build')(model, entry.name, given)
    model.configure(options or SegmentationOptions())
    return model.to(choose_device(device)).eval()


def load_detector(
    weights: str | Path | CLIP,
    method: str | None = None,
    device: str | torch.device | None = None,
    *,
    method_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> nn.Module:
    """A detector from its weights: what training exported, an official file, or a plain CLIP by a method.

    Args:
        weights: as ``load`` takes them, or a CLIP.
        method: name of a detection method that works on any CLIP; for plain CLIP weights only.
        device: where the model goes; None means a GPU if there is one.
        method_options: settings of this method, see ``get_method(name).options``.
        overrides: as in ``load``.

    Raises:
        InputError: weights of something else, a method for a trained detector, or as ``load``.
    """
    model = load(weights, device, **overrides) if isinstance(weights, str | Path) else weights
    entry = method_of(model)
    if entry is None and isinstance(model, CLIP):
        entry = get_method(method, 'detection') if method else default_method('detection')
        given = dict(method_options or {})
        entry.check_options(given)
        model = entry.part('build')(model, entry.name, given).to(choose_device(device)).eval()
    elif method and (entry is None or method != entry.name):
        raise InputError(f'method {method!r} applies to plain CLIP weights only: remove method')
    elif method_options:
        raise InputError(f'a trained detector has no method options; remove {next(iter(method_options))!r}')
    return as_detector(model, weights)


def load_embedder(
    model: Any,
    embedder: Embedder | None = None,
    templates: Templates | None = None,
    cache: bool = True,
) -> ClassEmbedder:
    """What turns class names into embeddings for a model.

    Args:
        model: a CLIP, or a model with a text tower as ``model.clip``.
        embedder: an object with ``embed(vocabulary)``, or a file: stored embeddings (``clipdense embed``), or
            weights of a method that is a source of class embeddings.  None means prompts through the text
            tower.
        templates: prompt templates, the model's own by default.
        cache: whether embeddings are kept on disk.

    Raises:
        InputError: a file of something else, or a model without a text tower and no embedder.
    """
    kept: Literal['default'] | None = 'default' if cache else None
    if not isinstance(embedder, str | Path):
        return class_embedder(model, embedder, templates, kept)
    file = read_weights(embedder)
    method = find_method(file.tensors)
    if method is not None and method.embedder is not None:
        return method.part('embedder')(file, class_embedder(model, None, templates, kept))
    if method is not None:
        raise InputError(f'{embedder} has weights of {method.name}, which are not class embeddings')
    return StoredEmbeddings(embedder)


def load_trained_detector(
    config: str | Path | Config,
    weights: str | Path,
    device: str | torch.device | None = None,
    with_clip: bool = True,
) -> nn.Module:
    """A detector as a config describes it, with the weights that training left.

    Args:
        config, weights, device: see ``load_trained``; ``test_dataloader`` says what is done to images.
        with_clip: whether to load the CLIP of the config, whose text tower embeds class names.

    Raises:
        InputError: the config of something else, or one that has no such CLIP.
        CheckpointError: weights that do not fit.
    """
    cfg = load_config(config)
    part = cfg.get('model') or {}
    entry = method_of(part_class(part))
    if entry is None or entry.task != 'detection':
        raise InputError(f'{config} is not the config of a detector')
    if with_clip and part.get('clip') is None:
        raise InputError(f'{config} has no model.clip: give clip, the CLIP that the detector learned from')
    if not with_clip:
        part['clip'] = None
    return as_detector(load_trained(cfg, weights, device), config)


def as_detector(model: Any, source: object) -> nn.Module:
    """The model, if it is a detector.

    Raises:
        InputError: it is something else, or its weights are not finite.
    """
    entry = method_of(model)
    ready = all(hasattr(model, name) for name in ('predict', 'set_vocabulary', 'rules'))
    if not ready and entry is not None and entry.task == 'detection' and entry.build is not None:
        model = entry.part('build')(model, entry.name, {})
    elif not ready:
        names = ', '.join(one.name for one in list_methods('detection'))
        raise InputError(
            f'{source} ({type(model).__name__}) is not a detector: give weights that training a detector '
            f'exported (methods: {names})'
        )
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise InputError(f'{source} has numbers that are not finite: use an earlier checkpoint')
    return model


def load_trained(
    config: str | Path | Config,
    weights: str | Path,
    device: str | torch.device | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    expected: type | None = None,
) -> Any:
    """A segmenter or detector as a config describes it, with the weights that training left.

    Args:
        config: a file, or the name of a config.
        weights: a checkpoint whose names and shapes fit; for a training-free model those of its CLIP.
        device: where the model goes; None means a GPU if there is one.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.
        expected: refuse configs of other classes before anything is built.

    Raises:
        InputError: a config without a model, or of another one than ``expected``.
        CheckpointError: weights that do not fit.
    """
    cfg = load_config(config, options)
    part = cfg.get('model') or {}
    kind = part_class(part)
    if kind is None:
        raise InputError(f'{config} does not describe a model')
    if expected is not None and not (isinstance(kind, type) and issubclass(kind, expected)):
        wanted = expected.__name__
        raise InputError(f'{config} describes a {kind.__name__}, which is not a {wanted}')
    argument = getattr(kind, 'weights_argument', None)
    if argument:
        part[argument] = str(weights)
    model = MODELS.build(part)
    if not argument:
        tensors = self_describing.own_tensors(model, read_weights(weights).tensors)
        load_strict(model, tensors, weights)
    if hasattr(model, 'apply_portable_config'):  # what the config says outside of ``model``
        model.apply_portable_config(model.portable_config(cfg))
    return model.to(choose_device(device)).eval()


def method_of(model: Any) -> Method | None:
    """The entry of a model in the table of methods; None for a plain CLIP and models that are not there."""
    name = getattr(model, 'method', '')
    return get_method(name) if name else None


def as_vocabulary(class_names: ClassNames) -> Vocabulary:
    """A vocabulary as it is, or made from a list of names; a string is read as the command line reads it.

    Raises:
        InputError: another type, or names that ``Vocabulary`` refuses.
    """
    if isinstance(class_names, Vocabulary):
        return class_names
    if isinstance(class_names, str):
        return Vocabulary.parse(class_names)
    if not isinstance(class_names, list | tuple):
        kind = type(class_names).__name__
        raise InputError(f"class names must be a list of strings or one text such as 'cat, dog', not {kind}")
    return Vocabulary(tuple(class_names))


def _segmentation_method(model: Any, asked: str | None, source: object) -> Method | None:
    """Which entry of the table segments with this model.

    Raises:
        InputError: a model that cannot segment, or a method for one that was trained to.
    """
    entry = method_of(model)
    if entry is None and isinstance(model, CLIP):
        return get_method(asked, 'segmentation') if asked else default_method('segmentation')
    if not isinstance(model, CLIP | SegmentationModel) or (entry and entry.task != 'segmentation'):
        raise InputError(
            f'{source} ({type(model).__name__}) cannot segment: give weights of a CLIP or of a segmenter'
        )
    own = entry.name if entry else type(model).__name__
    if asked and asked != own:
        raise InputError(
            f'method {asked!r} applies to plain CLIP weights only; {source} is a trained {own}: remove method'
        )
    return entry


def _with_known_layouts(error: CheckpointError, file: WeightsFile) -> CheckpointError:
    """Adds which layouts are read, where none was recognized."""
    if 'layout' not in str(error):
        return error
    known = [method.layout for method in list_methods() if method.layout]
    return CheckpointError(f'{error}; read besides CLIP: {", ".join(known)}')
