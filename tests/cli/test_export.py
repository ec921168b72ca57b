"""``clipdense export`` refuses wrong input before it loads anything."""

from __future__ import annotations

import pytest

from clipdense.cli.app import main


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['model.tflite'], 'must end in .onnx or .pt2'),
        (['model.onnx', '--to', 'tflite'], "unknown format 'tflite'; one of onnx, pt2, aoti"),
        (['old.onnx'], 'old.onnx exists: choose another destination, or add --overwrite'),
        (['model.onnx', '--opset', '9'], 'opset must be 18 to 23, got 9'),
        (['model.onnx', '--precision', 'int8'], "precision must be fp32 or fp16, got 'int8'"),
        (['model.onnx', '--size', 'large'], "--size must be height x width in pixels, such as '448x640'"),
        (['model.onnx', '--size', '1x2x3'], '--size must be height x width'),
        (['model.onnx', '--part', 'mask'], "unknown part 'mask'"),
        (['old.onnx/model.onnx'], 'old.onnx is not a folder'),
        (['model.onnx', '--method', 'naclop'], "method 'naclop' is unknown"),
        (['model.onnx', '--method', 'naclip', '--part', 'text'], 'a method applies to the part segmenter'),
        (['model.onnx', '--tolerance', '-1'], 'tolerance must be a number of at least 0'),
        (['model.onnx'], 'nothing.pt'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_wrong_input(words, message, tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxscript')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'old.onnx').write_text('old')
    with pytest.raises(SystemExit) as status:
        main(['export', 'nothing.pt', *words])
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert [one.name for one in tmp_path.iterdir()] == ['old.onnx']
