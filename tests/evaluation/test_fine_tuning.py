"""Fine-tuning a copy of the tower: it learns, the model stays, layers have their learning rates."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.evaluation.fine_tuning import FineTuning, Schedule
from clipdense.utils.errors import InputError

TEXT = TextSize(32, 1, 2, 64, 16, vocab_size=50, context_length=8)
TOWERS = {
    'vit': VitSize(16, 8, 32, 2, 2, 64, 16),
    'resnet': ResNetSize(32, 8, (1, 1, 1, 1), 4, 16),
    'timm': TimmSize('test_vit', 32, 16, options={'img_size': 32}),
}


class Shades(Dataset):
    """Dark and bright images; a label of -1 is an image that could not be read."""

    def __init__(self, count=16, side=16, seed=0, wrong=()):
        self.class_names = ('dark', 'bright')
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 2
        noise = torch.randint(0, 80, (count, 3, side, side), generator=generator)
        self.images = (noise + 150 * self.labels[:, None, None, None]).to(torch.uint8)
        self.labels[list(wrong)] = -1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {'images': self.images[index], 'labels': int(self.labels[index])}


@pytest.fixture
def make_clip():
    def make(tower='vit'):
        torch.manual_seed(0)
        return build_clip(ClipSize(TOWERS[tower], TEXT))

    return make


@pytest.mark.parametrize(('tower', 'side'), [('vit', 16), ('resnet', 32), ('timm', 32)])
def test_a_copy_learns(make_clip, tower, side):
    clip = make_clip(tower).train()
    clip.image.requires_grad_(False)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    schedule = {'epochs': 8, 'batch_size': 8, 'lr': 3e-3}
    evaluation = FineTuning(Shades(side=side, wrong=[3]), Shades(10, side, 1), schedule, name='tuned')
    with torch.no_grad():
        found = evaluation(clip)
    assert found['tuned/count'] == 10
    assert found['tuned/top1'] >= 0.9
    assert found['tuned/loss'] < 0.6
    assert_close(clip.state_dict(), before)
    assert clip.training
    assert not any(p.requires_grad for p in clip.image.parameters())


def test_a_seed_gives_one_result(make_clip):
    runs = [
        FineTuning(Shades(), Shades(10, seed=1), {'epochs': 2, 'seed': seed})(make_clip())
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'epochs': 0}, 'epochs must be a whole number of at least 1, got 0'),
        ({'batch_size': 1}, 'batch_size must be a whole number of at least 2, got 1'),
        ({'batch_size': 2.5}, 'batch_size must be a whole number'),
        ({'lr': -1.0}, 'lr must be a number above 0'),
        ({'lr': float('inf')}, 'lr must be a number above 0'),
        ({'layer_decay': 0}, 'layer_decay must be above 0'),
        ({'label_smoothing': 1.0}, 'label_smoothing must be in 0 to 1'),
    ],
)
def test_schedules_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Schedule(**settings)


def test_trainings_that_are_refused(make_clip):
    damaged, evaluation = make_clip(), FineTuning(Shades(), Shades(), {'epochs': 1})
    damaged.image.norm_post.weight.data.fill_(float('nan'))
    with pytest.raises(InputError, match=r'the loss of step 1 is nan; lower lr'):
        evaluation(damaged)
    with pytest.raises(InputError, match=r'training has diverged|the loss of step'):
        FineTuning(Shades(), Shades(), {'epochs': 2, 'lr': 1e30})(make_clip())
    with pytest.raises(InputError, match='fewer than two training images that can be read'):
        FineTuning(Shades(4, wrong=[0, 1, 2]), Shades(), {'epochs': 1})(make_clip())
