"""Batch norm over processes: two of them equal one that has all the rows."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

from clipdense.layers.batch_norm import SyncedBatchNorm, SyncedMapNorm, synchronize

CHANNELS = 5


def rows(count: int = 12) -> torch.Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(3)) * 2 + 1


def layer() -> SyncedBatchNorm:
    norm = SyncedBatchNorm(CHANNELS)
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(2))
    return norm


def maps() -> SyncedMapNorm:
    """The same layer, made out of torch's."""
    model = nn.Sequential(nn.Sequential(nn.BatchNorm2d(CHANNELS)))
    model.load_state_dict({f'0.0.{name}': value for name, value in layer().state_dict().items()})
    synchronize(model, every=True)
    return model[0][0]


LAYERS = {'rows': layer, 'maps': maps}


def answers(norm: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, gradients of a loss that is a sum over rows, running statistics."""
    x = x.clone().requires_grad_()
    if isinstance(norm, SyncedBatchNorm):
        out = norm(x)
    else:  # contiguous: torch 2.15's own gradient is wrong for strides of channels_last (CPU)
        out = norm(x.mT[None, :, :, None].contiguous())[0, :, :, 0].mT
    (out * torch.arange(1.0, CHANNELS + 1)).pow(3).sum().backward()
    return {
        'out': out.detach(),
        'x': x.grad,
        'weight': norm.weight.grad,
        'bias': norm.bias.grad,
        'mean': norm.running_mean,
        'var': norm.running_var,
    }


def _one_of_two(rank, store, cut, kind, queue):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    part = rows()[:cut] if rank == 0 else rows()[cut:]
    found = answers(LAYERS[kind](), part)
    queue.put((rank, {name: value.numpy() for name, value in found.items()}))
    dist.destroy_process_group()


@pytest.mark.parametrize('kind', LAYERS)
@pytest.mark.parametrize('cut', [11], ids=['unequal shares'])
def test_two_processes_equal_one(tmp_path, cut, kind):
    """Spawned, as launchers do it."""
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    workers = [
        context.Process(target=_one_of_two, args=(rank, tmp_path / 'store', cut, kind, queue))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    found = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    parts = [{name: torch.from_numpy(value) for name, value in found[rank].items()} for rank in range(2)]
    alone = answers(layer(), rows())
    for name in ('out', 'x'):
        assert_close(torch.cat([part[name] for part in parts]), alone[name], atol=1e-4, rtol=1e-5)
    for name in ('weight', 'bias'):  # each process has its share; the engine averages them
        assert_close(parts[0][name] + parts[1][name], alone[name], atol=1e-4, rtol=1e-5)
    for name in ('mean', 'var'):
        assert_close(parts[0][name], parts[1][name])
        assert_close(parts[0][name], alone[name])


@pytest.mark.parametrize('shape', [(12, CHANNELS), (3, 4, CHANNELS)])
@pytest.mark.parametrize('training', [True, False])
def test_alone_it_is_torchs(shape, training):
    ours, theirs = layer().train(training), nn.BatchNorm1d(CHANNELS).train(training)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(rows().view(shape)).flatten(0, -2), theirs(rows()))
    assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize('training', [True, False])
def test_synchronized_maps_are_torchs_alone(training):
    theirs = nn.BatchNorm2d(CHANNELS).train(training)
    theirs.load_state_dict(layer().state_dict())
    ours, x = maps().train(training), rows().mT.reshape(2, CHANNELS, 2, 3)
    assert_close(ours(x), theirs(x))
    assert_close(ours.state_dict(), theirs.state_dict())


def test_what_is_synchronized():
    class WithActivation(nn.BatchNorm2d):
        pass

    def parts() -> nn.Sequential:
        return nn.Sequential(
            nn.SyncBatchNorm(3), nn.BatchNorm2d(3), nn.BatchNorm1d(3), WithActivation(3), SyncedBatchNorm(3)
        ).eval()

    asked, all_of_them = parts(), parts()
    weights = [part.weight for part in all_of_them]
    synchronize(asked)
    synchronize(all_of_them, every=True)
    kept = [nn.BatchNorm2d, nn.BatchNorm1d, WithActivation, SyncedBatchNorm]
    assert [type(part) for part in asked] == [SyncedMapNorm, *kept]
    assert [type(part) for part in all_of_them] == [SyncedMapNorm] * 3 + kept[2:]
    assert all(part.weight is weight for part, weight in zip(all_of_them, weights, strict=True))
    assert not any(part.training for part in all_of_them)
