"""Accuracy of an image tower that is fine-tuned on labeled images.

n: training images, B: images, C: width of the features, K: classes, L: layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from clipdense.clip.dense import Tower, feature_width
from clipdense.clip.model import CLIP
from clipdense.data.batches import collate, sample_rng
from clipdense.data.transforms import TrainCrop
from clipdense.layers.parameter_groups import parameter_groups
from clipdense.registry import EVALUATIONS
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track

from .probing import Probe

_WARMUP = 0.1  # of the steps
_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Schedule:
    """How a tower is fine-tuned: AdamW, linear warm-up over a tenth of the steps, half a cosine.

    Args:
        epochs: passes through the training images.
        batch_size: B, at least 2; a last batch of one image is left out.
        lr: highest learning rate, of the classifier and, in a ``layer_decay`` of 1, of all layers.
        layer_decay: factor on the learning rate from each layer to the one below it.
        weight_decay: of matrices.
        label_smoothing: of the cross entropy.
        scale: smallest and largest fraction of the area of random crops, which are mirrored in half of the
            cases.
        seed: of the order and the crops.

    Raises:
        InputError: a number out of range.

    Source: BEiT (arXiv 2106.08254) as SLIP uses it, without its mixing of images and drop path.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    layer_decay: float = 0.65
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    scale: tuple[float, float] = (0.5, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (('epochs', 1), ('batch_size', 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
        if not (isinstance(self.lr, int | float) and self.lr > 0 and isfinite(self.lr)):
            raise InputError(f'lr must be a number above 0, got {self.lr!r}')
        if not 0 < self.layer_decay <= 1:
            raise InputError(f'layer_decay must be above 0 and at most 1, got {self.layer_decay!r}')
        if not 0 <= self.label_smoothing < 1 or not self.weight_decay >= 0:
            raise InputError('label_smoothing must be in 0 to 1, and weight_decay at least 0')


@EVALUATIONS.register_module()
class FineTuning(Probe):
    """Accuracy of the image tower with a linear classifier on its pooled features, all of it fine-tuned.

    A copy of the tower is trained; the model itself stays as it is.

    Args:
        train: labeled training images, or its config; random crops unless it has a ``transform``.
        dataset: labeled test images of the same classes, or its config.
        schedule: how it is trained, or its settings.
        num_workers: processes that read images.
        name: prefix of the names of the results.

    Raises:
        InputError: other classes, a single class, or an invalid schedule.
    """

    def __init__(
        self,
        train: Any,
        dataset: Any,
        schedule: Schedule | dict | None = None,
        num_workers: int = 0,
        name: str = 'fine_tuned',
    ) -> None:
        settings = schedule if isinstance(schedule, Schedule) else Schedule(**(schedule or {}))
        super().__init__(train, dataset, 'pooled', settings.batch_size, num_workers, name)
        self.schedule = settings

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Fine-tune a copy, and evaluate it; the mode of the model is restored.

        Returns:
            ``NAME/top1``, ``/top5`` (of more than 5 classes), ``/chance``, ``/count`` (test images) and
            ``/loss``, the mean of the last epoch.

        Raises:
            InputError: a loss, or weights, that are not finite.
        """
        model = _Tuned(copy.deepcopy(clip.image), len(self.train.class_names))
        model.to(next(clip.parameters()).device)
        with torch.enable_grad():
            loss = self._fit(model.train(), clip)
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise InputError(f'{self.name}: training has diverged, weights are not finite; lower lr')
        tuned = copy.copy(clip)
        tuned._modules = {**clip._modules, 'image': model.tower}
        with evaluating(tuned):
            features, labels = self.features_of(tuned, self.dataset, 'test images')
            scores = model.classifier.cpu()(features)
        return self.report(scores, labels, loss=loss)

    def _fit(self, model: _Tuned, clip: CLIP) -> float:
        settings = self.schedule
        dataset = _Cropped(self.train, clip.preprocess.image_size, settings)
        decay = {'tower': settings.layer_decay}
        groups = parameter_groups(model, settings.weight_decay, layer_decay=decay, lr=settings.lr)
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=_BETAS)
        peaks = [group['lr'] for group in optimizer.param_groups]
        per_epoch = max(1, -(-len(dataset) // settings.batch_size))
        steps, device = settings.epochs * per_epoch, next(clip.parameters()).device
        losses: list[float] = []
        for step, batch in enumerate(track(self._batches(dataset), f'{self.name} (training)', steps)):
            factor = _factor(step, steps)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group['lr'] = peak * factor
            labels = torch.as_tensor(batch['labels']).to(device)
            known = labels >= 0
            if known.sum() < 2:
                continue  # batch norm needs two, and unreadable images have no label
            images = clip.preprocess.normalize(batch['images'].to(device)[known])
            loss = F.cross_entropy(model(images), labels[known], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if not isfinite(losses[-1]):
                raise InputError(f'{self.name}: the loss of step {step + 1} is {losses[-1]}; lower lr')
        if not losses:
            raise InputError(f'{self.name}: there are fewer than two training images that can be read')
        return sum(losses[-per_epoch:]) / len(losses[-per_epoch:])

    def _batches(self, dataset: _Cropped) -> Iterator[dict[str, Any]]:
        """All epochs, each in its own order and with its own crops."""
        generator = torch.Generator().manual_seed(self.schedule.seed)
        for epoch in range(self.schedule.epochs):
            dataset.epoch = epoch
            if hasattr(dataset.source, 'set_epoch'):
                dataset.source.set_epoch(epoch)
            yield from DataLoader(
                dataset,
                self.schedule.batch_size,
                shuffle=True,
                generator=generator,
                num_workers=self.num_workers,
                collate_fn=collate,
            )


class _Tuned(nn.Module):
    """A tower and a classifier that starts at 0."""

    def __init__(self, tower: Tower, classes: int) -> None:
        super().__init__()
        self.tower: Any = tower.requires_grad_(True)
        self.classifier = nn.Linear(feature_width(tower), classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.tower.pooled(images))


class _Cropped(Dataset):
    """A random crop of each image, mirrored in half of the cases, where the data has no transform itself."""

    def __init__(self, source: Any, size: int, schedule: Schedule) -> None:
        self.source, self.seed, self.epoch = source, schedule.seed, 0
        has_own = getattr(source, 'transform', None) is not None
        self.crop = None if has_own else TrainCrop(size, schedule.scale, flip=0.5)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.source[index]
        if self.crop is None:
            return item
        return {**item, 'images': self.crop(item['images'], sample_rng(self.seed, self.epoch, index))}


def _factor(step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return (1 + cos(pi * (step - warmup) / max(steps - warmup, 1))) / 2
