"""Measure clipdense beside its peer, in one run: ``python tools/benchmark.py NAME``.

Prints a table and, as the last line, one JSON object with ``name``, ``ours``, ``peer``, ``ratio`` (above 1 is
ours ahead), ``unit`` and ``machine``.  Benchmarks live in ``tools/benchmarks``; its ``__init__`` says how to
add one.  Measured numbers are kept in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json

from benchmarks import BENCHMARKS
from benchmarks.harness import Options, neighbors, record, set_threads, table


def parse(arguments: list[str] | None = None) -> tuple[str, Options]:
    """The name of the benchmark, and how to run it."""
    what = '\n'.join(f'  {name:20}{run.__doc__.splitlines()[0]}' for name, run in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f'benchmarks:\n{what}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', choices=BENCHMARKS, metavar='NAME')
    parser.add_argument('--model', default=Options.model, help='an open_clip name (%(default)s)')
    parser.add_argument('--batch', type=int, default=Options.batch, help='images or texts (%(default)s)')
    parser.add_argument('--repeats', type=int, default=Options.repeats, help='of each side (%(default)s)')
    parser.add_argument('--threads', type=int, help='of torch; its own choice where left out')
    parser.add_argument('--dtype', choices=['fp32', 'bf16'], default=Options.dtype, help='bf16: autocast')
    parser.add_argument('--device', default=Options.device, help='cpu or cuda (%(default)s)')
    values = vars(parser.parse_args(arguments))
    return values.pop('name'), Options(**values)


def main(arguments: list[str] | None = None) -> None:
    """Run one benchmark and print what it found."""
    name, options = parse(arguments)
    set_threads(options)
    busy = neighbors()
    rows, notes = BENCHMARKS[name](options)
    notes |= busy
    print(table(rows, notes))
    print(json.dumps(record(name, rows, notes, options)))


if __name__ == '__main__':
    main()
