"""Data of small trainings."""

from __future__ import annotations

import pytest

from clipdense.data.scenes import write_scenes


@pytest.fixture(scope='session')
def shards(tmp_path_factory):
    """Shards of 24 scenes with captions."""
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, num_train=24, num_val=2)
    return folder / 'shards' / 'train'
