"""Folders of small images."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture
def make_images(tmp_path):
    """``make_images({'cat': 3, 'train/dog': 2})`` writes so many images into each folder of a new dataset."""

    def make(counts, root=tmp_path / 'images'):
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.new('RGB', (6, 5), (20 * number, index, 0)).save(root / folder / f'{index}.png')
        return root

    return make
