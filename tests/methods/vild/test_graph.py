"""An exported ViLD gives the detections of the detector once the final suppression is done outside."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import clipdense
from clipdense.methods.vild.graph import graph
from clipdense.methods.vild.predictor import ViLDPredictor
from clipdense.tasks.detection import DetectionRules, select_detections

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

SIZE = (48, 64)


def detections(boxes, scores):
    found = select_detections(boxes, scores, 0.0, 0.5, max_detections=10)
    return found.xyxy, found.confidence


def inputs_of(model, pixels):
    data = model.data_preprocessor({'inputs': [pixels], 'data_samples': None}, training=False)
    queries = model.roi_head.bbox_head.queries
    extra = [model.roi_head.bbox_head.novel.float()] if model.roi_head.bbox_head.variant == 'ensemble' else []
    return [data['inputs'], queries, *extra]


@pytest.mark.parametrize('variant', ['text', 'image', 'vild', 'ensemble'])
@torch.no_grad()
def test_the_graph_is_the_detector(tiny, variant):
    model = tiny.build(variant).eval()
    pixels = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    rules = DetectionRules(score_threshold=0.0, max_detections=10)
    (expected,) = ViLDPredictor(model).predict([pixels.flip(0).permute(1, 2, 0).numpy()], rules)
    boxes, scores, _ = graph(model).module(*inputs_of(model, pixels.flip(0)))
    found = detections(boxes, scores)
    assert_close(found[0], expected.xyxy, atol=1e-3, rtol=1e-4)
    assert_close(found[1], expected.confidence, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_another_number_of_classes_from_one_file(tiny, tmp_path):
    model = tiny.build('ensemble').eval()
    options = clipdense.ExportOptions(size=SIZE)
    written = clipdense.export(model, tmp_path / 'vild.onnx', options=options)
    assert 'suppression' in written.metadata['left_outside']
    session = onnxruntime.InferenceSession(written.path, providers=['CPUExecutionProvider'])
    images, _, _ = inputs_of(model, torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8))
    for classes in (3, 80):
        inputs = [images, torch.randn(classes, 8), torch.arange(classes) % 2.0]
        feed = dict(
            zip(['images', 'class_embeddings', 'novel'], (one.numpy() for one in inputs), strict=True)
        )
        boxes, scores, _ = (torch.from_numpy(one) for one in session.run(None, feed))
        expected = graph(model).module(*inputs)
        assert scores.shape[1] == classes
        for one, other in zip(detections(boxes, scores), detections(*expected[:2]), strict=True):
            assert_close(one, other, atol=1e-3, rtol=1e-4)
