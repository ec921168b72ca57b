"""The partners: losses by hand, whole gradients in micro-batches, teachers, and what is refused."""

from __future__ import annotations

import warnings
from math import cos, log, pi

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

from clipdense.engine import PrecisionOptimWrapper
from clipdense.methods.slip.byol import Byol, byol_loss
from clipdense.methods.slip.dino import Dino, dino_loss
from clipdense.methods.slip.masked import MaskedImageModeling, patch_pixels, sine_positions
from clipdense.methods.slip.moco import MocoV3, moco_loss
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr, simclr_loss
from clipdense.utils.errors import InputError

TEACHERS = (Byol, MocoV3, Dino)
MASKED = {'hidden': 16, 'num_heads': 2, 'layers': 1}
PARTNERS = {
    'simclr': (SimClr, {}),
    'byol': (Byol, {}),
    'moco': (MocoV3, {}),
    'dino': (Dino, {'bottleneck': 6}),
    'masked': (MaskedImageModeling, {'output': None, **MASKED}),
}


def built(make, name, **options):
    kind, settings = PARTNERS[name]
    model_options = {key: options.pop(key) for key in list(options) if key in ('micro_batch', 'clip_weight')}
    if name == 'masked':
        return _masked(make, {**MASKED, **options}, model_options)
    return make(kind, partner={**settings, **options}, **model_options)


def _masked(make, settings, model_options):
    clip = make().clip
    return SlipPretrainer(clip, MaskedImageModeling(clip, **settings), **model_options).train()


@pytest.mark.parametrize('name', PARTNERS)
@pytest.mark.parametrize('micro_batch', [1, 4])
def test_micro_batches_give_the_whole_step(make, batch, step, name, micro_batch):
    """Gradients, the teacher after the step, and its center; random masks are drawn anew for each part."""
    plain, cut = (built(make, name, micro_batch=size).double() for size in (None, micro_batch))
    if name == 'masked':
        plain.partner.mask_ratio = cut.partner.mask_ratio = 0.5
    data = batch(views=2 if name == 'masked' else 3)
    torch.manual_seed(0)
    first = step(plain, data, lr=0.1)
    torch.manual_seed(0)
    second = step(cut, data, lr=0.1)
    assert first['loss'].isfinite()
    if name == 'masked':
        assert second['loss'].isfinite()  # other masks
        assert all(p.grad is not None for p in cut.partner.parameters())
        return
    assert_close(second['loss'], first['loss'], atol=1e-10, rtol=1e-8)
    for (key, expected), got in zip(plain.state_dict().items(), cut.state_dict().values(), strict=True):
        assert_close(got, expected, atol=1e-9, rtol=1e-7, msg=key)


@pytest.mark.parametrize('name', PARTNERS)
def test_every_trained_parameter_gets_a_gradient(make, batch, step, name):
    model = built(make, name, **({'freeze_prototypes': 0.0} if name == 'dino' else {}))
    step(model, batch(views=2 if name == 'masked' else 3))
    without = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize('name', PARTNERS)
def test_it_learns(make, batch, name):
    """The loss of the views falls on one batch; DINO's with a teacher that stays as it is."""
    fixed = {'momentum': 1.0, 'center_momentum': 1.0, 'freeze_prototypes': 0.0}
    options = {'dino': fixed, 'byol': {'momentum': 0.9}, 'moco': {'momentum': 0.9}}
    model = built(make, name, clip_weight=0.0, **options.get(name, {}))
    optimizer = OptimWrapper(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3))
    found = [float(model.train_step(batch(views=2), optimizer)['ssl_loss']) for _ in range(40)]
    assert sum(found[-5:]) < 0.97 * sum(found[:5])


@pytest.mark.parametrize('kind', TEACHERS)
def test_the_teacher_follows_on_a_schedule(make, batch, step, kind):
    """m = 1 - (1 - momentum) * (1 + cos(pi t / T)) / 2 after step t; the teacher is in the state dict."""
    model = make(kind, partner={'momentum': 0.6})
    model.set_steps(4)
    teacher = model.partner.teacher['tower'].patch_embed.weight
    for t in range(2):
        before = teacher.clone()
        step(model, batch(), lr=0.5)
        momentum = 1 - 0.4 * (1 + cos(pi * t / 4)) / 2
        student = model.clip.image.patch_embed.weight.detach()
        assert_close(teacher, momentum * before + (1 - momentum) * student)
    state = model.state_dict()
    assert state['partner.done'] == 2
    again = make(kind, partner={'momentum': 0.6})
    again.load_state_dict(state)
    again.set_steps(4)
    for one in (model, again):
        one.zero_grad()
        step(one, batch(seed=3), lr=0.5)
    assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_a_teacher_without_a_schedule_keeps_its_momentum(make, batch, step):
    model = make(Byol, partner={'momentum': 0.5})
    for _ in range(3):
        step(model, batch())
    assert model.partner.progress == 0.0


