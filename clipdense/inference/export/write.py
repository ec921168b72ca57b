"""``clipdense.export``: trace a part of a model, write it, and check the file against torch."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.class_embeddings import module_digest
from clipdense.clip.graphs import Graph
from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError, MissingPackage, WriteError, one_line
from clipdense.utils.files import explain_write_error
from clipdense.vocab.templates import get_templates

from .formats import quiet, runner, set_metadata, write
from .options import ExportOptions, check_call
from .parts import find_graph

_SMALLEST_TRACED = 2  # torch takes a size of 1 for a constant
FORMAT = 'clipdense graph 1'


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: of the file.
        part: that is in it.
        to: its format.
        differences: the largest difference to torch for each size that was checked, relative to the largest
            value (at least 1).
        metadata: as in the file.
    """

    path: Path
    part: str
    to: str
    differences: dict[str, float]
    metadata: dict[str, Any]

    def lines(self) -> list[str]:
        """What was written, for people."""
        size = self.path.stat().st_size
        data = self.path.with_name(f'{self.path.name}.data')
        size += data.stat().st_size if data.exists() else 0
        inputs = ', '.join(f'{name} {_shape(one)}' for name, one in self.metadata['inputs'].items())
        outputs = ', '.join(f'{name} {text}' for name, text in self.metadata['outputs'].items())
        worst = max(self.differences.values())
        found = [
            f'{self.path}: {self.part}, {self.to}, {self.metadata["precision"]}, {size / 1e6:.1f} MB',
            f'  inputs: {inputs}',
            f'  outputs: {outputs}',
            f'  largest difference to torch: {worst:.1e} (limit {self.metadata["tolerance"]:g})',
        ]
        found += [f'  {name}: a multiple of {one}' for name, one in self.metadata['multiples'].items()]
        found += [f'  fixed {name} = {value}' for name, value in self.metadata['fixed'].items()]
        if 'left_outside' in self.metadata:
            found.append(f'  left outside: {self.metadata["left_outside"]}')
        return found


