"""Official checkpoints: the same numbers as the published network written out, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import clipdense
from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.tokenizers import OpenAITokenizer
from clipdense.methods import find_method
from clipdense.methods.denseclip.checkpoint import from_official
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.vocabulary import Vocabulary

from . import official
from .conftest import NAMES

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
HEADS = {'num_heads': official.HEADS, 'text_num_heads': 2, 'decoder_num_heads': official.HEADS}
TOWERS = {'resnet': official.resnet, 'vit': official.vit}


@pytest.fixture
def make_official():
    """``make_official('resnet') -> (state, images, logits, score map)`` of the network written out."""

    def make(tower='resnet'):
        ids = torch.as_tensor(OpenAITokenizer(official.POSITIONS - official.CONTEXTS)(list(NAMES)))
        state, images = official.Tensors(), torch.randn(2, 3, 64, 96)
        logits, scores = official.segment(state, TOWERS[tower], images, ids)
        return dict(state), images, logits, scores

    return make


@pytest.mark.parametrize('tower', TOWERS)
def test_the_published_network(make_official, tower):
    state, images, logits, scores = make_official(tower)
    model = from_official(state, class_names=NAMES, **HEADS)
    with torch.no_grad():
        features = model.encode_pixels(images)
        assert_close(model.decode(features)[1], scores, **TOLERANCE)
        assert_close(model.classify_pixels(features, torch.eye(3)), logits, **TOLERANCE)


def test_it_segments_with_some_of_its_classes_in_any_order(make_official):
    state, images, logits, _ = make_official()
    model = from_official(state, class_names=NAMES, **HEADS)
    vocabulary = Vocabulary(('tree', 'Sky'))
    model.set_vocabulary(vocabulary, class_embedder(model).embed(vocabulary))
    expected = logits[0, [2, 0]].argmax(0)
    assert torch.equal(model.segment(images[0]).classes, expected)


def test_a_file_is_recognized_and_its_meta_has_the_class_names(tmp_path, make_official):
    state, images, logits, _ = make_official('vit')
    assert find_method(state).name == 'denseclip'
    meta = {'CLASSES': ('sky', 'car ', 'tree'), 'epoch': 1}
    torch.save({'state_dict': state, 'meta': meta}, tmp_path / 'denseclip.pth')
    model = clipdense.load(tmp_path / 'denseclip.pth', device='cpu', **HEADS)
    assert model.class_names == NAMES
    with torch.no_grad():
        assert_close(model.classify_pixels(model.encode_pixels(images), torch.eye(3)), logits, **TOLERANCE)


def test_what_is_not_needed_is_named(make_official):
    state = make_official()[0] | {'auxiliary_head.conv_seg.weight': torch.zeros(3, 8, 1, 1)}
    assert from_official(state, class_names=NAMES, **HEADS).unused_keys == ('auxiliary_head.conv_seg.weight',)


def test_a_name_that_the_positions_do_not_hold(make_official):
    state = make_official()[0]
    model = from_official(state, class_names=['sky', 'car', 'a very long name of a class indeed'], **HEADS)
    with pytest.raises(InputError, match=r'2 learned contexts leave room for 5 of 9'):
        model.class_texts()


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        ({}, {'class_names': None}, 'do not record the names of their 3 classes: pass class_names'),
        ({}, {'class_names': ['a', 'b']}, 'have 3 classes, but class_names has 2'),
        ({'gamma': None}, {}, 'not a DenseCLIP with a Semantic FPN'),
        ({'rpn_head.rpn_cls.weight': torch.zeros(1)}, {}, 'a DenseCLIP detector .* does not load'),
        ({'neck.fpn_convs.1.conv.bias': None}, {}, r'1 missing \(neck\.output\.1\.bias\)'),
        ({'neck.extra.weight': torch.zeros(1)}, {}, '1 unexpected tensors for DenseCLIP: neck.extra.weight'),
        ({'gamma': torch.zeros(5)}, {}, r'of another shape \(gamma is \(5,\), expected \(32,\)'),
        ({'gamma': torch.full((32,), torch.nan)}, {}, 'not finite'),
        ({'backbone.attnpool.positional_embedding': None}, {}, r'attn_pool\.pos_embed .* is missing'),
        (
            {},
            {'text_num_heads': None},
            'cannot infer the attention heads of a width of 32: pass text_num_heads',
        ),
    ],
    ids=['names', 'count', 'kind', 'detector', 'missing', 'strange', 'shape', 'nan', 'positions', 'heads'],
)
def test_bad_weights(make_official, change, options, message):
    state = {key: x for key, x in (make_official()[0] | change).items() if x is not None}
    with pytest.raises(CheckpointError, match=message):
        from_official(state, **{'class_names': NAMES, **HEADS, **options})
