"""``segment --vocabulary auto``: names from captions, and from a class list under any CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense import Captioner, Classifier, Vocabulary
from clipdense.cli.app import main
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.proposals import NamesFromCaption, NamesFromList
from clipdense.tasks.captioning import Caption
from clipdense.utils.errors import InputError

LIST = Vocabulary(('cat', 'dog', 'sky', 'car', 'tree', 'road', 'person'))


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def clip():
    torch.manual_seed(0)
    size = VitSize(32, 8, 32, 2, 2, 64, 16)
    return build_clip(ClipSize(size, TextSize(32, 1, 2, 64, 16))).eval()


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(file)
    return file


class Says(torch.nn.Module):
    """A captioning model that always says the same."""

    def __init__(self, text):
        super().__init__()
        self.text, self.weight = text, torch.nn.Parameter(torch.zeros(1))
        self.preprocess = lambda image: torch.zeros(3, 2, 2)

    def check_captions(self, rules):
        pass

    def caption(self, images, rules, numbers=()):
        return [Caption(self.text, -1.0)] * len(images)


@pytest.mark.parametrize(
    ('caption', 'names'),
    [
        ('a black cat on the sofa', ('black cat', 'sofa')),
        ('two dogs and two dogs near a red car', ('dogs', 'red car')),
        ('a photo of a cat', ('cat',)),
    ],
)
def test_names_from_a_caption(photo, caption, names):
    proposal = NamesFromCaption(Captioner(Says(caption)))(photo)
    assert (proposal.names, proposal.caption) == (names, caption)
    assert str(proposal).endswith(f'(from the caption {caption!r})')


@pytest.mark.parametrize('caption', ['', 'it is here', '...'])
def test_a_caption_without_nouns(photo, caption):
    with pytest.raises(InputError, match='has no nouns: give class names'):
        NamesFromCaption(Captioner(Says(caption)))(photo)


def test_names_from_a_list(clip, photo):
    classifier = Classifier(clip)
    proposal = NamesFromList(classifier, LIST, count=3)(photo)
    assert 1 <= len(proposal.names) <= 3
    assert set(proposal.names) <= set(LIST.class_names)
    assert list(proposal.probabilities) == sorted(proposal.probabilities, reverse=True)
    image = Image.open(photo)
    parts = [image.crop(box) for box in ((0, 0, 30, 20), (30, 0, 60, 20), (0, 20, 30, 40), (30, 20, 60, 40))]
    rows = (0, 13, 26, 40)
    parts += [
        image.crop((20 * column, rows[row], 20 * column + 20, rows[row + 1]))
        for row in range(3)
        for column in range(3)
    ]
    every = [classifier(part, LIST).probabilities for part in (image, *parts)]
    best = int(np.argmax(every[0] + np.mean(every[1:], axis=0)))
    assert proposal.names[0] == LIST.class_names[best]
    assert proposal.to_dict()['names'] == list(proposal.names)


@pytest.mark.parametrize('count', [0, 1.5, True])
def test_wrong_counts(clip, count):
    with pytest.raises(InputError, match='the number of names must be a whole number'):
        NamesFromList(Classifier(clip), LIST, count)
    with pytest.raises(InputError, match='at least 2 classes'):
        NamesFromList(Classifier(clip), Vocabulary(('cat',)))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['segment', *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_command(capsys, clip, photo, tmp_path, captioning_file):
    save_clip(clip, tmp_path / 'clip.safetensors')
    out = tmp_path / 'out'
    given = (photo, '--vocabulary', 'auto', '-w', tmp_path / 'clip.safetensors', '--no-cache', '--out', out)
    status, printed, err = run(
        capsys, *given, '--class-list', 'camvid', '--names', 3, '--background', 'other'
    )
    assert status == 0, err
    assert f'{photo}: proposed ' in printed
    facts = json.loads((out / 'photo.json').read_text())
    assert len(facts['proposed']['names']) <= 3
    assert (out / 'photo_mask.png').is_file()
    status, printed, err = run(capsys, *given, '--caption-weights', captioning_file, '--overwrite')
    assert (status, 'from the caption' in printed) == (0, True), err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--vocabulary', 'all'), "--vocabulary must be one of auto, got 'all'"),
        (('--vocabulary', 'auto', '-c', 'a, b'), '--classes and --vocabulary auto cannot be combined'),
        (('--caption-weights', 'w.pth', '-c', 'a, b'), 'w.pth'),
        (('--vocabulary', 'auto', '--explain'), 'remove --explain and --save'),
        (('--vocabulary', 'auto', '--save', 'coco'), 'remove --explain and --save'),
        (('--vocabulary', 'auto', '--area-threshold', '0.1'), 'require a background class'),
    ],
)
def test_wrong_calls(capsys, photo, tmp_path, clip, arguments, message):
    save_clip(clip, tmp_path / 'clip.safetensors')
    status, _, err = run(capsys, photo, '-w', tmp_path / 'clip.safetensors', *arguments)
    assert status == 2
    assert message in err
    assert not Path('segmented').exists()
