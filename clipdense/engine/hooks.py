"""Hooks: evaluate during training without changing it, set the vocabulary of a model, and report progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import BaseLoop
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from clipdense.clip.class_embeddings import class_embedder
from clipdense.registry import EVALUATIONS, HOOKS, build, entries
from clipdense.utils.dist import is_main, mean_over_processes
from clipdense.utils.errors import InputError, WriteError
from clipdense.utils.files import append_line
from clipdense.utils.modules import evaluating, placed

from .ema import averaged
from .parallel import unwrapped
from .resume import random_state_kept
from .watch import Watch

METRICS_FILE = 'metrics.jsonl'
_PATIENCE = 10.0  # seconds between lines of a test
_HISTORY = 1000  # values of each scalar kept in memory; MMEngine copies all of them at each step


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Evaluates the model at an interval and at the end, without any effect on training.

    Each evaluation is called with the model's CLIP (``model.clip``, or the model itself), or where it has
    ``whole_model = True`` with the model, in evaluation mode, and returns a dict of numbers such as
    ``{'zero_shot/top1': 0.5}``.  They go to the log, to MMEngine's
    message hub and visualizer as 'val/zero_shot/top1', to ``metrics.jsonl`` in the work directory, and to
    hooks that have ``after_evaluation`` (``CheckpointHook`` keeps the best).  In several processes each runs
    the evaluations.

    Args:
        evaluations: objects or configs of ``EVALUATIONS``, by name; None removes an entry.  A list
            is accepted too.
        interval: steps between evaluations; None evaluates at the end only.
        at_end: evaluate after the last step too.
        at_start: evaluate before the first step too.

    Raises:
        InputError: an interval below 1, or an evaluation whose dataset is empty.
    """

    priority = 80  # after schedulers, before checkpoints

    def __init__(
        self,
        evaluations: Mapping[str, Any] | Sequence[Any],
        interval: int | None = None,
        at_end: bool = True,
        at_start: bool = False,
    ) -> None:
        if interval is not None and interval < 1:
            raise InputError(f'EvaluationHook needs interval >= 1 or None, got {interval}')
        self.evaluations = [build(part, EVALUATIONS) for part in entries(evaluations, 'evaluations')]
        self.interval, self.at_end, self.at_start = interval, at_end, at_start
        for evaluation in self.evaluations:
            data = getattr(evaluation, 'dataset', None)
            if isinstance(data, Sized) and not isinstance(data, IterableDataset) and not len(data):
                raise InputError(f'the dataset of {type(evaluation).__name__} has 0 samples; check its files')

    def before_train(self, runner: Any) -> None:
        """Refuse a model that cannot be evaluated; evaluate at the start, if enabled.

        Raises:
            InputError: as ``check`` of an evaluation, where it has one.
        """
        for evaluation in self.evaluations:
            if hasattr(evaluation, 'check'):
                evaluation.check(unwrapped(runner.model))
        if self.at_start and runner.iter == 0:
            self._report(runner, 0)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Evaluate at the interval and after the last step."""
        due = self.interval is not None and self.every_n_train_iters(runner, self.interval)
        if due or (self.at_end and self.is_last_train_iter(runner)):
            self._report(runner, runner.iter + 1)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metrics of all evaluations.

        Raises:
            ValueError: two evaluations return the same metric name.
        """
        metrics: dict[str, float] = {}
        with paused(model) as clip:
            for evaluation in self.evaluations:
                whole = getattr(evaluation, 'whole_model', False)
                found = evaluation(unwrapped(model) if whole else clip)
                twice = sorted(metrics.keys() & found.keys())
                if twice:
                    raise ValueError(f'two evaluations return the metrics {twice}; use different names')
                metrics |= {name: float(value) for name, value in found.items()}
        return metrics

    def _report(self, runner: Any, step: int) -> None:
        with averaged(runner):
            self._report_weights(runner, step)

    def _report_weights(self, runner: Any, step: int) -> None:
        start = time.monotonic()
        metrics = self.evaluate(runner.model)
        seconds = time.monotonic() - start
        for name, value in metrics.items():
            runner.message_hub.update_scalar(f'val/{name}', value)
        runner.visualizer.add_scalars({f'val/{name}': value for name, value in metrics.items()}, step=step)
        runner.logger.info(f'evaluation after step {step}, {seconds:.1f} s\n{grouped(metrics)}')
        wrong = [name for name, value in metrics.items() if not isfinite(value)]
        if wrong:
            runner.logger.warning(f'step {step}: {", ".join(wrong)} cannot be determined (not finite)')
        append_metrics(runner, {'step': step, 'epoch': runner.epoch, **metrics})
        runner.call_hook('after_evaluation', metrics=metrics)


