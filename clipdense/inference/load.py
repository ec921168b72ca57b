"""Load weights by name or file, and build segmenters and detectors from them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from torch import nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip import self_describing
from clipdense.clip.checkpoint import not_full
from clipdense.clip.class_embeddings import ClassEmbedder, StoredEmbeddings, class_embedder
from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP, MAX_LOGIT_SCALE
from clipdense.config import check_parts, config_name, load_config, named_parts, part_class
from clipdense.methods import Method, default_method, find_method, get_method, list_methods, method_packages
from clipdense.registry import MODELS
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.devices import choose_device, choose_dtype
from clipdense.utils.errors import CheckpointError, InputError, nearest
from clipdense.vocab.names import doubts
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import WeightsFile, read_weights
from clipdense.weights.strict import load_strict
from clipdense.weights.values import check_cast

Embedder = ClassEmbedder | str | Path
_WRITE_IT = 'use a file written by `clipdense embed`'
ClassNames = Vocabulary | str | list[str] | tuple[str, ...]

_ARGUMENTS = (
    'device', 'dtype', 'method', 'options', 'method_options', 'templates', 'cache', 'embedder', 'adapter',
)  # fmt: skip


def load(
    weights: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **overrides: Any,
) -> Any:
    """Load a model in evaluation mode.

    The class of the model depends on the file: a ``CLIP``, one tower of it (``FrozenImage``,
    ``FrozenText``), or the model of a method in ``list_methods()`` (another kind of CLIP, a
    ``SegmentationModel``, a detector).

    Args:
        weights: a name from ``clipdense models`` such as 'ViT-B-16/openai', a file or folder in any official
            format, a file exported after training, or a training checkpoint.
        device: device of the model; None means the GPU if there is one.
        dtype: data type of the parameters: ``torch.float32``, which is the default, whatever the file
            stores, ``float16``, ``bfloat16`` or ``float64``; detectors run in ``float32`` only.
        overrides: settings that the file does not record, such as ``activation='quick_gelu'`` or
            ``num_heads=8``.

    Raises:
        CheckpointError: a damaged or unsafe file, an unknown layout, missing or unexpected keys, wrong
            shapes, or a setting that must be passed as an override.
        InputError: an unknown name or override, a failed download, or a device that is not available.
    """
    _check_call(weights, overrides)
    place, kind = choose_device(device), choose_dtype(dtype)
    opened = clip_checkpoint.open_weights(weights)
    file, method = opened.file, None
    if config := self_describing.read_config(file, method_packages()):
        if overrides:
            raise InputError(f'{weights} is self-describing: remove the override {next(iter(overrides))!r}')
        model = self_describing.build(file, config)
    elif method := find_method(file.tensors):
        model = method.load_file(file, overrides)
    else:
        try:
            return clip_checkpoint.load_any(opened, place, kind, **overrides)
        except CheckpointError as error:
            raise _with_known_layouts(error, file) from error
    entry = method_of(model) or method
    if entry is not None and entry.task == 'detection' and kind != torch.float32:
        raise InputError(f'a detector runs in torch.float32 only, got dtype={kind}: leave out dtype')
    model = model.to(place, kind)
    check_cast(model.state_dict(), file.path, kind)
    return model.eval()


def load_clip(weights: str | Path | CLIP, device: str | torch.device | None = None, **overrides: Any) -> CLIP:
    """A CLIP in evaluation mode; ``overrides`` are those of ``load``.

    Raises:
        InputError: weights of a segmenter or detector, or of one tower.
    """
    return _load_clip(weights, device, (), overrides)


def load_image_clip(
    weights: str | Path | CLIP | FrozenImage, device: str | torch.device | None = None, **overrides: Any
) -> CLIP | FrozenImage:
    """As ``load_clip``, also for weights with the image tower only.

    Warns:
        UserWarning: the weights do not record the factor on the cosines.
    """
    model = _load_clip(weights, device, (FrozenImage,), overrides)
    if isinstance(model, FrozenImage) and not model.scale_known:
        warnings.warn(
            f'{weights} records no logit_scale; assumed: {MAX_LOGIT_SCALE:g}, that of published CLIPs. '
            'Probabilities depend on it, the order of the classes does not'
        )
    return model


def load_text_clip(
    weights: str | Path | CLIP | FrozenText, device: str | torch.device | None = None, **overrides: Any
) -> CLIP | FrozenText:
    """As ``load_clip``, also for weights with the text tower only."""
    return _load_clip(weights, device, (FrozenText,), overrides)


def _load_clip(weights: Any, device: Any, halves: tuple[type, ...], overrides: Mapping[str, Any]) -> Any:
    model: Any = weights
    if isinstance(weights, (CLIP, *halves)):
        return model.to(choose_device(device)).eval()
    model = load(weights, device, **overrides)
    if isinstance(model, FrozenImage | FrozenText) and not isinstance(model, halves):
        raise not_full(weights, model.tower)
    if not isinstance(model, (CLIP, *halves)):
        raise InputError(
            f'{weights} ({type(model).__name__}) is not a full CLIP checkpoint: '
            'use weights with an image tower and a text tower'
        )
    return model


def load_segmenter(
    weights: str | Path | CLIP | FrozenImage | SegmentationModel,
    method: str | None = None,
    device: str | torch.device | None = None,
    *,
    options: SegmentationOptions | None = None,
    method_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> SegmentationModel:
    """A segmenter from any weights: a trained segmenter, or a plain CLIP with a training-free method.

    Args:
        weights: as ``load`` takes them, or a model.  The image tower of a CLIP suffices with stored class
            embeddings.
        method: name of a training-free method (``list_methods('segmentation', any_clip=True)``); for plain
            CLIP weights only.
        device: device of the model; None means the GPU if there is one.
        options: settings that every segmenter has; the method's own by default.
        method_options: settings of this method, see ``get_method(name).options``.
        overrides: as in ``load``.

    Raises:
        InputError: a method or method options for a trained segmenter, an unknown option, or weights of a
            detector.
    """
    model = load(weights, device, **overrides) if isinstance(weights, str | Path) else weights
    entry, given = _segmentation_method(model, method, weights), dict(method_options or {})
    if isinstance(model, SegmentationModel):
        for name in given:
            raise InputError(f'a trained {type(model).__name__} has no method options: remove {name!r}')
    else:
        assert entry is not None
        entry.check_options(given)
        model = entry.part('build')(model, entry.name, given)
    if not isinstance(options, SegmentationOptions | None):
        raise InputError(f'options must be SegmentationOptions(...), got {type(options).__name__}')
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
    """A detector from an exported or official file, or from a plain CLIP with a detection method.

    Args:
        weights: as ``load`` takes them, or a CLIP.
        method: name of a detection method that works on any CLIP; for plain CLIP weights only.
        device: device of the model; None means the GPU if there is one.
        method_options: settings of this method, see ``get_method(name).options``.
        overrides: as in ``load``.

    Raises:
        InputError: weights of another kind of model, a method for a trained detector, or as ``load``.
    """
    model = load(weights, device, **overrides) if isinstance(weights, str | Path) else weights
    entry, given = method_of(model), dict(method_options or {})
    if isinstance(model, FrozenImage | FrozenText):
        raise not_full(weights, model.tower)
    if entry is None and isinstance(model, CLIP):
        entry = _clip_method(method, 'detection', weights)
        entry.check_options(given)
        model = entry.part('build')(model, entry.name, given).to(choose_device(device)).eval()
        given = {}
    elif method and (entry is None or method != entry.name):
        raise InputError(f'method {method!r} applies to plain CLIP weights only: remove it')
    return as_detector(model, weights, given)


def load_embedder(
    model: Any,
    embedder: Embedder | None = None,
    templates: Templates | None = None,
    cache: bool = True,
) -> ClassEmbedder:
    """The ``ClassEmbedder`` for a model.

    Args:
        model: a CLIP, or a model with a text tower as ``model.clip``.
        embedder: an object with ``embed(vocabulary)``, or a file: stored embeddings (``clipdense embed``), or
            weights of a method that computes class embeddings.  None means prompts and the text tower.
        templates: prompt templates; the model's own by default.
        cache: whether to cache embeddings on disk.

    Raises:
        InputError: a file without class embeddings, templates together with stored embeddings, or a model
            without a text tower and no embedder.
    """
    kept: Literal['default'] | None = 'default' if cache else None
    if not isinstance(embedder, str | Path):
        found = class_embedder(model, embedder, templates, kept)
        if templates is not None and not getattr(found, 'uses_templates', True):
            raise InputError(
                f'templates have no effect: class names are embedded by the {type(found).__name__} of the '
                f'{type(model).__name__}; remove them'
            )
        return found
    file = read_weights(embedder)
    method = find_method(file.tensors)
    if method is not None and method.embedder is not None:
        found = method.part('embedder')(file, class_embedder(model, None, templates, kept))
        if templates is not None and not getattr(found, 'uses_templates', True):
            raise InputError(
                f'templates have no effect on the learned prompts of {embedder}: give one of the two'
            )
        return found
    if method is not None:
        raise InputError(
            f'{embedder} is a file of {method.name}, not class embeddings: '
            + ('give it with --adapter (in Python adapter=...)' if method.adapter else _WRITE_IT)
        )
    if templates is not None:
        raise InputError(
            f'templates have no effect on the stored embeddings of {embedder}: give one of the two'
        )
    return StoredEmbeddings(embedder)


def load_trained_detector(
    config: str | Path | Config,
    weights: str | Path,
    device: str | torch.device | None = None,
    with_clip: bool = True,
) -> nn.Module:
    """A detector from its training config and a checkpoint.

    Args:
        config, weights, device: see ``load_trained``; ``test_dataloader`` specifies the image transforms.
        with_clip: whether to load the CLIP of the config, whose text tower embeds class names.

    Raises:
        InputError: not the config of a detector, or a config without a CLIP.
        CheckpointError: weights that do not match the model.
    """
    cfg = load_config(config)
    part = cfg.get('model') or {}
    entry = method_of(part_class(part))
    if entry is None or entry.task != 'detection':
        raise InputError(f'{config_name(config)} is not the config of a detector')
    if with_clip and part.get('clip') is None:
        raise InputError(f'{config_name(config)} has no model.clip: pass clip=..., the CLIP of the training')
    if not with_clip:
        part['clip'] = None
    return as_detector(load_trained(cfg, weights, device), config_name(config))


def as_detector(model: Any, source: object, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The model, if it is a detector.

    Args:
        model: a detector, or what a detection method builds one of.
        source: for messages.
        options: of the method, see ``get_method(name).options``.

    Raises:
        InputError: it is not a detector, or an option that it does not have.
    """
    entry, given = method_of(model), dict(options or {})
    ready = all(hasattr(model, name) for name in ('predict', 'set_vocabulary', 'rules'))
    if not ready and entry is not None and entry.task == 'detection' and entry.build is not None:
        entry.check_options(given)
        return entry.part('build')(model, entry.name, given)
    if not ready:
        names = ', '.join(one.name for one in list_methods('detection'))
        raise InputError(
            f'{source} ({type(model).__name__}) is not a detector: use weights of a trained detector '
            f'(methods: {names})'
        )
    if given:
        raise InputError(
            f'a {type(model).__name__} is built already: remove the option {next(iter(given))!r}'
        )
    return model


