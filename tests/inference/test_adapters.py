"""Adapters in classifiers, segmenters and detectors."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import clipdense
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.tasks.adapters import Adapter, Origin, source_digest
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)
NAMES = ['cat', 'dog', 'bird']
IMAGE = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
METHODS = ['maskclip', 'naclip', 'clip_surgery', 'maskclip_denoised', 'resclip']


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(0)
    return build_clip(ClipSize(VIT, TEXT)).eval()


def lseg(clip):
    tower = timm_network(
        'vit_tiny_patch16_224', img_size=32, patch_size=16, embed_dim=32, depth=4, num_heads=2
    )
    return LSeg(TransformerPyramid(tower, channels=(8,) * 4), clip=clip, width=3).eval()


def segmenter(clip, kind, adapter=None):
    if kind == 'lseg':
        torch.manual_seed(0)
        return clipdense.Segmenter(lseg(clip), adapter=adapter)
    return clipdense.Segmenter.from_pretrained(clip, kind, cache=False, adapter=adapter, device='cpu')


class Shift(Adapter):
    """Adds a constant to the logit of a class."""

    def __init__(self, index, value=1e3):
        super().__init__()
        self.index, self.value = index, value

    def scores(self, embeddings, vocabulary, classes=None):
        every = torch.zeros(*embeddings.shape[:-1], len(vocabulary))
        every[..., self.index] = self.value
        return every if classes is None else every[..., classes]


class Nothing(Adapter):
    """An adapter that changes nothing, by other means than leaving things out."""

    def adapt_embeddings(self, embeddings):
        return embeddings.clone()

    def adapt_queries(self, queries):
        return queries.clone()

    def scores(self, embeddings, vocabulary, classes=None):
        count = len(vocabulary) if classes is None else len(classes)
        return torch.zeros(*embeddings.shape[:-1], count)


def test_classifier(clip):
    cache = KeyValueCache(torch.randn(4, 8), [0, 1, 1, 2], ['dog', 'cat', 'cow'], alpha=9.0)
    plain = clipdense.Classifier.from_pretrained(clip, cache=False)
    with pytest.warns(UserWarning, match='no keys of bird'):
        found = clipdense.Classifier.from_pretrained(clip, cache=False, adapter=cache)(IMAGE, NAMES)
    pixels = clip.preprocess(clipdense.inference.predictor.read_image(IMAGE))[None]
    with torch.no_grad():
        x = clip.encode_image(pixels, normalize=True)
    zero_shot = torch.tensor(plain(IMAGE, NAMES).probabilities).log()
    added = cache.scores(x, found.vocabulary)[0]
    assert_close(torch.tensor(found.probabilities), (zero_shot + added).softmax(0), atol=1e-5, rtol=1e-5)
    assert added[2] == 0


def test_classifier_with_text_adapter(clip):
    adapter = ClipAdapter(8, 'both', reduction=1, ratio=0.9)
    found = clipdense.Classifier.from_pretrained(clip, cache=False, adapter=adapter)
    plain = clipdense.Classifier.from_pretrained(clip, cache=False)
    plain.set_vocabulary(NAMES)
    queries = plain.embeddings.queries
    found.set_vocabulary(NAMES)
    assert_close(found.embeddings.queries, adapter.adapt_queries(queries).detach())
    assert not np.allclose(found(IMAGE).probabilities, plain(IMAGE).probabilities, atol=1e-5)


class TestSegmenter:
    @pytest.mark.parametrize('kind', [*METHODS, 'lseg'])
    def test_every_method_with_pixel_embeddings(self, clip, kind):
        """Nothing added is the plain result, and a constant wins everywhere; windows and mirrors included."""
        plain, same = segmenter(clip, kind)(IMAGE, NAMES), segmenter(clip, kind, Nothing())(IMAGE, NAMES)
        np.testing.assert_array_equal(plain.mask, same.mask)
        np.testing.assert_allclose(plain.scores, same.scores, atol=1e-5)
        for index in range(3):
            assert (segmenter(clip, kind, Shift(index))(IMAGE, NAMES).mask == index).all()

    @pytest.mark.parametrize('kind', ['maskclip', 'lseg'])
    def test_a_cache_and_chunks_of_classes(self, clip, kind):
        cache = KeyValueCache(torch.randn(4, 8), [0, 1, 1, 2], NAMES, alpha=5.0)
        one = segmenter(clip, kind, cache)
        names = [*NAMES, 'cow']
        with pytest.warns(UserWarning, match='no keys of cow'):
            whole = one(IMAGE, names)
        one.model.memory_budget = 1  # a class at a time, a row at a time
        parts = one(IMAGE, names)
        np.testing.assert_array_equal(whole.mask, parts.mask)
        np.testing.assert_allclose(whole.scores, parts.scores, atol=1e-4)
        assert not np.allclose(whole.scores, segmenter(clip, kind)(IMAGE, names).scores, atol=1e-3)

    def test_clip_adapter_on_maps_is_that_of_each_pixel(self, clip):
        adapter = ClipAdapter(8, ratio=0.7)
        model = segmenter(clip, 'maskclip', adapter).model
        x = torch.nn.functional.normalize(torch.randn(2, 8, 3, 4), dim=1)
        view = clipdense.tasks.segmentation.View((12, 16), [], [x], False)
        (adapted,) = model.adapted(view).features
        assert_close(adapted[1, :, 2, 3], adapter.adapt_embeddings(x[1, :, 2, 3]))

    def test_one_model_may_have_several(self, clip):
        model = segmenter(clip, 'maskclip').model
        first, second = clipdense.Segmenter(model, adapter=Shift(0)), clipdense.Segmenter(model)
        third = clipdense.Segmenter(model, adapter=Shift(1))
        plain = second(IMAGE, NAMES).mask
        assert (first(IMAGE, NAMES).mask == 0).all()
        assert (third(IMAGE, NAMES).mask == 1).all()
        np.testing.assert_array_equal(second(IMAGE, NAMES).mask, plain)

    def test_it_is_no_part_of_the_model(self, clip):
        one = segmenter(clip, 'maskclip', KeyValueCache(torch.randn(3, 8), [0, 1, 2], NAMES))
        assert not [name for name in one.model.state_dict() if 'adapter' in name or 'keys' in name]
        assert copy.deepcopy(one)(IMAGE, NAMES).mask.shape == (20, 24)

    def test_a_method_without_pixel_embeddings(self):
        class Groups(SegmentationModel):
            def __init__(self):
                super().__init__([0.5] * 3, [0.5] * 3)
                self.weight = torch.nn.Parameter(torch.zeros(1))

            encode_pixels = classify_pixels = None

        with pytest.raises(
            InputError, match='a Groups cannot use an adapter: it has no embedding of each pixel'
        ):
            clipdense.Segmenter(Groups(), SimpleNamespace(embed=print), adapter=Nothing())


class TestBelonging:
    @pytest.fixture
    def file(self, clip, tmp_path):
        origin = Origin(source_digest(clip), 'images')
        KeyValueCache(torch.eye(3, 8), [0, 1, 2], NAMES, origin=origin).save(tmp_path / 'a.safetensors')
        return tmp_path / 'a.safetensors'

    def test_its_own_weights(self, clip, file):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            clipdense.Classifier.from_pretrained(clip, cache=False, adapter=file)(IMAGE, NAMES)

    def test_other_weights(self, file):
        torch.manual_seed(1)
        other = build_clip(ClipSize(VIT, TEXT))
        with pytest.raises(
            InputError, match=r'a\.safetensors: the adapter belongs to other weights than these'
        ):
            clipdense.Classifier.from_pretrained(other, cache=False, adapter=file)

    def test_another_dimension(self, clip):
        with pytest.raises(InputError, match='for embeddings of dimension 9, the model has 8'):
            clipdense.Classifier.from_pretrained(clip, cache=False, adapter=ClipAdapter(9))

    def test_embeddings_of_another_kind(self, clip, file):
        with pytest.warns(UserWarning, match=r'embeddings of images and is used for pixels \(maskclip\)'):
            segmenter(clip, 'maskclip', file)

    def test_not_an_adapter(self, clip):
        with pytest.raises(InputError, match='an adapter must be an Adapter, or a file of one, got dict'):
            clipdense.Classifier.from_pretrained(clip, cache=False, adapter={})