def grouped(metrics: Mapping[str, float]) -> str:
    """``{'a/x': 1, 'a/y': 2, 'b/x': 3}`` -> a line for each of a and b."""
    groups: dict[str, list[str]] = {}
    for name, value in metrics.items():
        group, _, last = name.rpartition('/')
        groups.setdefault(group, []).append(f'{last} {value:.4g}')
    return '\n'.join(
        f'  {f"{group}: " if group else ""}{", ".join(found)}' for group, found in groups.items()
    )


@contextmanager
def paused(model: nn.Module) -> Iterator[Any]:
    """The CLIP of ``model`` in evaluation mode; modes and generators are restored."""
    whole = getattr(model, 'gathered', nullcontext)
    model = unwrapped(model)
    with evaluating(model), random_state_kept(), whole():
        yield getattr(model, 'clip', model)


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Gives a segmenter or detector the vocabulary of the dataset it is about to see.

    The dataset has it as ``dataset.vocabulary`` (OV-COCO trains on 48 classes and is tested on 65), or
    ``has_texts = True`` where texts come with the images.  It is embedded once where neither the text tower
    nor the embedder is trained, else each time.

    Args:
        templates: prompt templates; those of the model unless given.
        embedder: a ``ClassEmbedder`` or its config, in place of the model's text tower with these templates.

    Raises:
        InputError: both are given.
    """

    priority = 'VERY_HIGH'

    def __init__(self, templates: Any = None, embedder: Any = None) -> None:
        if templates is not None and embedder is not None:
            raise InputError('VocabularyHook: give templates or embedder; an embedder has its own templates')
        self.templates, self.embedder = templates, embedder
        self._embedded: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Set the vocabulary of the training set."""
        self._set(runner, runner.train_dataloader)

    def before_val(self, runner: Any) -> None:
        """Set the vocabulary of the validation set."""
        self._set(runner, runner.val_dataloader)

    def after_val(self, runner: Any) -> None:
        """Restore the vocabulary of the training set."""
        if in_training(runner):
            self._set(runner, runner.train_dataloader)

    def before_test(self, runner: Any) -> None:
        """Set the vocabulary of the test set."""
        self._set(runner, runner.test_dataloader)

    def _set(self, runner: Any, loader: Any) -> None:
        vocabulary = getattr(loader.dataset, 'vocabulary', None)
        if vocabulary is None and getattr(loader.dataset, 'has_texts', False):
            return
        if vocabulary is None:
            raise InputError(
                f'{type(loader.dataset).__name__} has no attribute vocabulary, which VocabularyHook needs'
            )
        model = unwrapped(runner.model)
        with paused(runner.model) as clip:
            embedder = class_embedder(model, self.embedder, self.templates)
            embeddings = self._embedded.get(vocabulary.digest)
            if embeddings is None:
                embeddings = _embed(embedder, vocabulary, clip, model)
            if not (_trained(getattr(clip, 'text', clip)) or _trained(embedder)):
                self._embedded[vocabulary.digest] = embeddings
            model.set_vocabulary(vocabulary, embeddings)


def _embed(embedder: Any, vocabulary: Any, clip: Any, model: nn.Module) -> Any:
    """The embeddings, made on the model's device also where the CLIP is a teacher that is kept outside it."""
    if not isinstance(clip, nn.Module):
        return embedder.embed(vocabulary)
    with placed(clip, next(model.parameters()).device):
        return embedder.embed(vocabulary)


def _trained(part: Any) -> bool:
    return isinstance(part, nn.Module) and any(p.requires_grad for p in part.parameters())