def load_trained(
    config: str | Path | Config,
    weights: str | Path,
    device: str | torch.device | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    expected: type | None = None,
) -> Any:
    """A segmenter or detector from its training config and a checkpoint.

    Args:
        config: a file, or the name of a config.
        weights: a checkpoint with matching names and shapes; for a training-free model those of its CLIP.
        device: device of the model; None means the GPU if there is one.
        options: ``['key.of.entry=value', ...]`` or a dict of config settings to override.
        expected: the required class of the model, checked before it is built.

    Raises:
        InputError: a config without a model, or with a model of another class than ``expected``.
        CheckpointError: weights that do not match the model.
    """
    cfg = load_config(config, options)
    part = cfg.get('model') or {}
    kind = part_class(part)
    if kind is None:
        raise InputError(f'{config_name(config)} has no model: add an entry model = dict(type=...)')
    if expected is not None and not (isinstance(kind, type) and issubclass(kind, expected)):
        wanted = expected.__name__
        raise InputError(
            f'the model of {config_name(config)} is a {kind.__name__}: use the config of a {wanted}'
        )
    argument = getattr(kind, 'weights_argument', None)
    if argument:
        part[argument] = str(weights)
    check_parts(part, 'model')
    with named_parts({'model': part}):
        model = MODELS.build(part)
    own: dict[str, Any] = {}
    if not argument:
        file = read_weights(weights)
        load_strict(model, self_describing.own_tensors(model, file.tensors), weights)
        with suppress(CheckpointError):  # the config that is given counts
            own = self_describing.read_config(file, method_packages()) or {}
    if hasattr(model, 'apply_portable_config'):  # settings of the config outside of ``model``
        model.apply_portable_config({**own, **model.portable_config(cfg)})
    return model.to(choose_device(device)).eval()


