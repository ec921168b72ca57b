"""One image or many, class names of each call, threads: the same for every predictor."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.class_embeddings import PromptEnsemble, StoredEmbeddings
from clipdense.clip.embedding_files import save_embeddings
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import InputError
from clipdense.utils.video import VideoWriter

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)

SEGMENTER = clipdense.Segmenter.from_pretrained


@pytest.fixture(params=['Classifier', 'Segmenter'])
def predictor(request):
    clip = build_clip(ClipSize(VIT, TEXT))
    return getattr(clipdense, request.param).from_pretrained(clip, cache=False, device='cpu')


@pytest.fixture
def images():
    numbers = np.random.default_rng(0)
    return [Image.fromarray(numbers.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(5)]


def values(result):
    return getattr(result, 'probabilities', None) if hasattr(result, 'top') else result.mask


def test_one_image_a_list_and_a_stream_agree(predictor, images):
    one = [predictor(image, ['cat', 'dog']) for image in images]
    together = predictor(images, ['cat', 'dog'])
    streamed = [result for _, result in predictor.stream(iter(images), ['cat', 'dog'], batch_size=2)]
    for single, *others in zip(one, together, streamed, strict=True):
        for other in others:
            np.testing.assert_allclose(values(single), values(other), atol=1e-6)
    assert predictor([], ['cat']) == []


def test_class_names_stay_until_others_come(predictor, images):
    predictor(images[0], ['cat', 'dog'])
    assert predictor(images[1]).vocabulary.class_names == ('cat', 'dog')
    assert predictor.vocabulary.class_names == ('cat', 'dog')
    assert predictor.embeddings.num_classes == 2


def test_a_stream_keeps_the_class_names_that_it_began_with(predictor, images):
    stream = predictor.stream(images, ['cat', 'dog', 'bird'])
    first = next(stream)[1]
    predictor(images[0], ['car'])
    rest = [result for _, result in stream]
    assert {result.vocabulary.class_names for result in (first, *rest)} == {('cat', 'dog', 'bird')}
    expected = predictor(images, ['cat', 'dog', 'bird'])
    for found, wanted in zip((first, *rest), expected, strict=True):
        np.testing.assert_allclose(values(found), values(wanted), atol=1e-6)


def test_threads_get_answers_about_their_own_class_names(predictor, images):
    asked = [['cat', 'dog'], ['car', 'road', 'tree'], ['sky']] * 8
    expected = [values(predictor(images[0], names)) for names in asked[:3]]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda names: predictor(images[0], names), asked))
    for index, (names, answer) in enumerate(zip(asked, answers, strict=True)):
        assert list(answer.vocabulary.class_names) == names
        np.testing.assert_allclose(values(answer), expected[index % 3], atol=1e-6)


@pytest.mark.parametrize('on_error', ['raise', 'skip', 'function'])
def test_unreadable_images(predictor, images, tmp_path, on_error):
    (tmp_path / 'bad.png').write_bytes(b'not an image')
    mixed, seen = [images[0], tmp_path / 'bad.png', images[1]], []
    how = (lambda index, error: seen.append((index, str(error)))) if on_error == 'function' else on_error
    stream = predictor.stream(mixed, ['cat'], on_error=how)
    if on_error == 'raise':
        with pytest.raises(InputError, match=r'bad\.png'):
            list(stream)
        return
    assert [index for index, _ in stream] == [0, 2]
    assert [index for index, _ in seen] == ([1] if on_error == 'function' else [])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'no class names: pass them to the call, or call set_vocabulary first'),
        ({'class_names': ['a'], 'batch_size': 0}, 'batch_size must be at least 1, got 0'),
        ({'class_names': ['a'], 'on_error': 'ignore'}, "on_error must be 'raise', 'skip' or a function"),
        ({'class_names': ['a'], 'threshold': 0.5}, "has no option 'threshold'; settings belong to"),
        ({'class_names': 5}, 'class names must be a list of strings'),
        (
            {'class_names': ['a'], 'batch_size': '2'},
            "batch_size must be a whole number of at least 1, got '2'",
        ),
        ({'class_names': ['a'], 'batch_size': 2.0}, 'batch_size must be a whole number'),
        ({'class_names': ['a'], 'max_pixels': True}, 'max_pixels must be a whole number'),
        ({'class_names': ['a'], 'on_error': np.zeros(2)}, "on_error must be 'raise', 'skip' or a function"),
    ],
    ids=repr,
)
def test_refusals(predictor, images, arguments, message):
    with pytest.raises(InputError, match=message):
        list(predictor.stream(images, **arguments))


ONE_IMAGE = {
    'array': np.zeros((8, 9, 3), np.uint8),
    'gray array': np.zeros((8, 9), np.uint8),
    'tensor': torch.zeros(3, 8, 9),
    'Pillow image': Image.new('RGB', (9, 8)),
    'bytes': b'89',
    'file': io.BytesIO(),
    'number': 5,
    'none': None,
}


@pytest.mark.parametrize('image', ONE_IMAGE.values(), ids=ONE_IMAGE)
def test_a_stream_of_one_image_is_refused(predictor, image):
    """The rows of an array would be read as images."""
    with pytest.raises(
        InputError, match=r'takes a list or iterator of images, got .*: put one image in a list'
    ):
        predictor.stream(image, ['cat', 'dog'])


def test_streams_of_other_iterables(predictor, images, tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.asarray(images[0])).save(path)
    batch = np.stack([np.asarray(images[0])] * 2)
    for several in (batch, np.array([str(path)] * 2), {path: 1, str(path): 2}, iter([path, path])):
        assert len(list(predictor.stream(several, ['cat', 'dog']))) == 2


@pytest.mark.parametrize('again', [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(predictor, images, again):
    expected = values(predictor(images[0], ['cat', 'dog']))
    other = again(predictor)
    np.testing.assert_allclose(values(other(images[0], ['cat', 'dog'])), expected, atol=1e-6)
    other(images[0], ['car', 'road', 'tree'])
    assert predictor.vocabulary.class_names == ('cat', 'dog')


def test_devices(predictor):
    assert predictor.device == torch.device('cpu')
    assert predictor.to('cpu') is predictor


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (
            lambda clip: clipdense.Segmenter('clip.safetensors'),
            "Segmenter takes a model, got 'clip.safetensors'",
        ),
        (lambda clip: clipdense.load(None), 'weights must be a name .* or a path, got NoneType'),
        (lambda clip: clipdense.load(' '), 'the name of the weights is empty'),
        (
            lambda clip: clipdense.load('x.pt', devcie='cpu'),
            "'devcie'. Did you mean 'device'",
        ),
        (
            lambda clip: SEGMENTER(clip, options={'refine': True}),
            'options must be Seg',
        ),
        (
            lambda clip: SEGMENTER(clip, 'lseg'),
            "'lseg' needs weights trained with it",
        ),
        (
            lambda clip: SEGMENTER(clip, 'nacip'),
            "'nacip' is unknown.*mean 'naclip'",
        ),
        (
            lambda clip: clipdense.Detector.from_pretrained(clip, 'vild'),
            "'vild' needs weights trained with it",
        ),
        (lambda clip: SEGMENTER(clip).stream('a.jpg', 'cat'), 'got one path'),
        (
            lambda clip: clipdense.Segmenter(clip),
            r'Segmenter cannot use a CLIP, .*use Segmenter.from_pretrained',
        ),
        (
            lambda clip: clipdense.Detector(clip),
            r'Detector cannot use a CLIP, .*use Detector.from_pretrained',
        ),
        (lambda clip: clipdense.Classifier(SEGMENTER(clip).model), 'Classifier cannot use a DenseCLIP'),
        (lambda clip: clipdense.load('https://example.org/a.pt'), 'is a URL; download the weights'),
        (lambda clip: clipdense.load('a' * 5000), 'is too long for the name of weights or of a file'),
        (
            lambda clip: clipdense.Vocabulary.parse(None),
            "parse takes a text such as 'cat, dog', got NoneType",
        ),
        (lambda clip: clipdense.Vocabulary.from_file(['a']), 'given by its path, got list'),
    ],
    ids=lambda one: one if isinstance(one, str) else '',
)
def test_wrong_arguments_are_named(act, message):
    with pytest.raises(InputError, match=message):
        act(build_clip(ClipSize(VIT, TEXT)))


@pytest.mark.parametrize('setting', [{'background_threshold': 0.3}, {'area_threshold': 0.1}], ids=str)
def test_background_settings_need_a_background(images, setting):
    clip, options = build_clip(ClipSize(VIT, TEXT)), SegmentationOptions(**setting)
    segmenter = clipdense.Segmenter.from_pretrained(clip, options=options, cache=False)
    with pytest.raises(InputError, match='need a background class'):
        segmenter(images[0], ['cat', 'dog'])
    assert segmenter(images[0], 'background, cat').mask.shape == (20, 24)


class Endless:
    """A file whose reading fails in its own way."""

    def __init__(self, error):
        self.error = error

    def read(self, size):
        raise self.error


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (RecursionError('too deep'), 'image 1: unexpected RecursionError: too deep'),
        (MemoryError(), 'image 1: not enough memory'),
        (KeyError('x'), "image 1: unexpected KeyError: 'x'"),
        (OSError(5, 'Input/output error'), 'cannot be read as a binary file'),
    ],
    ids=repr,
)
@pytest.mark.parametrize('batch_size', [1, 3])
def test_whatever_one_image_raises_is_its_own_failure(predictor, images, error, said, batch_size):
    seen = {}
    stream = predictor.stream(
        [images[0], Endless(error), images[1]], ['cat'], batch_size=batch_size, on_error=seen.__setitem__
    )
    assert [index for index, _ in stream] == [0, 2]
    assert [*seen] == [1]
    assert isinstance(seen[1], InputError)
    assert said in str(seen[1])


def test_the_limit_of_pixels_belongs_to_the_call(predictor, images):
    with pytest.raises(InputError, match='raise max_pixels'):
        predictor(images[0], ['cat'], max_pixels=479)
    assert len(predictor(images, max_pixels=480)) == 5
    with pytest.raises(InputError, match='max_pixels must be a whole number'):
        predictor(images[0], max_pixels=0.5)


@pytest.mark.parametrize('image', [np.zeros((4, 4, 3)).tolist(), (1, 2), np.full((4, 4, 3), 300)], ids=type)
def test_numbers_that_are_no_image(predictor, image):
    with pytest.raises(InputError, match=r'pass an array|values of 0 to 255'):
        predictor(image, ['cat'])


def test_predictors_of_one_model_keep_their_own_templates(images):
    """The model keeps the class names of its last call, of whichever predictor."""
    model = SEGMENTER(build_clip(ClipSize(VIT, TEXT)), cache=False, device='cpu').model
    embedders = [
        PromptEnsemble(model.clip, templates, cache=None) for templates in ('name', ['art of the {}.'])
    ]
    asked = [
        (embedder, names) for embedder in embedders for names in (['cat', 'dog'], ['car', 'road', 'tree'])
    ]
    expected = [clipdense.Segmenter(model, embedder)(images[0], names).scores for embedder, names in asked]
    assert not np.allclose(expected[0], expected[2])

    shared = [clipdense.Segmenter(model, embedder) for embedder in embedders]

    def ask(turn):
        return shared[turn % 4 // 2](images[0], asked[turn % 4][1])

    with ThreadPoolExecutor(4) as pool:
        for turn, answer in enumerate(pool.map(ask, range(24))):
            assert list(answer.vocabulary.class_names) == asked[turn % 4][1]
            np.testing.assert_allclose(answer.scores, expected[turn % 4], atol=1e-6)


def test_embeddings_of_another_joint_space(predictor, images, tmp_path):
    vocabulary = clipdense.Vocabulary(['cat', 'dog'])
    save_embeddings(
        tmp_path / 'a.safetensors', vocabulary, ClassEmbeddings(torch.eye(2, 5), torch.arange(2), 2)
    )
    other = type(predictor)(predictor.model, StoredEmbeddings(tmp_path / 'a.safetensors'))
    with pytest.raises(InputError, match='have dimension 5, the model has 8: they belong to other weights'):
        other(images[0], vocabulary)
    with pytest.raises(InputError, match='templates have no effect on the stored embeddings'):
        type(predictor).from_pretrained(
            build_clip(ClipSize(VIT, TEXT)),
            embedder=tmp_path / 'a.safetensors',
            templates='simple',
            device='cpu',
        )


def test_segmenters_of_one_model_keep_their_own_options(images):
    model = SEGMENTER(build_clip(ClipSize(VIT, TEXT)), cache=False, device='cpu').model
    names = clipdense.Vocabulary(['cat', 'dog']).with_background()
    options = [SegmentationOptions(background_threshold=value) for value in (0.0, 1.0)]
    first, second = (clipdense.Segmenter(model, options=one) for one in options)
    assert (second(images[0], names).mask == 0).all()
    assert (first(images[0], names).mask != 0).any()
    assert (second(images[0], names).mask == 0).all()


def test_a_list_is_read_ahead_and_its_errors_come_in_order(predictor, images, tmp_path):
    sources = [images[0], tmp_path / 'missing.png', images[1], tmp_path / 'also.png']
    seen = []

    def failed(index, error):
        seen.append((index, threading.current_thread() is threading.main_thread()))

    for index, _ in predictor.stream(sources, ['cat', 'dog'], on_error=failed):
        seen.append(index)
    assert seen == [0, (1, True), 2, (3, True)]


def test_an_iterator_is_not_asked_for_more_than_one_batch(predictor, images):
    asked = []
    stream = predictor.stream(
        (asked.append(index) or image for index, image in enumerate(images)), ['cat', 'dog'], batch_size=2
    )
    assert next(stream)[0] == 0
    assert asked == [0, 1]


@pytest.mark.parametrize('batch_size', [1, 3, 'auto'])
def test_a_batch_that_does_not_fit_the_memory_is_taken_apart(predictor, images, monkeypatch, batch_size):
    expected = [values(result) for result in predictor(images, ['cat', 'dog'])]
    predict, counts = predictor._predict, []

    def small(batch, *rest):
        counts.append(len(batch))
        if len(batch) > 1:
            raise torch.cuda.OutOfMemoryError('out of memory')
        return predict(batch, *rest)

    monkeypatch.setattr(predictor, '_predict', small)
    found = [values(result) for _, result in predictor.stream(images, ['cat', 'dog'], batch_size=batch_size)]
    np.testing.assert_array_equal(found, expected)
    assert counts == ([3, 1, 1, 1, 2, 1, 1] if batch_size == 3 else [1] * 5)


def test_folders_patterns_and_videos(predictor, images, tmp_path):
    for number, image in enumerate(images):
        image.save(tmp_path / f'{number}.png')
    expected = [values(result) for result in predictor(images, ['cat', 'dog'])]
    for source in (tmp_path, str(tmp_path), f'{tmp_path}/*.png'):
        for index, result in predictor.stream(source, ['cat', 'dog']):
            np.testing.assert_allclose(values(result), expected[index], atol=1e-6)
        assert index == 4
    video = VideoWriter(tmp_path / 'a.mp4', 10)
    for image in images:
        video.write(image)
    video.finish()
    assert [index for index, _ in predictor.stream(tmp_path / 'a.mp4', ['cat', 'dog'])] == [0, 1, 2, 3, 4]
    with pytest.raises(
        InputError, match=r'a\.mp4 is a video, .*: pass it to stream; of the commands, segment'
    ):
        predictor(tmp_path / 'a.mp4', ['cat', 'dog'])
    with pytest.raises(InputError, match='is a folder, not a regular file of an image: pass it to stream'):
        predictor(tmp_path, ['cat', 'dog'])
    with pytest.raises(InputError, match='no images match the pattern'):
        predictor.stream(f'{tmp_path}/*.jpg', ['cat', 'dog'])
