"""Images encoded once and asked many times, embeddings of pixels, probabilities of all classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference import result_checks
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import InputError

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)
NAMES = (['cat', 'dog'], ['car', 'road', 'tree'], [['sky', 'cloud'], ['sea']])


@pytest.fixture
def clip():
    return build_clip(ClipSize(VIT, TEXT))


@pytest.fixture
def images():
    numbers = np.random.default_rng(0)
    return [Image.fromarray(numbers.integers(0, 255, (20, 26, 3), dtype=np.uint8)) for _ in range(3)]


def segmenter_of(clip, method='maskclip', **options):
    options = SegmentationOptions(**options)
    return clipdense.Segmenter.from_pretrained(clip, method, options=options, cache=False, device='cpu')


def vocabulary_of(names):
    if isinstance(names[0], str):
        return names
    return clipdense.Vocabulary([one[0] for one in names], {one[0]: one[1:] for one in names})


VIEWS = {
    'one window': {'window': 0},
    'windows': {'window': 16, 'stride': 8},
    'scales and flip': {'window': 16, 'stride': 8, 'scales': (0.75, 1.0), 'flip': True},
    'refined': {'refine': True},
}


@pytest.mark.parametrize('views', VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize('method', ['maskclip', 'naclip', 'sc_clip'])
def test_an_encoded_image_gives_what_the_image_gives(clip, images, method, views):
    segmenter = segmenter_of(clip, method, **views)
    encoded = segmenter.encode(images)
    for names in map(vocabulary_of, NAMES):
        for one, image in zip(encoded, images, strict=True):
            found, expected = segmenter(one, names), segmenter(image, names)
            np.testing.assert_array_equal(found.mask, expected.mask)
            np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_classifier(clip, images):
    classifier = clipdense.Classifier.from_pretrained(clip, cache=False, device='cpu')
    encoded = classifier.encode(images)
    for names in map(vocabulary_of, NAMES):
        expected = classifier(images, names)
        for one, other in zip(classifier(encoded, names), expected, strict=True):
            np.testing.assert_array_equal(one.probabilities, other.probabilities)
    mixed = [result for _, result in classifier.stream([encoded[0], images[1]], names, batch_size=2)]
    for one, other in zip(mixed, expected[:2], strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_the_memory_is_stated(clip, images):
    encoded = segmenter_of(clip, window=0, short_side=16).encode(images[0])
    features = 4 * 8 * 4 * 5  # D, grid
    resized = 4 * 3 * 16 * 21
    assert encoded.nbytes == features + resized + 3 * 20 * 26
    assert repr(encoded) == 'Encoded(26 x 20, 0.0 MB)'


def test_what_an_encoded_image_cannot_be_used_for(clip, images):
    segmenter, classifier = segmenter_of(clip), clipdense.Classifier.from_pretrained(clip, device='cpu')
    encoded = segmenter.encode(images[0])
    seen = {}
    other = segmenter_of(build_clip(ClipSize(VIT, TEXT)))
    for predictor in (other, classifier):
        with pytest.raises(InputError, match='encoded by another model'):
            predictor(encoded, ['cat', 'dog'])
    assert list(other.stream([encoded], ['cat', 'dog'], on_error=seen.__setitem__)) == []
    assert 'encoded by another model' in str(seen[0])
    twin = clipdense.Segmenter(segmenter.model, options=SegmentationOptions(flip=True))
    with pytest.raises(InputError, match=r'encoded with another options .*: encode it again'):
        twin(encoded, ['cat', 'dog'])
    with pytest.raises(InputError, match='encoded already'):
        segmenter.encode(encoded)
    with pytest.raises(InputError, match='takes a list or iterator'):
        segmenter.stream(encoded, ['cat', 'dog'])
    with pytest.raises(InputError, match='raise max_pixels'):
        segmenter.encode(images[0], max_pixels=10)


@pytest.mark.parametrize('views', VIEWS.values(), ids=VIEWS)
def test_embeddings_of_pixels(clip, images, views):
    segmenter = segmenter_of(clip, **views)
    cells = segmenter.extract_dense_features(images[0])
    pixels = segmenter.extract_dense_features(segmenter.encode(images[0]), pixel_aligned=True)
    assert pixels.embeddings.shape == (8, 20, 26)
    assert pixels.stride == (1, 1)
    for found in (cells, pixels):
        norms = found.embeddings.norm(dim=0)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert cells.stride == (20 / cells.embeddings.shape[1], 26 / cells.embeddings.shape[2])
    assert tuple(cells.embeddings.shape[1:]) in ((6, 7), (6, 8))  # short side 24, patches of 4


def test_embeddings_of_pixels_are_compared_as_the_segmenter_compares_them(clip, images):
    segmenter = segmenter_of(clip, window=0, short_side=20)
    expected = segmenter(images[0], ['cat', 'dog', 'car']).mask
    queries = segmenter.embeddings.queries
    features = segmenter.extract_dense_features(images[0])
    logits = torch.einsum('dhw,kd->khw', features.embeddings, queries)
    resized = torch.nn.functional.interpolate(logits[None], expected.shape, mode='bilinear')[0]
    np.testing.assert_array_equal(resized.argmax(0), expected)


def test_embeddings_that_do_not_fit_in_memory(clip, images, monkeypatch):
    monkeypatch.setattr(result_checks, 'MAX_BYTES', 4 * 8 * 20 * 26 - 1)
    segmenter = segmenter_of(clip)
    with pytest.raises(InputError, match=r'26 x 20 pixels take .* GB.*leave out pixel_aligned'):
        segmenter.extract_dense_features(images[0], pixel_aligned=True)
    with pytest.raises(InputError, match=r'probabilities of 17 classes .*leave out keep_probabilities'):
        segmenter(images[0], [f'c{n}' for n in range(17)], keep_probabilities=True)


@pytest.mark.parametrize('budget', [256 << 20, 64 * 26 * 6], ids=['at once', 'bands'])
@pytest.mark.parametrize('views', VIEWS.values(), ids=VIEWS)
def test_probabilities(clip, images, views, budget):
    segmenter = segmenter_of(clip, **views)
    plain = segmenter(images[0], vocabulary_of(NAMES[2]))
    segmenter.model.memory_budget = budget
    result = segmenter(images[0], vocabulary_of(NAMES[2]), keep_probabilities=True)
    np.testing.assert_array_equal(result.mask, plain.mask)
    assert result.probabilities.shape == (2, 20, 26)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.mask)
    np.testing.assert_allclose(result.probabilities.max(0), result.scores, atol=1e-6)
    classes, values = result.top_k(5)
    np.testing.assert_array_equal(classes[0], result.mask)
    assert values.shape == (2, 20, 26)
    assert (values[0] >= values[1]).all()
    everything = segmenter(images[0], NAMES[1], keep_probabilities=True).probabilities
    np.testing.assert_allclose(everything.sum(0), 1, atol=1e-5)


def test_thresholds_leave_the_probabilities(clip, images):
    names = clipdense.Vocabulary(['cat', 'dog']).with_background()
    before = segmenter_of(clip)(images[0], names, keep_probabilities=True)
    changes = [{'background_threshold': 1.0}, {'area_threshold': 0.45}]
    for change in changes:
        after = segmenter_of(clip, **change)(images[0], names, keep_probabilities=True)
        np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-6)


def test_probabilities_that_were_not_kept(clip, images):
    result = segmenter_of(clip)(images[0], ['cat', 'dog'])
    for ask in (lambda: result.probabilities, result.top_k):
        with pytest.raises(InputError, match='call with keep_probabilities=True'):
            ask()
    with pytest.raises(InputError, match='keep_probabilities must be True or False, got 1'):
        segmenter_of(clip)(images[0], ['cat'], keep_probabilities=1)
    kept = segmenter_of(clip)(images[0], ['cat', 'dog'], keep_probabilities=True)
    for count in (0, True, 2.0):
        with pytest.raises(InputError, match='whole number of at least 1'):
            kept.top_k(count)
