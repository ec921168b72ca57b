"""Counting what could not be used."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from clipdense.data.faults import FaultBudget
from clipdense.utils.errors import InputError


@pytest.fixture
def log(monkeypatch):
    """Lines that were logged."""
    lines = []
    monkeypatch.setattr('clipdense.data.faults.print_log', lambda line, logger, level: lines.append(line))
    return lines


@pytest.mark.parametrize(
    ('fraction', 'grace', 'seen', 'allowed'),
    [(0.01, 10, 0, 10), (0.01, 10, 1000, 20), (0.0, 0, 1000, 0), (0.5, 1, 4, 3), (1.0, 0, 7, 7)],
)
def test_stops_after_what_is_allowed(fraction, grace, seen, allowed):
    budget = FaultBudget('images', fraction, grace)
    budget.saw(seen)
    for _ in range(allowed):
        budget.lose('image', 'a.jpg')
    with pytest.raises(InputError, match=f'{allowed + 1} of {seen} images .*b.jpg.*max_bad_fraction'):
        budget.lose('image', 'b.jpg')


def test_each_epoch_starts_anew_and_sums_up_the_last(log):
    budget = FaultBudget('rows', 0, grace=2)
    for epoch in range(3):
        budget.saw(5)
        budget.lose('blank', f'row {epoch}')
        budget.lose('blank', f'row {epoch}')
        assert (budget.seen, budget.lost) == (5, 2)
        budget.reset()
    assert budget.causes == {'blank': 6}
    assert log.count('2 of 5 rows could not be used in the last epoch') == 3


def test_a_flood_of_faults_is_counted_but_not_logged(log):
    budget = FaultBudget('rows', 1, grace=1000)
    for index in range(50):
        budget.lose('blank', f'row {index}')
    assert len(log) == 10
    assert log[0] == 'skipped (blank): row 0'
    assert 'not logged' in log[-1]
    assert budget.lost == 50


class Faulty(Dataset):
    def __init__(self, budget):
        self.budget = budget

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.budget.saw()
        if index % 4 == 0:
            self.budget.lose('fourth', str(index))
        return index


@pytest.mark.parametrize('workers', [0, 3])
def test_all_workers_count_together(workers):
    budget = FaultBudget('images', 1)
    list(DataLoader(Faulty(budget), 5, num_workers=workers))
    assert (budget.seen, budget.lost) == (40, 10)


def test_the_error_of_a_worker_arrives():
    budget = FaultBudget('images', 0, grace=0)
    try:
        budget.lose('image', 'a.jpg')
    except InputError:
        carried = ExceptionWrapper(where='in a worker')  # what a loader sends to the main process
    with pytest.raises(InputError, match='1 of 0 images could not be used'):
        carried.reraise()


def test_can_be_sent_to_a_process():
    budget = FaultBudget('images')
    budget.saw(3)
    copy = pickle.loads(pickle.dumps(budget))
    copy.lose('image', 'a')
    assert (copy.seen, copy.lost) == (3, 1)


@pytest.mark.parametrize('fraction', [-0.1, 1.1, torch.nan])
def test_refuses_what_is_no_share(fraction):
    with pytest.raises(InputError, match='between 0 and 1'):
        FaultBudget('images', fraction)
