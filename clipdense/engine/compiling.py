"""``torch.compile`` of the blocks of a model, which falls back to what it was if it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from clipdense.utils.arguments import argument_names
from clipdense.utils.errors import InputError, nearest, one_line

from .sharding import blocks_of


def read_compile(value: Any) -> dict[str, Any] | None:
    """The entry ``compile`` of a config: arguments of ``torch.compile``, or None.

    Raises:
        InputError: not true, false or a part with arguments of ``torch.compile``.
    """
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"compile must be true, false or dict(mode='max-autotune'), got {value!r}")
    import torch

    known = argument_names(torch.compile) or ()
    for name in value:
        if known and name not in known:
            raise InputError(f'compile.{name}: unknown entry.{nearest(name, known)}')
    return dict(value)


def compile_blocks(model: nn.Module, options: Mapping[str, Any], logger: Any) -> None:
    """Compile each block of the towers; alike blocks share their code, which keeps this short.

    Names of weights stay.  The first block that cannot be compiled ends it for all of them, with a warning.
    """
    blocks = blocks_of(model)
    if not blocks:
        logger.warning('compile: the model has no towers of blocks; nothing is compiled')
        return
    try:
        for block in blocks:
            block.compile(**options)
    except Exception as error:
        _give_up(blocks, error, logger)
        return
    for block in blocks:
        block._compiled_call_impl = _Attempt(block, blocks, logger)
    logger.info(f'compile: {len(blocks)} blocks, in their first step')


class _Attempt:
    """A call of a compiled block."""

    def __init__(self, block: nn.Module, blocks: Sequence[nn.Module], logger: Any) -> None:
        self.block, self.blocks, self.logger = block, blocks, logger
        self.compiled: Any = block._compiled_call_impl

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.compiled(*args, **kwargs)
        except Exception as error:  # an error of the model itself occurs again below
            found = self.block._call_impl(*args, **kwargs)
            _give_up(self.blocks, error, self.logger)
            return found


def _give_up(blocks: Sequence[nn.Module], error: Exception, logger: Any) -> None:
    for block in blocks:
        block._compiled_call_impl = None
    logger.warning(
        f'torch.compile failed, so the model is trained without it ({type(error).__name__}: '
        f'{one_line(error)[:300]})'
    )
