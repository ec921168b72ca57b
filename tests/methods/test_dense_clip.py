"""Dense CLIP against official outputs, and the contract of every segmenter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.methods.dense_clip.recipes import RECIPES, find_recipe
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.key_map import to_ours

TEXT = TextSize(width=64, layers=1, heads=1, mlp_width=64, embed_dim=32, vocab_size=64, context_length=8)
VIT = VitSize(image_size=64, patch_size=8, width=64, layers=2, heads=1, mlp_width=256, embed_dim=32)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), heads=4, embed_dim=32)
TOLERANCE = {'atol': 1e-5, 'rtol': 1e-4}


def clip(image=VIT):
    torch.manual_seed(0)
    return build_clip(ClipSize(image, TEXT)).eval()


@pytest.fixture
def official(golden):
    """The official tower (no text) and everything that was computed with it."""
    tensors, meta = golden('denseclip_tiny')
    model = clip()
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    leftover = model.load_state_dict(to_ours(state, 'openclip_vit')[0], strict=False)
    assert not leftover.unexpected_keys
    assert all(key.startswith(('text.', 'logit_scale')) for key in leftover.missing_keys)
    return model, tensors, meta


@pytest.mark.parametrize('image', ['image', 'image_rect'])
@pytest.mark.parametrize(
    ('recipe', 'output'),
    [
        ('vanilla', 'clearclip.vanilla.resid'),
        ('maskclip', 'clearclip.MaskCLIP.resid'),
        ('maskclip_no_residual', 'clearclip.MaskCLIP.noresid'),
    ],
)
def test_patch_embeddings_match_the_official_ones(official, image, recipe, output):
    model, golden, _ = official
    model.image.position_mode = 'dino'  # as these repositories interpolate position embeddings
    chosen = find_recipe(recipe)
    inputs, grid = model.image.forward_layers(golden[f'input.{image}'], chosen.layers)
    got = chosen.embed(model.image, inputs, grid).flatten(2).mT
    assert_close(got, golden[f'output.{image}.{output}'], **TOLERANCE)


def with_words(model: DenseCLIP, names, query_class=None, background=None, queries=None) -> DenseCLIP:
    query_class = torch.tensor(query_class or range(len(names)))
    queries = normalize(torch.randn(len(query_class), 32), dim=-1) if queries is None else queries
    embeddings = ClassEmbeddings(queries, query_class, len(names))
    model.set_vocabulary(Vocabulary(tuple(names), background=background), embeddings)
    return model.eval()


@pytest.mark.parametrize('image', [VIT, RESNET], ids=['vit', 'resnet'])
@pytest.mark.parametrize('size', [(64, 64), (1, 1), (5, 300), (90, 121)])
def test_the_mask_has_the_size_of_the_picture(image, size):
    slide = Slide(short_side=64, long_side=160, window=64, stride=32)
    model = with_words(DenseCLIP(clip(image), slide=slide), ['a', 'b', 'c'])
    labels = model.segment(torch.randn(3, *size))
    assert labels.classes.shape == labels.probability.shape == size
    assert set(labels.classes.unique().tolist()) <= {0, 1, 2}


def test_chunks_and_batches_change_nothing():
    names = [f'class {index}' for index in range(50)]
    queries = normalize(torch.randn(50, 32), dim=-1)
    slide = {'short_side': 96, 'window': 64, 'stride': 32}
    picture = torch.randn(3, 96, 130)
    results = []
    for budget, batch in [(1 << 30, 8), (1, 1), (1 << 20, 3)]:
        model = DenseCLIP(clip(), slide=Slide(**slide, batch=batch), memory_budget=budget)
        results.append(with_words(model, names, queries=queries).segment(picture))
    for other in results[1:]:
        assert torch.equal(results[0].classes, other.classes)
        assert_close(results[0].probability, other.probability)


def test_joint_models_are_asked_for_all_classes_together():
    asked = []

    class Joint(DenseCLIP):
        joint_over_classes = True

        def classify_pixels(self, features, text):
            asked.append(len(text))
            return super().classify_pixels(features, text).softmax(dim=1)

    model = with_words(Joint(clip(), memory_budget=1), list('abcdef'))
    model.segment(torch.randn(3, 64, 64))
    assert set(asked) == {6}


def test_synonyms_speak_for_their_class():
    """Class 1 wins wherever one of its two queries does."""
    model = DenseCLIP(clip())
    queries = normalize(torch.randn(3, 32), dim=-1)
    separate = with_words(model, ['a', 'b', 'c'], queries=queries).segment(image := torch.randn(3, 64, 64))
    merged = with_words(model, ['a', 'b'], query_class=[0, 1, 1], queries=queries).segment(image)
    assert torch.equal(separate.classes.clamp(max=1), merged.classes)


@pytest.mark.parametrize(
    ('threshold', 'background', 'expected'),
    [(1.1, 'sky', {1}), (0.0, 'sky', {0, 1, 2}), (1.1, None, {0, 1, 2})],
)
def test_background_rule(threshold, background, expected):
    model = with_words(
        DenseCLIP(clip(), background_threshold=threshold), ['a', 'sky', 'c'], background=background
    )
    assert set(model.segment(torch.randn(3, 256, 256)).classes.unique().tolist()) == expected


def test_a_vocabulary_never_touches_the_weights():
    model = DenseCLIP(clip())
    before = set(model.state_dict())
    with_words(model, ['a', 'b'])
    assert set(model.state_dict()) == before
    assert model.dataset_meta['classes'] == ('a', 'b')
    with_words(model, ['a', 'b', 'c'])
    assert model.num_classes == 3


def test_predict_mode_fills_the_samples():
    model = with_words(DenseCLIP(clip()), ['a', 'b'])
    sizes = [(64, 64), (70, 90)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    samples = [SegmentationSample('x.jpg', size) for size in sizes]
    results = model.val_step({'images': images, 'samples': samples})
    assert [tuple(result.prediction.shape) for result in results] == sizes


def test_encode_once_ask_many(monkeypatch):
    model = with_words(DenseCLIP(clip()), ['a', 'b'])
    kept = model.encode_picture(torch.randn(3, 64, 64))
    first = model.classify_picture(kept, (64, 64))
    monkeypatch.setattr(model, 'encode_pixels', None)
    with_words(model, ['c', 'd', 'e'])
    assert model.classify_picture(kept, (64, 64)).classes.shape == first.classes.shape


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: DenseCLIP(clip(), 'maskclop'), "Did you mean 'maskclip'"),
        (lambda: DenseCLIP(clip(RESNET), 'vanilla'), 'needs a transformer'),
        (lambda: DenseCLIP(clip()).segment(torch.randn(3, 64, 64)), 'no vocabulary yet'),
    ],
    ids=['unknown recipe', 'recipe without a transformer', 'no words'],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_recipe_says_what_it_does():
    assert all(recipe.embed.__doc__ for recipe in RECIPES.values())
