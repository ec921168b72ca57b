"""The tool that measures what a training step costs as it grows: its formula, and one run in small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import growth

from clipdense.engine import Parallel


@pytest.mark.parametrize(
    ('processes', 'kind', 'weights', 'loss'),
    [  # P parameters: 2 (n - 1) / n * 4 P for DDP, 3 (n - 1) / n * 4 P for FSDP; 256 embeddings of 64 numbers
        (1, 'ddp', 0.0, 0.0),
        (2, 'ddp', 4.0, 3 * 256 * 64 * 4),
        (4, 'ddp', 6.0, 4.5 * 256 * 64 * 4),
        (4, 'fsdp', 9.0, 4.5 * 256 * 64 * 4),
    ],
)
def test_bytes_by_the_formula(processes, kind, weights, loss):
    parameters = growth.parameters(growth.build_clip(growth.SMALL))
    assert growth.expected_bytes(processes, kind) == (weights * parameters, loss)


def test_steps_in_two_processes():
    found = growth.run(2, 4, Parallel())
    assert len(found) == 2
    for process in found:
        assert process['seconds'] > 0
        assert process['weights and optimizer, MB'] == pytest.approx(
            12 * growth.parameters(growth.build_clip(growth.SMALL)) / 1e6, abs=0.01
        )
