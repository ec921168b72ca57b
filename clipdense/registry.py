"""Registries, children of MMEngine's, and functions that build objects from configs.

Configs name classes themselves (``type=CLIP``); names as strings work as well, under the scope ``clipdense``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from torch import nn

from clipdense.utils.arguments import check_names
from clipdense.utils.errors import InputError


class _Registry(Registry):
    """Refuses unknown options, and notes the innermost part that could not be built on the error, for
    ``config.named_parts``."""

    def build(self, cfg: dict, *args: Any, **kwargs: Any) -> Any:
        """As in MMEngine.

        Raises:
            InputError: the class has no such option.
        """
        with noted(cfg):
            _check_options(cfg, self)
            return super().build(cfg, *args, **kwargs)


@contextmanager
def noted(part: Any) -> Iterator[None]:
    """Note a part that cannot be built on the error, unless a part inside it has been noted."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, 'part') and isinstance(part, dict) and 'type' in part:
            error.part = part  # type: ignore[attr-defined]
        raise


def _child(name: str, parent: Registry | None, locations: list[str], **options: Any) -> Registry:
    return _Registry(name, parent=parent, scope='clipdense', locations=locations, **options)


def _check_options(cfg: Any, registry: Registry) -> None:
    """Check that the entries of a config are arguments of its class, where there is one."""
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    found = registry.get(kind) if isinstance(kind, str) else kind
    if inspect.isclass(found):
        check_names(found, [name for name in cfg if name not in ('type', '_scope_', 'runner')])


# Modules that register something: imported when a config names a part by a string.
_DATA = [
    f'clipdense.data.{name}'
    for name in (
        'augment',
        'classification.datasets',
        'classification.few_shot',
        'classification.torchvision_sets',
        'image_text.datasets',
        'image_text.noun_prompts',
        'image_text.shards',
        'scenes',
        'segmentation.crops',
        'segmentation.datasets',
        'segmentation.few_shot',
        'segmentation.published',
        'transforms',
    )
]
_EVALUATION = [
    f'clipdense.evaluation.{name}'
    for name in ('base_to_new', 'classification', 'fine_tuning', 'mean_iou', 'probing', 'retrieval')
]

MODELS = _child(
    'model',
    mmengine_registry.MODELS,
    [
        *(f'clipdense.clip.{name}' for name in ('model', 'long_texts', 'pairs')),
        'clipdense.data.preprocessor',
        'clipdense.methods',
    ],
)
DATASETS = _child('dataset', mmengine_registry.DATASETS, _DATA)
TRANSFORMS = _child('transform', mmengine_registry.TRANSFORMS, _DATA)
METRICS = _child('metric', mmengine_registry.METRICS, _EVALUATION)
HOOKS = _child('hook', mmengine_registry.HOOKS, ['clipdense.engine'])
RUNNERS = _child('runner', mmengine_registry.RUNNERS, ['clipdense.engine'])
LOOPS = _child('loop', mmengine_registry.LOOPS, ['clipdense.engine'])
EVALUATIONS = _child('evaluation', None, _EVALUATION)
CLASS_EMBEDDERS = _child('class embedder', None, ['clipdense.clip.class_embeddings'])


def build(part: Any, registry: Registry) -> Any:
    """Return ``part`` itself, or build it where it is a config (a dict with ``type``)."""
    return registry.build(part) if isinstance(part, dict) else part


def build_module(part: nn.Module | dict) -> Any:
    """Accept a module or its config, so that code and configs use one constructor."""
    return build(part, MODELS)


def entries(parts: Mapping[str, Any] | Sequence[Any], where: str) -> list[Any]:
    """The parts of a named collection, in its order; a part that is None is left out.

    Configs give such parts names (``dict(evaluation=dict(type=EvaluationHook), ...)``), so that one of them
    can be changed or removed on the command line.  A plain sequence works as well: it is what MMEngine and
    Python code pass.

    Args:
        parts: objects or configs, by name or in a sequence.
        where: what the collection is called, for the message.

    Raises:
        InputError: a single config in place of a collection.
    """
    if isinstance(parts, Mapping):
        if 'type' in parts:
            raise InputError(
                f'{where} holds a single config; give it a name: {where}=dict(NAME=dict(type=...))'
            )
        parts = list(parts.values())
    return [part for part in parts if part is not None]
