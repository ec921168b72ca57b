"""bf16 autocast: every model and method close to fp32, scores in fp32, and what says the precision."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipdense.cli.app import main
from clipdense.clip import checkpoint
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.clip.tokenizers import OpenAITokenizer
from clipdense.inference.classifier import Classifier
from clipdense.inference.load import load
from clipdense.inference.segmenter import Segmenter
from clipdense.layers.precision import autocast
from clipdense.methods import get_method, list_methods
from clipdense.methods.dense_clip.proxy import TimmProxy
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.methods.lseg.backbones import ResNetPyramid, TransformerPyramid
from clipdense.methods.lseg.regularize import BottleneckBlock
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:precision='bf16'. this CPU has no bf16 units")

TEXT = TextSize(64, 2, 1, 96, 32, 49408, 77, 'gelu')
SIZES = {
    'vit': ClipSize(VitSize(32, 8, 64, 4, 1, 96, 32, 'gelu'), TEXT),
    'siglip': ClipSize(
        VitSize(32, 8, 64, 4, 1, 96, 64, 'gelu_tanh', 'siglip'),
        TextSize(64, 2, 1, 96, 64, 49408, 77, 'gelu_tanh', 'siglip'),
        logit_bias=True,
    ),
    'resnet': ClipSize(ResNetSize(64, 8, (1, 1, 1, 1), 4, 32), TEXT),
}
NAMES = ['cat', 'dog', 'cow']
PIXELS_THAT_AGREE = {'sc_clip': 0.95}  # 5 % of the patches are replaced; which ones depends on the last bits
TRAINING_FREE = [
    (kind, method.name)
    for kind in SIZES
    for method in list_methods('segmentation', any_clip=True)
    if kind != 'resnet' or 'resnet' in get_method(method.name).towers
]
# Top, bottom, left and right of a part of each of the three regions.
PARTS = ((0, 96, 0, 22), (58, 96, 56, 112), (24, 38, 68, 90))


def picture():
    """(96, 112, 3): a red, a blue and a yellow region, with noise."""
    image = np.full((96, 112, 3), 90.0)
    image[:, :56] = 200, 40, 40
    image[48:, 28:] = 20, 60, 220
    image[19:48, 56:100] = 240, 230, 30
    return np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)


IMAGE = picture()


class Rows:
    """Given class embeddings."""

    def __init__(self, rows):
        self.rows = rows

    def embed(self, vocabulary):
        return ClassEmbeddings(self.rows, torch.arange(3), 3)


def make(kind):
    torch.manual_seed(0)
    return build_clip(SIZES[kind], tokenizer=OpenAITokenizer(77)).eval()


@torch.no_grad()
def embedder_of_regions(model, embed):
    """Class embeddings of the three regions of the image, without what they have in common."""
    crops = [torch.from_numpy(IMAGE[t:b, left:r].copy()).permute(2, 0, 1) for t, b, left, r in PARTS]
    rows = torch.stack([F.normalize(embed(model, crop).mean(dim=(0, 2, 3)), dim=0) for crop in crops])
    return Rows(F.normalize(rows - rows.mean(dim=0), dim=-1))


def both(model, embedder, **options):
    """The results of fp32 and of bf16."""
    view = SegmentationOptions(**options)
    segmenters = [Segmenter(model, embedder, view, precision=name) for name in ('fp32', 'bf16')]
    results = [segmenter(IMAGE, NAMES) for segmenter in segmenters]
    assert results[1].scores.dtype == np.float32
    return results


@pytest.mark.parametrize('kind', SIZES)
def test_embeddings(kind):
    clip = make(kind)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for encode in (clip.encode_image, clip.encode_dense):
            exact = encode(images)
            with autocast('cpu', torch.bfloat16):
                rounded = encode(images)
            assert rounded.dtype == torch.bfloat16
            assert torch.cosine_similarity(exact, rounded.float()).min() >= 0.999, encode.__name__
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}


@pytest.mark.parametrize('kind', SIZES)
def test_classifier(kind):
    clip = make(kind)
    exact, rounded = (
        Classifier(clip, PromptEnsemble(clip, 'name', None), precision=name) for name in ('fp32', 'bf16')
    )
    expected, found = (classifier(IMAGE, NAMES).probabilities for classifier in (exact, rounded))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.02
    torch.testing.assert_close(rounded.embeddings.queries, exact.embeddings.queries, atol=0, rtol=0)


def test_cached_class_embeddings_do_not_depend_on_the_precision(tmp_path):
    clip = make('vit')
    for name in ('bf16', 'fp32', 'auto'):
        embedder = PromptEnsemble(clip, 'name', tmp_path)
        classifier = Classifier(clip, embedder, precision=name)
        classifier.set_vocabulary(NAMES)
        with autocast('cpu', torch.bfloat16):
            expected = PromptEnsemble(clip, 'name', None).embed(classifier.vocabulary)
        torch.testing.assert_close(classifier.embeddings.queries, expected.queries, atol=1e-6, rtol=0)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(('kind', 'method'), TRAINING_FREE)
def test_training_free_methods(kind, method):
    proxy = None
    if method == 'proxyclip':
        size = {'img_size': 32, 'patch_size': 4, 'depth': 2}
        proxy = TimmProxy('vit_tiny_patch16_224', weights=False, arguments=size)
    model = DenseCLIP(make(kind), method, proxy=proxy).eval()

    def embed(model, crop):
        found = model.encode_image(crop).views[0].features[0]
        return found if isinstance(found, torch.Tensor) else found[0]

    expected, found = both(model, embedder_of_regions(model, embed))
    assert (found.mask == expected.mask).mean() >= PIXELS_THAT_AGREE.get(method, 0.985)


def test_views_and_refinement():
    model = DenseCLIP(make('vit'), 'naclip')
    embedder = embedder_of_regions(model, lambda model, crop: model.encode_image(crop).views[0].features[0])
    expected, found = both(model, embedder, refine=True, scales=(0.75, 1.0), flip=True)
    assert (found.mask == expected.mask).mean() >= 0.99


@pytest.mark.parametrize('kind', ['vit', 'resnet', 'block', 'compact'])
def test_lseg(kind):
    """The decoder is random, so that pixels between two classes are many: they are left out."""
    clip = make('resnet' if kind == 'resnet' else 'vit')
    scales = {'channels': (8, 8, 8, 8), 'scales': (4, 2, 1, 0.5)}
    model = LSeg(
        ResNetPyramid(clip.image) if kind == 'resnet' else TransformerPyramid(clip.image, **scales),
        embed_dim=32,
        width=8 if kind in ('block', 'compact') else 32,
        block=BottleneckBlock(2) if kind == 'block' else None,
        statistics='openai',
    ).eval()
    pixels = model.data_preprocessor.normalize(torch.from_numpy(IMAGE).permute(2, 0, 1))[None]
    with torch.no_grad(), autocast('cpu', torch.bfloat16):
        rounded = model.embed_pixels(pixels)
    with torch.no_grad():
        assert torch.cosine_similarity(model.embed_pixels(pixels), rounded.float()).min() >= 0.999
    embedder = embedder_of_regions(model, lambda model, crop: model.embed_pixels(crop[None] / 255 - 0.5))
    expected, found = both(model, embedder)
    sure = expected.scores > 1 / 3 + 0.02
    assert (found.mask == expected.mask)[sure].mean() >= 0.99
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.03)


def test_groupvit():
    """The groups of pixels are the same; products of assignments, which are close, are not rounded."""
    torch.manual_seed(2)
    stages = tuple(StageSize(1, 16, 2, *rest) for rest in ((6, 6), (3, 3), (0, 0)))
    text = TextSize(16, 1, 2, 32, 8, vocab_size=50, context_length=8)
    clip = build_group_vit(GroupVitSize(GroupVitImageSize(16, 4, stages, 8, 12), text))
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if '.assign.' in name and parameter.ndim == 2:
                parameter.mul_(6)  # decided assignments, as after training
    model = GroupVitSegmenter(clip).eval()
    pixels = model.data_preprocessor.normalize(torch.from_numpy(IMAGE).permute(2, 0, 1))[None, :, :96, :96]
    with torch.no_grad():
        *embeddings, owner = model.encode_pixels(pixels)
        with autocast('cpu', torch.bfloat16):
            *rounded, found = model.encode_pixels(pixels)
    assert owner.unique(return_counts=True)[1].min() > 4000
    assert (owner == found).float().mean() >= 0.99
    for one, other in zip(embeddings, rounded, strict=True):
        assert torch.cosine_similarity(one, other.float(), dim=-1).min() >= 0.999
    expected, found = both(model, Rows(F.normalize(torch.randn(3, 8), dim=-1)))
    assert (found.mask == expected.mask).mean() >= 0.99


def test_precision_of_a_predictor():
    clip = make('vit')
    assert Classifier(clip).precision == 'fp32'  # auto, without bf16 units
    rounded = Classifier(clip, precision='bf16')
    assert rounded.precision == 'bf16'
    for again in (copy.copy(rounded), pickle.loads(pickle.dumps(rounded)), rounded.to('cpu')):
        assert again.precision == 'bf16'
    assert Classifier(make('vit').to(torch.float16)).precision == 'fp16'
    assert Segmenter(DenseCLIP(make('vit').double(), 'maskclip')).precision == 'fp64'


def test_auto_follows_the_hardware(monkeypatch):
    monkeypatch.setattr('clipdense.layers.precision.has_native_bf16', lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Classifier(make('vit')).precision == 'bf16'
        assert Classifier(make('vit'), precision='fp32').precision == 'fp32'
        assert Classifier(make('vit').to(torch.float16)).precision == 'fp16'


def test_predictors_of_one_model_differ_in_precision():
    model = DenseCLIP(make('vit'), 'maskclip')
    embedder = Rows(F.normalize(torch.randn(3, 32), dim=-1))
    expected, found = both(model, embedder)
    again = Segmenter(model, embedder, precision='fp32')(IMAGE, NAMES)
    np.testing.assert_array_equal(again.scores, expected.scores)
    assert np.abs(found.scores - expected.scores).max() > 0
    assert not torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('precision', ['bf16', 'fp32'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_two_settings_that_contradict(precision, dtype):
    with pytest.raises(InputError, match=f'needs parameters in torch.float32, they are {dtype}: leave out'):
        Classifier(make('vit').to(dtype), precision=precision)


def test_refused_before_weights_are_loaded():
    for make_one in (Classifier.from_pretrained, Segmenter.from_pretrained):
        with pytest.raises(InputError, match="got 'int8'"):
            make_one('no such weights', precision='int8')
    with pytest.raises(InputError, match=r'load has no precision: .* pass precision to Classifier'):
        load('no such weights', precision='bf16')


@pytest.fixture
def weights(tmp_path):
    checkpoint.save(make('vit'), tmp_path / 'clip.safetensors')
    return tmp_path / 'clip.safetensors'


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize('precision', ['auto', 'fp32', 'bf16'])
def test_commands_name_the_precision(tmp_path, weights, capsys, precision):
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / 'a.png')
    used = 'bf16' if precision == 'bf16' else 'fp32'
    common = ('-w', weights, '-c', 'cat, dog', '--precision', precision, '--no-cache')
    assert not run('segment', tmp_path / 'a.png', *common, '--out', tmp_path)
    assert json.loads((tmp_path / 'a.json').read_text())['precision'] == used
    assert not run('classify', tmp_path / 'a.png', *common, '--out', tmp_path / 'classes.json')
    assert json.loads((tmp_path / 'classes.json').read_text())[0]['precision'] == used
    said = capsys.readouterr().err
    assert said.count('computing in bf16') == (2 if used == 'bf16' else 0)


@pytest.mark.parametrize(
    ('command', 'precision', 'said'),
    [
        ('segment', 'fp16', 'fp16 is for training on a GPU'),
        ('classify', 'int8', "must be one of 'auto', 'fp32', 'bf16', got 'int8'"),
        ('detect', 'bfloat16', "Did you mean 'bf16'"),
        ('embed', 'bf16', 'No such option'),
    ],
)
def test_commands_refuse(tmp_path, weights, capsys, command, precision, said):
    images = [] if command == 'embed' else [tmp_path]
    (tmp_path / 'a.png').write_bytes(b'')
    assert run(command, *images, '-w', weights, '-c', 'cat, dog', '--precision', precision)
    assert said in ' '.join(capsys.readouterr().err.split())
