"""GLIPv2's configs for scenes in small: train beside boxes, go on after a stop, use and test the file."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from PIL import Image

from clipdense.cli.app import main
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.config import load_config
from clipdense.data.scenes import ImageSet, Scenes, write_coco
from clipdense.engine.launch import train
from clipdense.inference.measuring import measure

from ....stopping import StopAt


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Eight scenes with boxes, and a CLIP."""
    folder = tmp_path_factory.mktemp('scenes')
    write_coco(
        Scenes('standard', image_size=64), folder / 'coco', [ImageSet('train', 8, ('base',), ('base',))]
    )
    clip = build_clip(ClipSize(VitSize(32, 16, 32, 1, 1, 32, 24), TextSize(32, 1, 2, 32, 24)))
    save(clip, folder / 'clip.safetensors')
    return folder


@pytest.fixture(scope='module')
def make_config(scenes):
    """``make_config(name) -> Config`` of a config for scenes, four steps of four images of 64 pixels."""

    def make(name):
        cfg = load_config(f'glip/{name}')
        kind = name.rpartition('_')[2]
        cfg.model.update(clip=str(scenes / 'clip.safetensors'), start=None)
        cfg.model.objectives[kind].update(image_size=64)
        part = {'answers': 'questions', 'captions': 'captions'}[kind]
        boxes, others = (cfg.train_dataloader.dataset.datasets[one] for one in ('boxes', part))
        boxes.update(
            annotations=str(scenes / 'coco/annotations/instances_train.json'),
            images=str(scenes / 'coco/images'),
        )
        others.update(image_size=64)
        others[part].update(num_images=8, image_size=64)
        cfg.train_dataloader.update(batch_size=4)
        cfg.train_cfg.max_steps = 4
        cfg.param_scheduler.warmup = 1
        cfg.default_hooks.checkpoint.interval = 2
        cfg.custom_hooks.pop('evaluation', None)
        for name in ('test_dataloader', 'test_evaluator', 'test_cfg'):
            cfg.pop(name)
        return cfg

    return make


@pytest.fixture(scope='module')
def trained(make_config, tmp_path_factory):
    """The folder and the model of a whole training of each config."""
    folder, models = tmp_path_factory.mktemp('whole'), {}
    for kind in ('answers', 'captions'):
        models[kind] = train(make_config(f'glipv2_scenes_{kind}'), work_dir=folder / kind).model
    return folder, models


@pytest.mark.parametrize('kind', ['answers', 'captions'])
def test_train_stop_and_go_on(make_config, trained, tmp_path, kind):
    """Bit for bit."""
    cfg = make_config(f'glipv2_scenes_{kind}')
    first = copy.deepcopy(cfg)
    first.custom_hooks['stop'] = {'type': StopAt, 'step': 2}
    train(first, work_dir=tmp_path)
    resumed = train(cfg, work_dir=tmp_path, resume=True).model.state_dict()
    expected = trained[1][kind].state_dict()
    assert set(resumed) == set(expected)
    assert [key for key, value in resumed.items() if not torch.equal(expected[key], value)] == []


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(2):
        Image.fromarray(Scenes(image_size=64).draw(index).image).save(folder / f'{index}.png')
    (folder / 'captions.csv').write_text('filepath,title\n0.png,a red star\n1.png,two circles\n')
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_file_captions(capsys, trained, photos):
    weights, out = trained[0] / 'captions/glip.safetensors', photos / 'out.json'
    status, printed, err = run(capsys, 'caption', photos, '-w', weights, '--out', out, '--device', 'cpu')
    assert status == 0, err
    assert len(printed.splitlines()) == len(json.loads(out.read_text())) == 2


def test_the_file_is_tested(capsys, trained, photos):
    weights, data = trained[0] / 'captions/glip.safetensors', photos / 'captions.csv'
    found, own = measure(weights, data, device='cpu')
    assert (found['captions/images'], own.count) == (2, 2)
    assert {'captions/CIDEr', 'captions/BLEU-4'} < set(found)
    status, printed, err = run(capsys, 'test', weights, '--data', data, '--device', 'cpu')
    assert status == 0, err
    assert 'CIDEr' in printed


@pytest.mark.parametrize('command', [('caption',), ('test', '--data')])
def test_weights_without_captions(capsys, trained, photos, command):
    """The message says which weights describe images."""
    weights = trained[0] / 'answers/glip.safetensors'
    given = {'caption': ('caption', photos, '-w', weights), 'test': ('test', weights)}[command[0]]
    more = ('--data', photos / 'captions.csv') if command[0] == 'test' else ()
    status, _, err = run(capsys, *given, *more, '--device', 'cpu')
    assert status == 2
    assert (
        'do not describe images: use those of a GLIPv2 that was trained with objectives=dict(captions' in err
    )
    assert len(err.strip().splitlines()) == 1
