"""Dense CLIP against official outputs, and the contract of every segmenter."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.checkpoint.layouts import to_ours
from clipdense.clip.dense import last_attention
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.methods.dense_clip.affinities import cosine_map, like_with_like, neighbourhood
from clipdense.methods.dense_clip.functions import DENSE_METHODS, find_dense_method
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

TEXT = TextSize(width=64, layers=1, num_heads=1, mlp_width=64, embed_dim=32, vocab_size=64, context_length=8)
VIT = VitSize(image_size=64, patch_size=8, width=64, layers=2, num_heads=1, mlp_width=256, embed_dim=32)
SIGLIP = VitSize(
    image_size=64,
    patch_size=8,
    width=64,
    layers=2,
    num_heads=1,
    mlp_width=256,
    embed_dim=64,
    flavour='siglip',
)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=32)
TOLERANCE = {'atol': 1e-5, 'rtol': 1e-4}


def clip(image=VIT):
    torch.manual_seed(0)
    return build_clip(ClipSize(image, replace(TEXT, embed_dim=image.embed_dim))).eval()


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


OFFICIAL = [  # method, its options, the official output
    ('vanilla', {}, 'clearclip.vanilla.resid'),
    ('vanilla', {'residual': False}, 'clearclip.vanilla.noresid'),
    ('maskclip', {}, 'clearclip.MaskCLIP.resid'),
    ('maskclip', {'residual': False}, 'clearclip.MaskCLIP.noresid'),
    ('maskclip_no_residual', {}, 'clearclip.MaskCLIP.noresid'),
    ('sclip', {}, 'clearclip.SCLIP.resid'),
    ('sclip', {'residual': False}, 'clearclip.SCLIP.noresid'),
    ('clearclip', {'residual': True}, 'clearclip.ClearCLIP.resid'),
    ('clearclip', {}, 'clearclip.ClearCLIP.noresid'),
    ('sclip', {}, 'sclip.csa'),
    ('vanilla', {}, 'sclip.vanilla'),
    ('naclip', {}, 'naclip.reduced.naclip'),
    ('naclip', {'residual': True}, 'naclip.vanilla.naclip'),
    ('naclip', {'keys': False}, 'naclip.reduced.nonly'),
    ('naclip', {'std': None}, 'naclip.reduced.kk'),
    ('naclip', {'std': None, 'residual': True}, 'naclip.vanilla.kk'),
    ('sclip', {}, 'naclip.vanilla.csa'),
    ('vanilla', {}, 'naclip.vanilla.vanilla'),
    ('vanilla', {'residual': False}, 'naclip.reduced.vanilla'),
    ('gem', {'blocks': 1}, 'gem.depth2.resid'),
    ('gem', {'blocks': 1, 'residual': False}, 'gem.depth2.noresid'),
    ('gem', {'blocks': 2}, 'gem.depth3.resid'),
    ('gem', {'blocks': 2, 'residual': False}, 'gem.depth3.noresid'),
]


@pytest.mark.parametrize('image', ['image', 'image_rect'])
@pytest.mark.parametrize(('method', 'options', 'output'), OFFICIAL, ids=lambda value: str(value))
def test_pixel_embeddings_match_the_official_ones(official, image, method, options, output):
    model, golden, _ = official
    # GEM's code resizes position embeddings with antialias, the others as DINO's does.
    model.image.position_mode = 'bicubic' if method == 'gem' else 'dino'
    got = find_dense_method(method, options).embed(model.image, golden[f'input.{image}']).flatten(2).mT
    expected = golden[f'output.{image}.{output}'][:, -got.shape[1] :]  # some keep the class token in front
    assert_close(got[: len(expected)], expected, **TOLERANCE)  # some were run for one image


@pytest.mark.parametrize('image', ['image', 'image_rect'])
def test_class_token_matches_the_official_one(official, image):
    model, golden, _ = official
    tower, images = model.image, golden[f'input.{image}']
    tower.position_mode = 'dino'
    last = last_attention(tower, images)
    tokens = last.tokens(last.attend(last.query, last.query) + last.attend(last.key, last.key), residual=True)
    assert_close(tower.project(tower.norm_post(tokens)), golden[f'output.{image}.sclip.csa'], **TOLERANCE)
    assert_close(last.pooled(), golden[f'output.{image}.sclip.cls_vanilla'], **TOLERANCE)
    assert_close(model.encode_image(images), golden[f'output.{image}.sclip.cls_vanilla'], **TOLERANCE)


def test_attention_and_positions_match_the_official_ones(official):
    model, golden, _ = official
    model.image.position_mode = 'dino'
    last = last_attention(model.image, golden['input.image'])
    attention = like_with_like(last.query).softmax(dim=-1) + like_with_like(last.key).softmax(dim=-1)
    assert_close(attention[:, 0], golden['output.image.sclip.attn_csa'], **TOLERANCE)
    assert_close(model.image.positions((6, 10))[None], golden['output.image.pos_rect'], **TOLERANCE)
    near = neighbourhood((8, 8), 5.0, 1, last.key)
    assert_close(near, golden['output.naclip.addition_8x8'], **TOLERANCE)
    window = neighbourhood((15, 15), 5.0, 0, last.key)[7 * 15 + 7].view(15, 15)  # around the middle
    assert_close(window, golden['output.naclip.window15'], **TOLERANCE)


def test_proxyclip_matches_the_official_one(official):
    """The official code takes the mean over its batch, ours over each image: beta makes up for it."""
    model, golden, _ = official
    features = golden['input.proxy_feats']
    means = cosine_map(features.flatten(2).mT).mean(dim=(1, 2))
    for index, mean in enumerate(means):
        method = find_dense_method('proxyclip', {'beta': 1.2 * float(means.mean() / mean)})
        got = method.embed(model.image, golden['input.image'], proxy=lambda images: features)
        assert_close(got[index].flatten(1).mT, golden['output.image.proxyclip'][index], **TOLERANCE)


def test_sliding_and_synonyms_match_the_official_code(official):
    """SCLIP's protocol: windows, softmax over queries, best synonym, threshold."""
    model, golden, meta = official
    model.image.position_mode = 'dino'
    query_class = golden['input.slide.query_idx']
    dense = DenseCLIP(model, 'sclip', Slide(window=64, stride=32), logit_scale=40)
    image, size = golden['input.slide.image'][0], (100, 130)
    with_words(dense, ['a', 'b', 'c'], query_class, 'a', golden['input.slide.query'])
    logits = dense._full_logits(dense.encode_image(image), size)(torch.arange(6))
    assert_close(logits[None] / 40, golden['output.slide.logits'], **TOLERANCE)
    labels = dense.segment(image, size)
    assert_close(labels.probability, golden['output.slide.class_prob'].amax(dim=0), **TOLERANCE)
    assert torch.equal(labels.classes, golden['output.slide.pred'][0])
    dense.background_threshold = meta['config']['prob_thd']
    assert torch.equal(dense.segment(image, size).classes, golden['output.slide.pred_thd'][0])


