"""Zero-shot segmentation: official outputs, the background rules, and what users may ask for."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.methods.groupvit.grouping import Assignment, patch_shares
from clipdense.methods.groupvit.segmenter import (
    GroupVitSegmenter,
    background_scores,
    group_scores,
    pixel_groups,
)
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}


def vocabulary(count, background):
    names = tuple(f'class {index}' for index in range(count))
    return Vocabulary(('background', *names), background='background') if background else Vocabulary(names)


def with_words(model, text, background=False, query_class=None):
    """Words whose embeddings are given; the background's must not matter."""
    if background:
        text = torch.cat([normalize(torch.randn(1, text.shape[1]), dim=-1), text])
    query_class = torch.arange(len(text)) if query_class is None else torch.tensor(query_class)
    count = int(query_class.max()) + 1
    model.set_vocabulary(
        vocabulary(count - background, background), ClassEmbeddings(text, query_class, count)
    )
    return model.eval()


def segment_logits(model, image):
    """The scores of all classes at the size of the image."""
    encoded = model.encode_image(image)
    return model._full_logits(encoded, image.shape[-2:])(torch.arange(len(model.queries)))


WHOLE, WINDOWS = Slide(), Slide(window=32, stride=16)


@pytest.mark.parametrize(
    ('rule', 'threshold', 'background'),
    [('bg_95', 0.95, True), ('bg_35', 0.35, True), ('nobg_95', 0.95, False)],
)
@pytest.mark.parametrize(('slide', 'output'), [(WHOLE, 'pred_logits'), (WINDOWS, 'slide_logits')])
@torch.no_grad()
def test_three_background_rules(official, rule, threshold, background, slide, output):
    """Twelve classes, so that the mask of the five best is at work."""
    clip, golden, _ = official('groupvit_nv_seg_tiny', num_heads=2)
    model = GroupVitSegmenter(clip, slide, threshold)
    with_words(model, golden['input.text_embedding'], background)
    image = golden['input.image'][0]
    expected = golden[f'{rule}.{output}'][0]
    assert_close(segment_logits(model, image), expected, **TOLERANCE)
    assert torch.equal(model.segment(image).classes, expected.argmax(dim=0))


@pytest.mark.parametrize(
    ('output', 'threshold', 'background', 'slide'),
    [
        ('bg_95.pred_logits', 0.95, True, WHOLE),
        ('bg_35.pred_logits', 0.35, True, WHOLE),
        ('nobg_95.pred_logits', 0.95, False, WHOLE),
        ('slide_bg_95.pred_logits', 0.95, True, WINDOWS),
    ],
)
@torch.no_grad()
def test_three_stages(official, output, threshold, background, slide):
    clip, golden, _ = official('groupvit_nv_tiny', num_heads=2)
    model = GroupVitSegmenter(clip, slide, threshold)
    with_words(model, golden['class_text_embedding'], background)
    got = segment_logits(model, golden['input.image_rect'][0])
    assert_close(got, golden[f'seg.{output}'][0], **TOLERANCE)


@torch.no_grad()
def test_each_pixel_has_its_official_group(official):
    clip, golden, _ = official('groupvit_nv_seg_tiny', num_heads=2)
    embedded = clip.encode_groups(golden['input.image'])
    owner = pixel_groups(embedded, (48, 64))
    assert torch.equal(owner.long(), golden['attn_map'].argmax(dim=-1))


def test_shares_are_products_of_the_stages():
    first = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])  # 2 groups of 2 patches
    second = torch.tensor([[[0.5, 1.0]]])  # 1 group of 2 groups
    shares = patch_shares([Assignment(first, first), Assignment(second, second)])
    assert_close(shares, torch.tensor([[[0.55, 0.9]]]))


def test_scores_by_hand():
    """Two classes kept of three: p times p among the two."""
    to_image, to_groups = torch.tensor([[1.0, 0.0, -5.0]]), torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 9.0]]])
    scores = group_scores(to_image, to_groups, top=2)
    assert_close(scores[0, 0], torch.tensor([1 / 6, 1 / 6, 0.0]))
    assert scores[0, 1, 2] == 0, 'the third class does not fit the image, whatever the group says'


@pytest.mark.parametrize(
    ('thresholds', 'expected'),
    [
        ((0.0, 0.0), (0, 0)),
        ((0.5, 0.5), (1, 0)),
        ((2.0, 2.0), (1, 0)),  # the best group of the window always stays
        ((0.1, 0.9), (0, 0)),  # by class; group 1 is the best of the window
    ],
)
def test_background_by_hand(thresholds, expected):
    scores = torch.tensor([[[0.3, 0.0], [0.0, 0.8]]])
    assert background_scores(scores, torch.tensor(thresholds)).tolist() == [[float(x) for x in expected]]


@pytest.mark.parametrize('count', [1, 2, 4, 5, 6], ids='{} classes'.format)
def test_fewer_classes_than_the_five_best(tiny, count):
    model = with_words(GroupVitSegmenter(tiny()), normalize(torch.randn(count, 8), dim=-1), background=True)
    labels = model.segment(torch.randn(3, 40, 24))
    assert labels.classes.shape == labels.probability.shape == (40, 24)
    assert labels.classes.max() <= count


@pytest.mark.parametrize('size', [(1, 1), (3, 50), (16, 16), (37, 90)], ids=str)
@pytest.mark.parametrize('slide', [None, WHOLE, Slide(window=8, stride=4)], ids=['default', 'whole', 'small'])
def test_images_of_any_size(tiny, size, slide):
    model = with_words(GroupVitSegmenter(tiny(), slide), normalize(torch.randn(7, 8), dim=-1))
    assert model.segment(torch.randn(3, *size)).classes.shape == size


