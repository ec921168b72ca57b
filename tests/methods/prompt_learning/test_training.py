"""Prompts through the engine: what is trained, what is saved, and that training teaches something."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import clipdense
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.transforms import SquareCrop
from clipdense.engine.export import ExportHook
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.launch import train
from clipdense.evaluation.base_to_new import ClassifierAccuracy
from clipdense.methods.prompt_learning.checkpoint import load_prompts
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.utils.errors import InputError
from clipdense.weights.io import read_weights

from .conftest import TEXT, VIT, learned

COLORS = {'red_thing': (200, 30, 30), 'green thing': (20, 190, 40), 'blue': (30, 30, 220)}
NAMES = ['red thing', 'green thing', 'blue']
ZEROS = torch.zeros(1, 3, 32, 32)
LEARNERS = {
    'coop': {'type': CoOp, 'n_ctx': 4},
    'class-specific': {'type': CoOp, 'n_ctx': 2, 'class_specific': True},
    'cocoop': {'type': CoCoOp},
    'maple': {'type': MaPLe, 'depth': 2},
    'image': {'type': MaPLe, 'depth': 2, 'text': False},
}


@pytest.fixture
def data(tmp_path):
    """Four images of each color, in folders."""
    for number, (name, color) in enumerate(COLORS.items()):
        folder = tmp_path / 'data' / f'{number}_{name}'
        folder.mkdir(parents=True)
        for index in range(4):
            shade = tuple(max(0, min(255, value + 9 * index)) for value in color)
            Image.new('RGB', (32, 32), shade).save(folder / f'{index}.png')
    return tmp_path / 'data'


@pytest.fixture
def weights(clip, tmp_path):
    save_clip(clip, tmp_path / 'clip.safetensors')
    return tmp_path / 'clip.safetensors'


def config(weights, data, work_dir, learner, steps=30, **options):
    return Config(
        {
            'model': {
                'type': PromptClassifier,
                'clip': str(weights),
                'learner': LEARNERS[learner],
                'class_names': NAMES,
            },
            'train_dataloader': {
                'batch_size': 6,
                'dataset': {
                    'type': LabeledFolder,
                    'root': str(data),
                    'transform': {'type': SquareCrop, 'size': 32},
                    'class_names': NAMES,
                },
            },
            'train_cfg': {'max_steps': steps},
            'optim_wrapper': {'optimizer': {'type': torch.optim.AdamW, 'lr': 0.05}},
            'default_hooks': {'export': {'type': ExportHook}},
            'work_dir': str(work_dir),
            'randomness': {'seed': 0},
            **options,
        }
    )


@pytest.mark.parametrize('learner', LEARNERS)
def test_training_teaches_the_colors(weights, data, tmp_path, learner):
    work = tmp_path / 'work'
    runner = train(config(weights, data, work, learner))
    model = runner.model
    losses = [value for value, _ in zip(*runner.message_hub.get_scalar('train/loss').data, strict=True)]
    assert losses[-1] < losses[0]
    file = work / 'prompts.safetensors'
    clip = clipdense.load(weights)
    assert_close(dict(model.clip.state_dict()), dict(clip.state_dict()), atol=0, rtol=0)
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    classifier = clipdense.Classifier.from_pretrained(clip, embedder=file, cache=False, device='cpu')
    files = sorted(data.rglob('*.png'))
    found = [result.top(1)[0][0] for _, result in classifier.stream(files, NAMES)]
    assert found == [name for name in NAMES for _ in range(4)] or learner == 'image'  # too slow to learn


def test_checkpoints_have_the_prompts_only(weights, data, tmp_path):
    work = tmp_path / 'work'
    hooks = {'checkpoint': {'type': 'CheckpointHook', 'interval': 5}}
    from clipdense.engine import CheckpointHook

    hooks['checkpoint']['type'] = CheckpointHook
    full = train(config(weights, data, work, 'coop', 10, default_hooks=hooks)).model
    first, last = sorted(work.glob('step_*.pth'), key=lambda path: int(path.stem.rpartition('_')[2]))[-2:]
    assert set(read_weights(last).tensors) == {'learner.ctx'}
    assert last.stat().st_size < 100_000
    last.unlink()
    again = train(config(weights, data, work, 'coop', 10, default_hooks=hooks), resume=True).model
    assert first.exists()
    assert_close(again.learner.ctx, full.learner.ctx, atol=0, rtol=0)
    read = load_prompts(last, clipdense.load(weights))
    assert_close(read.ctx, full.learner.ctx)
    assert (read.class_names, read.position) == (tuple(NAMES), 'end')
    other = clipdense.load(weights)
    with torch.no_grad():
        other.text.pos_embed.add_(1)
    with pytest.raises(InputError, match='learned for another CLIP'):
        load_prompts(last, other)


@pytest.mark.parametrize('learner', ['coop', 'cocoop'])
def test_the_same_seed_gives_the_same_prompts(weights, data, tmp_path, learner):
    runs = {'a': 0, 'again': 0, 'b': 1}
    for name, seed in runs.items():
        train(config(weights, data, tmp_path / name, learner, 3, randomness={'seed': seed}))
    files = {name: read_weights(tmp_path / name / 'prompts.safetensors').tensors['ctx'] for name in runs}
    assert_close(files['a'], files['again'], atol=0, rtol=0)
    assert not torch.equal(files['a'], files['b'])


@pytest.mark.parametrize('learner', LEARNERS)
def test_exported_prompts_are_read_as_a_checkpoint(clip, learner, tmp_path):
    model = PromptClassifier(clip, LEARNERS[learner], NAMES)
    learned(model.learner)
    file = read_weights(model.export(tmp_path))
    other = PromptClassifier(clip, LEARNERS[learner], NAMES)
    other.load_state_dict(other.own_tensors(file))
    assert_close(dict(other.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    assert_close(other(ZEROS), model(ZEROS))


@pytest.mark.parametrize(
    ('learner', 'message'),
    [
        ({'type': CoOp, 'n_ctx': 3}, 'has prompts with n_ctx=4, but the learner has 3: set model.learner'),
        ({'type': CoCoOp}, "has prompts with type='CoOp', but the learner has 'CoCoOp'"),
        ({**LEARNERS['class-specific'], 'n_ctx': 4}, 'has prompts with class_specific=False'),
    ],
)
def test_exported_prompts_of_another_learner(clip, learner, message, tmp_path):
    file = read_weights(PromptClassifier(clip, LEARNERS['coop'], NAMES).export(tmp_path))
    with pytest.raises(InputError, match=message):
        PromptClassifier(clip, learner, NAMES).own_tensors(file)


def test_classes_that_cannot_be_tested_are_refused_before_training(weights, data, tmp_path):
    """A context for each class has none for the new classes: said now, not after the last epoch."""
    folder = {'type': LabeledFolder, 'root': str(data)}
    evaluation = {'type': ClassifierAccuracy, 'parts': {'new': {**folder, 'class_names': ['x', 'y', 'z']}}}
    hook = {'type': EvaluationHook, 'evaluations': {'test': evaluation}}
    hooks = {'default_hooks': {}, 'custom_hooks': [hook]}
    with pytest.raises(InputError, match=r"cannot be tested on test/new: .* class-specific.* none for 'x'"):
        train(config(weights, data, tmp_path / 'work', 'class-specific', 3, **hooks))
    assert not list((tmp_path / 'work').glob('step_*'))


@pytest.mark.parametrize('learner', LEARNERS)
def test_only_the_learner_is_optimized(clip, learner):
    model = PromptClassifier(clip, LEARNERS[learner], NAMES).train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f'learner.{name}' for name, _ in model.learner.named_parameters()}
    assert set(model.state_dict()) == trained
    assert not model.clip.training
    state = {name: torch.full_like(x, 0.5) for name, x in model.state_dict().items()}
    assert not any(model.load_state_dict(state))
    assert all((parameter == 0.5).all() for parameter in model.learner.parameters())
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict({})


@pytest.mark.parametrize('learner', LEARNERS)
def test_recomputed_activations_give_the_same_gradients(clip, learner):
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        model = PromptClassifier(clip, LEARNERS[learner], NAMES, gradient_checkpointing=on).train()
        model(images, labels, mode='loss')['loss'].backward()
        gradients.append({name: parameter.grad for name, parameter in model.learner.named_parameters()})
    assert_close(*gradients)


def test_batch_norm_statistics_stay(resnet_clip):
    model = PromptClassifier(resnet_clip, CoOp(resnet_clip, 2), NAMES).train()
    before = {name: x.clone() for name, x in resnet_clip.state_dict().items()}
    model(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), mode='loss')['loss'].backward()
    assert_close(dict(resnet_clip.state_dict()), before, atol=0, rtol=0)


def test_loss_by_hand(clip):
    model = PromptClassifier(clip, learned(CoOp(clip, 2)), NAMES)
    images = torch.randn(3, 3, 32, 32)
    logits = model.logits(images)
    cosines = clip.encode_image(images, normalize=True) @ model.learner().mT
    assert_close(logits, clip.logit_scale.exp() * cosines)
    found = model(images, torch.tensor([0, 2, -1]), mode='loss')
    assert_close(found['loss'], cross_entropy(logits[:2], torch.tensor([0, 2])))
    assert found['accuracy'] == (logits[:2].argmax(1) == torch.tensor([0, 2])).float().mean()
    nothing = model.loss(logits, torch.tensor([-1, -1, -1]))
    assert (nothing['loss'].item(), nothing['accuracy'].item()) == (0, 0)
    assert [row.shape for row in model(images, mode='predict')] == [(3,)] * 3


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (
            lambda clip: PromptClassifier(clip, CoOp(clip, 2)).logits(torch.zeros(1, 3, 32, 32)),
            'call set_classes',
        ),
        (lambda clip: PromptClassifier(clip, CoOp(other(), 2)), 'built for another CLIP'),
        (lambda clip: PromptClassifier(clip, {'type': CoOp, 'class_specific': True}), 'give class_names'),
        (lambda clip: PromptClassifier(clip, {'type': CoOp, 'n_context': 3}), 'n_context'),
        (
            lambda clip: PromptClassifier(clip, CoOp(clip, 2), NAMES).loss(
                torch.zeros(1, 3), torch.tensor([3])
            ),
            'label 3 in the dataset, but only 3 class names',
        ),
        (
            lambda clip: PromptClassifier(clip, CoOp(clip, 2), NAMES)(ZEROS, mode='loss'),
            'training needs labels',
        ),
    ],
)
def test_refused(clip, run, message):
    with pytest.raises(InputError, match=message):
        run(clip)


def other():
    return build_clip(ClipSize(VIT, TEXT))
