"""Weights under DetPro's names."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.config import load_config
from clipdense.inference.detector import Detector
from clipdense.inference.load import load
from clipdense.methods.vild.checkpoint import from_official, is_detpro
from clipdense.methods.vild.detector import ViLD
from clipdense.registry import build_module
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import CheckpointError
from clipdense.vocab.vocabulary import Vocabulary

OFFICIAL = {
    'roi_head.bbox_head.projection.': 'roi_head.projection.',
    'roi_head.bbox_head.image_projection.': 'roi_head.projection_for_image.',
    'roi_head.bbox_head.image_convs.': 'roi_head.bbox_head.shared_convs_for_image.',
    'roi_head.bbox_head.image_fcs.': 'roi_head.bbox_head.shared_fcs_for_image.',
}


def official(variant):
    """Random weights of a ResNet-50 under DetPro's names; the background as a layer of one input."""
    torch.manual_seed(0)
    cfg = load_config('vild/vild_lvis').model
    cfg.clip = None
    cfg.rpn_head.num_convs = 1
    cfg.roi_head.bbox_head.update(fc_norm=False, variant=variant, fc_out_channels=1024)
    state = {}
    for name, tensor in build_module(cfg).state_dict().items():
        old = next((prefix for prefix in OFFICIAL if name.startswith(prefix)), '')
        if not name.endswith('num_batches_tracked'):
            state[OFFICIAL.get(old, '') + name.removeprefix(old)] = tensor
    background = state.pop('roi_head.bbox_head.background')
    state['roi_head.bg_embedding.weight'] = torch.full((512, 1), 0.25)
    state['roi_head.bg_embedding.bias'] = background - 0.25
    state['roi_head.bbox_head.fc_cls.weight'] = torch.randn(1204, 1024)
    state['roi_head.clip_model.logit_scale'] = torch.tensor(4.6)
    return state, background


@pytest.mark.parametrize('variant', ['vild', 'ensemble'])
def test_weights_arrive(variant):
    state, background = official(variant)
    assert is_detpro(state)
    model = from_official(state)
    head = model.roi_head.bbox_head
    assert not model.training
    assert (head.variant, head.test_temperature) == (variant, 0.007)
    assert_close(head.background, background)
    assert torch.equal(head.shared_fcs[1].weight, state['roi_head.bbox_head.shared_fcs.1.weight'])
    model.set_vocabulary(
        Vocabulary(('cat', 'dog')),
        ClassEmbeddings(F.normalize(torch.randn(2, 512), dim=-1), torch.arange(2), 2),
    )
    features = torch.randn(2, 256, 7, 7)
    with torch.no_grad():
        scores, deltas = head(features)
    assert scores.shape == (2, 2)
    assert deltas.shape == (2, 4)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda state: state.pop('roi_head.projection.weight'),
            "not DetPro's ViLD: .* are missing",
        ),
        (lambda state: state.pop('rpn_head.rpn_cls.weight'), r'1 missing \(rpn_head.rpn_cls.weight\)'),
        (lambda state: state.update(extra=torch.zeros(1)), r'1 unexpected \(extra\)'),
        (lambda state: [state.pop(n) for n in list(state) if n.startswith('backbone.layer3.2')], 'blocks'),
    ],
    ids=['others', 'missing', 'leftover', 'depth'],
)
def test_what_does_not_fit_is_named(damage, message):
    state, _ = official('vild')
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        from_official(state)


def test_a_detector_out_of_the_file(tmp_path):
    """As it is, with the words of any CLIP of its width."""
    state, _ = official('vild')
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'epoch_20.pth')
    clip = build_clip(ClipSize(VitSize(32, 16, 32, 1, 1, 32, 512), TextSize(32, 1, 1, 32, 512)))
    detector = Detector.from_pretrained(tmp_path / 'epoch_20.pth', clip=clip, device='cpu', cache=False)
    assert detector.set_vocabulary('cat, dog').class_names == ('cat', 'dog')
    assert [one.scale for one in detector.model.model.transforms] == [(1333, 800)]
    assert isinstance(load(tmp_path / 'epoch_20.pth', 'cpu'), ViLD)


def test_other_weights_are_not_detpros():
    assert not is_detpro(['visual.proj', 'roi_head.bbox_head.projection.weight'])
