"""Thresholds, the oracle, the evaluation that puts them together, and images of groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.data.scenes import SceneSegmentation
from clipdense.methods.groupvit.evaluation import GroupSegmentation
from clipdense.methods.groupvit.explain import explain
from clipdense.methods.groupvit.oracle import oracle_labels
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.methods.groupvit.start import start_from_clip
from clipdense.methods.groupvit.thresholds import (
    GroupStatistics,
    _encode,
    automatic_threshold,
    group_windows,
    learn_thresholds,
    otsu,
    resize_labels,
)
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

WORDS = Vocabulary(('background', 'cat', 'dog', 'bird'), background='background', novel=frozenset({'dog'}))


def segmenter(clip, words=WORDS, **options):
    model = GroupVitSegmenter(clip, Slide(), **options)
    text = normalize(torch.randn(len(words), 8, generator=torch.Generator().manual_seed(4)), dim=-1)
    model.set_vocabulary(words, ClassEmbeddings(text, torch.arange(len(words)), len(words)))
    return model.eval()


# Three groups: class 1 at 0.8 (right), class 2 at 0.3 (background by its label), class 1 at 0.9.
SCORES = torch.tensor([[0.0, 0.8, 0.1], [0.0, 0.1, 0.3], [0.0, 0.9, 0.0]])
OWNER = torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1]])
LABELS = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 255]])


def test_the_best_threshold_parts_right_from_wrong():
    statistics = GroupStatistics(3, background=0)
    statistics.add(SCORES, OWNER, LABELS)
    assert statistics.labels.sum() == 7, 'pixels without a label do not count'
    threshold = statistics.best_threshold()
    assert 0.3 < threshold <= 0.8
    by_class = statistics.best_thresholds()
    assert by_class[2] > 0.3
    assert by_class[1] <= 0.8


def test_thresholds_by_class_can_differ():
    """Class 1 is right from 0.2 on, class 2 wrong up to 0.6: no shared threshold serves both."""
    scores = torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.6], [0.0, 0.0, 0.9]])
    owner = torch.tensor([[0, 0, 1, 1, 2, 2]])
    labels = torch.tensor([[1, 1, 0, 0, 2, 2]])
    statistics = GroupStatistics(3, background=0)
    statistics.add(scores, owner, labels)
    low, high = statistics.best_thresholds()[1:].tolist()
    assert low <= 0.2 < 0.6 < high <= 0.9


def test_the_best_group_of_a_window_is_never_background():
    statistics = GroupStatistics(2, background=0)
    statistics.add(torch.tensor([[0.0, 0.1]]), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4).long())
    assert statistics._above()[0, -1, 1] == 4, 'no threshold takes it away'


@dataclass
class Plain:
    """The definition: every pixel of every window gets its class anew for every threshold that is tried."""

    num_classes: int
    background: int
    windows: list

    def mean_iou(self, places):
        counts = np.zeros((self.num_classes, self.num_classes))  # found, label
        for scores, owner, labels in self.windows:
            best, classes = scores.max(1), scores.argmax(1)
            kept = (np.floor(best * 200) >= places[classes]) | (best == best.max())
            found = np.where(kept, classes, self.background)[owner]
            np.add.at(counts, (found[labels >= 0], labels[labels >= 0]), 1)
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        return (counts.diagonal() / np.maximum(union, 1))[counts.sum(0) > 0].mean()

    def best_of(self, tried):
        return np.array([self.mean_iou(places) for places in tried])

    def best_thresholds(self):
        first = self.best_of(np.repeat(np.arange(201)[:, None], self.num_classes, 1)).argmax()
        places = np.full(self.num_classes, first)
        for _ in range(3):
            for index in range(self.num_classes):
                if index != self.background:
                    tried = np.repeat(places[None], 201, 0)
                    tried[:, index] = np.arange(201)
                    scores = self.best_of(tried)
                    if scores.max() > scores[places[index]] + 1e-9:
                        places[index] = scores.argmax()
        return first / 200, (places / 200).tolist()


@pytest.mark.parametrize(
    ('num_classes', 'background', 'groups'),
    [(2, 0, 2), (4, 0, 3), (3, 2, 4), (1, 0, 2)],
    ids=lambda value: str(value),
)
def test_thresholds_are_those_of_the_definition(num_classes, background, groups):
    rng = np.random.default_rng(num_classes + 10 * background)
    statistics, plain = GroupStatistics(num_classes, background), Plain(num_classes, background, [])
    for _ in range(3):
        owner = rng.integers(0, groups, (4, 5))
        truth = rng.integers(0, num_classes, groups)
        scores = rng.random((groups, num_classes), np.float32) * np.float32(0.6)
        scores[np.arange(groups), truth] += rng.random(groups, np.float32) * np.float32(0.4)
        scores[:, background] = -1
        labels = np.where(rng.random((4, 5)) < 0.3, rng.integers(-1, num_classes, (4, 5)), truth[owner])
        statistics.add(*(torch.from_numpy(one) for one in (scores, owner, labels)))
        plain.windows.append((scores, owner, labels))
    one, by_class = plain.best_thresholds()
    assert statistics.best_threshold() == one
    assert statistics.best_thresholds().tolist() == by_class


class Labelled:
    """Images of noise with labels of all classes."""

    vocabulary = WORDS

    def __init__(self, novel_label=2):
        self.novel_label = novel_label

    def __len__(self):
        return 3

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        mask = torch.randint(0, 4, (16, 16), generator=generator)
        mask[mask == 2] = self.novel_label
        image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
        return {'images': image, 'samples': SegmentationSample('', (16, 16), mask)}


def test_labels_of_novel_classes_are_never_looked_at(tiny, monkeypatch):
    seen, add = [], GroupStatistics.add

    def watched(self, scores, owner, labels):
        seen.append(labels)
        add(self, scores, owner, labels)

    monkeypatch.setattr(GroupStatistics, 'add', watched)
    model = segmenter(tiny().eval())
    found = learn_thresholds(model, Labelled(novel_label=2))
    assert set(torch.stack(seen).unique().tolist()) == {-1, 0, 1, 3}
    hidden = learn_thresholds(model, Labelled(novel_label=255))
    assert learn_thresholds(model, Labelled(novel_label=1), ignore_index=1).keys() == {'', 'bird'}
    assert found == hidden
    assert 'dog' not in found
    assert '' in found
    assert 'background' not in found
    again = segmenter(model.clip, background_threshold=found)
    assert again._threshold[WORDS.index('dog')] == pytest.approx(found[''])


def test_one_threshold_for_all(tiny):
    assert learn_thresholds(segmenter(tiny()), Labelled(), by_class=False, limit=2).keys() == {''}


def test_windows_count_once_each(tiny):
    """Windows without overlap see each pixel once, mirrored views as well."""
    model = segmenter(tiny())
    model.slide = Slide(window=8, stride=8, flip=True)
    seen = GroupStatistics(4, 0)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    windows = group_windows(model, _encode(model, image))
    for scores, owner, (size, (top, left, bottom, right)) in windows:
        seen.add(scores, owner, torch.zeros(size).long()[top:bottom, left:right])
    assert len(windows) == 8
    assert seen.labels.sum() == 2 * 16 * 16


@pytest.mark.parametrize(
    ('histogram', 'low', 'high'),
    [([5, 5, 0, 0, 0, 0, 3, 3], 2, 6), ([1, 0, 0, 1], 1, 3), ([0, 9, 0, 0, 0, 0, 1, 0], 2, 6)],
)
def test_otsu_cuts_the_gap(histogram, low, high):
    assert low <= otsu(torch.tensor(histogram)) <= high


def test_an_automatic_threshold_needs_no_labels(tiny):
    model = segmenter(tiny())
    images = [torch.randint(0, 256, (3, 20, 16), dtype=torch.uint8) for _ in range(3)]
    assert 0 < automatic_threshold(model, iter(images)) < 1
    with pytest.raises(InputError, match='requires images, got none'):
        automatic_threshold(model, [])


def test_thresholds_need_a_background(tiny):
    with pytest.raises(InputError, match='require a vocabulary with a background'):
        learn_thresholds(segmenter(tiny(), Vocabulary(('cat', 'dog'))), Labelled())


def test_resized_labels():
    labels = torch.tensor([[1, 2], [3, 4]])
    assert resize_labels(labels, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_the_oracle_by_hand():
    """Group 0 covers class 1 best although it has more of class 0, which is everywhere."""
    owner = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]])
    labels = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0, 0, 255]])
    found = oracle_labels(owner, labels, num_groups=3, num_classes=3)
    assert found.tolist() == [[1] * 5 + [0] * 5]


@pytest.mark.parametrize('threshold', [0.3, 'shared', 'by class', 'automatic'])
def test_the_evaluation(tiny, threshold):
    class Words:
        """Stands for OpenAI's tokenizer: this text tower knows 50 ids."""

        def __call__(self, texts):
            return np.array([[1 + sum(map(ord, text)) % 40, 1 + len(text) % 40, 49] for text in texts])

    clip = tiny().eval()
    clip.tokenizer = Words()
    data = SceneSegmentation('base', 4)
    tuning = SceneSegmentation('base', 3, stream='tuning')
    found = GroupSegmentation(data, threshold, tuning, slide={}, name='seg')(clip)
    assert {f'seg/{key}' for key in ('miou', 'background', 'oracle', 'floor', 'chance', 'threshold')} <= set(
        found
    )
    assert all(0 <= value <= 1 for value in found.values())
    assert found['seg/oracle'] > found['seg/chance']


