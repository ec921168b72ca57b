"""Options of the command line that replace the class of a part."""

from __future__ import annotations

import pytest

from clipdense.config import load_config
from clipdense.methods.slip.byol import Byol
from clipdense.utils.errors import InputError

BYOL = 'model.partner.type=clipdense.methods.slip.byol.Byol'


@pytest.mark.parametrize('order', [1, -1])
def test_a_new_class_comes_with_its_own_arguments(order):
    cfg = load_config('slip/slip_scenes', [BYOL, 'model.partner.momentum=0.5'][::order])
    assert (cfg.model.partner.type, cfg.model.partner.momentum) == (Byol, 0.5)
    assert cfg.model.partner.hidden == 512


@pytest.mark.parametrize(
    'options', [[BYOL, 'model.partner.temperature=0.2'], ['model.partner.momentum=0.5']], ids=str
)
def test_arguments_of_another_class_are_refused(options):
    with pytest.raises(InputError, match='unknown entry'):
        load_config('slip/slip_scenes', options)