def export(
    weights: Any,
    destination: str | Path,
    part: str | None = None,
    *,
    to: str | None = None,
    method: str | None = None,
    method_options: Mapping[str, Any] | None = None,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Exported:
    """Export a part of a model to a file that runs without clipdense.

    Class embeddings are an input of classifiers, segmenters and detectors, so that the file stays
    open-vocabulary; the graph normalizes them.  The file is compared with torch at two sizes before it takes
    its place; the difference is in its metadata.

    Args:
        weights: as ``load`` takes them, a model, or a ``Classifier``, ``Segmenter`` or ``Detector``.
        destination: the file; '.onnx' or '.pt2'.
        part: 'image' (tower), 'text' (tower), 'pixels' (pixel embeddings), 'classifier', 'segmenter' or
            'detector'; by default what the weights are for: of a plain CLIP the classifier, and the segmenter
            if ``method`` is given.
        to: 'onnx', 'pt2' (``torch.export``) or 'aoti' (AOTInductor: compiled for this kind of CPU); by
            default that of the suffix.
        method: training-free method, for the segmenter of a plain CLIP.
        method_options: settings of this method.
        options: precision, fixed size, opset and tolerance.
        overwrite: replace an existing file.
        overrides: settings that the weights do not record, as in ``load``.

    Raises:
        InputError: an argument that cannot be met, a graph that cannot be exported, or a larger difference to
            torch than the tolerance.
        MissingPackage: the format needs packages or a compiler that are not installed.
    """
    options = options or ExportOptions()
    if not isinstance(options, ExportOptions):
        raise InputError(f'options must be ExportOptions(...), got {type(options).__name__}')
    path, to = check_call(destination, part, to, overwrite, method)
    if not hasattr(torch.compiler, 'is_exporting'):
        raise MissingPackage(
            f'export needs torch 2.7 or newer, and this is {torch.__version__}: upgrade torch'
        )
    graph = fix_sizes(find_graph(weights, part, method, method_options, overrides), options.size)
    with torch.no_grad(), quiet():
        program = trace(graph, options)
        metadata = describe(graph, to, options)
        with _folder_beside(path) as folder:
            draft = Path(folder) / path.name
            _attempt(f'the {graph.part}', lambda: write(to, program, graph, draft, options.opset, metadata))
            differences = check(graph, to, draft, options)
            metadata['differences'] = differences
            if to == 'onnx':
                set_metadata(draft, metadata)
            _put_in_place(Path(folder), path)
    return Exported(path, graph.part, to, differences, metadata)


def fix_sizes(graph: Graph, size: tuple[int, int] | None) -> Graph:
    """The graph with (H, W) of its images fixed.

    Raises:
        InputError: a graph without images, or a size below a patch.
    """
    if size is None:
        return graph
    if 'height' not in graph.sizes:
        raise InputError(f'the part {graph.part} has no images: remove size')
    for name, side in zip(('height', 'width'), size, strict=True):
        least = graph.smallest.get(name, 1)
        if side < least:
            raise InputError(f'size {size[0]} x {size[1]}: each side must have at least {least} pixels')
        if side % graph.multiples.get(name, 1):
            raise InputError(
                f'size {size[0]} x {size[1]}: sides must be multiples of {graph.multiples[name]}'
            )
    sides = dict(zip(('height', 'width'), size, strict=True))
    why = 'as asked'
    return replace(graph, sizes={**graph.sizes, **sides}, fixed={**graph.fixed, **dict.fromkeys(sides, why)})


def trace(graph: Graph, options: ExportOptions) -> Any:
    """The program of ``torch.export``.

    Raises:
        InputError: the graph cannot be traced.
    """
    module = _in_precision(graph.module, options.precision)
    sizes = _traced_sizes(graph)
    dims = {name: _dimension(graph, name) for name in graph.sizes if name not in graph.fixed}
    shapes = tuple(
        {axis: dims[side] for axis, side in enumerate(one.shape) if side in dims}
        for one in graph.inputs.values()
    )
    inputs = graph.examples(sizes)
    return _attempt(
        f'the {graph.part}',
        lambda: torch.export.export(
            module,
            inputs,
            dynamic_shapes=(shapes,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        ),
        hint=''
        if 'height' in graph.fixed or 'height' not in sizes
        else '; a fixed size may help: --size 448x448',
    )


def _dimension(graph: Graph, name: str) -> Any:
    """The symbol of a size."""
    least, multiple = graph.smallest.get(name, 1), graph.multiples.get(name, 1)
    if multiple == 1:
        return torch.export.Dim(name, min=least)
    return multiple * torch.export.Dim(f'{name}_cells', min=-(-least // multiple))


def check(graph: Graph, to: str, path: Path, options: ExportOptions) -> dict[str, float]:
    """Differences between the file and the fp32 model in torch, by size.

    Raises:
        InputError: outputs that are not finite, of another shape, or too different.
    """
    run = runner(to, path)
    found: dict[str, float] = {}
    base = _traced_sizes(graph)
    other = {name: base[name] if name in graph.fixed else _other(name, base[name]) for name in base}
    for seed, sizes in enumerate((base, other)):
        inputs = graph.examples(sizes, seed)
        expected = graph.module(*inputs)
        outputs = _attempt('the exported file', lambda inputs=inputs: run(inputs))
        expected = [expected] if isinstance(expected, Tensor) else list(expected)
        for name, ours, theirs in zip(graph.outputs, expected, outputs, strict=True):
            label = ', '.join(f'{key}={value}' for key, value in sizes.items())
            worst = difference(name, ours, theirs)
            if not worst <= options.limit:
                raise InputError(
                    f'the exported {name} differs from torch by {worst:.2e}, more than {options.limit:g} '
                    f'({label}): nothing is written; a larger --tolerance accepts it'
                )
            found[label] = max(found.get(label, 0.0), worst)
    return found


def difference(name: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to the largest value (at least 1).

    Raises:
        InputError: other shapes, or values that are not finite.
    """
    if ours.shape != theirs.shape:
        raise InputError(f'the exported {name} has shape {tuple(theirs.shape)}, in torch {tuple(ours.shape)}')
    if not bool(theirs.isfinite().all()):
        raise InputError(f'the exported {name} has values that are NaN or infinite: use fp32')
    if not ours.numel():
        return 0.0
    ours, theirs = at_least_fp32(ours), at_least_fp32(theirs)
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def describe(graph: Graph, to: str, options: ExportOptions) -> dict[str, Any]:
    """The metadata: what a program needs to use the file."""
    from clipdense import __version__

    sizes = _traced_sizes(graph)
    inputs = {
        name: [sizes[str(side)] if side in graph.fixed else side for side in one.shape]
        for name, one in graph.inputs.items()
    }
    vocabulary = getattr(graph.source, 'vocabulary', None)
    templates = getattr(graph.source, 'templates', 'imagenet')
    return {
        'format': FORMAT,
        'clipdense': __version__,
        'torch': torch.__version__,
        'part': graph.part,
        'to': to,
        'precision': options.precision,
        'opset': options.opset if to == 'onnx' else None,
        'inputs': inputs,
        'outputs': dict(graph.outputs),
        'fixed': {f'{name}={sizes[name]}': why for name, why in graph.fixed.items()},
        'multiples': dict(graph.multiples),
        'tolerance': options.limit,
        'model': type(graph.source).__name__,
        'weights_digest': module_digest(graph.source),
        'templates': list(get_templates(templates).formats),
        'class_names': None if vocabulary is None else list(vocabulary.class_names),
        **json.loads(json.dumps(graph.facts)),
    }


class _Half(nn.Module):
    """A graph with weights and images in half precision."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        first, *others = inputs
        outputs = self.module(first.half() if first.is_floating_point() else first, *others)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(one.float() for one in outputs)


class _Full(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def _in_precision(module: nn.Module, precision: str) -> nn.Module:
    if precision == 'fp32':
        return _Full(module).eval()
    return _Half(copy.deepcopy(module).half()).eval()


def _traced_sizes(graph: Graph) -> dict[str, int]:
    """Fixed batches are of one image."""
    sizes = dict(graph.sizes)
    if 'batch' in graph.fixed:
        sizes['batch'] = 1
    return sizes


def _other(name: str, size: int) -> int:
    """Another size to check a graph with: more images and classes, and another shape of the images."""
    return {'height': size + size // 2, 'width': size}.get(name, size + 3)


def _attempt(what: str, action: Any, hint: str = '') -> Any:
    """What an action of torch or a runtime returns; its failure is one line.

    Raises:
        InputError: it failed.
    """
    try:
        return action()
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f'{what} cannot be exported: {one_line(cause)[:300]}{hint}') from error


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory:
    """A temporary folder on the disk of the destination.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix='.export-', dir=path.parent)
    except OSError as error:
        raise WriteError(explain_write_error(error, path)) from error


def _put_in_place(folder: Path, path: Path) -> None:
    """Move the file, and the weights beside it, to the destination."""
    try:
        for one in sorted(folder.iterdir(), key=lambda one: one.name == path.name):  # the file itself last
            os.replace(one, path.with_name(one.name))
    except OSError as error:
        raise WriteError(explain_write_error(error, path)) from error


def _shape(sides: list[Any]) -> str:
    return f'({", ".join(str(side) for side in sides)})'
