"""Measure weights by a config: ``python tools/test.py CONFIG CHECKPOINT``.

The same as ``clipdense test``, under the name that OpenMMLab users expect.
"""

from __future__ import annotations

import argparse
import json
import sys

from clipdense.config import load_config
from clipdense.engine.launch import test
from clipdense.utils.errors import InputError


def main() -> int:
    """Exit code: 0, or 2 for bad input; metrics go to stdout as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config file, or the name of one of ours')
    parser.add_argument('checkpoint', help='weights, in any format that is read')
    parser.add_argument('--work-dir', help='for logs and results; work_dirs/<name of the config> by default')
    parser.add_argument(
        '--cfg-options',
        '-o',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='replace entries',
    )
    parser.add_argument(
        '--safe-config',
        action='store_true',
        help='refuse a .py config, which is code, if it is not ours',
    )
    parser.add_argument('--verbose', action='store_true', help='show where an error comes from')
    args = parser.parse_args()
    try:
        config = load_config(args.config, safe=True) if args.safe_config else args.config
        print(json.dumps(test(config, args.checkpoint, args.work_dir, args.cfg_options), default=float))
    except InputError as error:
        if args.verbose:
            raise
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
