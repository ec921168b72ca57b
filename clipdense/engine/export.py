"""Export of the trained model to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from clipdense.clip import checkpoint
from clipdense.clip import self_describing as portable
from clipdense.clip.model import CLIP
from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError, WriteError

from .ema import averaged
from .health import weights_fault
from .parallel import unwrapped


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes one file into the work directory after training, for ``clipdense.load`` and the commands.

    A model with ``export(folder) -> Path`` writes it itself.  Otherwise it is ``clip.safetensors`` for models
    that train a CLIP (``model.clip``), and the whole of a model that is ``Portable``, with its name:
    ``lseg.safetensors``.  Checkpoints also contain the optimizer and position in the data; this file contains
    weights and metadata.  Other models are not exported.

    Raises:
        InputError: weights that are not finite or implausible, or a file that cannot be written.
    """

    priority = 'VERY_LOW'

    def after_train(self, runner: Any) -> None:
        """Write the file, in the main process."""
        with averaged(runner):
            self._write(runner, runner.whole_model())

    def _write(self, runner: Any, model: Any) -> None:
        folder, clip = Path(runner.work_dir), getattr(model, 'clip', None)
        if not is_main():
            return
        fault = weights_fault({'state_dict': model.state_dict()})
        if fault:
            raise InputError(f'the trained model is not exported: {fault}')
        if hasattr(model, 'export'):
            path = model.export(folder)
        elif portable.is_portable(model):
            path = folder / f'{model.portable_name}.safetensors'
            try:
                portable.save(model, path, runner.cfg, unwrapped(runner.model))
            except WriteError:
                raise
            except InputError as error:  # training is done, and its checkpoints exist
                runner.logger.warning(f'{path} was not written: {error}')
                return
        elif isinstance(clip, CLIP):
            path = folder / 'clip.safetensors'
            checkpoint.save(clip, path)
        else:
            return
        runner.logger.info(f'weights: {path}')