def test_losses_by_hand():
    a, b = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    swapped = b.flip(0)
    assert_close(byol_loss(a, b), torch.tensor(0.0))
    assert_close(byol_loss(a, swapped), torch.tensor(2.0))
    assert_close(moco_loss(a, b, 0.5), torch.tensor(log(1 + torch.e**-2)), atol=1e-6, rtol=0)
    expected = log(torch.e**2 + 1 + 1) - 2  # the right one has cosine 1; the other image, twice 0
    assert_close(simclr_loss(a, b, 0.5)[0], torch.tensor(expected), atol=1e-6, rtol=0)
    assert simclr_loss(a, b, 0.5)[1] == 1.0
    assert simclr_loss(a, swapped, 0.5)[1] == 0.0
    logits, center = torch.tensor([[log(3.0), 0.0]]), torch.zeros(2)
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert_close(dino_loss([logits] * 2, [logits] * 2, center, 1.0, 1.0), torch.tensor(entropy))
    centered = dino_loss([logits] * 2, [logits] * 2, logits[0], 1.0, 1.0)
    assert_close(centered, torch.tensor(-(log(0.75) + log(0.25)) / 2))


def test_the_center_follows_the_teacher(make, batch, step):
    model = make(Dino, partner={'center_momentum': 0.75, 'bottleneck': 6})
    images = model.data_preprocessor.normalize(batch()['images'])
    with torch.no_grad():
        made = model.partner.targets(images[:, 1:])
        mean = torch.stack([model.partner.teacher['head'](x) for x in made.values()]).mean((0, 1))
    step(model, batch())
    assert_close(model.partner.center, 0.25 * mean)


def test_prototypes_are_frozen_at_first(make, batch, step):
    model = make(Dino, partner={'freeze_prototypes': 0.5, 'bottleneck': 6})
    model.set_steps(2)
    step(model, batch())
    assert model.partner.head.prototypes.grad is None
    step(model, batch())
    assert model.partner.head.prototypes.grad is not None


def test_patches_to_draw():
    images = torch.randn(2, 3, 9, 13)
    pixels = patch_pixels(images, 4)
    assert pixels.shape == (2, 6, 48)
    assert_close(pixels.mean(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    one = images[1, :, 4:8, 8:12].flatten()
    assert_close(pixels[1, 5], (one - one.mean()) / one.std(), atol=1e-4, rtol=1e-4)
    positions = sine_positions((2, 3), 8)
    assert positions.shape == (6, 8)
    assert len(positions.unique(dim=0)) == 6
    assert_close(positions[1], torch.tensor([0, 0, 1, 1, 0.84147, 0.01, 0.5403, 0.99995]), atol=1e-4, rtol=0)


def test_masked_patches_are_not_seen(make_clip):
    """The error is over the masked patches only, whose pixels do not change what is drawn."""
    clip = make_clip()
    partner = MaskedImageModeling(clip, **MASKED, mask_ratio=0.5).eval()
    images = torch.randn(1, 1, 3, 16, 16)
    torch.manual_seed(5)
    order = torch.rand(1, 4).argsort(dim=1)[0]
    hidden = divmod(int(order[-1]), 2)
    other = images.clone()
    other[..., 8 * hidden[0] : 8 * hidden[0] + 8, 8 * hidden[1] : 8 * hidden[1] + 8] = torch.randn(8, 8)
    drawn = []
    partner.pixels.register_forward_hook(lambda *found: drawn.append(found[-1]))
    for one in (images, other):
        torch.manual_seed(5)
        partner.features(clip.image, one)
    assert_close(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (Byol, {'momentum': 1.1}, 'momentum of the teacher must be between 0 and 1, got 1.1'),
        (MocoV3, {'momentum': -0.1}, 'momentum of the teacher must be between 0 and 1'),
        (Dino, {'momentum': '0.9'}, "between 0 and 1, got '0.9'"),
        (Dino, {'momentum': float('nan')}, 'between 0 and 1, got nan'),
        (Dino, {'temperatures': (0.04, 0.1)}, 'must not be above that of the student'),
        (Dino, {'temperatures': (0.1, 0.0)}, 'teacher must be a number above 0'),
        (Dino, {'center_momentum': 2}, 'center_momentum must be between 0 and 1, got 2'),
        (MocoV3, {'temperature': 0}, 'temperature must be a number above 0'),
        (SimClr, {'output': 0}, 'output must be a number above 0'),
        (MaskedImageModeling, {'mask_ratio': 1.0}, 'mask_ratio must be between 0 and 1, got 1.0'),
        (MaskedImageModeling, {'hidden': 18}, 'hidden=18 must be a multiple of 4'),
    ],
)
def test_settings_that_are_refused(make_clip, kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(make_clip(), **{'hidden': 8, **settings})


def test_towers_that_masks_do_not_fit(make_clip):
    with pytest.raises(InputError, match='needs a ViT whose class token is pooled, not a ModifiedResNet'):
        MaskedImageModeling(make_clip(resnet=True))
    clip = make_clip()
    clip.image.patch_dropout = 0.5
    with pytest.raises(InputError, match='set patch_dropout=0'):
        MaskedImageModeling(clip)


@pytest.mark.parametrize('name', PARTNERS)
def test_half_precision_and_gradient_checkpointing(make, batch, name):
    """The losses of bf16 are near those of fp32; recomputing activations changes nothing."""
    found = {}
    for precision in ('fp32', 'bf16'):
        model = built(make, name)
        model.clip.set_gradient_checkpointing(precision == 'bf16')
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # bf16 is emulated on some processors
            wrapper = PrecisionOptimWrapper(optimizer, precision=precision)
        found[precision] = model.train_step(batch(views=2 if name == 'masked' else 3), wrapper)
        assert all(value.dtype == torch.float32 for value in found[precision].values())
    for key in ('clip_loss', 'ssl_loss'):
        assert_close(found['bf16'][key], found['fp32'][key], atol=0.1, rtol=0.1)