def method_of(model: Any) -> Method | None:
    """The entry of a model in the table of methods; None for a plain CLIP and other models."""
    name = getattr(model, 'method', '')
    return get_method(name) if name else None


def methods_on(entry: Method, task: str) -> list[Method]:
    """The methods for a task that work on the models of another method."""
    return [one for one in list_methods(task) if one.models_of == entry.name]


def _chosen(methods: list[Method], asked: str | None, source: object) -> Method:
    """The method that is asked for, or the first.

    Raises:
        InputError: another one.
    """
    names = [one.name for one in methods]
    if asked is None:
        return methods[0]
    if asked not in names:
        kind = source if isinstance(source, str | Path) else type(source).__name__
        raise InputError(f'method {asked!r} does not work on {kind}; methods that do: {", ".join(names)}')
    return methods[names.index(asked)]


def as_vocabulary(class_names: ClassNames) -> Vocabulary:
    """A vocabulary from a ``Vocabulary``, a list of names, or a string such as 'cat, dog'.

    Raises:
        InputError: another type, or invalid names (see ``Vocabulary``).
    """
    if isinstance(class_names, Vocabulary):
        return class_names
    if isinstance(class_names, str):
        return Vocabulary.parse(class_names)
    if not isinstance(class_names, list | tuple):
        kind = type(class_names).__name__
        raise InputError(f"class names must be a list of strings, or a string such as 'cat, dog', got {kind}")
    vocabulary = Vocabulary(tuple(class_names))
    if len(vocabulary) == 1:
        doubt = next(doubts(vocabulary.class_names, commas=False), None)
        if doubt is None and ',' in vocabulary.class_names[0]:
            doubt = f'{vocabulary.class_names[0]!r} is read as one class name; a list has one name an item'
        if doubt is not None:
            warnings.warn(doubt, stacklevel=4)
    return vocabulary


