"""Named parts that are trained: only these change, and a tuned prompt belongs to its text."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from clipdense.inference.detector import Detector
from clipdense.layers.parameter_groups import parameter_groups
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.methods.glip.tuning import TunedGLIP
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import write_weights

from .conftest import config
from .test_detector import BOX, IMAGE, losses_of

HEADS = r'head\.(box\.|centerness\.|words\.|log_scale|text_bias|bias).*'


def tuned(tune, **options):
    torch.manual_seed(0)
    model = TunedGLIP(tune=tune, **config(**options))
    with torch.no_grad():
        model.head.bias.fill_(-1.0)
        model.head.words.weight.normal_(std=2.0)
    return model


def train(model, data, steps=2):
    model.train()
    groups = parameter_groups(model, 0.05)
    optimizer = torch.optim.AdamW(groups, 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(losses_of(model, data).values()).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    ('tune', 'options', 'changed'),
    [
        ('full', {}, r'(backbone|neck|head|clip)\..*'),
        ('full', {'frozen': ('backbone', 'clip')}, r'(neck|head)\..*'),
        ('linear', {}, HEADS),
        ('linear', {'fused': False}, HEADS),
        ('prompt', {}, r'prompt_offset\..*'),
        ('prompt', {'prompts': {'per_phrase': True}}, r'prompt_offset\..*'),
        ('prompt', {'fused': False}, r'prompt_offset\..*'),
    ],
)
def test_only_the_named_part_changes(vocabulary, batch, tune, options, changed):
    model = tuned(tune, **options)
    model.set_vocabulary(vocabulary)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, batch(BOX, BOX))
    found = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert found
    assert all(re.fullmatch(changed, name) for name in found), sorted(found)
    assert {name for name in before if re.fullmatch(HEADS, name)} <= found or tune == 'prompt'


def test_linear_probing_names_every_tensor_after_the_blocks_but_the_scales():
    trained = {name for name, one in tuned('linear').named_parameters() if one.requires_grad}
    of_head = {name for name, _ in tuned('full').named_parameters() if name.startswith('head.')}
    assert of_head - trained == {one for one in of_head if one.startswith('head.blocks.')} | {
        'head.box_scales'
    }


@pytest.mark.parametrize('tune', ['linear', 'prompt'])
def test_frozen_modules_are_in_evaluation_mode(tune):
    model = tuned(tune).train()
    training = {name for name, one in model.named_modules() if one.training}
    own = {'head.box', 'head.centerness', 'head.words'} if tune == 'linear' else {'prompt_offset'}
    assert training - {'', 'head'} == own


def scores(model, names):
    return Detector(GLIPPredictor(model))(IMAGE, names, score_threshold=0.0).confidence


def test_a_tuned_prompt_begins_at_the_model_and_belongs_to_its_names(vocabulary, batch):
    model, names = tuned('prompt'), list(vocabulary.class_names)
    model.set_vocabulary(vocabulary)
    before, other = scores(model, names), scores(model, ['dog', 'cat'])
    torch.manual_seed(0)
    plain = GLIP(**config())
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('prompt_offset')})
    assert (scores(plain.eval(), names) == before).all()
    model.set_vocabulary(vocabulary)
    train(model, batch(BOX, BOX))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert abs(scores(model, names) - before).max() > 1e-3
    with pytest.warns(UserWarning, match="belongs to other class names than 'dog. cat'"):
        assert (scores(model, ['dog', 'cat']) == other).all()


def test_start_weights_need_no_offsets(tmp_path, glip):
    source = glip()
    write_weights(tmp_path / 'glip.safetensors', source.state_dict())
    for tune in ('linear', 'prompt'):
        model = TunedGLIP(tune=tune, start=tmp_path / 'glip.safetensors', **config())
        model.init_weights()
        assert torch.equal(model.head.words.weight, source.head.words.weight)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'tune': 'linaer'}, "tune must be one of full, linear, prompt, got 'linaer'.*'linear'"),
        ({'tune': 'linear', 'frozen': ('clip',)}, 'says what is trained: remove frozen'),
        ({'tune': 'prompt', 'prompts': {'shuffle': True}}, 'set prompts.shuffle=False'),
        ({'tune': 'prompt', 'prompts': {'negatives': 3}}, 'prompts.negatives=None'),
    ],
)
def test_wrong_settings_are_refused(options, message):
    tune = options.pop('tune')
    with pytest.raises(InputError, match=message):
        TunedGLIP(tune=tune, **config(**options))


def test_a_prompt_of_several_texts_cannot_be_tuned(batch):
    model = tuned('prompt')
    model.set_vocabulary(Vocabulary(tuple(f'thing number {index}' for index in range(60))))
    with pytest.raises(InputError, match='all names must fit into one text'):
        losses_of(model.train(), batch((BOX[0], [50]), (BOX[0], [51])))


def test_a_text_with_more_tokens_than_offsets(vocabulary, batch):
    model = TunedGLIP(tune='prompt', tokens=4, **config())
    model.set_vocabulary(vocabulary)
    with pytest.raises(InputError, match=r'there are offsets for 4: set model\.tokens'):
        losses_of(model.train(), batch(BOX))
