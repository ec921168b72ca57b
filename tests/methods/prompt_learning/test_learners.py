"""What learners give for any tower, and which settings they refuse."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.clip.tokenizers import MissingTokenizer
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.utils.errors import InputError
from clipdense.vocab.tokenizer import Tokenizer

from .conftest import TEXT, VIT, learned

NAMES = ['cat', 'traffic_light', 'hot dog']
WORDS = 'a photo of a'


class NoStart(Tokenizer):
    """A tokenizer of SigLIP's kind: no start-of-text token, 1 for padding."""

    prefix, suffix, pad, end = (), (49407,), 1, 49407


def of_flavour(flavour):
    text = TextSize(64, 2, 2, 128, 32, context_length=24, flavour=flavour)
    clip = build_clip(ClipSize(VIT, text)).requires_grad_(False).eval()
    clip.tokenizer = NoStart(24) if flavour == 'siglip' else Tokenizer(24)
    return clip


@pytest.mark.parametrize('flavour', ['openai', 'mobileclip', 'clipa', 'siglip', 'coca'])
@pytest.mark.parametrize('frozen_text', [False, True])
def test_a_context_of_words_is_the_words(flavour, frozen_text):
    clip = of_flavour(flavour)
    texts = [f'{WORDS} {name}.'.replace('_', ' ') for name in NAMES]
    expected = clip.encode_text(torch.as_tensor(clip.tokenizer(texts)), normalize=True)
    learner = CoOp(FrozenText.of(clip) if frozen_text else clip, init=WORDS, class_names=NAMES)
    assert_close(learner(), expected)


def test_a_context_of_words_in_a_clip_with_a_resnet(resnet_clip):
    expected = resnet_clip.encode_text(resnet_clip.tokenizer([f'{WORDS} cat.']), normalize=True)
    assert_close(CoOp(resnet_clip, init=WORDS, class_names=['cat'])(), expected)


@pytest.mark.parametrize(
    ('position', 'expected'),
    [
        ('end', 'one two three cat dog.'),
        ('middle', 'one cat dog two three.'),
        ('front', 'cat dog one two three.'),
    ],
)
def test_positions(clip, position, expected):
    """An odd context has the smaller half in front of the name."""
    learner = CoOp(clip, init='one two three', position=position, class_names=['cat_dog'])
    assert_close(learner(), clip.encode_text(clip.tokenizer([expected]), normalize=True))


def test_classes_of_different_lengths_do_not_influence_each_other(clip):
    learner = learned(CoOp(clip, 4, position='middle'))
    learner.set_classes(['cat', 'a very long name of a class'])
    both = learner()
    for row, name in enumerate(learner.class_names):
        learner.set_classes([name])
        assert_close(learner()[0], both[row])


def test_each_class_has_its_own_context(clip):
    learner = learned(CoOp(clip, 4, class_specific=True, class_names=NAMES))
    all_rows = learner()
    learner.set_classes(['Hot_Dog', 'cat'])
    assert_close(learner(), all_rows[[2, 0]])
    one = CoOp(clip, 4, class_names=['cat'])
    one.ctx.data.copy_(learner.ctx[0])
    assert_close(one()[0], all_rows[0])


def test_a_class_specific_context_of_words_starts_equal(clip):
    learner = CoOp(clip, init=WORDS, class_specific=True, class_names=NAMES)
    assert learner.ctx.shape == (3, 4, 64)
    assert_close(learner(), CoOp(clip, init=WORDS, class_names=NAMES)())


def test_images_shift_the_context(clip):
    learner = learned(CoCoOp(clip, class_names=NAMES))
    images = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
    found = learner(images)
    assert found.shape == (2, 3, 32)
    plain = CoOp(clip, init=WORDS, class_names=NAMES)
    for row in range(2):
        plain.ctx.data.copy_(learner.ctx + learner.meta_net(images)[row])
        assert_close(found[row], plain())


@pytest.mark.parametrize('depth', [1, 2, 3])
@pytest.mark.parametrize(
    'towers', [{}, {'coupled': False}, {'image': False}, {'text': False}, {'init': None}]
)
def test_prompts_in_several_blocks(clip, depth, towers):
    learner = learned(MaPLe(clip, 2, depth, class_names=NAMES, **{'init': WORDS, **towers}))
    tokens = learner.image_prompts()
    assert [tuple(entry.shape) for entry in tokens] == [(2, 64)] * (depth if learner.image else 0)
    embeddings = learner()
    assert embeddings.shape == (3, 32)
    assert embeddings.requires_grad == learner.text
    if not learner.text:
        texts = [f'{WORDS} {name}.'.replace('_', ' ') for name in NAMES]
        assert_close(embeddings, clip.encode_text(clip.tokenizer(texts), normalize=True))
    with clip.image.prompted(tokens):
        clip.encode_image(torch.randn(1, 3, 32, 32)).sum().backward() if tokens else None
    (embeddings.sum() if learner.text else tokens[0].sum()).backward()
    trained = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in learner.named_parameters()}


def test_towers_of_any_width():
    vit = VitSize(32, 8, 96, 2, 2, 128, 32)
    clip = build_clip(ClipSize(vit, TEXT)).requires_grad_(False).eval()
    learner = MaPLe(clip, depth=2, class_names=NAMES)
    assert learner.proj.weight.shape == (96, 64)
    assert [tuple(entry.shape) for entry in learner.image_prompts()] == [(2, 96)] * 2


