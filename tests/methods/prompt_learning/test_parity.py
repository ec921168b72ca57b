"""Official outputs of CoOp, CoCoOp and MaPLe: prompts to the last bit, logits, losses, gradients."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from clipdense.methods.prompt_learning.checkpoint import load_prompts
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.learner import CoOp


def official_learner(official, name, tmp_path, **options):
    """The learner of an official file, its model with the classes of the case, and the numbers."""
    clip, tensors, meta = official(name)
    start = 'state.prompt_learner.'
    state = {key.removeprefix(start): x for key, x in tensors.items() if key.startswith(start)}
    save_file(state, tmp_path / 'prompts.safetensors')
    learner = load_prompts(tmp_path / 'prompts.safetensors', clip, **options)
    return PromptClassifier(clip, learner, meta['classnames']).train(), tensors


def assert_trains_like(model, tensors, prefix, gradients):
    """Logits, loss and the gradients of the learned tensors, by the name of the official one."""
    logits = model.logits(tensors['input.image'])
    assert_close(logits, tensors[f'output.{prefix}logits'], atol=1e-3, rtol=0)
    loss = model.loss(logits, tensors['input.label'])['loss']
    assert_close(loss, tensors[f'output.{prefix}loss'], atol=1e-5, rtol=1e-5)
    loss.backward()
    found = dict(model.learner.named_parameters())
    assert found.keys() == gradients.keys()
    for name, expected in gradients.items():
        assert_close(found[name].grad, tensors[expected], atol=1e-5, rtol=1e-5, msg=name)
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def assert_prompts(found, expected):
    """Equal to the last bit as far as the text goes; the rest is padding, which no token sees."""
    assert torch.equal(found, expected[..., : found.shape[-2], :])


@pytest.mark.parametrize('position', ['end', 'middle', 'front'])
def test_coop(official, tmp_path, position):
    model, tensors = official_learner(official, 'coop_unified', tmp_path, position=position)
    learner = model.learner
    assert_prompts(learner.prompts(), tensors[f'output.{position}.prompts'])
    features = model.clip.encode_prompts(learner.prompts(), learner.texts.eot)
    assert_close(features, tensors[f'output.{position}.text_features'], atol=1e-5, rtol=1e-5)
    assert_close(
        model.clip.encode_image(tensors['input.image']), tensors['output.image_features'], atol=1e-5, rtol=0
    )
    assert_trains_like(model, tensors, f'{position}.', {'ctx': f'output.{position}.grad_ctx'})


def test_coop_with_an_odd_context_in_the_middle(official):
    clip, tensors, meta = official('coop_unified')
    learner = CoOp(clip, 3, position='middle', class_names=meta['classnames'])
    learner.ctx.data.copy_(tensors['state.prompt_learner.ctx'][:3])
    assert_prompts(learner.prompts(), tensors['output.middle_n3.prompts'])
    logits = PromptClassifier(clip, learner).logits(tensors['input.image'])
    assert_close(logits, tensors['output.middle_n3.logits'], atol=1e-3, rtol=0)


def test_coop_from_words(official):
    clip, tensors, meta = official('coop_unified')
    learner = CoOp(clip, init='a_photo_of_a', class_names=meta['classnames'])
    assert torch.equal(learner.ctx, tensors['output.ctxinit_end.ctx'])
    assert_prompts(learner.prompts(), tensors['output.ctxinit_end.prompts'])
    logits = PromptClassifier(clip, learner).logits(tensors['input.image'])
    assert_close(logits, tensors['output.ctxinit_end.logits'], atol=1e-3, rtol=0)


def test_cocoop(official, tmp_path):
    model, tensors = official_learner(official, 'cocoop', tmp_path)
    images = model.encode_images(tensors['input.image'])
    assert_close(model.learner.meta_net(images), tensors['output.meta_bias'], atol=1e-5, rtol=1e-5)
    prompts = model.learner.prompts(images)
    assert_close(prompts, tensors['output.prompts'][..., : prompts.shape[2], :], atol=1e-5, rtol=1e-5)
    names = {name: f'output.grad.prompt_learner.{name}' for name, _ in model.learner.named_parameters()}
    assert_trains_like(model, tensors, '', names)


def test_maple(official, tmp_path):
    model, tensors = official_learner(official, 'maple', tmp_path)
    learner = model.learner
    assert_prompts(learner.prompts(), tensors['output.prompts'])
    shared, deep = learner.image_prompts()
    assert_close(shared, tensors['output.shared_ctx_visual'], atol=1e-5, rtol=1e-5)
    assert_close(deep, tensors['output.deep_visual.0'], atol=1e-5, rtol=1e-5)
    features = model.clip.encode_prompts(
        learner.prompts(), learner.texts.eot, list(learner.compound_prompts_text)
    )
    assert_close(features, tensors['output.text_features'], atol=1e-5, rtol=1e-5)
    with model.clip.image.prompted(learner.image_prompts()):
        images = model.clip.encode_image(tensors['input.image'])
    assert_close(images, tensors['output.image_features'], atol=1e-5, rtol=1e-5)
    names = {name: f'output.grad.prompt_learner.{name}' for name, _ in learner.named_parameters()}
    assert_trains_like(model, tensors, '', names)
