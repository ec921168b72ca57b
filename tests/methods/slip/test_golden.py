"""SLIP against the official code: the loss, and a whole step with gradients and statistics of batch norm."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

from clipdense.clip.checkpoint import load
from clipdense.clip.losses import contrastive_loss
from clipdense.data.preprocessor import DataPreprocessor
from clipdense.layers.parameter_groups import parameter_groups
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr, simclr_loss
from clipdense.utils.errors import CheckpointError
from clipdense.weights.key_map import from_ours, to_ours

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
HEAD = {'head.': 'image_mlp.'}


@pytest.fixture
def official(golden, tmp_path):
    """The model of the release with its weights, its tensors, and its settings."""
    tensors, meta = golden('slip_model_tiny')
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    path = tmp_path / 'slip.pt'
    torch.save({'epoch': 1, 'state_dict': {f'module.{name}': value for name, value in state.items()}}, path)
    clip = load(path, num_heads=3, text_num_heads=2)
    config = meta['config']
    partner = SimClr(clip, config['ssl_mlp_dim'], config['ssl_emb_dim'], meta['tau'], weights=path)
    return SlipPretrainer(clip, partner, meta['ssl_scale']).train(), tensors, meta


def test_losses_and_gradients(golden):
    tensors, meta = golden('slip_loss_tiny')
    names = ('image', 'text', 'aug1', 'aug2')
    image, text, first, second = (tensors[f'input.{name}_embed'].clone().requires_grad_() for name in names)
    unit = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
    clip_loss = contrastive_loss(*unit, tensors['input.logit_scale'])
    ssl_loss, _ = simclr_loss(first, second, meta['temperature'])
    (clip_loss + meta['ssl_scale'] * ssl_loss).backward()
    assert_close(clip_loss, tensors['output.clip_loss'], **TOLERANCE)
    assert_close(ssl_loss, tensors['output.ssl_loss'], **TOLERANCE)
    for name, x in zip(names, (image, text, first, second), strict=True):
        assert_close(x.grad, tensors[f'output.grad_{name}'], **TOLERANCE)


def test_losses_of_the_other_file(golden):
    tensors, _ = golden('clip_aux')
    first, second = (tensors[f'input.aug{number}_embed'].clone().requires_grad_() for number in (1, 2))
    loss, accuracy = simclr_loss(first, second)
    loss.backward()
    assert_close(loss[None], tensors['output.ssl_loss'], **TOLERANCE)
    assert_close(100 * accuracy[None], tensors['output.ssl_acc'], **TOLERANCE)
    assert_close(first.grad, tensors['grad.aug1_embed'], **TOLERANCE)
    assert_close(second.grad, tensors['grad.aug2_embed'], **TOLERANCE)


class KeepGradients(OptimWrapper):
    """An optimizer that steps, and leaves the gradients to be looked at."""

    def zero_grad(self, **_):
        pass


@pytest.mark.parametrize('micro_batch', [None, 2, 1])
def test_a_whole_step(official, micro_batch):
    """Also in micro-batches: batch norm of the head sees the whole batch."""
    model, tensors, _ = official
    model.micro_batch = micro_batch
    model.data_preprocessor = DataPreprocessor()  # the official images are normalized
    images = torch.stack([tensors[f'input.{name}'] for name in ('image', 'aug1', 'aug2')], dim=1)
    optimizer = KeepGradients(torch.optim.SGD(model.parameters(), lr=0.0))
    found = model.train_step({'images': images, 'token_ids': tensors['input.text']}, optimizer)
    for name in ('loss', 'clip_loss', 'ssl_loss'):
        assert_close(found[name], tensors[f'output.{name}'], **TOLERANCE)
    assert_close(100 * found['clip_accuracy'], tensors['output.clip_acc'], **TOLERANCE)
    assert_close(100 * found['ssl_accuracy'], tensors['output.ssl_acc'], **TOLERANCE)
    grads = {name: p.grad for name, p in model.clip.named_parameters()}
    grads = from_ours(grads, 'slip') | {
        f'image_mlp.{name}': p.grad for name, p in model.partner.head.named_parameters()
    }
    for name, expected in tensors.items():
        if name.startswith('grad.'):
            assert_close(grads[name.removeprefix('grad.')], expected, **TOLERANCE, msg=name)
    statistics = model.partner.head.state_dict()
    for name, expected in tensors.items():
        if name.startswith('output.after.'):
            assert_close(statistics[name.removeprefix('output.after.image_mlp.')], expected, **TOLERANCE)


def test_embeddings(official):
    model, tensors, _ = official
    images, texts = model(tensors['input.image'], tensors['input.text'])
    normal = torch.nn.functional.normalize
    assert_close(images, normal(tensors['output.image_embed'], dim=-1), **TOLERANCE)
    assert_close(texts, normal(tensors['output.text_embed'], dim=-1), **TOLERANCE)


def test_the_same_parameters_decay(official):
    model, tensors, meta = official
    decayed = {id(p) for p in parameter_groups(model, 0.1, 'slip')[0]['params']}
    ours = {name.removeprefix('clip.') for name, p in model.named_parameters() if id(p) in decayed}
    state = {key.removeprefix('state.'): tensors[key] for key in tensors if key.startswith('state.')}
    theirs = {name: state[name] for name in meta['weight_decayed'] if not name.startswith('image_mlp.')}
    heads = {
        f'partner.head.{name.removeprefix("image_mlp.")}'
        for name in meta['weight_decayed']
        if name not in theirs
    }
    assert ours == set(to_ours(theirs, 'slip')[0]) | heads


def test_a_head_of_another_size_is_refused(official, tmp_path):
    model, *_ = official
    with pytest.raises(CheckpointError, match=r'image_mlp\.layer1\.weight does not fit the head'):
        SimClr(model.clip, 41, 12, weights=tmp_path / 'slip.pt')
    torch.save({'state_dict': {'logit_scale': torch.tensor(1.0)}}, tmp_path / 'none.pt')
    with pytest.raises(CheckpointError, match='has no head of SLIP'):
        SimClr(model.clip, 40, 12, weights=tmp_path / 'none.pt')
