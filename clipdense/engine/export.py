"""The trained CLIP as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from clipdense.clip.checkpoint import save
from clipdense.clip.model import CLIP
from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main

from .train_step import unwrapped

EXPORT_FILE = 'clip.safetensors'


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes ``clip.safetensors`` into the work directory after training, for ``clipdense.load``.

    Checkpoints hold the optimizer and the place in the data; this file holds the weights, their sizes and
    how they want their pictures.  Models without a CLIP (``model.clip``) are left alone.
    """

    priority = 'VERY_LOW'

    def after_train(self, runner: Any) -> None:
        """Write the file, in the main process."""
        clip = getattr(unwrapped(runner.model), 'clip', None)
        if isinstance(clip, CLIP) and is_main():
            path = Path(runner.work_dir) / EXPORT_FILE
            save(clip, path)
            runner.logger.info(f'weights: {path}')
