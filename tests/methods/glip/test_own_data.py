"""Weights tested on data sets of one's own: Roboflow's exports, folders of them, and words around names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import clipdense
from clipdense.cli.app import main
from clipdense.clip import self_describing
from clipdense.config import load_config
from clipdense.engine import launch
from clipdense.methods.glip.class_text import named_prompts
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.prompts import PromptRules
from clipdense.methods.glip.training_prompts import training_prompts
from clipdense.methods.glip.tuning import TunedGLIP
from clipdense.registry import build_module
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import with_wording
from clipdense.weights.io import read_weights

from .conftest import config
from .test_detector import BOX

NAMES = Vocabulary(('penguin', 'puffin', 'ray'))
WORDS = {
    'penguin': {'name': 'penguin', 'suffix': ' , which is black and white'},
    'puffin': {'prefix': 'a ', 'name': 'bird'},
}
TEXT = 'penguin , which is black and white. a bird. ray'
SENTENCE = {'sentence': 'two rays, a penguin and a bird', 'phrases': ['a penguin', 'a bird', 'two rays']}


@pytest.fixture
def worded(tmp_path):
    def make(content, names=NAMES):
        (tmp_path / 'words.json').write_text(json.dumps(content))
        return with_wording(names, tmp_path / 'words.json')

    return make


def test_words_around_names_are_read_and_only_the_names_are_phrases(glip, worded):
    (one,) = named_prompts(worded(WORDS), glip().clip, PromptRules())
    assert (one.prompt.text, one.prompt.names, one.classes) == (TEXT, ('penguin', 'bird', 'ray'), (0, 1, 2))


def test_a_sentence_has_the_classes_as_phrases(glip, worded):
    model = glip()
    (one,) = named_prompts(worded(SENTENCE), model.clip, model.prompts)
    assert (one.prompt.text, one.prompt.names) == (SENTENCE['sentence'], ('a penguin', 'a bird', 'two rays'))
    model.set_vocabulary(worded(SENTENCE))
    assert model.class_text.encoded()[0].class_of.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ('content', 'rules', 'text'),
    [
        (WORDS, {}, TEXT),
        (SENTENCE, {}, SENTENCE['sentence']),
        (SENTENCE, {'per_phrase': True}, 'a penguin. a bird. two rays'),
    ],
)
def test_training_reads_what_detection_reads(glip, batch, worded, content, rules, text):
    rules = PromptRules(**rules)
    samples = batch(BOX, ([[1, 1, 9, 9]], [2]))['data_samples']
    found = training_prompts(samples, worded(content), rules, glip().clip)
    assert [one.prompt.text for one in found] == [text, text]
    assert [one.rows.tolist() for one in found] == [[1], [2]]
    assert found[0].prompt == named_prompts(worded(content), glip().clip, rules)[0].prompt


def test_other_words_are_read_anew(glip, worded):
    model = glip()
    model.set_vocabulary(worded(WORDS))
    first = model.class_text.encoded()[0].features.hidden
    model.set_vocabulary(worded({'penguin': {'name': 'penguin', 'suffix': ' in snow'}}))
    assert model.class_text.encoded()[0].features.hidden.shape != first.shape


# The command


def export(root, images=3):
    for split in ('train', 'valid'):
        folder = root / split
        folder.mkdir(parents=True)
        boxes = []
        for number in range(images):
            pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f'{number}.png')
            about = {'image_id': number, 'area': 400, 'iscrowd': 0}
            boxes.append({**about, 'id': number, 'category_id': 1 + number % 2, 'bbox': [5, 5, 20, 20]})
        content = {
            'images': [{'id': n, 'file_name': f'{n}.png', 'width': 64, 'height': 48} for n in range(images)],
            'annotations': boxes,
            'categories': [
                {'id': 0, 'name': 'birds', 'supercategory': 'none'},
                {'id': 1, 'name': 'penguin', 'supercategory': 'birds'},
                {'id': 2, 'name': 'puffin', 'supercategory': 'birds'},
            ],
        }
        (folder / '_annotations.coco.json').write_text(json.dumps(content))
    return str(root)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A small detector in the working folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    cfg = Config({'model': {'type': GLIP, **config()}, 'test_dataloader': {'dataset': {'transforms': []}}})
    model = build_module(cfg.model).eval()
    with torch.no_grad():
        model.head.bias.fill_(-1.0)
    self_describing.save(model, tmp_path / 'glip.safetensors', cfg)
    return 'glip.safetensors'


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['test', *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_a_folder_of_data_sets(tmp_path, weights, capsys):
    export(tmp_path / 'odinw/a/v1')
    export(tmp_path / 'odinw/b')
    status, out, err = run(capsys, weights, '--data', 'odinw', '--json')
    assert status == 0, err
    found = json.loads(out)
    assert "6 images of odinw scored: boxes (2 data sets of Roboflow's COCO layout), part 'val'" in err
    assert {'a/v1/AP', 'a/v1/AP50', 'b/AP', 'average/AP', 'average/AP50'} <= set(found)
    assert found['average/AP'] == pytest.approx((found['a/v1/AP'] + found['b/AP']) / 2)
    one = json.loads(run(capsys, weights, '--data', 'odinw/b', '--json')[1])
    assert one['all/AP'] == found['b/AP']
    shown = run(capsys, weights, '--data', 'odinw', '--part', 'train')[1]
    assert [line.split(':')[0].strip() for line in shown.splitlines()] == ['a/v1', 'b', 'average']


@pytest.mark.parametrize('content', [{'puffin': {'name': 'bird', 'suffix': ' of the sea'}}, SENTENCE])
def test_words_of_a_file(tmp_path, weights, capsys, content):
    content = content if content is not SENTENCE else {**SENTENCE, 'phrases': SENTENCE['phrases'][:2]}
    export(tmp_path / 'birds')
    plain = json.loads(run(capsys, weights, '--data', 'birds', '--json')[1])
    (tmp_path / 'words.json').write_text(json.dumps(content))
    status, out, err = run(capsys, weights, '--data', 'birds', '--wording', 'words.json', '--json')
    assert status == 0, err
    worded = json.loads(out)
    assert worded.keys() == plain.keys()
    (tmp_path / 'words.json').rename(tmp_path / 'birds/prompts.json')
    assert json.loads(run(capsys, weights, '--data', 'birds', '--json')[1]) == worded


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--data', 'odinw', '--classes', 'a, b'], 'give --classes for one of them'),
        (['--data', 'odinw', '--wording', 'words.json'], 'put prompts.json into its folder'),
        (['--data', 'odinw', '--part', 'test'], "has no part 'test'; it has train, val"),
        (['--data', 'odinw/a', '--part', 'test'], "has no part 'test'; it has train, val"),
        (['--data', 'odinw/a', '--wording', 'lost.json'], 'lost.json'),
        (
            ['--data', 'odinw/a', '--wording', 'words.json'],
            "words.json: 'dog' is none of the classes (penguin",
        ),
    ],
)
def test_wrong_arguments(tmp_path, weights, capsys, arguments, message):
    export(tmp_path / 'odinw/a')
    (tmp_path / 'words.json').write_text('{"dog": "a dog"}')
    status, _, err = run(capsys, weights, *arguments)
    assert (status, err.count('\n')) == (2, 1), err
    assert message in err


def test_a_tuned_prompt_is_in_the_file(tmp_path):
    cfg = Config({'model': {'type': TunedGLIP, 'tune': 'prompt', 'tokens': 40, **config()}})
    model = build_module(cfg.model).eval()
    with torch.no_grad():
        model.prompt_offset.offset.normal_()
    self_describing.save(model, tmp_path / 'glip.safetensors', cfg)
    found = clipdense.load(tmp_path / 'glip.safetensors')
    assert torch.equal(found.prompt_offset.offset, model.prompt_offset.offset)


@pytest.mark.parametrize(('tune', 'shots'), [('full', None), ('linear', 1), ('prompt', 1)])
def test_the_published_schedule_tunes_and_stops(tmp_path, tune, shots):
    """With rates of 0 AP never rises: a tenth of the rate after 3 epochs, the end after 8."""
    cfg = load_config('glip/glip_t_odinw')
    cfg.model = dict(type=TunedGLIP, tune=tune, **config())
    settings = [f'data_root={export(tmp_path / "birds")}', f'shots={shots}']
    cfg.optim_wrapper.optimizer.lr = 1e-30
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.num_workers = 0
        dataset = loader.dataset.get('dataset', loader.dataset)
        dataset.transforms = []
    cfg.test_dataloader.dataset.split = 'val'
    runner = launch.train(cfg, tmp_path / 'run', options=settings, log='none')
    assert runner.train_loop.epoch == 8  # the ninth
    rates = [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]
    assert max(rates) == pytest.approx(1e-32)
    best = self_describing.read_config(read_weights(tmp_path / 'run/best.pth'))
    assert best['image_sides'] == runner.model.trained_sizes.sides
    assert 'all/AP' in launch.test(cfg, tmp_path / 'run/best.pth', tmp_path / 'test', options=settings)
