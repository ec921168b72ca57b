"""Saving and resuming a run by checkpoints to which each process adds its part."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from clipdense.utils.dist import all_gather_object
from clipdense.utils.errors import CheckpointError

from .checkpointing import write_checkpoint
from .health import weights_fault
from .parallel import unwrapped
from .resume import random_state
from .sharded_checkpoint import Writer, average_names, optimizer_state, parts_of, read_tensors


def save_parts(runner: Any, writer: Writer, folder: Path) -> None:
    """Write the state of a run; called in all processes.

    Raises:
        InputError: weights that are not finite or implausible, in all processes.
        WriteError: no disk space, or no permission; earlier checkpoints are unchanged.
    """
    runner.refuse_unusable(folder.name)
    checkpoint = runner.training_state(all_gather_object(random_state()))
    checkpoint['state_dict'] = unwrapped(runner.model).state_dict()
    runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
    tensors, rest = parts_of(checkpoint, _names(runner))
    writer.start(folder, tensors, partial(write_checkpoint, checkpoint=rest))


def read_parts(runner: Any, folder: Path, checkpoint: dict[str, Any]) -> None:
    """Read the weights into the model, and the other tensors into ``checkpoint``, the rest of it.

    Raises:
        CheckpointError: it is damaged, or of another model or optimizer.
    """
    model, names = unwrapped(runner.model), _names(runner)
    state = model.state_dict()
    groups = checkpoint['optimizer']['param_groups']
    if sum(len(group['params']) for group in groups) != len(names):
        raise CheckpointError(f'{folder} cannot be resumed: its optimizer has other parameters')
    parameters = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    states = optimizer_state(folder, names, parameters)
    tensors = {f'model.{name}': x.detach() for name, x in state.items()}
    for index, one in states.items():
        tensors |= {f'optimizer.{names[index]}.{key}': x for key, x in one.items()}
    if 'ema' in checkpoint:
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        average = {name: own[name].detach().clone() for name in average_names(folder) if name in own}
        tensors |= {f'ema.{name}': x for name, x in average.items()}
        checkpoint['ema']['weights'] = average
    read_tensors(folder, tensors)
    checkpoint['optimizer']['state'] = states
    faults = all_gather_object(weights_fault({'state_dict': state}))
    fault = next((one for one in faults if one), None)
    if fault:
        raise CheckpointError(f'{folder} cannot be resumed: {fault}')


def _names(runner: Any) -> list[str]:
    """Names of the parameters of the optimizer, in its order."""
    names = {id(p): name for name, p in unwrapped(runner.model).named_parameters()}
    return [names[id(p)] for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
