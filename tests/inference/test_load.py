"""One door for all weights: which model comes out, and how it segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
import clipdense.inference.load as load_module
from clipdense.clip import self_describing as portable
from clipdense.clip.checkpoint import save
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.config import load_config
from clipdense.inference.convert import convert
from clipdense.inference.load import as_vocabulary, load_clip, load_segmenter
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.methods.groupvit.checkpoint import save as save_groupvit
from clipdense.methods.groupvit.model import GroupVit, build_group_vit
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.registry import MODELS
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.templates import TEMPLATES

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)
WORDS = ['sky', 'car']
LSEG_CONFIG = """
from clipdense.clip.model import build_clip
from clipdense.methods.lseg.backbones import TransformerPyramid
from clipdense.methods.lseg.segmenter import LSeg

model = dict(
    type=LSeg,
    backbone=dict(type=TransformerPyramid, channels=(8, 8, 8, 8), scales=(4, 2, 1, 0.5)),
    clip=dict(type=build_clip, size=dict(
        image=dict(image_size=16, patch_size=4, width=16, layers=4, num_heads=2, mlp_width=16, embed_dim=8),
        text=dict(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8),
    )),
    width=8,
)
"""


@pytest.fixture
def clip_file(tmp_path):
    save(build_clip(ClipSize(VIT, TEXT)), tmp_path / 'clip.safetensors')
    return tmp_path / 'clip.safetensors'


@pytest.fixture
def groupvit_file(tmp_path):
    stages = (StageSize(1, 16, 2, 4, 4), StageSize(1, 16, 2))
    size = GroupVitSize(GroupVitImageSize(16, 4, stages, embed_dim=8, projector_width=12), TEXT)
    save_groupvit(build_group_vit(size), tmp_path / 'groupvit.safetensors')
    return tmp_path / 'groupvit.safetensors'


@pytest.fixture
def lseg_run(tmp_path):
    """A config and a checkpoint as training leaves it."""
    config = tmp_path / 'lseg_tiny.py'
    config.write_text(LSEG_CONFIG)
    model = MODELS.build(load_config(config).model)
    torch.save({'state_dict': model.state_dict(), 'meta': {'iter': 1}}, tmp_path / 'step_1.pth')
    return config, tmp_path / 'step_1.pth'


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 34, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ('weights', 'model', 'segmenter'),
    [('clip_file', CLIP, DenseCLIP), ('groupvit_file', GroupVit, GroupVitSegmenter)],
    ids=['clip', 'groupvit'],
)
def test_the_file_says_what_it_is(request, photo, weights, model, segmenter):
    weights = request.getfixturevalue(weights)
    assert type(clipdense.load(weights)) is model
    found = clipdense.Segmenter.from_pretrained(weights, cache=False)
    assert type(found.model) is segmenter
    assert found(photo, WORDS).mask.shape == (21, 34)


def test_official_lseg_is_recognized(monkeypatch):
    """By names alone; what is made of the tensors is tested beside the method."""
    vit = timm_network('vit_tiny_patch16_224', img_size=32, embed_dim=16, depth=4, num_heads=2)
    lseg = LSeg(TransformerPyramid(vit, channels=(8, 8, 8, 8)), embed_dim=8, width=8)
    monkeypatch.setattr(load_module, 'load', lambda weights, *_, **overrides: lseg)
    options = SegmentationOptions(background_threshold=0.5)
    assert load_segmenter('lseg.ckpt', options=options) is lseg
    assert lseg.background_threshold == 0.5
    with pytest.raises(InputError, match='not a full CLIP checkpoint'):
        load_clip('lseg.ckpt')


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'method': 'sclip'}, "'sclip' applies to plain CLIP weights only; .* is a trained groupvit"),
        ({'method_options': {'std': 3.0}}, "'groupvit' has no option 'std'; its options: top_classes=5"),
    ],
    ids=['method', 'option'],
)
def test_a_trained_segmenter_takes_no_method(groupvit_file, given, message):
    with pytest.raises(InputError, match=message):
        load_segmenter(groupvit_file, **given)


@pytest.mark.parametrize(('threshold', 'expected'), [(None, 0.95), (0.3, 0.3)], ids=['released', 'asked for'])
def test_groupvit_keeps_its_threshold(groupvit_file, threshold, expected):
    options = SegmentationOptions(background_threshold=threshold)
    assert load_segmenter(groupvit_file, options=options).thresholds == expected


def test_groupvit_explains_itself(groupvit_file, clip_file, photo):
    segmenter = clipdense.Segmenter.from_pretrained(groupvit_file, cache=False)
    segmenter.set_vocabulary(WORDS)
    (stage,) = segmenter.explain(photo)
    assert stage.draw(photo).size >= photo.size
    with pytest.raises(InputError, match=r'DenseCLIP cannot explain its masks; methods that can: .*groupvit'):
        clipdense.Segmenter.from_pretrained(clip_file).explain(photo)


def test_methods_bring_their_templates(clip_file, groupvit_file, lseg_run):
    from_file = clipdense.Segmenter.from_pretrained
    assert from_file(clip_file).embedder.templates is TEMPLATES['imagenet']
    assert from_file(groupvit_file).embedder.templates is TEMPLATES['simple']
    assert from_file(groupvit_file, templates='name').embedder.templates is TEMPLATES['name']
    assert clipdense.Segmenter.from_config(*lseg_run).embedder.templates is TEMPLATES['name']


def test_what_embeds_class_names_can_be_replaced(clip_file, photo):
    class Fixed:
        def embed(self, vocabulary):
            rows = torch.eye(len(vocabulary), 8)
            return ClassEmbeddings(rows, torch.arange(len(vocabulary)), len(vocabulary))

    segmenter = clipdense.Segmenter.from_pretrained(clip_file, embedder=Fixed())
    segmenter(photo, ['a', 'b'])
    assert torch.equal(segmenter.model.queries.cpu(), torch.eye(2, 8))
    classifier = clipdense.Classifier.from_pretrained(clip_file, embedder=Fixed(), device='cpu')
    classifier(photo, ['a', 'b'])
    assert torch.equal(classifier.embeddings.queries, torch.eye(2, 8))


def test_a_config_and_its_checkpoint(lseg_run, photo):
    segmenter = clipdense.Segmenter.from_config(*lseg_run, cache=False)
    assert isinstance(segmenter.model, LSeg)
    assert not segmenter.model.training
    assert segmenter(photo, WORDS).mask.shape == (21, 34)


@pytest.fixture
def lseg_file(lseg_run, tmp_path):
    """What training exports of the same model."""
    model = clipdense.Segmenter.from_config(*lseg_run).model
    portable.save(model, tmp_path / 'lseg.safetensors', load_config(lseg_run[0]))
    return tmp_path / 'lseg.safetensors'


def test_one_file_is_a_config_and_its_checkpoint(lseg_run, lseg_file, photo):
    alone = clipdense.Segmenter.from_pretrained(lseg_file, cache=False)(photo, WORDS)
    together = clipdense.Segmenter.from_config(*lseg_run, cache=False)(photo, WORDS)
    np.testing.assert_array_equal(alone.mask, together.mask)
    np.testing.assert_array_equal(alone.scores, together.scores)
    assert isinstance(clipdense.load(lseg_file, dtype=torch.float64), LSeg)


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (
            lambda file: clipdense.load(file, activation='gelu'),
            'remove the override .activation',
        ),
        (lambda file: clipdense.Classifier.from_pretrained(file), 'LSeg. is not a full CLIP checkpoint'),
        (
            lambda file: convert(file, file.with_name('other.safetensors')),
            'cannot be converted',
        ),
        (lambda file: load_segmenter(file, 'sclip'), 'is a trained lseg: remove the method'),
    ],
    ids=['override', 'classifier', 'convert', 'method'],
)
def test_what_an_exported_segmenter_is_not(lseg_file, act, message):
    with pytest.raises(InputError, match=message):
        act(lseg_file)


def test_the_config_that_a_run_left(lseg_run, tmp_path):
    """MMEngine writes classes as text there."""
    left = tmp_path / 'left.py'
    load_config(lseg_run[0]).dump(left)
    assert 'import' not in left.read_text()
    assert isinstance(clipdense.Segmenter.from_config(left, lseg_run[1]).model, LSeg)


def test_a_training_free_config_is_built_around_its_weights(tmp_path, clip_file, photo):
    config = tmp_path / 'dense.py'
    config.write_text(
        'from clipdense.methods.dense_clip.segmenter import DenseCLIP\n'
        "model = dict(type=DenseCLIP, clip=None, method='naclip')\n"
    )
    segmenter = clipdense.Segmenter.from_config(config, clip_file, cache=False)
    assert segmenter.model.method == 'naclip'
    assert segmenter(photo, WORDS).mask.shape == (21, 34)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = None', 'has no model: add an entry'),
        (
            'from torch.nn import Linear\nmodel = dict(type=Linear)',
            'is a Linear: use the config of a Seg',
        ),
    ],
    ids=['empty', 'other'],
)
def test_a_config_of_something_else(tmp_path, clip_file, text, message):
    config = tmp_path / 'other.py'
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        clipdense.Segmenter.from_config(config, clip_file)


def test_weights_of_another_model(lseg_run, clip_file):
    with pytest.raises(CheckpointError, match='does not match LSeg'):
        clipdense.Segmenter.from_config(lseg_run[0], clip_file)


@pytest.mark.parametrize(
    ('words', 'names'),
    [('cat, red car', ['cat', 'red car']), (['cat'], ['cat']), (('cat', 'dog'), ['cat', 'dog'])],
)
def test_words_in_any_way(words, names):
    assert list(as_vocabulary(words).class_names) == names


@pytest.mark.parametrize('words', [5, None, {'cat': 1}, b'cat'])
def test_words_that_are_none(words):
    with pytest.raises(InputError, match='class names must be a list of strings, or a string'):
        as_vocabulary(words)