def with_words(model: DenseCLIP, names, query_class=None, background=None, queries=None) -> DenseCLIP:
    query_class = torch.as_tensor(range(len(names)) if query_class is None else query_class)
    queries = (
        normalize(torch.randn(len(query_class), model.clip.embed_dim), dim=-1) if queries is None else queries
    )
    embeddings = ClassEmbeddings(queries, query_class, len(names))
    model.set_vocabulary(Vocabulary(tuple(names), background=background), embeddings)
    return model.eval()


@pytest.mark.parametrize('image', [VIT, RESNET], ids=['vit', 'resnet'])
@pytest.mark.parametrize('size', [(64, 64), (1, 1), (5, 300), (90, 121)])
def test_the_mask_has_the_size_of_the_image(image, size):
    slide = Slide(short_side=64, long_side=160, window=64, stride=32)
    model = with_words(DenseCLIP(clip(image), slide=slide), ['a', 'b', 'c'])
    labels = model.segment(torch.randn(3, *size))
    assert labels.classes.shape == labels.probability.shape == size
    assert set(labels.classes.unique().tolist()) <= {0, 1, 2}


def test_chunks_and_batches_change_nothing():
    names = [f'class {index}' for index in range(50)]
    queries = normalize(torch.randn(50, 32), dim=-1)
    slide = {'short_side': 96, 'window': 64, 'stride': 32}
    image = torch.randn(3, 96, 130)
    results = []
    for budget, batch in [(1 << 30, 8), (1, 1), (1 << 20, 3)]:
        model = DenseCLIP(clip(), slide=Slide(**slide, batch=batch), memory_budget=budget)
        results.append(with_words(model, names, queries=queries).segment(image))
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
    kept = model.encode_image(torch.randn(3, 64, 64))
    first = model.classify_image(kept, (64, 64))
    monkeypatch.setattr(model, 'encode_pixels', None)
    with_words(model, ['c', 'd', 'e'])
    assert model.classify_image(kept, (64, 64)).classes.shape == first.classes.shape


