"""Every documented dtype, with every kind of model: close to fp32, or refused with the reason."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from clipdense.clip import checkpoint
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.clip.tokenizers import OpenAITokenizer
from clipdense.inference.classifier import Classifier
from clipdense.inference.load import load
from clipdense.inference.segmenter import Segmenter
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

DTYPES = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-4}  # and the error of a probability
TEXT = TextSize(64, 2, 1, 96, 32, 49408, 77, 'gelu')
SIGLIP_TEXT = TextSize(64, 2, 1, 96, 64, 49408, 77, 'gelu_tanh', 'siglip')
SIZES = {
    'vit': ClipSize(VitSize(32, 8, 64, 4, 1, 96, 32, 'gelu'), TEXT),
    'slip': ClipSize(VitSize(32, 8, 64, 4, 1, 96, 32, 'gelu', 'slip'), TEXT),
    'siglip': ClipSize(VitSize(32, 8, 64, 4, 1, 96, 64, 'gelu_tanh', 'siglip'), SIGLIP_TEXT, logit_bias=True),
    'resnet': ClipSize(ResNetSize(64, 8, (1, 1, 1, 1), 4, 32), TEXT),
}
NAMES = ['cat', 'dog', 'cow']
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
BY_THRESHOLD = (
    'sc_clip',
    'maskclip_denoised',
)  # whether a patch or class is above one depends on the last bit
TRAINING_FREE = [method.name for method in list_methods('segmentation', any_clip=True)]


class Fixed:
    """Any embeddings, so that no text tower is needed."""

    def __init__(self, width):
        self.rows = torch.nn.functional.normalize(torch.randn(3, width), dim=-1)

    def embed(self, vocabulary):
        return ClassEmbeddings(self.rows, torch.arange(3), 3)


def make(kind):
    torch.manual_seed(0)
    return build_clip(SIZES[kind], tokenizer=OpenAITokenizer(77)).eval()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', SIZES)
def test_classifier(kind, dtype):
    clip, other = make(kind), make(kind).to(dtype)
    expected, found = (
        Classifier(one, PromptEnsemble(one, 'simple', None))(IMAGE, NAMES).probabilities
        for one in (clip, other)
    )
    np.testing.assert_allclose(found, expected, atol=DTYPES[dtype])
    images, token_ids = torch.randn(2, 3, 64, 64), torch.as_tensor(clip.tokenizer(NAMES))
    with torch.no_grad():
        for name, inputs in (('encode_image', images), ('encode_text', token_ids), ('encode_dense', images)):
            embeddings = [getattr(one, name)(inputs).double() for one in (clip, other)]
            assert torch.cosine_similarity(*embeddings).min() > 0.99, name


@pytest.mark.parametrize('dtype', DTYPES)
def test_dtype_of_a_file(tmp_path, dtype):
    checkpoint.save(make('vit'), tmp_path / 'clip.safetensors')
    classifier = Classifier.from_pretrained(
        tmp_path / 'clip.safetensors', dtype=dtype, templates='name', cache=False
    )
    assert {parameter.dtype for parameter in classifier.clip.parameters()} == {dtype}
    segmenter = Segmenter.from_pretrained(
        tmp_path / 'clip.safetensors', 'clearclip', dtype=dtype, cache=False
    )
    assert {parameter.dtype for parameter in segmenter.model.parameters()} == {dtype}
    assert segmenter(IMAGE, NAMES).mask.shape == IMAGE.shape[:2]


@pytest.mark.parametrize('dtype', [torch.int8, torch.complex64, torch.float8_e4m3fn, 'float17', 16])
def test_other_dtypes_are_refused(tmp_path, dtype):
    checkpoint.save(make('vit'), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match='dtype must be'):
        load(tmp_path / 'clip.safetensors', dtype=dtype)


def test_values_that_overflow_are_named(tmp_path):
    clip = make('vit')
    clip.image.blocks[2].mlp.fc1.bias.data[0] = 1e5
    checkpoint.save(clip, tmp_path / 'clip.safetensors')
    load(tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r'too large for torch.float16 \(image.blocks.2.mlp.fc1.bias\)'):
        load(tmp_path / 'clip.safetensors', dtype=torch.float16)


@pytest.mark.parametrize(
    ('device', 'said'),
    [
        ('gpu', "Did you mean 'cuda:0'"),
        ('cuda:99', "try device='cpu'"),
        ('mps:7', "try device='cpu'"),
        ('meta', 'holds no values'),
        ('', 'is unknown: use cpu, cuda'),
        (torch.device('cuda', 99), "try device='cpu'"),
        (2.5, 'is unknown: use cpu, cuda'),
        (['cpu'], 'is unknown: use cpu, cuda'),
    ],
)
def test_devices(tmp_path, device, said):
    clip = make('vit')
    checkpoint.save(clip, tmp_path / 'clip.safetensors')
    for use in (
        lambda: load(tmp_path / 'clip.safetensors', device),
        lambda: Segmenter.from_pretrained(clip, device=device),
        lambda: Classifier(clip).to(device),
    ):
        with pytest.raises(InputError, match=said):
            use()
    assert load(tmp_path / 'clip.safetensors', torch.device('cpu')).logit_scale.device.type == 'cpu'


def spoiled(kind, dtype=torch.float32):
    """A model whose activations overflow, although its weights are finite."""
    clip = make(kind)
    with torch.no_grad():
        for parameter in clip.image.blocks[1].mlp.parameters():
            parameter.mul_(1e4 if dtype == torch.float16 else 1e20)
    return clip.to(dtype)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_overflow_within_the_model_is_an_error(dtype):
    clip = spoiled('vit', dtype)
    with pytest.raises(InputError, match='must be finite'):
        Classifier(clip, Fixed(32))(IMAGE, NAMES)
    with pytest.raises(InputError, match='NaN or infinite'):
        Segmenter(DenseCLIP(clip, 'maskclip'), Fixed(32))(IMAGE, NAMES)


def masks(model, width, dtype, **options):
    """Class probabilities of fp32 and of the dtype."""
    segmenters = [
        Segmenter(one, Fixed(width), SegmentationOptions(**options))
        for one in (model, copy.deepcopy(model).to(dtype))
    ]
    segmenters[1].embedder = segmenters[0].embedder
    return [segmenter(IMAGE, NAMES) for segmenter in segmenters]


def assert_close(found, expected, dtype, method=''):
    if method in BY_THRESHOLD:
        assert (found.mask == expected.mask).mean() > 0.75
        return
    same = found.mask == expected.mask
    assert same.mean() > 1 - 2 * DTYPES[dtype]
    np.testing.assert_allclose(found.scores[same], expected.scores[same], atol=4 * DTYPES[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('method', TRAINING_FREE)
@pytest.mark.parametrize('kind', ['vit', 'siglip', 'resnet'])
def test_training_free_segmenter(kind, method, dtype):
    clip = make(kind)
    proxy = None
    if method == 'proxyclip':
        proxy = TimmProxy(
            'vit_tiny_patch16_224', weights=False, arguments={'img_size': 32, 'patch_size': 4, 'depth': 2}
        )
    if kind == 'resnet' and 'resnet' not in get_method(method).towers:
        return
    model = DenseCLIP(clip, method, proxy=proxy).eval()
    expected, found = masks(model, clip.embed_dim, dtype, refine=method == 'naclip', scales=(0.75, 1.0))
    assert_close(found, expected, dtype, method)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', ['groupvit', 'lseg vit', 'lseg resnet', 'lseg block'])
def test_trained_segmenter(kind, dtype):
    torch.manual_seed(0)
    width = 8
    if kind == 'groupvit':
        stages = tuple(StageSize(1, 16, 2, *rest) for rest in ((6, 6), (3, 3), (0, 0)))
        text = TextSize(16, 1, 2, 32, 8, vocab_size=50, context_length=8)
        model = GroupVitSegmenter(
            build_group_vit(GroupVitSize(GroupVitImageSize(16, 4, stages, 8, 12), text))
        )
    else:
        clip = make('resnet' if 'resnet' in kind else 'vit')
        block = BottleneckBlock(2) if 'block' in kind else None
        channels = (8, 8, 8, 8)
        backbone = (
            ResNetPyramid(clip.image)
            if 'resnet' in kind
            else TransformerPyramid(clip.image, channels=channels, scales=(4, 2, 1, 0.5))
        )
        width = 32
        model = LSeg(
            backbone, embed_dim=width, width=8 if 'block' in kind else 32, block=block, statistics='openai'
        )
    expected, found = masks(model.eval(), width, dtype)
    assert_close(found, expected, dtype)
