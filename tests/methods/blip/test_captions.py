"""Captions of images, in Python and on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipdense
from clipdense import Captioner, CaptionRules
from clipdense.cli.app import main
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.measuring import measure
from clipdense.utils.errors import InputError


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(5):
        Image.fromarray(rng.integers(0, 256, (20 + index, 30, 3), np.uint8)).save(folder / f'{index}.png')
    return folder


def files_of(folder):
    return sorted(folder.iterdir())


@pytest.mark.parametrize('search', ['beam', 'greedy', 'nucleus'])
def test_captions_do_not_depend_on_the_batch(captioning_file, photos, search):
    captioner = Captioner.from_pretrained(captioning_file, CaptionRules(search), device='cpu')
    one = [caption.text for _, caption in captioner.stream(photos, batch_size=1)]
    assert one == [caption.text for _, caption in captioner.stream(photos, batch_size=4)]
    assert one == [caption.text for caption in captioner(files_of(photos))]
    assert len(set(one)) > 1
    assert captioner(Image.open(photos / '0.png')).text == one[0]
    assert not any(text.startswith('a picture of') for text in one)


def test_images_that_cannot_be_read(captioning_file, photos):
    (photos / '2.png').write_text('text')
    captioner = Captioner.from_pretrained(captioning_file, device='cpu')
    failed = []
    found = list(captioner.stream(photos, on_error=lambda index, error: failed.append((index, str(error)))))
    assert [index for index, _ in found] == [0, 1, 3, 4]
    assert failed[0][0] == 2
    with pytest.raises(InputError, match=r'2\.png'):
        captioner(photos / '2.png')


def clip_file(folder):
    size = VitSize(32, 8, 32, 2, 2, 64, 16)
    save_clip(build_clip(ClipSize(size, TextSize(32, 1, 2, 64, 16))), folder / 'clip.safetensors')
    return folder / 'clip.safetensors'


def test_weights_that_do_not_describe_images(tmp_path, tiny):
    with pytest.raises(InputError, match=r'clip.safetensors \(CLIP\) cannot describe images'):
        Captioner.from_pretrained(clip_file(tmp_path), device='cpu')
    with pytest.raises(InputError, match='cannot generate text'):
        Captioner(tiny(decoder=False))
    with pytest.raises(InputError, match='answer questions'):
        Captioner(tiny(shared=False, embed_dim=0))
    with pytest.raises(InputError, match='rules must be CaptionRules'):
        Captioner(tiny(encoder=False, embed_dim=0), {'beams': 3})


def test_weights_of_pre_training_are_said(tiny):
    with pytest.warns(UserWarning, match='weights are those of pre-training, whose captions are poor'):
        Captioner(tiny(), CaptionRules(prompt=''))


def test_a_prompt_without_room(captioning_file):
    with pytest.raises(InputError, match='the prompt has 4 tokens, which leaves no room'):
        Captioner.from_pretrained(captioning_file, CaptionRules(max_length=4, min_length=0), device='cpu')


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['caption', *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def read(file):
    if file.suffix == '.json':
        return [(row['image'], row['caption']) for row in json.loads(file.read_text())]
    if file.suffix == '.jsonl':
        return [(row['image'], row['caption']) for row in map(json.loads, file.read_text().splitlines())]
    with file.open() as rows:
        separator = '\t' if file.suffix == '.tsv' else ','
        return [(row['image'], row['caption']) for row in csv.DictReader(rows, delimiter=separator)]


@pytest.mark.parametrize('ending', ['csv', 'tsv', 'json', 'jsonl'])
def test_the_command(capsys, captioning_file, photos, tmp_path, ending):
    out = tmp_path / f'captions.{ending}'
    status, printed, err = run(capsys, photos, '-w', captioning_file, '--out', out, '--device', 'cpu')
    assert status == 0, err
    assert '5 images done' in err
    expected = Captioner.from_pretrained(captioning_file, device='cpu')(files_of(photos))
    rows = [(str(path), caption.text) for path, caption in zip(files_of(photos), expected, strict=True)]
    assert read(out) == rows
    assert [line.partition(': ')[2] for line in printed.splitlines()] == [text for _, text in rows]
    status, _, err = run(capsys, photos, '-w', captioning_file, '--out', out)
    assert (status, 'exists' in err) == (2, True)


def test_a_bad_image_among_others(capsys, captioning_file, photos, tmp_path):
    (photos / '2.png').write_text('text')
    status, printed, err = run(capsys, photos, '-w', captioning_file, '--out', tmp_path / 'c.txt')
    assert (status, len(printed.splitlines())) == (1, 4)
    assert 'skipped: ' in err
    assert len((tmp_path / 'c.txt').read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--search', 'bean'), "--search must be one of beam, greedy, nucleus, got 'bean'"),
        (('--out', 'c.doc'), 'captions are written as .csv, .tsv, .json, .jsonl, .txt'),
        (('--top-p', '2'), 'top_p must be a number above 0 and at most 1'),
        (('--min-length', '40'), 'min_length=40 is more than max_length=20'),
        (('--max-length', '4', '--min-length', '1'), 'leaves no room for a caption'),
        (('--max-length', '99'), 'max_length=99 is more than the 40 positions'),
        (('-w', 'missing.pth'), 'missing.pth'),
        (('--device', 'gpu7'), 'gpu7'),
    ],
)
def test_wrong_calls(capsys, captioning_file, photos, arguments, message):
    given = arguments if '-w' in arguments else ('-w', captioning_file, *arguments)
    status, _, err = run(capsys, photos, *given)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_weights_for_captioning_are_tested_on_captions(captioning_file, photos):
    rows = ['filepath,title', *(f'{index}.png,a cat on a table' for index in range(5))]
    (photos / 'captions.csv').write_text('\n'.join(rows))
    found, own = measure(captioning_file, photos / 'captions.csv', device='cpu')
    assert (found['captions/images'], own.count) == (5, 5)
    assert 0 <= found['captions/BLEU-1'] <= 1


def test_other_weights(capsys, photos, tmp_path):
    status, _, err = run(capsys, photos, '-w', clip_file(tmp_path))
    assert status == 2
    message = "use weights of a BLIP for captioning, such as 'Salesforce/blip-image-captioning-base', or of "
    assert f'cannot describe images: {message}a GLIPv2 that was trained with the objective captions' in err


def test_public_names():
    assert clipdense.Captioner is Captioner
    assert Path(clipdense.__file__).is_file()
