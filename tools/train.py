"""Train by a config: ``python tools/train.py CONFIG``, or with torchrun in place of python.

The same as ``clipdense train``, under the name that OpenMMLab users expect.
"""

from __future__ import annotations

import argparse
import sys

from clipdense.config import load_config
from clipdense.engine.launch import train
from clipdense.utils.errors import InputError


def main() -> int:
    """Exit code: 0, 2 for bad input, 143 or 130 where a signal stopped the run after a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config file, or the name of one of ours')
    parser.add_argument(
        '--work-dir', help='for logs and checkpoints; work_dirs/<name of the config> by default'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='PATH',
        help='continue from the newest good checkpoint of the work directory, or from PATH',
    )
    parser.add_argument(
        '--resume-strict', action='store_true', help='refuse to fall back to an older checkpoint'
    )
    parser.add_argument('--seed', type=int, help='of weights, order and augmentation')
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
    parser.add_argument(
        '--overwrite', action='store_true', help='remove checkpoints of an earlier run in the work directory'
    )
    parser.add_argument(
        '--log',
        nargs='+',
        metavar='NAME',
        help='where losses and scores go besides metrics.jsonl: tensorboard (default, if installed), '
        'wandb, mlflow, none',
    )
    parser.add_argument(
        '--profile', action='store_true', help='write a trace of three steps to the work directory'
    )
    parser.add_argument('--verbose', action='store_true', help='show where an error comes from')
    args = parser.parse_args()
    resume = args.resume or args.resume_strict
    try:
        config = load_config(args.config, safe=True) if args.safe_config else args.config
        train(
            config,
            args.work_dir,
            resume,
            args.seed,
            args.cfg_options,
            args.resume_strict,
            args.overwrite,
            args.log,
            args.profile,
        )
    except InputError as error:
        if args.verbose:
            raise
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
