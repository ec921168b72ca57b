"""An exported GroupViT gives the scores of the segmenter, also with fewer classes than it keeps."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

import clipdense
from clipdense.inference.export.write import difference
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@torch.no_grad()
def test_scores(tiny, tmp_path):
    model = GroupVitSegmenter(tiny().eval()).eval()
    written = clipdense.export(model, tmp_path / 'groupvit.onnx')
    assert 'background' in written.metadata['left_outside']
    session = onnxruntime.InferenceSession(written.path, providers=['CPUExecutionProvider'])
    side = model.clip.image.size.image_size
    for size, classes in (((side, side), 3), ((side, 2 * side), 30)):
        images, embeddings = torch.randn(2, 3, *size), torch.randn(classes, model.clip.embed_dim)
        queries = normalize(embeddings, dim=-1)
        names = tuple(f'class {index}' for index in range(classes))
        model.set_vocabulary(Vocabulary(names), ClassEmbeddings(queries, torch.arange(classes), classes))
        feed = {'images': images.numpy(), 'class_embeddings': embeddings.numpy()}
        found = torch.from_numpy(session.run(None, feed)[0])
        expected = model.classify_pixels(model.encode_pixels(images), queries)
        assert difference('scores', expected, found) < 1e-4
