"""Learned prompts in classifiers and segmenters: what they change, and which models refuse them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import clipdense
from clipdense.cli.app import main
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.embedding_files import load_embeddings
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import build_clip
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import ClipSize, ResNetSize, TimmSize
from clipdense.methods import list_methods
from clipdense.methods.lseg.backbones import ResNetPyramid
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.methods.prompt_learning.checkpoint import save_prompts
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.embedder import LearnedPrompts
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.tasks.detection import DetectedObjects, DetectionRules
from clipdense.utils.errors import InputError

from .conftest import TEXT, learned

NAMES = ['cat', 'hot_dog', 'traffic light']
LEARNERS = {
    'coop': lambda clip: CoOp(clip, 4),
    'class-specific': lambda clip: CoOp(clip, 4, class_specific=True, class_names=NAMES),
    'cocoop': CoCoOp,
    'maple': lambda clip: MaPLe(clip, depth=3),
    'independent': lambda clip: MaPLe(clip, depth=2, coupled=False),
    'image': lambda clip: MaPLe(clip, depth=3, text=False),
}
VIT_METHODS = [
    one.name
    for one in list_methods('segmentation', any_clip=True)
    if 'vit' in one.towers and not one.required
]


def picture(seed=0, size=(40, 48)):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (*size, 3), np.uint8))


def prompts(clip, kind):
    return learned(LEARNERS[kind](clip))


@pytest.fixture
def file(clip, tmp_path):
    """``file(kind) -> Path`` of prompts."""

    def write(kind):
        return save_prompts(prompts(clip, kind), tmp_path / f'{kind}.safetensors')

    return write


@pytest.mark.parametrize('kind', LEARNERS)
def test_a_classifier_gives_what_was_trained(clip, file, kind):
    """One model in training and in use, also for a batch and with the classes in another order."""
    model = PromptClassifier(clip, prompts(clip, kind))
    images = [picture(seed) for seed in range(3)]
    pixels = torch.stack([clip.preprocess(image) for image in images])
    model.set_classes(NAMES)
    expected = model.logits(pixels).softmax(dim=-1).detach()
    classifier = clipdense.Classifier.from_pretrained(clip, embedder=file(kind), device='cpu')
    for batch_size in (1, 3):
        found = [one.probabilities for _, one in classifier.stream(images, NAMES, batch_size=batch_size)]
        assert_close(torch.tensor(np.stack(found)), expected)
    turned = classifier(images[0], NAMES[::-1]).probabilities[::-1].copy()
    assert_close(torch.tensor(turned), expected[0])


@pytest.mark.parametrize('kind', LEARNERS)
def test_a_predictor_leaves_the_model_as_it_was(clip, kind):
    before = clipdense.Classifier.from_pretrained(clip, cache=False, device='cpu')
    expected = before(picture(), NAMES).probabilities
    changed = clipdense.Classifier(clip, LearnedPrompts(prompts(clip, kind)))
    different = changed(picture(), NAMES).probabilities
    assert not np.allclose(different, expected, atol=1e-4)
    np.testing.assert_array_equal(before(picture(), NAMES).probabilities, expected)
    np.testing.assert_array_equal(copy.deepcopy(changed)(picture(), NAMES).probabilities, different)
    assert clip.image.prefix == 1


@pytest.mark.parametrize('method', VIT_METHODS)
@pytest.mark.parametrize('kind', ['coop', 'cocoop', 'maple', 'image'])
def test_every_training_free_method(clip, method, kind):
    segmenter = clipdense.Segmenter.from_pretrained(
        clip, method, embedder=LearnedPrompts(prompts(clip, kind)), device='cpu'
    )
    result = segmenter(picture(), NAMES)
    assert result.mask.shape == (40, 48)
    assert np.isfinite(result.scores).all()


def test_prompts_of_images_change_masks(clip):
    plain = clipdense.Segmenter.from_pretrained(clip, 'maskclip', templates=['a photo of a {}.'], cache=False)
    prompted = clipdense.Segmenter.from_pretrained(
        clip, 'maskclip', embedder=LearnedPrompts(prompts(clip, 'image'))
    )
    first, second = (one(picture(), NAMES).scores for one in (plain, prompted))
    assert not np.allclose(first, second, atol=1e-4)


def test_a_map_has_no_place_for_prompts(clip):
    images = torch.randn(1, 3, 32, 40)
    with clip.image.prompted([torch.randn(2, 64)]):
        features = clip.image(images)
        dense = clip.encode_dense(images)
    assert features.patch_tokens.shape == (1, 20, 64)
    assert dense.shape == (1, 32, 4, 5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('kind', LEARNERS)
def test_models_in_other_precisions(clip, kind, dtype):
    learner = prompts(clip, kind)
    classifier = clipdense.Classifier(clip.to(dtype), LearnedPrompts(learner))
    assert np.isfinite(classifier(picture(), NAMES).probabilities).all()


@pytest.mark.parametrize('image', ['resnet', 'timm'])
def test_images_of_other_towers(image):
    sizes = {'resnet': ResNetSize(32, 8, (1, 1, 1, 1), 4, 32), 'timm': TimmSize('test_efficientnet', 32, 32)}
    clip = build_clip(ClipSize(sizes[image], TEXT)).eval()
    for learner in (CoOp(clip, 4), CoCoOp(clip), MaPLe(clip, depth=2, image=False)):
        embedder = LearnedPrompts(learned(learner))
        assert clipdense.Classifier(clip, embedder)(picture(), NAMES).probabilities.shape == (3,)
        segmenter = clipdense.Segmenter.from_pretrained(clip, 'maskclip', embedder=embedder, device='cpu')
        assert segmenter(picture(), NAMES).mask.shape == (40, 48)


def lseg(clip):
    size = ResNetSize(32, 8, (1, 1, 1, 1), 4, 32)
    return LSeg(ResNetPyramid(resnet=ModifiedResNet(size)), clip, width=16)


def test_a_trained_segmenter_takes_prompts_of_texts(clip, file):
    segmenter = clipdense.Segmenter.from_pretrained(lseg(clip), embedder=file('coop'), device='cpu')
    assert segmenter(picture(), NAMES).mask.shape == (40, 48)
    learner = prompts(clip, 'coop')
    learner.set_classes(NAMES)
    assert_close(segmenter.embeddings.queries, learner())


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('maple', 'depend on the image tower of their CLIP, and the model has none'),
        ('cocoop', 'depend on the image tower of their CLIP, and the model has none'),
    ],
)
def test_a_trained_segmenter_refuses_prompts_of_images(clip, file, kind, message):
    with pytest.raises(InputError, match=message):
        clipdense.Segmenter.from_pretrained(lseg(clip), embedder=file(kind), device='cpu')


class Boxes(torch.nn.Module):
    """A detector that finds one box of each class."""

    def __init__(self, clip):
        super().__init__()
        self.clip, self.rules = FrozenText.of(clip), DetectionRules(0.0)

    def set_vocabulary(self, vocabulary, embeddings):
        self.embeddings = embeddings

    def predict(self, images, rules):
        count = self.embeddings.num_classes
        box = torch.tensor([[1.0, 1.0, 9.0, 9.0]]).expand(count, 4)
        return [DetectedObjects(box, torch.full((count,), 0.5), torch.arange(count)) for _ in images]


def test_a_detector_takes_prompts_of_texts(clip, file):
    learner = prompts(clip, 'coop')
    learner.set_classes(NAMES)
    detector = clipdense.Detector(Boxes(clip), LearnedPrompts(learner))
    assert list(detector(picture(), NAMES).class_ids) == [0, 1, 2]
    assert_close(detector.model.embeddings.queries, learner())
    for kind, message in (('maple', 'an image tower of its own'), ('cocoop', 'its text tower only')):
        with pytest.raises(InputError, match=f'Boxes has {message}'):
            clipdense.Detector(Boxes(clip), LearnedPrompts(prompts(clip, kind)))


@pytest.mark.parametrize('kind', LEARNERS)
def test_half_precision_of_the_image_tower(clip, kind):
    learner = LearnedPrompts(prompts(clip, kind))
    found = [
        clipdense.Classifier(clip, learner, precision=precision)(picture(), NAMES).probabilities
        for precision in ('fp32', 'bf16')
    ]
    np.testing.assert_allclose(*found, atol=0.05)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('maple', 'LSeg has an image tower of its own: use prompts of the text tower only'),
        ('cocoop', 'LSeg has its text tower only: use prompts that all images share'),
    ],
)
def test_an_object_is_refused_as_a_file_is(clip, kind, message):
    with pytest.raises(InputError, match=message):
        clipdense.Segmenter(lseg(clip), LearnedPrompts(prompts(clip, kind)))


@pytest.mark.parametrize(
    ('kind', 'options', 'names', 'message'),
    [
        ('coop', {'templates': 'simple'}, NAMES, 'templates have no effect on the learned prompts'),
        ('coop', {}, ['cat', 'word ' * 80], 'the prompt of .* has .* tokens, 4 of them context'),
        ('cocoop', {}, ['cat', 'word ' * 80], 'the prompt of .* has .* tokens, 4 of them context'),
        ('class-specific', {}, ['cat', 'zebra'], "none for 'zebra'"),
    ],
)
def test_refused_calls(clip, file, kind, options, names, message):
    with pytest.raises(InputError, match=message):
        clipdense.Classifier.from_pretrained(clip, embedder=file(kind), device='cpu', **options)(
            picture(), names
        )


def test_synonyms_and_background(clip, file):
    vocabulary = clipdense.Vocabulary(['cat', 'dog'], {'cat': ('kitten',)}).with_background(['sky', 'wall'])
    segmenter = clipdense.Segmenter.from_pretrained(clip, embedder=file('coop'), device='cpu')
    segmenter.set_vocabulary(vocabulary)
    learner = prompts(clip, 'coop')
    learner.set_classes([name for name, _ in vocabulary.queries])
    assert_close(segmenter.embeddings.queries, learner())


def test_embeddings_that_depend_on_the_image(clip, file):
    classifier = clipdense.Classifier.from_pretrained(clip, embedder=file('cocoop'), device='cpu')
    classifier.set_vocabulary(NAMES)
    assert classifier(picture()).probabilities.shape == (3,)
    with pytest.raises(InputError, match='depend on the image'):
        _ = classifier.embeddings


class TestCommands:
    @pytest.fixture
    def folder(self, clip, tmp_path):
        save_clip(clip, tmp_path / 'clip.safetensors')
        picture().save(tmp_path / 'a.png')
        return tmp_path

    def run(self, capsys, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        return ended.value.code or 0, ''.join(capsys.readouterr())

    @pytest.mark.parametrize('option', ['--prompts', '--embedder'])
    @pytest.mark.parametrize('kind', ['coop', 'cocoop', 'maple'])
    def test_classify_and_segment(self, capsys, folder, file, kind, option):
        common = ('-c', 'cat, dog', '-w', folder / 'clip.safetensors', option, file(kind))
        assert self.run(capsys, 'classify', folder / 'a.png', *common)[0] == 0
        code, text = self.run(capsys, 'segment', folder / 'a.png', *common, '--out', folder / option)
        assert (code, 'overlay' in text) == (0, True)

    def test_embed_prompts(self, capsys, folder, clip):
        torch.save({'state_dict': {'ctx': torch.randn(3, 4, 64)}}, folder / 'model.pth.tar-50')
        command = ('embed', 'prompts', folder / 'model.pth.tar-50', '-w', folder / 'clip.safetensors')
        out = folder / 'own.safetensors'
        code, text = self.run(capsys, *command, '--out', out)
        assert (code, 'does not record where its context stands' in text) == (2, True)
        code, text = self.run(capsys, *command, '--out', out, '--position', 'front', '-c', 'cat, dog')
        assert (code, 'contexts of 3 classes, but 2 names' in text) == (2, True)
        code, text = self.run(capsys, *command, '--out', out, '--position', 'end', '-c', 'cat, dog, cow')
        assert (code, 'CoOp, 4 context tokens' in text) == (0, True)
        code, text = self.run(capsys, *command, '--out', out, '--position', 'end', '-c', 'cat, dog, cow')
        assert (code, 'add --overwrite' in text) == (2, True)
        common = ('-w', folder / 'clip.safetensors', '--prompts', out)
        assert self.run(capsys, 'classify', folder / 'a.png', '-c', 'cow, cat', *common)[0] == 0
        code, text = self.run(capsys, 'classify', folder / 'a.png', '-c', 'cow, horse', *common)
        assert (code, "none for 'horse'" in text) == (2, True)

    def test_nearest_words(self, capsys, folder, clip):
        out = folder / 'own.safetensors'
        for learner, line in (
            (CoOp(clip, init='red cat'), 'token 2: cat (0.00)'),
            (
                CoOp(clip, init='red cat', class_specific=True, class_names=['a', 'b']),
                'b, token 1: red (0.00)',
            ),
        ):
            file = save_prompts(learner, folder / 'prompts.safetensors')
            command = (
                'embed',
                'prompts',
                file,
                '-w',
                folder / 'clip.safetensors',
                '--out',
                out,
                '--overwrite',
            )
            code, text = self.run(capsys, *command, '--words', '1')
            assert (code, line in text) == (0, True)
        code, text = self.run(capsys, *command[:-3], '--out', file, '--overwrite')
        assert (code, 'choose another --out' in text) == (2, True)

    def test_embed(self, capsys, folder, file, clip):
        """A file of class embeddings from learned prompts, which gives what the prompts give."""
        command = ('embed', '-c', 'cat, dog', '-w', folder / 'clip.safetensors')
        out = folder / 'embeddings.safetensors'
        assert self.run(capsys, *command, '--prompts', file('coop'), '--out', out)[0] == 0
        learner = prompts(clip, 'coop')
        learner.set_classes(['cat', 'dog'])
        assert_close(load_embeddings(out)[0].queries, learner())
        for kind, message in (
            ('maple', 'which a file of class embeddings cannot hold'),
            ('cocoop', 'depend on the image'),
        ):
            code, text = self.run(
                capsys, *command, '--prompts', file(kind), '--out', folder / 'other.safetensors'
            )
            assert (code, message in text) == (2, True)
        code, text = self.run(
            capsys,
            *command,
            '--prompts',
            file('coop'),
            '--templates',
            'simple',
            '--out',
            folder / 'other.safetensors',
        )
        assert (code, 'templates have no effect' in text) == (2, True)

    def test_prompts_as_weights(self, capsys, folder, file):
        code, text = self.run(capsys, 'classify', folder / 'a.png', '-c', 'a, b', '-w', file('coop'))
        assert (code, 'has learned prompts, not a model' in text) == (2, True)
