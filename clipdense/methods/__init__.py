"""The table of methods: each folder here, or in another installed package, describes itself.

A method is a folder with a ``method.py`` that holds ``METHOD`` (or ``METHODS``, several of one folder) and
does not import torch.  Folders of this package are found by listing it; other packages name their ``METHOD``
in the entry-point group ``clipdense.methods``.  Loading, building, converting and the command line read this
table, and none of them names a method.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from clipdense.utils.errors import CheckpointError, InputError, nearest, one_line, refuse_unknown

__all__ = ['Method', 'Option', 'Task', 'find_method', 'get_method', 'list_methods']

GROUP = 'clipdense.methods'
Task = Literal['classification', 'segmentation', 'detection', 'grounding', 'captioning', 'pre-training']


@dataclass(frozen=True)
class Option:
    """A setting of a method, as the command line and Python take it.

    Args:
        name: of the setting.
        default: its value if it is not given; values must be of the same kind.
        help: one line.
        required: whether the method needs it to be given.
    """

    name: str
    default: Any
    help: str
    required: bool = False


@dataclass(frozen=True)
class Method:
    """What a method is, and where its parts are.

    Parts are dotted paths, ``'package.module:function'``, imported when used.

    Args:
        name: as the command line has it, unique.
        task: what it answers.
        summary: one line.
        learns_from: what it is trained on; empty for a training-free method.
        paper: where it was published.
        recognize: names of tensors -> whether a weights file has this method's own layout.
        layout: name of that layout for messages, such as 'GroupViT (NVlabs, Hugging Face)'.
        load: ``(file, **overrides) -> model``, for files that ``recognize`` accepts.
        build: ``(model, name, options) -> SegmentationModel`` or detector, for the method of this name.  The
            model is what ``load`` gave, or a CLIP for training-free methods.  Not needed if the model is
            already one.
        export: ``(model, destination) -> Path`` by the name of the layout that it writes.
        graph: ``(model) -> clip.graphs.Graph``, what ``clipdense export`` writes of the model of ``build`` or
            ``load``.
        no_graph: why it has no graph, one line that ends the sentence 'NAME cannot be exported: '.
        explain: ``(segmenter model, image) -> list of maps``; each has ``draw(image, opacity)`` and ``name``.
        embedder: ``(file, prompts) -> ClassEmbedder``, for files of class embeddings or learned prompts that
            ``recognize`` accepts; ``prompts`` is the embedder that the model would use otherwise.
        adapter: ``(file) -> Adapter``, for files of adapters that ``recognize`` accepts.
        adapt: ``(model, embedder, labels, options) -> Adapter``, which makes an adapter from ``LabeledData``.
        commands: ``typer`` functions by the name of the command, shown as ``clipdense embed NAME``.  Their
            module must not import anything heavy.
        scorers: ``(model) -> data.image_text.filters.PairScorer`` by the name that ``clipdense filter --by``
            takes; the model is what ``clipdense.load`` gave.
        starters: ``(start: data.starting.Start) -> str``, the text of a config for data of one's own, by the
            name that ``clipdense init NAME`` takes.
        starts_alone: its starters need no CLIP: ``start.weights`` is None unless one is given.
        tests: ``(predictor, data: evaluation.own_data.OwnData) -> metrics``, such as those of
            ``evaluation.own_data``, by the kind of data (``data.dataset_parts.Kind``) that
            ``clipdense test WEIGHTS --data`` scores its models on; for a captioning model the model takes the
            place of the predictor.
        writes: which of its weights write texts about images, for messages, by what they write: 'captions' or
            'answers'.
        options: what can be set.
        any_clip: works on the weights of any CLIP.
        models_of: name of another method, whose models it works on.
        towers: kinds of image towers that it works on (the ``kind`` of the tower's class), for methods that
            work on any CLIP.
        default: of the methods that work on any CLIP, the one that is used for its task if none is named.

    Raises:
        InputError: an unknown task, or two options of one name.
    """

    name: str
    task: Task
    summary: str
    learns_from: str = ''
    paper: str = ''
    recognize: Callable[[Iterable[str]], bool] | None = None
    layout: str = ''
    load: str | None = None
    build: str | None = None
    export: Mapping[str, str] = field(default_factory=dict)
    graph: str | None = None
    no_graph: str = ''
    explain: str | None = None
    embedder: str | None = None
    adapter: str | None = None
    adapt: str | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    scorers: Mapping[str, str] = field(default_factory=dict)
    starters: Mapping[str, str] = field(default_factory=dict)
    starts_alone: bool = False
    tests: Mapping[str, str] = field(default_factory=dict)
    writes: Mapping[str, str] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    any_clip: bool = False
    models_of: str = ''
    towers: tuple[str, ...] = ('vit', 'resnet', 'timm')
    default: bool = False

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise InputError(f'method {self.name!r}: unknown task {self.task!r}; one of {get_args(Task)}')
        names = [option.name for option in self.options]
        if len(set(names)) != len(names):
            raise InputError(f'method {self.name!r} has two options of the same name: {names}')

    @property
    def required(self) -> frozenset[str]:
        """Names of the options that must be given."""
        return frozenset(option.name for option in self.options if option.required)

    def part(self, name: str, table: str | None = None) -> Callable[..., Any]:
        """Import one of its parts: 'load', 'build', 'adapter', ...

        Args:
            name: of the part.
            table: the field that lists it by name: 'export', 'commands', 'scorers', 'starters' or 'tests'.

        Raises:
            InputError: the method has no such part, or it cannot be imported.
        """
        path = getattr(self, table).get(name) if table else getattr(self, name, None)
        if not isinstance(path, str):
            raise InputError(f'method {self.name!r} has no {name!r}')
        module, _, function = path.partition(':')
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise InputError(f'method {self.name!r}: {path} cannot be imported ({error})') from error

    def load_file(self, file: Any, overrides: Mapping[str, Any]) -> Any:
        """The model of a weights file in this method's layout.

        Raises:
            CheckpointError: naming the file: no model, tensors that are missing or damaged, or as the loader.
            InputError: an override that its loader does not have, or as the loader.
        """
        if self.load is None:
            option = ' with --adapter (in Python adapter=...)' if self.adapter else ''
            raise CheckpointError(
                f'{file.path} has {self.layout or self.name}, not a model: give the weights of its model, '
                f'and this file{option} next to them'
            )
        loader = self.part('load')
        known = [
            one.name
            for one in list(inspect.signature(loader).parameters.values())[1:]
            if one.kind is not one.VAR_KEYWORD
        ]
        if known:
            refuse_unknown(overrides, known, f'{self.name} weights have no override')
        try:
            return loader(file, **overrides)
        except InputError as error:
            if not isinstance(error, CheckpointError) or str(file.path) in str(error):
                raise
            raise CheckpointError(f'{file.path}: {error}') from error
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'{file.path}: its tensors do not fit {self.name}: {one_line(error)[:200]}'
            ) from error

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Refuse options that the method does not have, switches that are no bool and texts for numbers.

        Raises:
            InputError: naming the options that it has.
        """
        known = {option.name: option.default for option in self.options}
        for name in given:
            if name not in known:
                have = ', '.join(f'{key}={value!r}' for key, value in known.items()) or 'none'
                raise InputError(
                    f'method {self.name!r} has no option {name!r}; its options: {have}.{nearest(name, known)}'
                )
            if isinstance(known[name], bool) and not isinstance(given[name], bool):
                raise InputError(f'{name} must be true or false, got {given[name]!r:.60}')
            if isinstance(known[name], int | float) and isinstance(given[name], str):
                raise InputError(f'{name} of {self.name} must be a number, got {given[name]!r:.60}')


def list_methods(task: str | None = None, any_clip: bool | None = None) -> list[Method]:
    """All methods, in the order of their names.

    Args:
        task: only those of this task.
        any_clip: only those that do (or do not) work on any CLIP.

    Raises:
        InputError: an unknown task.
    """
    if task is not None:
        refuse_unknown([task], get_args(Task), 'unknown task')
    found = [method for _, method in sorted(_table().items())]
    return [method for method in found if task in (None, method.task) and any_clip in (None, method.any_clip)]


def get_method(name: str, task: str | None = None) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none, or it is for another task.
    """
    method = _table().get(name)
    if method is None or task not in (None, method.task):
        known = [one.name for one in list_methods(task)]
        kind = f'{task} ' if task else ''
        what = f'is for {method.task}' if method else 'is unknown'
        raise InputError(f'method {name!r} {what}; {kind}methods: {", ".join(known)}.{nearest(name, known)}')
    return method


def adapting_method(name: str) -> Method:
    """The method of this name that makes adapters.

    Raises:
        InputError: there is none, or it makes no adapters.
    """
    method = get_method(name)
    if method.adapt is None:
        able = ', '.join(one.name for one in list_methods() if one.adapt)
        raise InputError(f'method {name!r} makes no adapter; methods that do: {able}')
    return method


def default_method(task: str) -> Method:
    """What is used on a plain CLIP if no method is named.

    Raises:
        InputError: no method of this task works on a plain CLIP.
    """
    found = [method for method in list_methods(task, any_clip=True) if method.default]
    if not found:
        names = ', '.join(method.name for method in list_methods(task)) or 'none is installed'
        raise InputError(f'a plain CLIP has no method for {task}: give weights of a trained one ({names})')
    return found[0]


def find_method(keys: Iterable[str]) -> Method | None:
    """The method whose layout these tensor names have; None for a CLIP's or unknown ones."""
    keys = list(keys)
    return next((one for one in list_methods() if one.recognize is not None and one.recognize(keys)), None)


def method_packages() -> tuple[str, ...]:
    """Top-level packages that bring methods; a self-describing file may name parts of these."""
    return ('clipdense', *sorted({entry.value.split(':')[0].split('.')[0] for entry in _entries()}))


def reload_methods() -> None:
    """Look for methods anew, after a package was installed or ``sys.path`` changed."""
    importlib.invalidate_caches()
    _table.cache_clear()


@cache
def _table() -> dict[str, Method]:
    table: dict[str, Method] = {}
    for file in sorted(Path(__file__).parent.glob('*/method.py')):
        for method in _described(_read_page(file)):
            _add(table, method, str(file))
    for entry in _entries():
        try:
            described = entry.load()
        except Exception as error:  # a package of somebody else: the others stay usable
            warnings.warn(f'the methods of {entry.value!r} cannot be loaded and are left out: {error!r}')
            continue
        for method in _described(described):
            _add(table, method, entry.value)
    return table


def _entries() -> list[Any]:
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.value)


def _read_page(file: Path) -> Any:
    """Run ``method.py`` without the ``__init__`` of its folder, which may import much."""
    spec = importlib.util.spec_from_file_location(f'{__name__}.{file.parent.name}.method', file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _described(page: Any) -> tuple[Method, ...]:
    """The methods of a module, or what an entry point names."""
    if isinstance(page, Method):
        return (page,)
    if not isinstance(page, list | tuple):
        page = getattr(page, 'METHODS', None) or (page.METHOD,)
    return tuple(page)


def _add(table: dict[str, Method], method: Method, source: str) -> None:
    if method.name in table:
        raise InputError(f'two methods are called {method.name!r}; the second is described in {source}')
    table[method.name] = method