@pytest.mark.parametrize(
    ('threshold', 'message'), [('best', "'automatic', got 'best'"), ('shared', 'pass tuning=')]
)
def test_the_evaluation_refuses(threshold, message):
    with pytest.raises(InputError, match=message):
        GroupSegmentation(SceneSegmentation('base', 1), threshold)


def test_groups_as_images(tiny):
    """Two stages, 6 and 3 groups; early groups have the word of the group that they go to."""
    model = segmenter(tiny())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    first, second = explain(model, image)
    assert (first.stage, second.stage) == (1, 2)
    assert (len(first.words), len(second.words)) == (6, 3)
    assert first.owner.shape == second.owner.shape == (30, 50)
    assert set(first.words) <= set(second.words)
    assert {word for word, _ in second.words} <= {'cat', 'dog', 'bird'}, 'the background has no word'
    drawn = second.draw(image)
    assert drawn.size[0] >= 50


def test_explaining_needs_words(tiny):
    with pytest.raises(InputError, match='no vocabulary is set'):
        explain(GroupVitSegmenter(tiny()), Image.new('RGB', (16, 16)))


TEXT = TextSize(16, 1, 2, 32, 8, vocab_size=50, context_length=8)


def test_a_start_from_clip(tiny):
    vit = VitSize(
        image_size=16,
        patch_size=4,
        width=16,
        layers=3,
        num_heads=2,
        mlp_width=32,
        embed_dim=8,
        activation='gelu',
    )
    clip, model = build_clip(ClipSize(vit, TEXT)), tiny()
    clip.logit_scale.data.fill_(3.3)
    names = start_from_clip(model, clip)
    assert torch.equal(model.image.stages[2].blocks[0].mlp.fc1.weight, clip.image.blocks[2].mlp.fc1.weight)
    assert torch.equal(model.image.pos_embed, clip.image.pos_embed[1:])
    ids = torch.randint(1, 49, (2, 8))
    assert torch.equal(model.text(ids), clip.text(ids))
    assert [model.logit_scale.item(), model.multi_label_logit_scale.item()] == pytest.approx([3.3, 3.3])
    assert not any('group' in name or 'projector' in name for name in names)


@pytest.mark.parametrize(
    ('image', 'text', 'message'),
    [
        (VitSize(16, 4, 16, 2, 2, 32, 8, 'gelu'), TEXT, 'fewer than the GroupViT'),
        (VitSize(16, 8, 16, 3, 2, 32, 8, 'gelu'), TEXT, r'weight has shape \(16, 3, 8, 8\), expected'),
        (
            VitSize(16, 4, 16, 3, 2, 32, 8),
            TEXT,
            'image tower of the CLIP has the activation quick_gelu, that of the GroupViT gelu',
        ),
        (
            VitSize(16, 4, 16, 3, 2, 32, 8, 'gelu'),
            replace(TEXT, activation='gelu'),
            'text tower of the CLIP has the activation gelu, that of the GroupViT quick_gelu',
        ),
        (ResNetSize(32, 8, (1, 1, 1, 1), 4, 8), TEXT, 'not from a ModifiedResNet'),
    ],
)
def test_a_start_that_does_not_fit(tiny, image, text, message):
    with pytest.raises(InputError, match=message):
        start_from_clip(tiny(), build_clip(ClipSize(image, text)))
