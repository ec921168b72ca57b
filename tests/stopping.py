"""Trainings that end early."""

from __future__ import annotations

from mmengine.hooks import Hook


class StopAt(Hook):
    """Ends a training as if it had been the last step, without ``after_train``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.train_loop.stop_training = runner.iter + 1 == self.step