def test_chunks_change_nothing(tiny):
    text, image = normalize(torch.randn(30, 8), dim=-1), torch.randn(3, 40, 24)
    results = [
        with_words(GroupVitSegmenter(tiny(), memory_budget=budget), text).segment(image).classes
        for budget in (1, 1 << 28)
    ]
    assert torch.equal(*results)


def test_synonyms_speak_for_their_class(tiny):
    text, image = normalize(torch.randn(3, 8), dim=-1), torch.randn(3, 40, 24)
    model = GroupVitSegmenter(tiny(), background_threshold=0.0)
    merged = with_words(model, text, query_class=[0, 1, 1]).segment(image).classes
    assert set(merged.unique().tolist()) <= {0, 1}
    scale = model.clip.logit_scale.exp()
    embedded = model.clip.encode_groups(model.encode_image(image).image[None])
    by_class = torch.stack([text[:1] @ embedded.groups[0].T, (text[1:] @ embedded.groups[0].T).amax(0)[None]])
    expected = (scale * by_class[:, 0].T).softmax(-1).square()
    got = model.class_scores(embedded.image, embedded.groups, text)[0]
    assert_close(got, expected)


def test_the_words_for_background_do_not_matter(tiny):
    text, image = normalize(torch.randn(6, 8), dim=-1), torch.randn(3, 40, 24)
    first, second = (
        with_words(GroupVitSegmenter(tiny()), text, background=True).segment(image) for _ in 'ab'
    )
    assert torch.equal(first.classes, second.classes)


def test_thresholds_by_class(tiny):
    text, image = normalize(torch.randn(3, 8), dim=-1), torch.randn(3, 40, 24)
    model = with_words(GroupVitSegmenter(tiny(), background_threshold={'class 1': 2.0, '': 0.0}), text, True)
    assert model._threshold.tolist() == [0, 0, 2, 0]
    spelled = GroupVitSegmenter(tiny(), background_threshold={'Class_1.': 2.0, '': 0.0})
    assert with_words(spelled, text, True)._threshold.tolist() == [0, 0, 2, 0]
    assert model.segment(image).classes.shape == (40, 24)
    with pytest.raises(InputError, match="no entry for class 'class 0'"):
        with_words(GroupVitSegmenter(tiny(), background_threshold={'class 1': 0.5}), text, True)


def test_a_learned_background_is_a_class_of_its_own(tiny):
    clip = tiny()
    clip.background = torch.nn.Parameter(torch.randn(8))
    text = normalize(torch.randn(6, 8), dim=-1)
    model = with_words(GroupVitSegmenter(clip, background_threshold=None, top_classes=2), text, True)
    embedded = clip.encode_groups(torch.randn(2, 3, 16, 16))
    scores = model.class_scores(embedded.image, embedded.groups, model.queries)
    assert (scores[:, :, 0] > 0).all(), 'never dropped with the classes that do not fit the image'
    assert ((scores[:, :, 1:] > 0).sum(-1) == 2).all()


def test_encode_once_ask_many(tiny, monkeypatch):
    model = with_words(GroupVitSegmenter(tiny()), normalize(torch.randn(6, 8), dim=-1))
    kept = model.encode_image(torch.randn(3, 20, 20))
    monkeypatch.setattr(model, 'encode_pixels', None)
    with_words(model, normalize(torch.randn(3, 8), dim=-1))
    assert model.classify_image(kept, (20, 20)).classes.max() < 3


def test_thresholds_go_where_the_model_goes(tiny):
    model = with_words(GroupVitSegmenter(tiny()), normalize(torch.randn(3, 8), dim=-1), background=True)
    assert model.to('meta')._threshold.device.type == 'meta'
    assert not any('threshold' in name for name in model.state_dict())


def test_words_that_are_refused_change_nothing(tiny):
    model = with_words(GroupVitSegmenter(tiny()), normalize(torch.randn(3, 8), dim=-1))
    model.thresholds = {'class 1': 0.5}
    with pytest.raises(InputError, match="no entry for class 'class 0'"):
        with_words(model, normalize(torch.randn(2, 8), dim=-1))
    assert len(model.vocabulary) == model.num_classes == 3


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda clip: GroupVitSegmenter(clip, background_threshold=None), 'requires a learned background'),
        (lambda clip: GroupVitSegmenter(clip, top_classes=0), 'top_classes'),
        (lambda clip: GroupVitSegmenter(clip, background_threshold='high'), "or None, got 'high'"),
        (
            lambda clip: GroupVitSegmenter(clip).set_vocabulary(
                Vocabulary(('sky',), background='sky'), ClassEmbeddings(torch.ones(1, 8), torch.zeros(1), 1)
            ),
            'only a background class',
        ),
    ],
)
def test_refusals(tiny, call, message):
    with pytest.raises(InputError, match=message):
        call(tiny())


def test_damaged_weights_are_told(tiny):
    clip = tiny()
    with torch.no_grad():
        clip.image.patch_embed.weight[0] = torch.nan
    model = with_words(GroupVitSegmenter(clip), normalize(torch.randn(3, 8), dim=-1), background=True)
    with pytest.raises(InputError, match='scores of an image are NaN'):
        model.segment(torch.randn(3, 16, 16))


def test_a_tower_without_groups_segments_nothing(tiny):
    model = with_words(GroupVitSegmenter(tiny(stages=((1, 0, 0),))), normalize(torch.randn(3, 8), dim=-1))
    with pytest.raises(ValueError, match='no grouping stage'):
        model.segment(torch.randn(3, 16, 16))
