"""Every command as a user calls it, and wrong input of every kind: one line, status 2, nothing lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import clipdense
from clipdense.cli.app import main
from clipdense.utils.image_io import read_mask
from clipdense.utils.video import VideoFrames, VideoWriter
from clipdense.weights.io import read_weights

pytestmark = pytest.mark.usefixtures('apart')


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def photo(path: str, size=(40, 30), mode='RGB', **options) -> str:
    Image.effect_noise(size, 80).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    'command',
    [
        '',
        'segment',
        'classify',
        'detect',
        'label',
        'init',
        'check-data',
        'embed',
        'embed regions',
        'scenes',
        'nouns',
        'train',
        'test',
        'models',
        'prepare',
        'bench',
        'reproduce',
        'convert',
        'doctor',
        'quickstart',
        'search',
        'configs',
        'methods',
    ],
)
def test_help_has_an_example(capsys, command):
    status, out, _ = run(capsys, *command.split(), '--help')
    assert status == 0
    assert not command or 'Example' in out


def test_nouns_are_kept_beside_the_captions(capsys):
    assert run(capsys, 'scenes', 'set', '--train', '8', '--val', '2', '--image-size', '32')[0] == 0
    status, out, err = run(capsys, 'nouns', 'set/shards/train', 'with_nouns')
    assert status == 0, err
    assert 'with_nouns: 1 shard ' in out
    status, _, err = run(capsys, 'nouns', 'set/shards/train', 'other', '--tagger', 'lemminflekt')
    assert status == 2
    assert "Did you mean 'lemminflect'?" in err


def test_segment_with_all_its_settings(capsys, weights):
    photo('photo.jpg')
    arguments = ['--method', 'naclip', '--option', 'std=2.5', '--refine', '--area-threshold', '0.1', '--flip']
    arguments += ['--scales', '0.5, 1', '--window', '16', '--short-side', '32', '--background', 'sky']
    status, _, err = run(capsys, 'segment', 'photo.jpg', '-c', 'a,b', '-w', weights, *arguments)
    assert status == 0, err
    assert read_mask('segmented/photo_mask.png').shape == (30, 40)


def test_segment_writes_three_files_of_the_image_size(capsys, weights):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo('photo.jpg', (40, 30), exif=exif)
    status, out, _ = run(capsys, 'segment', 'photo.jpg', '--classes', 'car, traffic light', '-w', weights)
    assert status == 0
    assert 'photo_overlay.png' in out
    mask = read_mask('segmented/photo_mask.png')
    assert mask.shape == (40, 30)
    assert set(np.unique(mask)) <= {0, 1}
    values = json.loads(Path('segmented/photo.json').read_text())
    assert (values['height'], values['width']) == (40, 30)
    assert values['classes'] == ['car', 'traffic light']
    assert sum(segment['fraction'] for segment in values['segments']) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ('name', 'mode', 'size'),
    [
        ('cmyk.jpg', 'CMYK', (40, 30)),
        ('palette.png', 'P', (40, 30)),
        ('sixteen.png', 'I;16', (40, 30)),
        ('grey.png', 'L', (33, 65)),
        ('dot.png', 'RGB', (1, 1)),
        ('line.png', 'RGB', (300, 1)),
    ],
)
def test_images_of_every_kind(capsys, weights, name, mode, size):
    photo(name, size, mode)
    assert run(capsys, 'segment', name, '-c', 'a,b', '-w', weights)[0] == 0
    assert read_mask(f'segmented/{name.split(".")[0]}_mask.png').shape == size[::-1]
    assert run(capsys, 'classify', name, '-c', 'a,b', '-w', weights)[0] == 0


def test_classify_prints_probabilities_and_writes_json(capsys, weights):
    photo('a.png'), photo('b.png')
    status, out, _ = run(capsys, 'classify', '.', '-c', 'cat, dog', '-w', weights, '--out', 'result.json')
    assert status == 0
    assert out.count('%') == 4
    rows = json.loads(Path('result.json').read_text())
    assert [row['image'] for row in rows] == ['a.png', 'b.png']
    assert sum(entry['probability'] for entry in rows[0]['classes']) == pytest.approx(1, abs=1e-5)


def test_a_broken_image_is_skipped_and_counted(capsys, weights):
    photo('good.png')
    Path('bad.jpg').write_text('<html>not here</html>')
    status, out, err = run(capsys, 'segment', '.', '-c', 'a,b', '-w', weights)
    assert status == 1
    assert 'good_overlay.png' in out
    assert 'bad.jpg' in err
    assert '1 of 2' in err


def test_embed_writes_a_vocabulary(capsys, weights):
    status, out, _ = run(capsys, 'embed', '--class-list', 'voc20', '-w', weights, '--out', 'voc.safetensors')
    assert status == 0
    assert '20 classes' in out


@pytest.mark.parametrize(
    'told',
    [
        ('--activation', 'quick_gelu', '--num-heads', '2'),
        [
            word
            for setting in ('activation=quick_gelu', 'num_heads=2', 'text_num_heads=2')
            for word in ('--override', setting)
        ],
    ],
    ids=['options', 'overrides'],
)
def test_convert_there_and_back(capsys, weights, told):
    assert run(capsys, 'convert', weights, 'clip.safetensors', '--to', 'openclip')[0] == 0
    assert run(capsys, 'convert', 'clip.safetensors', 'back.safetensors', *told)[0] == 0
    assert read_weights('back.safetensors').tensors.keys() == read_weights(weights).tensors.keys()
    assert_close(read_weights('back.safetensors').tensors, read_weights(weights).tensors, atol=0, rtol=0)


def test_models_and_doctor(capsys):
    status, out, _ = run(capsys, 'models', 'RN50')
    assert status == 0
    assert 'RN50/openai' in out
    assert json.loads(run(capsys, 'models', 'RN50', '--json')[1])
    assert 'torch' in run(capsys, 'doctor')[1]


def test_version(capsys):
    assert run(capsys, '--version') == (0, f'clipdense {clipdense.__version__}\n', '')


@pytest.mark.parametrize(('threads', 'text'), [(1, 'CPU, 1 thread\n'), (2, 'CPU, 2 threads\n')])
def test_doctor_counts_threads(capsys, monkeypatch, threads, text):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    out = run(capsys, 'doctor')[1]
    assert text in out
    assert 'not compiled' not in out


def test_doctor_beside_the_stand_in_for_mmcv(capsys):
    """A process that has used detection has it installed."""
    from clipdense.mmcv_ops import install

    install()
    status, out, err = run(capsys, 'doctor')
    assert 'device' in out, err
    assert status in (0, 1)


def test_scenes(capsys):
    assert run(capsys, 'scenes', 'scenes', '--train', '3', '--val', '2')[0] == 0
    assert run(capsys, 'scenes', 'scenes', '--train', '3', '--val', '2')[0] == 2


BAD = {
    'no classes': (['segment', 'photo.png'], 'no classes given'),
    'two kinds of classes': (
        ['segment', 'photo.png', '-c', 'a', '--class-list', 'voc21'],
        'cannot be combined: use only one',
    ),
    'empty vocabulary': (['segment', 'photo.png', '-c', ' '], 'empty'),
    'repeated class': (['segment', 'photo.png', '-c', 'car, Car'], 'twice'),
    'no such image': (['segment', 'nothing.png', '-c', 'a'], 'nothing.png'),
    'no image in the folder': (['segment', 'empty', '-c', 'a'], 'empty'),
    'no such method': (
        ['segment', 'photo.png', '-c', 'a', '--method', 'maskclop', '-w', '{weights}'],
        "mean 'maskclip'",
    ),
    'no such option': (
        ['segment', 'photo.png', '-c', 'a', '--option', 'sdt=1', '--method', 'naclip', '-w', '{weights}'],
        "Did you mean 'std'",
    ),
    'no value': (['segment', 'photo.png', '-c', 'a', '--option', 'std', '-w', '{weights}'], 'name=value'),
    'no scales': (['segment', 'photo.png', '-c', 'a', '--scales', '1,x', '-w', '{weights}'], '0.75, 1, 1.25'),
    'negative window': (
        ['segment', 'photo.png', '-c', 'a', '--window', '-8', '-w', '{weights}'],
        'greater than or equal',
    ),
    'window under a patch': (
        ['segment', 'photo.png', '-c', 'a', '--window', '7', '-w', '{weights}'],
        'windows of 7 pixels are smaller than a patch of 8',
    ),
    'no proxy': (
        ['segment', 'photo.png', '-c', 'a', '--method', 'proxyclip', '-w', '{weights}'],
        'vit_base_patch8_224.dino',
    ),
    'a proxy that is no file': (
        ['segment', 'photo.png', '-c', 'a', '--method', 'proxyclip', '-o', 'proxy=p.pth', '-w', '{weights}'],
        'p.pth',
    ),
    'a threshold without a background': (
        ['segment', 'photo.png', '-c', 'a', '--background-threshold', '0.3', '-w', '{weights}'],
        'add --background',
    ),
    'an area without a background': (
        ['segment', 'photo.png', '-c', 'a', '--area-threshold', '0.3', '-w', '{weights}'],
        'add --background',
    ),
    'a threshold above 1': (
        ['segment', 'photo.png', '-c', 'a', '--background-threshold', '30'],
        'Invalid value',
    ),
    'no size': (['segment', 'photo.png', '-c', 'a', '--short-side', '-1'], 'greater than or equal'),
    'options of no config': (
        ['segment', 'photo.png', '-c', 'a', '-o', 'model.clip=x', '-w', '{weights}'],
        "has no option 'model.clip'",
    ),
    'a word for a number': (
        ['segment', 'photo.png', '-c', 'a', '--method', 'naclip', '--option', 'std=x', '-w', '{weights}'],
        'std of naclip must be a number',
    ),
    'no groups': (
        ['segment', 'photo.png', '-c', 'a', '--explain', '-w', '{weights}'],
        'needs weights of a method',
    ),
    'a method beside a config': (
        [
            'segment',
            'photo.png',
            '-c',
            'a',
            '--config',
            'lseg/lseg_scenes',
            '--method',
            'gem',
            '-w',
            '{weights}',
        ],
        'combined with --config',
    ),
    'a config of a pre-trainer': (
        ['segment', 'photo.png', '-c', 'a', '--config', 'contrastive/clip_scenes', '-w', '{weights}'],
        'use the config of a SegmentationModel',
    ),
    'no such weights': (['segment', 'photo.png', '-c', 'a', '-w', 'ViT-B-61/openai'], 'ViT-B-16/openai'),
    'offline': (['segment', 'photo.png', '-c', 'a', '-w', 'ViT-B-16/openai'], 'CLIPDENSE_OFFLINE'),
    'html for weights': (['segment', 'photo.png', '-c', 'a', '-w', 'page.pt'], 'web page'),
    'no such preset': (['segment', 'photo.png', '--class-list', 'voc22'], 'voc2'),
    'no such templates': (
        ['segment', 'photo.png', '-c', 'a', '--templates', 'imagnet', '-w', '{weights}'],
        "mean 'imagenet'",
    ),
    'no such device': (
        ['segment', 'photo.png', '-c', 'a', '--device', 'cuda:7', '-w', '{weights}'],
        'cuda:7',
    ),
    'broken image': (['classify', 'broken.jpg', '-c', 'a', '-w', '{weights}'], 'broken.jpg'),
    'other activation': (
        ['classify', 'photo.png', '-c', 'a', '-w', '{weights}', '--activation', 'gelu'],
        'activation',
    ),
    'no such override': (
        ['classify', 'photo.png', '-c', 'a', '-w', '{weights}', '--override', 'device=cpu'],
        "no override 'device'",
    ),
    'override without a value': (
        ['segment', 'photo.png', '-c', 'a', '-w', '{weights}', '--override', 'num_heads'],
        'must have the form name=value',
    ),
    'preprocessing of another type': (
        ['segment', 'photo.png', '-c', 'a', '-w', '{weights}', '--override', 'preprocess=3'],
        "preprocess must be 'openai'",
    ),
    'override of what the file records': (
        ['embed', '-c', 'a', '-w', '{weights}', '--out', 'a.safetensors', '--override', 'eos_token_id=5'],
        'eos_token_id',
    ),
    'no such config': (['train', 'contrastive/clip_scene'], 'Did you mean'),
    'no such task': (['methods', '--task', 'segmentaton'], "Did you mean 'segmentation'"),
    'no method for a task': (['methods', '--task', 'grounding'], "no method for the task 'grounding'"),
    'no such model': (['models', 'ViT-B-61'], "Did you mean 'ViT-B-16'"),
    'no such model in JSON': (['models', 'nosuchmodel', '--json'], "match 'nosuchmodel'"),
    'embeddings under another suffix': (
        ['embed', '-c', 'a', '-w', '{weights}', '--out', 'emb.pt'],
        'use emb.safetensors',
    ),
    'no such layout': (['convert', '{weights}', 'x', '--to', 'onnx'], 'huggingface'),
    'unknown option': (['segment', 'photo.png', '--clases', 'a'], '--classes'),
    'no such command': (['segmet'], 'segmet'),
}


@pytest.mark.parametrize(('arguments', 'message'), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_status_2(capsys, weights, tmp_path, arguments, message):
    photo('photo.png')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'page.pt').write_text('<!DOCTYPE html><html><body>404</body></html>')
    photo('whole.jpg')
    (tmp_path / 'broken.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:300])
    status, _, err = run(capsys, *(argument.format(weights=weights) for argument in arguments))
    assert status == 2
    assert message in err
    assert 'Traceback' not in err
    lines = [line for line in err.splitlines() if line.startswith('clipdense: ') and 'warning' not in line]
    assert len(lines) == 1 or 'Usage' in err


def test_results_are_not_overwritten_unasked(capsys, weights):
    photo('photo.png')
    assert run(capsys, 'segment', 'photo.png', '-c', 'a,b', '-w', weights)[0] == 0
    before = Path('segmented/photo.json').read_text()
    status, _, err = run(capsys, 'segment', 'photo.png', '-c', 'c,d', '-w', weights)
    assert (status, Path('segmented/photo.json').read_text()) == (2, before)
    assert '--overwrite' in err
    assert run(capsys, 'segment', 'photo.png', '-c', 'c,d', '-w', weights, '--overwrite')[0] == 0


def test_verbose_shows_the_traceback(capsys):
    status, _, err = run(capsys, '--verbose', 'segment', 'nothing.png', '-c', 'a')
    assert status == 2
    assert 'Traceback' in err


def test_the_text_cache_serves_the_second_call(capsys, weights, tmp_path):
    photo('photo.png')
    run(capsys, 'segment', 'photo.png', '-c', 'a,b', '-w', weights)
    cached = list((tmp_path / 'cache').rglob('*.safetensors'))
    assert len(cached) == 1
    run(capsys, 'segment', 'photo.png', '-c', 'a,b', '-w', weights, '--overwrite')
    assert list((tmp_path / 'cache').rglob('*.safetensors')) == cached


def video(path, frames, size=(40, 30)):
    """Write a video of one photograph."""
    photo('photo.jpg', size)
    whole = VideoWriter('whole.mp4', 10)
    for _ in range(frames):
        whole.write(Image.open('photo.jpg').convert('RGB').resize(size))
    whole.finish()
    os.replace('whole.mp4', path)


def test_segment_writes_a_video_with_a_legend(capsys, weights):
    video('a.mp4', 12)
    status, out, err = run(capsys, 'segment', 'a.mp4', '-c', 'car, road', '-w', weights)
    assert status == 0, err
    assert 'a_overlay.mp4: 12 frames' in out
    frames = list(VideoFrames('segmented/a_overlay.mp4'))
    assert len(frames) == 12
    assert frames[0].height > 30
    values = json.loads(Path('segmented/a.json').read_text())
    assert (values['fault'], values['classes'], len(values['frames'])) == (None, ['car', 'road'], 12)
    assert values['frames'][5]['second'] == 0.5
    assert sorted(path.name for path in Path('segmented').iterdir()) == ['a.json', 'a_overlay.mp4']
    status, _, err = run(capsys, 'segment', 'a.mp4', '-c', 'car, road', '-w', weights)
    assert (status, 'add --overwrite' in err) == (2, True)


def test_one_bad_video_among_several(capsys, weights):
    video('a.mp4', 3)
    Path('b.mp4').write_bytes(b'no video')
    status, out, err = run(capsys, 'segment', 'a.mp4', 'b.mp4', '-c', 'car, road', '-w', weights)
    assert status == 1
    assert 'a_overlay.mp4: 3 frames' in out
    assert 'skipped: b.mp4 cannot be opened as a video (8 bytes)' in err
    assert not Path('segmented/b_overlay.mp4').exists()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['photo.jpg'], 'is a video and photo.jpg an image: segment videos and images in two commands'),
        (['--save', 'coco'], 'a video gives an overlay and a JSON file only'),
    ],
)
def test_what_videos_cannot_be_combined_with(capsys, weights, arguments, said):
    video('a.mp4', 2)
    status, _, err = run(capsys, 'segment', 'a.mp4', *arguments, '-c', 'car, road', '-w', weights)
    assert status == 2
    assert said in err
