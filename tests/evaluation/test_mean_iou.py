"""Scores worked out by hand and by an independent loop; also over several processes."""

from __future__ import annotations

import math
import os
import socket

import pytest
import torch
from torch import multiprocessing

from clipdense.evaluation.mean_iou import confusion_matrix, foreground_iou, mean_iou
from clipdense.evaluation.segmentation import MeanIoU, SegmentationScores
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

NAMES = ('background', 'cat', 'dog', 'cow')
VOCABULARY = Vocabulary(NAMES, background='background', novel=frozenset({'dog', 'cow'}))
# By hand: background 2 of 3 found, 1 false: 2/4; cat 1 of 2, none false: 1/2; dog 1 of 1, 1 false: 1/2.
TARGET = torch.tensor([[0, 0, 0, 255], [1, 1, 2, 255]])
PREDICTION = torch.tensor([[0, 0, 2, 3], [0, 1, 2, 1]])


def sample(prediction, target, path=''):
    return SegmentationSample(path, tuple(target.shape), target, prediction)


def by_loop(prediction, target, num_classes, ignore):
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for guess, label in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if label != ignore:
            matrix[label][guess] += 1
    return matrix


def scores_by_loop(matrix):
    scores = []
    for k, row in enumerate(matrix):
        union = sum(row) + sum(other[k] for other in matrix) - row[k]
        scores.append(row[k] / union if union else None)
    return scores


@pytest.mark.parametrize(
    ('num_classes', 'ignore', 'dtype'),
    [
        (1, 255, torch.int64),
        (4, 255, torch.int64),
        (4, 255, torch.uint8),
        (4, 4, torch.int64),
        (4, 0, torch.int64),
        (4, -1, torch.int64),
        (4, -100, torch.int32),
        (4, None, torch.int64),
        (4, 5000, torch.int16),
        (300, 255, torch.int64),
        (150, 255, torch.uint8),
    ],
)
def test_matrix_and_scores_equal_a_plain_loop(num_classes, ignore, dtype):
    prediction = torch.randint(num_classes, (23, 17)).to(dtype)
    target = torch.randint(num_classes, (23, 17)).to(dtype)
    if ignore is not None:
        target[torch.rand(23, 17) < 0.2] = ignore
    matrix = confusion_matrix(prediction, target, num_classes, ignore)
    expected = by_loop(prediction, target, num_classes, ignore)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == expected
    iou = [None if math.isnan(value) else value for value in mean_iou(matrix).iou.tolist()]
    assert iou == pytest.approx(scores_by_loop(expected))


def test_arguments_are_left_alone():
    prediction, target = PREDICTION.clone(), TARGET.clone()
    confusion_matrix(prediction, target, 4)
    assert torch.equal(prediction, PREDICTION)
    assert torch.equal(target, TARGET)


@pytest.mark.parametrize(
    ('prediction', 'target', 'message'),
    [
        ([[0, 1]], [[0], [1]], r'prediction has shape \(1, 2\), but the mask \(2, 1\)'),
        (
            [[0, 0, 0]],
            [[37, 37, 1]],
            r'mask labels out of range: 37 \(2 pixels\); 4 classes are 0 to 3, 255',
        ),
        ([[0, 0]], [[4, 0]], r'mask labels out of range: 4 \(1 pixels\)'),
        ([[0, 0]], [[-1, 0]], r'mask labels out of range: -1'),
        ([[0, 0]], [[60000, 0]], r'mask labels out of range: 60000'),
        ([[4, 0]], [[0, 0]], r'predictions out of range: 4 \(1 pixels\); 4 classes are 0 to 3$'),
        ([[255, 0]], [[0, 0]], r'predictions out of range: 255'),
        ([[-1, 0]], [[1, 0]], r'predictions out of range: -1'),
    ],
)
def test_what_cannot_be_counted_is_named(prediction, target, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(target), 4)


def test_labels_without_an_ignored_one():
    with pytest.raises(InputError, match=r'255 \(2 pixels\); 4 classes are 0 to 3$'):
        confusion_matrix(PREDICTION, TARGET, 4, ignore_index=None)


EDGES = {
    'all right': ([[2, 0], [0, 3]], 1.0, 1.0, 1.0, 2),
    'all wrong': ([[0, 2], [3, 0]], 0.0, 0.0, 0.0, 2),
    'absent class': ([[5, 0], [0, 0]], 1.0, 1.0, 1.0, 1),
    'predicted, never labelled': (
        [[3, 1], [0, 0]],
        0.375,
        0.75,
        0.75,
        2,
    ),  # IoU 3/4 and 0
    'nothing labelled': ([[0, 0], [0, 0]], math.nan, math.nan, math.nan, 0),
    'more pixels than float32 counts': ([[2**25, 1], [0, 0]], 0.5, 1.0, 1.0, 2),
}


@pytest.mark.parametrize(('matrix', 'iou', 'accuracy', 'pixels', 'counted'), EDGES.values(), ids=EDGES)
def test_scores_of_edge_cases(matrix, iou, accuracy, pixels, counted):
    scores = mean_iou(torch.tensor(matrix))
    assert scores.iou.dtype == torch.float64
    found = (scores.mean_iou, scores.mean_accuracy, scores.pixel_accuracy, scores.counted)
    assert found == pytest.approx((iou, accuracy, pixels, counted), abs=1e-6, nan_ok=True)


