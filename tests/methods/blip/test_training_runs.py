"""The configs for scenes in small: train from shards, go on after a stop, fine-tune, use the files."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.testing import assert_close

from clipdense import Segmenter
from clipdense.config import load_config
from clipdense.data.scenes import SceneLabels, Scenes
from clipdense.engine import test as evaluate
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.launch import train
from clipdense.inference.captioner import Captioner
from clipdense.methods.blip.checkpoint import load
from clipdense.methods.blip.evaluation import BlipClassification
from clipdense.methods.blip.sizes import MedSize
from clipdense.methods.blip.tokenizer import UNKNOWN, BlipTokenizer
from clipdense.registry import EVALUATIONS, build_module
from clipdense.utils.errors import InputError

from ...stopping import StopAt

NAMES = ('blip_scenes', 'blip_scenes_retrieval', 'blip_scenes_caption', 'blip_scenes_vqa')


@pytest.fixture(scope='module')
def make_config(shards):
    """``make_config(name, steps, **model) -> Config`` of a config for scenes, without evaluations."""

    def make(name='blip_scenes', steps=4, **model):
        cfg = load_config(f'blip/{name}')
        if isinstance(cfg.model.blip, dict):
            size = cfg.model.blip.size
            size.image.update(patch_size=8, width=24, layers=2, num_heads=2, mlp_width=32)
            size.text.update(width=24, layers=2, num_heads=2, mlp_width=32)
            size.embed_dim = 16
        cfg.model.update({'ramp_steps': 3, 'queue_size': 6} if 'queue_size' in cfg.model else {})
        cfg.model.update(model)
        cfg.train_dataloader.update(batch_size=4, num_workers=0)
        if name == 'blip_scenes_vqa':
            cfg.train_dataloader.dataset.num_images = 8
        else:
            cfg.train_dataloader.dataset.update(urls=str(shards), samples_per_epoch=8, shuffle=0)
        cfg.train_cfg.max_steps = steps
        cfg.param_scheduler.warmup = 1
        cfg.default_hooks.checkpoint.interval = 2
        cfg.custom_hooks = {}
        return cfg

    return make


@pytest.fixture(scope='module')
def pretrained(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pretrained')
    train(make_config(), work_dir=folder)
    return folder / 'blip.safetensors'


@pytest.mark.parametrize('name', NAMES)
def test_train_stop_and_go_on(make_config, pretrained, tmp_path, name):
    """Bit for bit: weights, momentum model, queue with its numbers, ramp, and what stochastic depth drops."""
    start = {'drop_path': 0.5} | ({} if name == 'blip_scenes' else {'blip': str(pretrained)})

    def cut(steps, folder, resume=False):
        cfg = make_config(name, **start)
        if steps < 4:
            cfg.custom_hooks = {'stop': {'type': StopAt, 'step': steps}}
        return train(cfg, work_dir=tmp_path / folder, resume=resume)

    whole = cut(4, 'whole')
    cut(2, 'cut')
    resumed = cut(4, 'cut', resume=True)
    expected = whole.model.state_dict()
    assert set(expected) == set(resumed.model.state_dict())
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(expected[key], value), key
    if 'queue.place' in expected:
        assert int(expected['queue.place']) == 16 % 6
        assert int(expected['steps']) == 4
    assert_close(load(tmp_path / 'cut/blip.safetensors').state_dict(), whole.model.blip.state_dict())


def test_its_file_captions_and_segments(pretrained):
    with pytest.warns(UserWarning, match='those of pre-training, whose captions are poor'):
        captioner = Captioner.from_pretrained(pretrained)
    image = Scenes().draw(0).image
    assert set(captioner(image).text.replace(',', '').split()) <= set(load(pretrained).text_size.words)
    masks = Segmenter.from_pretrained(pretrained)(image, ['red circle', 'blue star'])
    assert masks.mask.shape == (32, 32)


def test_fine_tuned_files_have_the_part_that_answers(make_config, pretrained, tmp_path):
    captions = train(
        make_config('blip_scenes_caption', 2, blip=str(pretrained)), work_dir=tmp_path / 'captions'
    )
    assert not [
        name for name in captions.model.state_dict() if name.startswith(('blip.encoder', 'blip.joint'))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Captioner.from_pretrained(tmp_path / 'captions/blip.safetensors')
    train(make_config('blip_scenes_retrieval', 2, blip=str(pretrained)), work_dir=tmp_path / 'retrieval')
    found = load(tmp_path / 'retrieval/blip.safetensors')
    assert found.decoder is None
    assert found.itm_head is not None


def test_an_evaluation_of_the_file(make_config, pretrained, tmp_path):
    parts = {
        by: {
            'type': BlipClassification,
            'dataset': {'type': SceneLabels, 'split': 'base', 'num_images': 8},
            'by': by,
            'name': by,
        }
        for by in ('itc', 'itm', 'caption')
    }
    cfg = make_config()
    cfg.custom_hooks = {'evaluation': {'type': EvaluationHook, 'evaluations': parts}}
    found = evaluate(cfg, pretrained, tmp_path / 'test')
    assert set(found) == {'itc/top1', 'itm/top1', 'caption/top1'}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize('name', NAMES)
def test_the_evaluations_of_a_config_fit_its_model(make_config, pretrained, name):
    model = build_module(
        make_config(name, **({} if name == 'blip_scenes' else {'blip': str(pretrained)})).model
    )
    for hook in load_config(f'blip/{name}').custom_hooks.values():
        for part in hook.evaluations.values():
            EVALUATIONS.build(part).check(model)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model.micro_batch': 2}, 'micro_batch is not possible: negatives are drawn from the whole batch'),
        ({'optim_wrapper.accumulative_counts': 2}, 'accumulative_counts must be 1: negatives are drawn'),
        ({'model.queue_size': 3}, 'a step has 4 pairs, more than queue_size=3: raise it'),
        ({'train_dataloader.batch_size': 1}, 'at least two pairs: got one pair'),
        ({'train_dataloader.dataset.tokenizer': None}, 'use the tokenizer CaptionIds for the dataset'),
        (
            {'train_dataloader.dataset.tokenizer.longest': 41, 'model.blip.size.text.context_length': 6},
            'longest=6',
        ),
    ],
)
def test_settings_that_are_refused(make_config, tmp_path, change, message):
    cfg = make_config()
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=message):
        train(cfg, work_dir=tmp_path)


def test_prompts_of_data_and_model_agree(make_config, pretrained, tmp_path):
    cfg = make_config('blip_scenes_caption', blip=str(pretrained), prompt='an image of ')
    with pytest.raises(InputError, match="prompt 'an image of ': give CaptionIds"):
        train(cfg, work_dir=tmp_path)


@pytest.mark.parametrize('difficulty', ['easy', 'standard', 'hard'])
def test_the_words_of_the_config_are_those_of_the_captions(difficulty):
    size = MedSize(**load_config('blip/blip_scenes').model.blip.size.text)
    tokenizer, scenes = BlipTokenizer(size), Scenes(difficulty)
    for index in range(60):
        caption = scenes.draw(index).caption
        ids = tokenizer.encode(caption)
        assert UNKNOWN not in ids, caption
        assert tokenizer.decode(ids) == caption
