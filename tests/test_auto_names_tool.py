"""tools/auto_names.py on a CLIP and a BLIP with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import auto_names

from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.blip.checkpoint import save as save_blip
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.sizes import BlipSize, MedSize, with_openai_words


def weights(folder):
    image = VitSize(32, 8, 32, 2, 2, 64, 16)
    save_clip(build_clip(ClipSize(image, TextSize(32, 1, 2, 64, 16))), folder / 'clip.safetensors')
    text = with_openai_words(MedSize(32, 2, 2, 48))
    save_blip(build_blip(BlipSize(image, text, embed_dim=16)), folder / 'blip.safetensors')
    return folder / 'clip.safetensors', folder / 'blip.safetensors'


@pytest.mark.filterwarnings('ignore:these BLIP weights are those of pre-training')
def test_the_table(monkeypatch, capsys, tmp_path):
    clip, blip = map(str, weights(tmp_path))
    given = [
        '--captioner',
        blip,
        '--matcher',
        blip,
        '--images',
        '2',
        '--splits',
        'novel',
        '--names',
        '2',
        '--methods',
        'maskclip',
    ]
    monkeypatch.setattr(sys, 'argv', ['auto_names', clip, *given])
    torch.manual_seed(0)
    auto_names.main()
    lines = capsys.readouterr().out.splitlines()
    (row,) = json.loads(lines[-1])['rows']
    assert row['split'] == 'novel'
    sources = {'true', 'list, 2', 'caption', 'own', 'all'}
    assert {name: set(found) for name, found in row['mIoU'].items()} == {
        'maskclip': sources,
        'itm_cam': sources,
    }
    assert all(0 <= score <= 1 for found in row['mIoU'].values() for score in found.values())
    assert set(row['names']) == {'list, 2', 'caption'}
    assert any(line.startswith('maskclip, true') for line in lines)


def test_names_that_are_no_class_and_right_names():
    proposals = auto_names.Proposals(
        {'list': lambda image: type('Found', (), {'names': ('red', 'blue')})}, [1, 2]
    )
    found = proposals(None, ['blue', 'green', 'pink'])
    assert found == {'list, 1': ('red',), 'list, 2': ('red', 'blue')}
    assert proposals.rates() == {
        'list, 1': {'precision': 0, 'recall': 0},
        'list, 2': {'precision': 1 / 2, 'recall': 1 / 3},
    }
