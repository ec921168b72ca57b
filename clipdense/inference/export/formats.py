"""Writing and running an exported program in each format."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdense.clip.graphs import Graph
from clipdense.utils.errors import InputError, one_line

KEY = 'clipdense'  # of the metadata: metadata_props in ONNX, the archive's extra file in pt2
_EXTERNAL = 1_900_000_000  # bytes of weights from which an ONNX file keeps them in a second file
Run = Callable[[Sequence[Tensor]], list[Tensor]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of torch's exporters, which are about their own code."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def write(to: str, program: Any, graph: Graph, path: Path, opset: int, metadata: Mapping[str, Any]) -> None:
    """Write a traced program.

    Args:
        to: 'onnx', 'pt2' or 'aoti'.
        program: of ``torch.export``.
        graph: that was traced.
        path: of the file, in a folder of its own.
        opset: of ONNX.
        metadata: plain values.
    """
    text = json.dumps(metadata, ensure_ascii=False)
    if to == 'onnx':
        _write_onnx(program, graph, path, opset, text)
    elif to == 'pt2':
        torch.export.save(program, path, extra_files={f'{KEY}.json': text})
    else:
        inductor: Any = torch._inductor
        config = {'aot_inductor.metadata': {KEY: text}}
        inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=config)


def runner(to: str, path: Path) -> Run:
    """A function of input tensors that runs a written file.

    Raises:
        InputError: the file cannot be loaded by its runtime.
    """
    if to == 'onnx':
        return _onnx_runner(path)
    if to == 'pt2':
        module = torch.export.load(path).module()
        return lambda inputs: _listed(module(*inputs))
    loaded = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: _listed(loaded(*inputs))


def set_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Replace the metadata of an ONNX file; weights in a second file are not read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata, ensure_ascii=False)})
    path.write_bytes(model.SerializeToString())


def _write_onnx(program: Any, graph: Graph, path: Path, opset: int, text: str) -> None:
    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[KEY] = text
    for value, one in zip(written.model.graph.inputs, graph.inputs.values(), strict=True):
        shape: Any = value.shape
        for axis, side in enumerate(one.shape):  # names instead of the symbols of torch
            if isinstance(side, str) and not isinstance(shape[axis], int):
                shape[axis] = side
    size = sum(one.numel() * one.element_size() for one in program.state_dict.values())
    written.save(path, external_data=size > _EXTERNAL)


def _onnx_runner(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = torch.get_num_threads()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:
        raise InputError(f'onnxruntime refuses the exported graph: {one_line(error)[:300]}') from error
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {
            name: np.ascontiguousarray(one.cpu().numpy()) for name, one in zip(names, inputs, strict=True)
        }
        return [torch.from_numpy(np.asarray(one)) for one in session.run(None, feed)]

    return run


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
