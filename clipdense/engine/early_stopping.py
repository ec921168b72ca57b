"""The end of a training whose validation score no longer rises."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS

from .hooks import in_training


@HOOKS.register_module()
class EarlyStopping(EarlyStoppingHook):
    """MMEngine's hook, also in configs that are tested, where there is no training to stop.

    Args:
        monitor: the metric, such as 'all/AP'.
        rule: 'greater' or 'less' is better.
        patience: validations without a better score, after which the training ends.
        min_delta: least difference of a better score.
        others: as in MMEngine.
    """

    def before_run(self, runner: Any) -> None:
        """Check the training loop."""
        if in_training(runner):
            super().before_run(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Stop the training where it is time."""
        if in_training(runner):
            super().after_val_epoch(runner, metrics or {})
