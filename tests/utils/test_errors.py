"""Errors as the user reads them."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from clipdense.utils.errors import InputError, nearest, one_line


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise InputError('photo.jpg is cut short:\n copy it again')


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_from_a_loader_is_one_line(workers):
    with pytest.raises(InputError) as caught:
        list(DataLoader(Broken(), num_workers=workers))
    assert one_line(caught.value) == 'photo.jpg is cut short: copy it again'


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('maskclop', " Did you mean 'maskclip'?"),
        ('VANILLA', " Did you mean 'vanilla'?"),
        ('vild', ''),
        ('xyz', ''),
    ],
)
def test_nearest(name, expected):
    assert nearest(name, ['maskclip', 'vanilla']) == expected