def evaluate(metric, *samples):
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_scores_by_hand():
    metric = MeanIoU(vocabulary=VOCABULARY)
    metrics = evaluate(metric, sample(PREDICTION, TARGET))
    expected = {
        'mIoU': 0.5,
        'pixel_accuracy': 4 / 6,
        'mean_accuracy': (2 / 3 + 1 / 2 + 1) / 3,
        'classes_counted': 3,  # cow is in no counted label, and predicted on an ignored pixel only
        'base/mIoU': 0.5,
        'novel/mIoU': 0.5,
        'harmonic_mIoU': 0.5,
    }
    assert metrics == pytest.approx(expected)
    assert 'cow            n/a     n/a' in metric.table()
    assert '1 of 4 are in no label and no prediction (n/a)' in metric.table()


def test_images_are_added_up_before_dividing():
    """One image all right with 1 pixel, one all wrong with 3: 1 / 4 of a class, not the mean of 1 and 0."""
    images = [
        sample(torch.tensor([[0]]), torch.tensor([[0]])),
        sample(torch.tensor([[1, 1, 1]]), torch.zeros(1, 3)),
    ]
    images[1].mask = images[1].mask.long()
    assert evaluate(MeanIoU(vocabulary=VOCABULARY), *images)['mIoU'] == pytest.approx(1 / 4 / 2)


def test_vocabulary_and_groups():
    metric = MeanIoU(groups={'pets': ['cat', 'dog'], 'none': ['cow']}, prefix='val')
    metric.dataset_meta = {'vocabulary': VOCABULARY}
    metrics = evaluate(metric, sample(PREDICTION, TARGET))
    assert metrics['val/pets/mIoU'] == pytest.approx(0.5)
    assert math.isnan(metrics['val/none/mIoU'])
    assert not any('base' in name or 'harmonic' in name for name in metrics)


def test_a_vocabulary_without_novel_classes_has_no_groups():
    names = evaluate(MeanIoU(vocabulary=Vocabulary(NAMES)), sample(PREDICTION, TARGET))
    assert set(names) == {'mIoU', 'pixel_accuracy', 'mean_accuracy', 'classes_counted'}


def test_harmonic_mean():
    target, prediction = torch.tensor([[1, 1, 2, 2]]), torch.tensor([[1, 1, 2, 1]])  # cat 2/3, dog 1/2
    metrics = evaluate(MeanIoU(vocabulary=VOCABULARY), sample(prediction, target))
    assert metrics['harmonic_mIoU'] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


LABELLED = MeanIoU(vocabulary=VOCABULARY)
REFUSALS = {
    'vocabulary': (MeanIoU(), sample(PREDICTION, TARGET), 'needs a vocabulary'),
    'prediction': (
        MeanIoU(vocabulary=VOCABULARY),
        SegmentationSample('a.jpg', (2, 4), TARGET),
        'a.jpg has no p',
    ),
    'mask': (LABELLED, SegmentationSample('', (2, 4), None, PREDICTION), 'has no mask'),
    'labels': (LABELLED, sample(PREDICTION, TARGET + 4, 'a.jpg'), 'a.jpg: mask labels'),
    'group': (
        MeanIoU(255, VOCABULARY, {'x': ['cut']}),
        sample(PREDICTION, TARGET),
        "mean 'cat'",
    ),
}


@pytest.mark.parametrize(('metric', 'image', 'message'), REFUSALS.values(), ids=REFUSALS)
def test_refusals(metric, image, message):
    with pytest.raises(InputError, match=message):
        evaluate(metric, image)


def make_images(count):
    generator = torch.Generator().manual_seed(1)
    return [sample(*torch.randint(4, (2, 5, 5), generator=generator)) for _ in range(count)]


def _in_process(rank, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    os.chdir(folder)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    metric = MeanIoU(vocabulary=VOCABULARY)
    everything = make_images(5)
    for index in (0, 2, 4) if rank == 0 else (1, 3, 0):  # the sampler repeats the first image to fill up
        metric.process({}, [everything[index]])
    metrics = metric.evaluate(5)
    torch.save(metrics, f'{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(_in_process, (port, str(tmp_path)), nprocs=2, start_method='fork')
    expected = evaluate(LABELLED, *make_images(5))
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pt') == expected


def test_the_mean_is_over_foreground_classes_that_are_shown():
    """Background is left out; class 2 is predicted and never labelled; class 3 is neither."""
    confusion = torch.tensor([[9, 0, 1, 0], [2, 6, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert foreground_iou(confusion, 0) == pytest.approx(6 / 10)
    assert foreground_iou(confusion, None) == pytest.approx((9 / 12 + 6 / 10) / 2)


def test_predicted_classes_that_no_mask_has_are_said_unless_they_are_meant():
    """Rows are labels: b is in no mask, and is predicted for two pixels."""
    scores = SegmentationScores(torch.tensor([[5, 2, 0], [0, 0, 0], [3, 0, 4]]), Vocabulary(('a', 'b', 'c')))
    (line,) = scores.notes()
    assert line == 'predicted but in no mask, with an IoU of 0 in the mIoU: 1 class, b'
    assert scores.notes(absent=False) == []