class Proxy(torch.nn.Module):
    """A backbone of one convolution."""

    def __init__(self, patch_size=4):
        super().__init__()
        self.patch_size = patch_size
        self.conv = torch.nn.Conv2d(3, 8, patch_size, patch_size)

    def forward(self, images):
        return self.conv(images)


ABLE = [name for name, method in DENSE_METHODS.items() if 'resnet' in method.towers]


@pytest.mark.parametrize(
    ('tower', 'method'),
    [(tower, name) for tower in (VIT, SIGLIP) for name in DENSE_METHODS] + [(RESNET, name) for name in ABLE],
    ids=lambda value: getattr(value, 'flavour', None) or (value if isinstance(value, str) else 'resnet'),
)
@pytest.mark.parametrize('size', [(64, 64), (64, 96), (90, 64)])
def test_every_method_on_every_tower(tower, method, size):
    model = DenseCLIP(clip(tower), method, Slide(window=64, stride=32), proxy=Proxy())
    with_words(model, ['a', 'b', 'c', 'd', 'e'])
    labels = model.segment(torch.randn(3, *size))
    assert labels.classes.shape == size
    assert labels.probability.isfinite().all()


@pytest.mark.parametrize('method', DENSE_METHODS)
def test_a_plain_image_is_no_trouble(method):
    """Every patch is like every other: nothing is below the mean, no patch is an outlier."""
    tower = clip()
    torch.nn.init.zeros_(tower.image.pos_embed)
    model = with_words(DenseCLIP(tower, method, proxy=Proxy()), list('abcde'))
    labels = model.segment(torch.full((3, 64, 96), 0.5))
    assert labels.probability.isfinite().all()


@pytest.mark.parametrize('method', DENSE_METHODS)
def test_images_of_a_batch_do_not_see_each_other(method):
    model = with_words(DenseCLIP(clip(), method, proxy=Proxy()), list('abcde'))
    images = torch.randn(3, 3, 40, 64)
    with torch.no_grad():
        together = model.pixel_logits(images, model.queries)
        alone = torch.cat([model.pixel_logits(image[None], model.queries) for image in images])
    assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', ['ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-H-14', 'RN50'])
def test_published_sizes(name):
    """Shapes alone, without weights: every method fits every size that it says it fits."""
    with torch.device('meta'):
        published = build_clip(name)
        images, text = torch.empty(2, 3, 224, 336), torch.empty(7, published.embed_dim)
        for method in ABLE if name == 'RN50' else DENSE_METHODS:
            model = DenseCLIP(published, method, proxy=Proxy(14))
            cell = 14 if method == 'proxyclip' else model.patch_size
            assert model.pixel_logits(images, text).shape == (2, 7, 224 // cell, 336 // cell)


def test_both_halves_agree_on_their_defaults():
    """resclip's rounds share options; a default that differs would be used in one of them alone."""
    for method in DENSE_METHODS.values():
        if method.read is None:
            continue
        halves = [
            {
                one.name: one.default
                for one in signature(half).parameters.values()
                if one.kind is one.KEYWORD_ONLY
            }
            for half in (method.embed, method.read)
        ]
        for name in halves[0].keys() & halves[1].keys():
            assert halves[0][name] == halves[1][name], (method.name, name)


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('sclip', {'residual': False}),
        ('naclip', {'std': 1.0}),
        ('gem', {'blocks': 1}),
        ('clip_surgery', {'temperature': 20.0}),
        ('sc_clip', {'threshold': 0.9}),
        ('maskclip_denoised', {'temperature': 1.0}),
        ('resclip', {'base': 'sclip'}),
        ('resclip', {'feedback': (0.0, 1.0)}),
        ('proxyclip', {'gamma': 1.0}),
    ],
    ids=str,
)
def test_options_reach_the_method(method, options):
    plain, changed = (
        with_words(DenseCLIP(clip(), method, Slide(), options=given, proxy=_proxy()), list('abcdefgh'))
        for given in (None, options)
    )
    for name in ('queries', 'query_class'):
        setattr(changed, name, getattr(plain, name))
    image = torch.randn(3, 96, 96)
    assert not torch.allclose(plain.segment(image).probability, changed.segment(image).probability)