def test_nearest_words(clip):
    words = CoOp(clip, init='a red cat').nearest_words(2)
    assert [near[0] for near in words] == [('a', 0.0), ('red', 0.0), ('cat', 0.0)]
    assert all(near[1][1] > 0 for near in words)
    own = CoOp(clip, init='a red cat', class_specific=True, class_names=NAMES)
    assert own.nearest_words(1, 'hot_dog')[1] == [('red', 0.0)]


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda clip: CoOp(clip, 0), 'whole number of at least 1, got 0'),
        (lambda clip: CoOp(clip, 2.5), 'whole number of at least 1, got 2.5'),
        (lambda clip: CoOp(clip, True), 'whole number of at least 1, got True'),
        (lambda clip: CoOp(clip, 75), 'leaves no room for a class name'),
        (
            lambda clip: CoOp(clip, 74, class_names=['traffic light']),
            "'traffic light' has 79 tokens, 74 of them",
        ),
        (lambda clip: CoOp(clip, 16, init=WORDS), 'has 4 tokens and n_ctx is 16'),
        (lambda clip: CoCoOp(clip, 3), 'has 4 tokens and n_ctx is 3: leave out n_ctx or give 4'),
        (lambda clip: CoOp(clip, init=' '), 'init must be words'),
        (lambda clip: CoOp(clip, init=3), 'init must be words'),
        (lambda clip: CoOp(clip, position='start'), "'middle' or 'front', got 'start'"),
        (lambda clip: CoOp(clip, class_specific=True), 'give class_names'),
        (lambda clip: CoOp(clip, class_names='cat'), 'must be a list'),
        (lambda clip: CoOp(clip, class_names=['cat', 'Cat_']), 'is listed twice'),
        (lambda clip: CoOp(clip, class_names=['cat', '']), 'blank|empty'),
        (lambda clip: CoOp(clip, class_names=['cat', 3]), '3'),
        (lambda clip: CoOp(clip, class_names=['<|endoftext|>']), 'special token'),
        (lambda clip: CoOp(clip).set_classes([]), 'empty'),
        (lambda clip: CoOp(clip)(), 'no class names: call set_classes first'),
        (lambda clip: CoCoOp(clip, class_names=NAMES)(), 'depend on the image'),
        (lambda clip: CoOp(clip).nearest_words(0), 'k must be'),
        (lambda clip: CoOp(clip).nearest_words(1, 'cat'), 'all classes share one context'),
        (lambda clip: MaPLe(clip, depth=2, text=False).nearest_words(), 'those of images'),
        (lambda clip: MaPLe(clip, 5, 2), 'has 4 tokens and n_ctx is 5'),
        (lambda clip: MaPLe(clip, depth=0), 'depth must be a whole number'),
        (lambda clip: MaPLe(clip), 'depth=9, but the text tower has 3 blocks'),
        (lambda clip: MaPLe(clip, depth=4, text=False), 'depth=4, but the image tower has 3 blocks'),
        (lambda clip: MaPLe(clip, image=False, text=False), 'nothing to learn'),
        (lambda clip: MaPLe(clip, depth=2, text=False, init=None), 'give their words'),
        (lambda clip: MaPLe(FrozenText.of(clip), depth=2), 'need a vision transformer, not FrozenText'),
        (lambda clip: CoOp(clip.image), 'VisionTransformer has none'),
    ],
)
def test_bad_settings(clip, build, message):
    with pytest.raises(InputError, match=message):
        build(clip)


@pytest.mark.parametrize(
    ('tokenizer', 'message'),
    [
        (lambda texts: torch.ones(len(texts), 77, dtype=torch.long), 'need a tokenizer with encode'),
        (MissingTokenizer('the weights have no tokenizer'), 'the weights have no tokenizer'),
    ],
)
def test_tokenizers_that_cannot_encode_a_word(clip, tokenizer, message):
    clip.tokenizer = tokenizer
    for init in (WORDS, None):
        with pytest.raises(InputError, match=message):
            CoOp(clip, init=init, class_names=NAMES)


def test_class_specific_contexts_of_other_classes(clip):
    learner = CoOp(clip, 4, class_specific=True, class_names=NAMES)
    with pytest.raises(
        InputError, match=r"contexts are class-specific.*none for 'hotdog'.*Did you mean 'hot dog'"
    ):
        learner.set_classes(['cat', 'hotdog'])
    assert learner.class_names == tuple(NAMES)


def test_image_prompts_need_a_transformer(resnet_clip):
    with pytest.raises(InputError, match='not ModifiedResNet: use image=False'):
        MaPLe(resnet_clip, depth=2)
    assert MaPLe(resnet_clip, depth=2, image=False, class_names=NAMES)().shape == (3, 32)


def test_deep_text_prompts_need_a_start_token():
    clip = of_flavour('siglip')
    with pytest.raises(InputError, match=r'start-of-text token.*use depth=1'):
        MaPLe(clip, depth=2)
    assert MaPLe(clip, depth=1, class_names=NAMES)().shape == (3, 32)
