"""Two processes train as one process on the joined batch: heads, losses, teachers and the center included."""

from __future__ import annotations

import pytest

from clipdense.methods.slip.byol import Byol
from clipdense.methods.slip.dino import Dino
from clipdense.methods.slip.moco import MocoV3
from clipdense.methods.slip.simclr import SimClr

from ..processes import check_two, train

STEPS = 3


@pytest.mark.parametrize('micro_batch', [None, 2])
@pytest.mark.parametrize('partner', [SimClr, Byol, MocoV3, Dino])
def test_two_processes_equal_one(make, batch, tmp_path, partner, micro_batch, run_processes):
    def model():
        settings = {'bottleneck': 6, 'freeze_prototypes': 0.0} if partner is Dino else {}
        return make(partner, partner=settings, micro_batch=micro_batch).double()

    data, options = batch(8 * STEPS), {'steps': STEPS, 'shuffle': True}
    alone = train(model(), data, tmp_path / 'one', batch_size=8, **options)
    check_two(run_processes, alone, model(), data, tmp_path, batch_size=4, **options)