TIMM_CLIP = ClipSize(
    TimmSize('convnext_atto', 64, 16, '', 'linear', options={'depths': (1, 1, 1, 1), 'dims': (8, 8, 8, 8)}),
    TextSize(16, 1, 2, 32, 16),
)


@pytest.mark.parametrize('method', ['vanilla', 'maskclip', 'maskclip_no_residual'])
def test_image_towers_of_timm(method):
    """ConvNeXt has no attention: each method is its head at each location."""
    torch.manual_seed(0)
    towers = build_clip(TIMM_CLIP).eval()
    model = with_words(DenseCLIP(towers, method), list('abc'))
    assert model.patch_size == 32
    labels = model.segment(torch.rand(3, 64, 96))
    assert labels.probability.isfinite().all()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(towers.encode_dense(images), dim=1)
        assert_close(model.encode_pixels(images), expected)


def test_methods_that_need_attention_refuse_a_tower_of_timm():
    with pytest.raises(
        InputError, match=r"'sclip' does not work on the image tower TimmImageTower: use one of .*maskclip"
    ):
        DenseCLIP(build_clip(TIMM_CLIP), 'sclip')


def _proxy() -> Proxy:
    torch.manual_seed(1)
    return Proxy()


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: DenseCLIP(clip(), 'maskclop'), "Did you mean 'maskclip'"),
        (
            lambda: DenseCLIP(clip(RESNET), 'gem'),
            'does not work on the image tower ModifiedResNet: use one of .*maskclip',
        ),
        (lambda: DenseCLIP(clip()).segment(torch.randn(3, 64, 64)), 'no vocabulary is set'),
        (
            lambda: DenseCLIP(clip(), 'naclip', options={'sdt': 1}),
            "'naclip' has no option 'sdt'; its options: std=5.0, .*Did you mean 'std'",
        ),
        (
            lambda: DenseCLIP(clip(), 'naclip', options={'std': 'x'}),
            "option std of method 'naclip' must be a number such as 5.0, got 'x'",
        ),
        (
            lambda: DenseCLIP(clip(), 'sclip', options={'residual': 1}),
            'must be true or false such as True, got 1',
        ),
        (
            lambda: DenseCLIP(clip(), 'gem', options={'blocks': None}),
            'must be an integer such as 6, got None',
        ),
        (
            lambda: DenseCLIP(clip(), 'resclip', options={'cross': (1, 2, 3)}),
            r'must be 2 values such as \(0.3, 2.0\), got',
        ),
        (lambda: DenseCLIP(clip(), 'naclip', options={'std': 0}), 'std .* must be at least 0.01, got 0'),
        (
            lambda: DenseCLIP(clip(), 'sc_clip', options={'outlier_share': 2}),
            'between 0 and 1, got 2',
        ),
        (lambda: DenseCLIP(clip(), 'maskclip_no_residual', options={'std': 1}), 'its options: none'),
        (
            lambda: DenseCLIP(clip(), slide=Slide(window=7)),
            'windows of 7 pixels are smaller than a patch of 8',
        ),
        (lambda: DenseCLIP(clip(RESNET), slide=Slide(window=16)), 'smaller than a patch of 32'),
        (lambda: DenseCLIP(clip(), 'proxyclip'), "needs a proxy backbone: .* such as proxy='vit_"),
        (
            lambda: DenseCLIP(clip(), 'proxyclip', Slide(window=64), proxy=Proxy(14)),
            'window size 64 is not a multiple of the patch size 14 of the proxy: use 56 or 70',
        ),
        (lambda: DenseCLIP(clip(), 'proxyclip', proxy='vit_tini_patch16_224'), 'timm has no backbone'),
        (
            lambda: with_words(DenseCLIP(clip(), 'resclip', options={'base': 'gem'}), ['a']).segment(
                torch.randn(3, 64, 64)
            ),
            r"base of method resclip must be one of \['clearclip', 'naclip', 'sclip'\], got 'gem'",
        ),
    ],
    ids=[
        'unknown method',
        'method without a transformer',
        'no words',
        'unknown option',
        'word for a number',
        'number for yes or no',
        'none for a number',
        'three for two',
        'no spread',
        'more outliers than patches',
        'no options',
        'window under a patch',
        'window under a cell',
        'no proxy',
        'proxy does not fit',
        'unknown backbone',
        'unknown base',
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
