"""Exported files give what torch gives; what cannot be exported is refused in one line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import clipdense
from clipdense.clip.frozen_text import FrozenText
from clipdense.inference.export.write import difference
from clipdense.inference.load import load_segmenter
from clipdense.methods import list_methods
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError, MissingPackage

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]
    feed = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
    return [torch.from_numpy(one) for one in session.run(None, feed)]


def metadata(path):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return json.loads(session.get_modelmeta().custom_metadata_map['clipdense'])


@torch.no_grad()
def in_torch(clip, images, embeddings):
    model = load_segmenter(clip, 'maskclip', 'cpu')
    return model.pixel_logits(images, F.normalize(embeddings, dim=-1)) * model.logit_scale


@pytest.mark.parametrize('classes', [1, 5, 20, 1000])
@pytest.mark.parametrize(
    'shape',
    [(1, 3, 32, 32), (3, 3, 32, 32), (2, 3, 48, 80), (1, 3, 45, 50)],
    ids=['one', 'batch', 'another size', 'not a multiple of the patch'],
)
def test_one_file_for_any_classes_batch_and_size(clip, exported, classes, shape):
    images, embeddings = torch.randn(shape), torch.randn(classes, 16)
    (found,) = run(exported.path, images, embeddings)
    assert difference('logits', in_torch(clip, images, embeddings), found) < 1e-4


def test_embeddings_of_any_norm(exported):
    images, embeddings = torch.randn(1, 3, 32, 32), torch.randn(3, 16)
    (one,), (other,) = run(exported.path, images, embeddings), run(exported.path, images, 7 * embeddings)
    assert difference('logits', one, other) < 1e-5


@pytest.mark.parametrize(
    'shapes', [((1, 3, 32, 32), (3, 17)), ((1, 4, 32, 32), (3, 16))], ids=['width', 'alpha']
)
def test_inputs_of_another_width_are_refused(exported, shapes):
    with pytest.raises(Exception, match='Got invalid dimensions'):
        run(exported.path, *(torch.randn(shape) for shape in shapes))


def test_metadata(clip, exported):
    found = metadata(exported.path)
    assert found['inputs'] == {
        'images': ['batch', 3, 'height', 'width'],
        'class_embeddings': ['classes', 16],
    }
    assert found['method'] == 'maskclip'
    assert found['fixed'] == {}
    assert found['logit_scale'] == 40.0
    assert found['windows']['window'] == 32
    assert np.allclose(found['preprocess']['mean'], clip.preprocess.mean)
    assert len(found['weights_digest']) == 64
    assert found['templates'][0].format('cat').endswith('cat.')
    assert found['differences'] == exported.differences
    assert max(found['differences'].values()) <= found['tolerance'] == 1e-4


def test_the_summary_of_a_file(exported):
    text = '\n'.join(exported.lines())
    assert 'segmenter, onnx, fp32' in text
    assert 'class_embeddings (classes, 16)' in text
    assert 'largest difference to torch' in text


@torch.no_grad()
def test_the_text_tower_makes_class_embeddings(clip, tmp_path):
    written = clipdense.export(FrozenText.of(clip), tmp_path / 'text.onnx')
    ids = torch.as_tensor(np.asarray(clip.tokenizer(['a photo of a cat', 'a dog'])))
    (found,) = run(written.path, ids.long())
    assert difference('text', clip.encode_text(ids, normalize=True), found) < 1e-4


def test_half_precision(clip, tmp_path):
    written = clipdense.export(
        clip,
        tmp_path / 'half.onnx',
        'classifier',
        options=clipdense.ExportOptions(precision='fp16', size=(32, 32)),
    )
    assert 1e-7 < max(written.differences.values()) < 5e-2
    assert list(written.metadata['fixed']) == ['height=32', 'width=32']
    images, embeddings = torch.randn(2, 3, 32, 32), torch.randn(4, 16)
    assert run(written.path, images, embeddings)[0].dtype == torch.float32


@torch.no_grad()
def test_torch_export(clip, tmp_path):
    written = clipdense.export(FrozenText.of(clip), tmp_path / 'text.pt2')
    files = {'clipdense.json': ''}
    program = torch.export.load(written.path, extra_files=files)
    assert json.loads(files['clipdense.json'])['part'] == 'text'
    ids = torch.as_tensor(np.asarray(clip.tokenizer(['a cat', 'a dog', 'a red bus']))).long()
    assert difference('text', clip.encode_text(ids, normalize=True), program.module()(ids)) < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_ahead_of_time_compilation(clip, tmp_path):
    written = clipdense.export(FrozenText.of(clip), tmp_path / 'text.pt2', to='aoti')
    loaded = torch._inductor.aoti_load_package(str(written.path))
    ids = torch.as_tensor(np.asarray(clip.tokenizer(['a cat', 'a dog', 'a red bus']))).long()
    assert difference('text', clip.encode_text(ids, normalize=True), loaded(ids)) < 1e-4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(destination='x.tflite'), r'must end in .onnx or .pt2, or the format be given'),
        (
            dict(destination='x.onnx', to='onx'),
            r"unknown format 'onx'; one of onnx, pt2, aoti. Did you mean 'onnx'",
        ),
        (dict(destination='x.pt2', to='onnx'), r'a file of the format onnx must end in .onnx, got .*x.pt2'),
        (dict(destination='x.onnx', part='segmentor'), r"unknown part 'segmentor'.*Did you mean 'segmenter'"),
        (dict(destination='old.onnx'), r'old.onnx exists: choose another destination, or add --overwrite'),
        (dict(destination='folder.onnx'), r'cannot write .*folder.onnx: it is a folder'),
        (dict(destination='old.onnx/x.onnx'), r'old.onnx is not a folder'),
        (dict(destination='x.onnx', part='detector'), r'a plain CLIP has no method for detection'),
        (
            dict(destination='x.onnx', part='image', method='naclip'),
            r'a method applies to the part segmenter',
        ),
        (
            dict(destination='x.onnx', method='maskclip', activation='gelu'),
            r"'activation' applies to weights given",
        ),
        (
            dict(destination='x.onnx', options={'opset': 18}),
            r'options must be ExportOptions\(...\), got dict',
        ),
        (dict(destination=''), r'the destination must be a path such as model.onnx'),
    ],
    ids=lambda value: str(sorted(value.items())) if isinstance(value, dict) else '',
)
def test_a_call_that_cannot_be_met(clip, tmp_path, arguments, message):
    (tmp_path / 'old.onnx').write_text('old')
    (tmp_path / 'folder.onnx').mkdir()
    name = arguments.pop('destination')
    with pytest.raises(InputError, match=message):
        clipdense.export(clip, tmp_path / name if name else name, **arguments)
    assert sorted(one.name for one in tmp_path.iterdir()) == ['folder.onnx', 'old.onnx']
    assert (tmp_path / 'old.onnx').read_text() == 'old'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(precision='bf16'), r"precision must be fp32 or fp16, got 'bf16'"),
        (dict(precision=16), r'precision must be fp32 or fp16, got 16'),
        (dict(opset=11), r'opset must be 18 to 23, got 11: older ones lack operators'),
        (dict(opset=99), r'opset must be 18 to 23, got 99'),
        (dict(opset='18'), r"opset must be 18 to 23, got '18'"),
        (
            dict(size=448),
            r'size must be height and width in pixels, 1 to 8192, such as \(448, 448\), got 448',
        ),
        (dict(size=(0, 32)), r'size must be height and width'),
        (dict(size=(32.5, 32)), r'size must be height and width'),
        (dict(size=(32, 100_000)), r'size must be height and width'),
        (dict(tolerance=-1), r'tolerance must be a number of at least 0, got -1'),
        (dict(tolerance=float('nan')), r'tolerance must be a number of at least 0, got nan'),
    ],
    ids=str,
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        clipdense.ExportOptions(**options)


def test_a_size_below_a_patch(clip, tmp_path):
    with pytest.raises(InputError, match='size 4 x 32: each side must have at least'):
        clipdense.export(clip, tmp_path / 'x.onnx', 'image', options=clipdense.ExportOptions(size=(4, 32)))


def test_a_size_for_texts(clip, tmp_path):
    with pytest.raises(InputError, match='the part text has no images: remove size'):
        clipdense.export(clip, tmp_path / 'x.onnx', 'text', options=clipdense.ExportOptions(size=(32, 32)))


def test_a_tower_without_the_part(clip, tmp_path):
    with pytest.raises(InputError, match=r"FrozenText.*has no part 'image'"):
        clipdense.export(FrozenText.of(clip), tmp_path / 'x.onnx', 'image')


def test_a_larger_difference_is_an_error_and_nothing_is_written(clip, tmp_path):
    strict = clipdense.ExportOptions(tolerance=0)
    with pytest.raises(
        InputError, match=r'the exported text_embeddings differs from torch by .* more than 0'
    ):
        clipdense.export(FrozenText.of(clip), tmp_path / 'text.onnx', options=strict)
    assert list(tmp_path.iterdir()) == []


def test_damaged_weights(clip, tmp_path):
    broken = FrozenText.of(clip)
    kept = broken.text.norm_post.weight.data.clone()
    broken.text.norm_post.weight.data.fill_(float('nan'))
    try:
        with pytest.raises(InputError, match='NaN or infinite'):
            clipdense.export(broken, tmp_path / 'text.pt2')
    finally:
        broken.text.norm_post.weight.data.copy_(kept)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('package', ['onnx', 'onnxscript', 'onnxruntime'])
def test_the_extra_is_not_installed(clip, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf'needs {package}: pip install "clipdense\[export\]"'):
        clipdense.export(clip, tmp_path / 'x.onnx')


def test_no_compiler(clip, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(MissingPackage, match=r'needs a C\+\+ compiler.*--to pt2'):
        clipdense.export(clip, tmp_path / 'x.pt2', to='aoti')


class Closed(SegmentationModel):
    """A segmenter of a method that has no graph."""

    method = 'denseclip'

    def encode_pixels(self, images):
        return images

    def classify_pixels(self, features, text):
        return features


def test_a_method_without_a_graph(tmp_path):
    with pytest.raises(InputError, match='denseclip cannot be exported: its context decoder rewrites'):
        clipdense.export(Closed((0.5,) * 3, (0.5,) * 3), tmp_path / 'x.onnx')


def test_an_adapter_is_refused(clip, tmp_path, monkeypatch):
    model = load_segmenter(clip, 'maskclip', 'cpu')
    monkeypatch.setitem(model.__dict__, 'adapter', object())
    with pytest.raises(InputError, match='an adapter is not part of a graph: export the model without it'):
        clipdense.export(model, tmp_path / 'x.onnx')


def test_every_method_says_whether_it_exports():
    for method in list_methods():
        usable = method.task in ('segmentation', 'detection', 'grounding')
        assert bool(method.graph) != bool(method.no_graph) or not usable, method.name
        assert '\n' not in method.no_graph
