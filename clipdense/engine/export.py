"""The trained model as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from clipdense.clip import checkpoint
from clipdense.clip import self_describing as portable
from clipdense.clip.model import CLIP
from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError

from .train_step import unwrapped


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes one file into the work directory after training, for ``clipdense.load`` and the commands.

    It is ``clip.safetensors`` of what trains a CLIP (``model.clip``), and of a model that is ``Portable`` all
    of it under its own name: ``lseg.safetensors``.  Checkpoints hold the optimizer and the place in the data;
    this file holds the weights and what they do not tell.  Other models are left alone.
    """

    priority = 'VERY_LOW'

    def after_train(self, runner: Any) -> None:
        """Write the file, in the main process."""
        model, folder = unwrapped(runner.model), Path(runner.work_dir)
        clip = getattr(model, 'clip', None)
        if not is_main():
            return
        if portable.is_portable(model):
            path = folder / f'{model.portable_name}.safetensors'
            try:
                portable.save(model, path, runner.cfg)
            except InputError as error:  # training is done, and its checkpoints are there
                runner.logger.warning(f'{path} is not written: {error}')
                return
        elif isinstance(clip, CLIP):
            path = folder / 'clip.safetensors'
            checkpoint.save(clip, path)
        else:
            return
        runner.logger.info(f'weights: {path}')
