"""``clipdense export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdense.inference.export.options import (
    FORMATS,
    OPSETS,
    PARTS,
    ExportOptions,
    check_call,
    parse_size,
)

from .early import check_weights
from .options import Activation, DenseMethod, Options, Override, Overwrite, grouped, weight_overrides


@dataclass(frozen=True)
class GraphArguments:
    """``ExportOptions`` on the command line."""

    precision: Annotated[str, typer.Option(help='Of the weights in the file: fp32 or fp16.')] = 'fp32'
    size: Annotated[
        str | None,
        typer.Option(help='Fix the image size, HEIGHTxWIDTH in pixels [default: any size where possible].'),
    ] = None
    opset: Annotated[int, typer.Option(help=f'ONNX operators, {OPSETS.start} to {OPSETS[-1]}.')] = (
        OPSETS.start
    )
    tolerance: Annotated[
        float | None,
        typer.Option(help='Largest relative difference to torch [default: 1e-4; fp16: 0.05].'),
    ] = None

    def read(self) -> ExportOptions:
        """The options.

        Raises:
            InputError: a value out of range.
        """
        size = None if self.size is None else parse_size(self.size)
        return ExportOptions(self.precision, size, self.opset, self.tolerance)


@grouped
def export(
    source: Annotated[str, typer.Argument(help='A file, a folder, or a name from `clipdense models`.')],
    destination: Annotated[Path, typer.Argument(help='Output file: .onnx or .pt2.')],
    graph: GraphArguments,
    part: Annotated[
        str | None,
        typer.Option(help=f'{", ".join(PARTS)} [default: what the weights are for].'),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help=f'Format: {", ".join(FORMATS)} [default: by the suffix].')
    ] = None,
    method: DenseMethod = None,
    option: Options = None,
    activation: Activation = None,
    override: Override = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a model to ONNX, torch.export or AOTInductor, with class embeddings as an input.

    The file is compared with torch before it is written; the difference is printed and in its metadata.

    Example: `clipdense export ViT-B-16/openai clip_segmenter.onnx --method naclip`
    """
    options = graph.read()
    check_call(destination, part, to, overwrite, method)
    check_weights(source)
    method_options: dict[str, Any] | None = None
    if option:
        from clipdense.config import parse_options

        method_options = parse_options(option)
    overrides = weight_overrides(activation, override)
    from clipdense.inference.export.write import export as write_export

    written = write_export(
        source,
        destination,
        part,
        to=to,
        method=method,
        method_options=method_options,
        options=options,
        overwrite=overwrite,
        **overrides,
    )
    for line in written.lines():
        typer.echo(line)
