"""Official checkpoints: their prefix, the CLIP inside, what is unused, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize
from clipdense.methods.lseg.checkpoint import from_official, recognize
from clipdense.utils.errors import CheckpointError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights

from .conftest import RESNET, TEXT, VIT

KERNEL = 'scratch.head_block.depthwise.depthwise.'
HEADS = {'num_heads': 4, 'text_num_heads': 1}


@pytest.fixture
def official(golden):
    """A Lightning state: 'net.' everywhere; no kernel."""
    tensors = golden('lseg_tiny')[0]
    state = {key.removeprefix('state.'): x for key, x in tensors.items() if key.startswith('state.')}
    return {f'net.{key}': x for key, x in state.items() if not key.startswith(KERNEL)}


@pytest.fixture
def image(golden):
    return golden('lseg_tiny')[0]['input.image']


def with_clip(state, size=VIT):
    """The state with OpenAI's CLIP inside, in half precision."""
    torch.manual_seed(1)
    clip = build_clip(ClipSize(size, TEXT)).eval()
    layout = 'openclip_vit' if size is VIT else 'openclip_resnet'
    theirs = from_ours(clip.state_dict(), layout)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    return clip, {**state, **{f'net.clip_pretrained.{key}': x.half() for key, x in theirs.items()}}


def test_the_prefix_is_no_matter(official, image):
    bare = {key.removeprefix('net.'): x for key, x in official.items()}
    with torch.no_grad():
        first, second = (
            from_official(state, num_heads=4).pixel_logits(image, torch.eye(5, 32))
            for state in (official, bare)
        )
    assert torch.equal(first, second)


@pytest.mark.parametrize('size', [VIT, RESNET], ids=['vit', 'resnet'])
def test_the_text_tower_comes_out_of_the_clip_inside(official, size):
    clip, state = with_clip(official, size)
    state['net.scratch.head1.weight'] = torch.randn(16, 32, 1, 1)  # the tiny text tower's width
    state['net.scratch.head1.bias'] = torch.zeros(16)
    model = from_official(state, **HEADS)
    words = Vocabulary(('sky', 'car'))
    expected = clip.half().float().encode_text(clip.tokenizer(['sky', 'car']), normalize=True)
    assert_close(class_embedder(model).embed(words).queries, expected)
    assert model.project.weight.dtype == torch.float32
    unused = set(model.unused_keys)
    assert {'clip_pretrained.logit_scale', 'pretrained.model.norm.weight'} <= unused
    assert any(key.startswith('clip_pretrained.visual.') for key in unused)


def test_unused_keys_are_accepted_and_named(official):
    extra = {
        'net.pretrained.model.head.weight': torch.zeros(1000, 64),
        'net.pretrained.model.head.bias': torch.zeros(1000),
    }
    names = from_official(official | extra, num_heads=4).unused_keys
    assert {'pretrained.model.head.weight', 'pretrained.model.norm.bias'} <= set(names)
    assert 'scratch.refinenet4.resConfUnit1.conv1.weight' in names


def test_hooks_choose_the_blocks(official, image):
    """Other blocks give other maps; those behind the last are set aside and named."""
    deeper = {key.replace('blocks.3.', 'blocks.4.'): x for key, x in official.items() if '.blocks.3.' in key}
    model = from_official(official | deeper, num_heads=4, hooks=(0, 1, 2, 3))
    assert len(model.backbone.vit.blocks) == 4
    assert 'pretrained.model.blocks.4.mlp.fc1.weight' in model.unused_keys
    with torch.no_grad():
        logits = model.pixel_logits(image, torch.eye(5, 32))
        assert_close(logits, from_official(official, num_heads=4).pixel_logits(image, torch.eye(5, 32)))
        other = from_official(official | deeper, num_heads=4, hooks=(0, 1, 2, 4))
        assert not torch.allclose(logits, other.pixel_logits(image, torch.eye(5, 32)))


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        ({'net.scratch.layer2_rn.weight': None}, {}, r'1 missing \(decoder\.reduce\.1\.weight\)'),
        ({'net.scratch.layer5_rn.weight': torch.zeros(1)}, {}, r'1 unexpected \(decoder\.reduce\.4'),
        (
            {'net.scratch.attention.weight': torch.zeros(1)},
            {},
            '1 unexpected keys for LSeg: scratch.attention',
        ),
        (
            {'net.scratch.layer1_rn.weight': torch.zeros(1)},
            {},
            r'of another shape \(decoder\.reduce\.0\.weight is',
        ),
        ({'net.scratch.head1.weight': None}, {}, 'not an LSeg: scratch.head1 is missing'),
        ({'net.pretrained.model.pos_embed': None}, {}, r'backbone\.vit\.pos_embed .* is missing'),
        (
            {f'net.{KERNEL}weight': torch.zeros(1, 1, 3, 3), f'net.{KERNEL}bias': torch.zeros(1)},
            {},
            'do not record its use: pass .* block=',
        ),
        ({}, {'block': 'depthwise', 'depth': 1}, "no regularization kernel .* remove block='depthwise'"),
    ],
    ids=['missing', 'leftover', 'strange', 'shape', 'no head', 'no positions', 'which block', 'no block'],
)
def test_what_does_not_fit_is_refused(official, change, options, message):
    state = {key: x for key, x in (official | change).items() if x is not None}
    with pytest.raises(CheckpointError, match=message):
        from_official(state, num_heads=4, **options)


def test_heads_are_asked_for(golden):
    state = {
        'scratch.head1.weight': torch.zeros(4, 4, 1, 1),
        'scratch.refinenet1.out_conv.weight': torch.zeros(4, 4, 1, 1),
        'pretrained.model.patch_embed.proj.weight': torch.zeros(48, 3, 16, 16),
        'pretrained.model.pos_embed': torch.zeros(1, 5, 48),
        'pretrained.model.blocks.0.mlp.fc1.weight': torch.zeros(96, 48),
        **{f'pretrained.act_postprocess{n}.3.weight': torch.zeros(4, 48, 1, 1) for n in (1, 2, 3, 4)},
    }
    with pytest.raises(CheckpointError, match='transformer of width 48: pass num_heads'):
        from_official(state)


@pytest.mark.parametrize(
    ('keys', 'expected'),
    [
        (['net.scratch.head1.weight', 'net.scratch.refinenet1.out_conv.weight'], True),
        (['scratch.head1.weight', 'scratch.refinenet1.out_conv.weight', 'other'], True),
        (['scratch.head1.weight'], False),
        (['visual.conv1.weight'], False),
        ([], False),
    ],
)
def test_recognize(keys, expected):
    assert recognize(keys) is expected


def test_a_lightning_file_is_read(official, image, tmp_path):
    """As it lies on disk: the state beside epochs, callbacks and hyper-parameters."""
    path = tmp_path / 'demo.ckpt'
    half = {key: x.half() if 'head1' in key else x for key, x in official.items()}
    torch.save(
        {
            'epoch': 200,
            'state_dict': half,
            'hyper_parameters': {'backbone': 'clip_vitl16_384'},
            'lr_schedulers': [],
        },
        path,
    )
    tensors = read_weights(path).tensors
    assert recognize(tensors)
    model = from_official(tensors, num_heads=4)
    assert model.project.weight.dtype == torch.float32
    with torch.no_grad():
        expected = from_official(official, num_heads=4).pixel_logits(image, torch.eye(5, 32))
        assert_close(model.pixel_logits(image, torch.eye(5, 32)), expected, atol=0.05, rtol=0.05)