def _clip_method(name: str | None, task: str, source: object) -> Method:
    """The method that is applied to plain CLIP weights.

    Raises:
        InputError: an unknown method, or one that needs weights of its own.
    """
    if name is None:
        return default_method(task)
    known = [method.name for method in list_methods(task, any_clip=True)]
    usable = f'methods for any CLIP: {", ".join(known)}' if known else f'no {task} method works on any CLIP'
    every = [method.name for method in list_methods()]
    if name not in every:
        raise InputError(f'method {name!r} is unknown; {usable}.{nearest(str(name), known)}')
    if name not in known:
        kind = source if isinstance(source, str | Path) else type(source).__name__
        raise InputError(
            f'method {name!r} needs weights trained with it, and {kind} is a plain CLIP; {usable}'
        )
    return get_method(name, task)


def _check_call(weights: object, overrides: Mapping[str, Any]) -> None:
    """Refuse weights that are not a name or path, and misspelled arguments.

    Raises:
        InputError: naming the argument.
    """
    if not isinstance(weights, str | Path):
        raise InputError(
            f"weights must be a name such as 'ViT-B-16/openai' or a path, got {type(weights).__name__}"
        )
    if not str(weights).strip():
        raise InputError('the name of the weights is empty')
    if 'precision' in overrides:
        raise InputError(
            'load has no precision: its models compute in the type of their parameters (dtype=...) or in the '
            'torch.autocast around them; pass precision to Classifier, Segmenter or Detector'
        )
    for name in overrides:
        close = difflib.get_close_matches(name, _ARGUMENTS, n=1, cutoff=0.8)
        if close:
            raise InputError(f'unknown argument {name!r}. Did you mean {close[0]!r}?')


def _segmentation_method(model: Any, asked: str | None, source: object) -> Method | None:
    """The entry of the table of methods to segment with this model.

    Raises:
        InputError: a model that cannot segment, or a method for a trained segmenter.
    """
    entry = method_of(model)
    if entry is None and isinstance(model, CLIP | FrozenImage):
        return _clip_method(asked, 'segmentation', source)
    if isinstance(model, FrozenText):
        raise not_full(source, model.tower)
    if entry is not None and (fitting := methods_on(entry, 'segmentation')):
        return _chosen(fitting, asked, source)
    if not isinstance(model, CLIP | SegmentationModel) or (entry and entry.task != 'segmentation'):
        raise InputError(
            f'{source} ({type(model).__name__}) cannot segment: use weights of a CLIP or of a segmenter'
        )
    own = entry.name if entry else type(model).__name__
    if asked and asked != own:
        raise InputError(
            f'method {asked!r} applies to plain CLIP weights only; {source} is a trained {own}: '
            'remove the method'
        )
    return entry


def _with_known_layouts(error: CheckpointError, file: WeightsFile) -> CheckpointError:
    """Adds which layouts are read, where none was recognized."""
    if 'layout' not in str(error):
        return error
    known = [method.layout for method in list_methods() if method.layout]
    return CheckpointError(f'{error}; other supported layouts: {", ".join(known)}')