@HOOKS.register_module()
class ProgressHook(Hook):
    """Logs losses, learning rate, logit scale, speed and remaining time at an interval.

    Values are means over all processes and the steps since the last line, times include waiting for data.
    Each line also goes to the visualizer and to ``metrics.jsonl``, with the values of ``Watch``.

    Args:
        interval: steps between lines; the last step always has one.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise InputError(f'ProgressHook needs interval >= 1, got {interval}')
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        """Start the timer."""
        self._begin = self._mark = time.monotonic()
        self._first = runner.iter
        self._sums: dict[str, float] = {}
        self._steps = self._images = 0
        self._watch = Watch(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Begin to measure a step; the norm of the gradients is computed where a line follows."""
        self._watch.begin_step()
        runner.optim_wrapper.watched = self._due(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Accumulate values, and log at the interval."""
        for name, value in (outputs or {}).items():
            if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1):
                self._sums[name] = self._sums.get(name, 0.0) + scalar(value)
        self._steps += 1
        self._images += batch_length(data_batch)
        self._watch.end_step(runner, batch_length(data_batch))
        if self._due(runner):
            self._print(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Start the timer of a validation."""
        self._said = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the progress of a long validation."""
        self._say(runner, runner.val_dataloader, 'val', batch_idx + 1)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the progress of a long test."""
        self._say(runner, runner.test_dataloader, 'test', batch_idx + 1)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Log and record the metrics of the validation loop."""
        self._measured(runner, 'val', metrics or {})

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Log and record the metrics of the test loop."""
        self._measured(runner, 'test', metrics or {})

    def after_run(self, runner: Any) -> None:
        """Close the visualizer."""
        runner.visualizer.close()

    def _due(self, runner: Any) -> bool:
        return self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)

    def _print(self, runner: Any) -> None:
        now, step = time.monotonic(), runner.iter + 1
        values = {name: total / self._steps for name, total in self._sums.items()}
        values, images = mean_over_processes(values, self._images)
        values['lr'] = max(runner.optim_wrapper.get_lr()['lr'])
        norm = getattr(runner.optim_wrapper, 'gradient_norm', None)
        if norm is not None:
            values['grad_norm'] = norm
        values['images_per_second'] = images / max(now - self._mark, 1e-9)
        left = (runner.max_iters - step) * (now - self._begin) / (step - self._first)
        line = ', '.join(
            f'{name} {value:.4g}' for name, value in values.items() if name != 'images_per_second'
        )
        runner.logger.info(
            f'step {step}/{runner.max_iters}, epoch {runner.epoch}: {line}, '
            f'{values["images_per_second"]:.4g} images/s, {timedelta(seconds=round(left))} left'
        )
        values |= self._watch.values(runner, values['images_per_second'], now - self._mark)
        runner.visualizer.add_scalars({f'train/{name}': v for name, v in values.items()}, step=step)
        append_metrics(runner, {'step': step, 'epoch': runner.epoch, **values})
        trim_history(runner.message_hub)
        self._sums, self._steps, self._images, self._mark = {}, 0, 0, now

    def _say(self, runner: Any, loader: Any, stage: str, batches: int) -> None:
        if time.monotonic() - self._said > _PATIENCE:
            self._said = time.monotonic()
            runner.logger.info(f'{stage}: {batches} of {len(loader)} batches')

    def _measured(self, runner: Any, stage: str, metrics: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        if numbers:
            step = runner.iter if in_training(runner) else 0
            shown = ', '.join(f'{name} {value:.4g}' for name, value in numbers.items())
            runner.logger.info(f'{stage} after step {step}: {shown}')
            runner.visualizer.add_scalars({f'{stage}/{name}': v for name, v in numbers.items()}, step=step)
            append_metrics(runner, {'step': step, 'stage': stage, **numbers})


def in_training(runner: Any) -> bool:
    """Whether there is a training loop; ``runner.iter`` would build one, with its data."""
    return isinstance(runner._train_loop, BaseLoop)


def append_metrics(runner: Any, entry: dict[str, Any]) -> None:
    """Append a JSON line to ``metrics.jsonl`` of the work directory, in the main process only."""
    if not is_main():
        return
    try:
        append_line(Path(runner.work_dir) / METRICS_FILE, json.dumps(entry))
    except WriteError as error:  # a record only
        runner.logger.warning(f'metrics of step {entry["step"]} not recorded, training continues: {error}')


def scalar(value: Tensor | float) -> float:
    """The number in a tensor of one element, with or without a graph."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def batch_length(batch: Any) -> int:
    """Number of samples of a batch: the length of its first entry."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), ())
    return len(batch) if isinstance(batch, (Tensor, list, tuple)) else 1


def trim_history(hub: MessageHub) -> None:
    """Drop old values of the scalars."""
    for name, buffer in hub.log_scalars.items():
        values, counts = buffer.data
        if len(values) > 2 * _HISTORY:
            hub.log_scalars[name] = HistoryBuffer(values[-_HISTORY:], counts[-_HISTORY:])
