"""An exported LSeg gives the logits of the LSeg, for any size of the images."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

import clipdense
from clipdense.inference.export.write import difference
from clipdense.utils.errors import InputError

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


def test_a_size_that_is_no_multiple_of_the_stride(make_lseg, tmp_path):
    options = clipdense.ExportOptions(size=(100, 128))
    with pytest.raises(InputError, match='size 100 x 128: sides must be multiples of 32'):
        clipdense.export(make_lseg('clip resnet'), tmp_path / 'lseg.onnx', options=options)


@torch.no_grad()
def test_any_size_and_number_of_classes(make_lseg, tmp_path):
    model = make_lseg('clip resnet')
    written = clipdense.export(model, tmp_path / 'lseg.onnx')
    assert written.metadata['fixed'] == {}
    session = onnxruntime.InferenceSession(written.path, providers=['CPUExecutionProvider'])
    assert written.metadata['multiples'] == {'height': 32, 'width': 32}
    for size, classes in (((64, 96), 3), ((128, 64), 200)):
        images, embeddings = torch.randn(1, 3, *size), torch.randn(classes, 16)
        feed = {'images': images.numpy(), 'class_embeddings': embeddings.numpy()}
        expected = model.pixel_logits(images, normalize(embeddings, dim=-1)) * model.logit_scale
        found = torch.from_numpy(session.run(None, feed)[0])
        assert found.shape == (1, classes, *size)
        assert difference('logits', expected, found) < 1e-4
