"""The study of GLIP on scenes: its configs, its table, and that finished runs are not repeated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import glip_scenes

from clipdense.data.scenes import write_scenes


def result(value, task='combinations'):
    return {'steps': 4, 'cpu_seconds': 10.0, **dict.fromkeys(glip_scenes.COLUMNS[task], value)}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('glip') / 'scenes'
    write_scenes(folder, num_train=40, num_val=1)
    return folder


def study(tmp_path, scenes):
    return glip_scenes.Study(tmp_path / 'runs', scenes, 'clip.safetensors', 3, 0.3, '000000.tar')


@pytest.mark.parametrize('name', glip_scenes.CONFIGS)
def test_configs_and_options_exist(tmp_path, scenes, name):
    cfg = study(tmp_path, scenes).config('combinations', name, 0)
    assert cfg.train_cfg.max_steps == 3
    assert cfg.model.head.size.get('fused', True) == (name != 'apart')
    assert cfg.model.prompts.per_phrase == (name != 'joined')
    assert cfg.model.prompts.last_token == (name not in ('tokens', 'joined'))


def test_words_that_are_held_out_have_no_box_and_no_caption(tmp_path, scenes):
    cfg = study(tmp_path, scenes).config('words', 'captions', 0)
    parts = cfg.train_dataloader.dataset.datasets
    data = json.loads(Path(parts.captions.annotations).read_text())
    texts = [*parts.boxes.classes, *(one['caption'] for one in data['images'])]
    assert texts
    assert not any(word in text.split() for text in texts for word in glip_scenes.HELD_OUT)
    assert {one['image_id'] for one in data['annotations']} <= {one['id'] for one in data['images']}


def test_the_table():
    results = {
        ('combinations', 'boxes', 0): result(0.5),
        ('combinations', 'boxes', 1): result(0.7),
        ('words', 'captions', 0): result(0.25, 'words'),
    }
    lines = glip_scenes.table(results).splitlines()
    assert lines[2].startswith('| boxes | 2 | 4 | 10 | 0.600 ± 0.100 |')
    assert lines[-1] == '| captions | 1 | 4 | 10 | 0.250 | 0.250 |'


def test_finished_runs_are_not_repeated(tmp_path, capsys, monkeypatch):
    done = []

    def perform(self, task, name, seed):
        folder = self.folder(task, name, seed)
        folder.mkdir(parents=True)
        (folder / 'result.json').write_text(json.dumps(result(0.5, task)))
        done.append((task, name, seed))
        return result(0.5, task)

    monkeypatch.setattr(glip_scenes.Study, 'perform', perform)
    asked = [str(tmp_path), '--seeds', '0', '1', '--only', 'captions', 'boxes', '--tasks', 'words']
    glip_scenes.main(asked)
    first = list(done)
    assert first[:2] == [('words', 'boxes', 0), ('words', 'captions', 0)]  # a teacher before its pupil
    glip_scenes.main(asked)
    assert done == first
    assert capsys.readouterr().out.count('| captions | 2 |') == 3
