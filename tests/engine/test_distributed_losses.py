"""Losses that compare with other processes: value and gradients are those of the joined batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import logsigmoid, normalize
from torch.testing import assert_close

from clipdense.clip.losses import contrastive_loss, distillation_loss, sigmoid_loss


def tensors(processes: int) -> list[torch.Tensor]:
    """Images, texts, teacher's images and texts of the joined batch of 3 pairs per process, in fp64."""
    generator = torch.Generator().manual_seed(processes)
    return [
        normalize(torch.randn(3 * processes, width, generator=generator, dtype=torch.float64), dim=-1)
        for width in (5, 5, 7, 7)
    ]


def contrastive(images, texts, scale, bias, *_):
    return contrastive_loss(images, texts, scale)


def sigmoid(images, texts, scale, bias, *_):
    return sigmoid_loss(images, texts, scale, bias, chunk=2)


def distillation(images, texts, scale, bias, *teacher):
    return distillation_loss(images, texts, scale, *teacher, 20.0)


LOSSES = [contrastive, sigmoid, distillation]


def value_and_gradients(loss, parts):
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (10.0, -3.0))
    images, texts = (part.clone().requires_grad_() for part in parts[:2])
    value = loss(images, texts, scale, bias, *parts[2:])
    value.backward()
    return [
        value.detach(),
        images.grad,
        texts.grad,
        scale.grad,
        torch.zeros(()) if bias.grad is None else bias.grad,
    ]


def worker(rank, loss):
    own = slice(3 * rank, 3 * rank + 3)
    results = value_and_gradients(loss, [part[own] for part in tensors(dist.get_world_size())])
    return [result.tolist() for result in results]


@pytest.mark.parametrize('processes', [2, 3])
@pytest.mark.parametrize('loss', LOSSES)
def test_processes_give_the_value_and_gradients_of_the_joined_batch(loss, processes, run_processes):
    results = run_processes(worker, loss, processes=processes)
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*results, strict=True)]
    value, images, texts, scale, bias = value_and_gradients(loss, tensors(processes))
    assert_close(columns[0].mean(), value)
    assert_close(columns[1].flatten(0, 1) / processes, images)  # gradients are averaged over processes
    assert_close(columns[2].flatten(0, 1) / processes, texts)
    assert_close(columns[3].mean(), scale)
    assert_close(columns[4].mean(), bias.double())


@pytest.mark.parametrize('chunk', [1, 2, 6, 100])
def test_chunks_do_not_change_the_sigmoid_loss(chunk):
    def direct(images, texts, scale, bias, *_):
        signs = 2 * torch.eye(len(images), dtype=images.dtype) - 1
        return -logsigmoid(signs * (scale * images @ texts.mT + bias)).sum() / len(images)

    def chunked(images, texts, scale, bias, *_):
        return sigmoid_loss(images, texts, scale, bias, chunk)

    parts = tensors(2)
    for got, expected in zip(
        value_and_gradients(chunked, parts), value_and_gradients(direct, parts), strict=True
    ):
        assert_close(got, expected)
