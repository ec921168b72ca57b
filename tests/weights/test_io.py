"""Reading weights of every container, refusing what is damaged, and writing."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights import io
from clipdense.weights.io import read_weights, weights_digest, write_weights
from clipdense.weights.unpickle import Inert


def state_dict():
    torch.manual_seed(0)
    base = torch.randn(10)
    return {
        'plain': torch.randn(3, 4),
        'transposed': torch.randn(3, 4).t(),
        'sliced': base[3:7],
        'stepped': base[::3],
        'scalar': torch.tensor(2.5),
        'empty': torch.zeros(0, 4),
        'half': torch.randn(5).half(),
        'brain': torch.randn(5).bfloat16(),
        'double': torch.randn(2).double(),
        'eight': torch.randn(7).to(torch.float8_e4m3fn),
        'counts': torch.arange(5),
        'bytes': torch.arange(5, dtype=torch.uint8),
        'flags': torch.tensor([True, False]),
        'parameter': torch.nn.Parameter(torch.randn(2, 2)),
    }


def assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert tensors[name].shape == tensor.shape, name
        assert weights_digest({name: tensors[name]}) == weights_digest({name: tensor}), name


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before-1.6'])
@pytest.mark.parametrize(
    ('wrap', 'extra'),
    [
        (lambda state: state, {}),
        (lambda state: {'state_dict': collections.OrderedDict(state), 'epoch': 3}, {'epoch': 3}),
        (lambda state: {'model': {'state_dict': state, 'a': 1}, 'b': 'x'}, {'a': 1, 'b': 'x'}),
    ],
    ids=['bare', 'state_dict', 'nested'],
)
def test_torch_files_keep_every_bit(tmp_path, protocol, zipped, wrap, extra):
    path = tmp_path / 'weights.pt'
    torch.save(wrap(state_dict()), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    file = read_weights(path)
    assert file.kind == 'torch'
    assert file.extra == extra
    assert_equal(file.tensors, state_dict())


def test_shared_storage_stays_shared(tmp_path):
    base = torch.arange(6.0)
    torch.save({'all': base, 'tail': base[4:]}, tmp_path / 'weights.pt')
    tensors = read_weights(tmp_path / 'weights.pt').tensors
    tensors['all'][5] = -1
    assert tensors['tail'].tolist() == [4, -1]


def test_view_of_a_storage_before_1_6(tmp_path):
    """Old files name a root storage and the part of it that a tensor has."""
    persistent = ('storage', torch.FloatStorage, '7', 'cpu', 6, ('view', 4, 2))

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, (persistent, 0, (2,), (1,))

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return item if item is persistent else None

    path = tmp_path / 'old.pth'
    with open(path, 'wb') as file:
        for item in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}, {'a': Tensor()}, ['7']):
            Pickler(file, protocol=2).dump(item)
        file.write(struct.pack('<q6f', 6, *range(6)))
    assert read_weights(path).tensors['a'].tolist() == [4, 5]


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    path = tmp_path / 'weights.pt'
    torch.save({'a': torch.zeros(4)}, path)
    before = path.read_bytes()
    read_weights(path).tensors['a'].fill_(1)
    assert path.read_bytes() == before


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.int64, torch.bfloat16], ids=str)
def test_other_byte_order_is_swapped(tmp_path, dtype):
    values = torch.tensor([1, 2, 300]).to(dtype)
    torch.save({'a': values}, tmp_path / 'native.pt')
    with (
        zipfile.ZipFile(tmp_path / 'native.pt') as source,
        zipfile.ZipFile(tmp_path / 'other.pt', 'w') as out,
    ):
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith('/byteorder'):
                data = b'big' if sys.byteorder == 'little' else b'little'
            elif '/data/' in info.filename:
                width = values.element_size()
                data = b''.join(data[i : i + width][::-1] for i in range(0, len(data), width))
            out.writestr(info.filename, data)
    assert torch.equal(read_weights(tmp_path / 'other.pt').tensors['a'], values)


def test_official_torchscript_archive(golden_path):
    path = golden_path('openai_clip_vit_tiny_jit.pt')
    file = read_weights(path)
    assert file.kind == 'torchscript'
    assert len(file.tensors) == 65
    assert file.tensors['visual.conv1.weight'].dtype == torch.float16
    assert file.tensors['visual.ln_pre.weight'].dtype == torch.float32
    assert int(file.tensors['input_resolution']) == 32


def test_training_leftovers_become_inert(tmp_path):
    from mmengine.logging.history_buffer import HistoryBuffer

    path = tmp_path / 'epoch_3.pth'
    torch.save(
        {
            'state_dict': state_dict(),
            'args': argparse.Namespace(lr=0.1),
            'message_hub': {'loss': HistoryBuffer([1.0], [1])},
            'best': np.float32(2.5),
            'table': np.arange(4, dtype='>f4').reshape(2, 2),
            'names': {'a'},
            'device': torch.device('cpu'),
            'counter': collections.Counter('aab'),
            'shape': torch.Size([2, 3]),
        },
        path,
    )
    extra = read_weights(path).extra
    assert extra['args'] == Inert('argparse.Namespace', state={'lr': 0.1})
    assert extra['message_hub']['loss'].name.endswith('HistoryBuffer')
    assert extra['message_hub']['loss'].state['_log_history'].tolist() == [1.0]
    assert extra['best'] == 2.5
    assert extra['table'].tolist() == [[0, 1], [2, 3]]
    assert extra['names'] == {'a'}
    assert extra['counter'] == {'a': 2, 'b': 1}
    assert extra['shape'] == (2, 3)


def test_pickle_without_container(tmp_path):
    """detectron2 publishes such files: a dict of numpy arrays."""
    path = tmp_path / 'model.pkl'
    path.write_bytes(pickle.dumps({'model': {'a': np.ones((2, 3), 'f4')}, '__author__': 'x'}))
    file = read_weights(path)
    assert file.kind == 'pickle'
    assert torch.equal(file.tensors['a'], torch.ones(2, 3))


def test_index_stands_for_its_files(tmp_path):
    save_file({'a': torch.ones(2)}, tmp_path / 'model-1.safetensors')
    torch.save({'b': torch.zeros(3)}, tmp_path / 'model-2.bin')
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {'a': 'model-1.safetensors', 'b': 'model-2.bin'}}))
    assert {name: tensor.tolist() for name, tensor in read_weights(index).tensors.items()} == {
        'a': [1, 1],
        'b': [0, 0, 0],
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"weight_map": {"a": "../model.bin"}}', 'of its own folder'),
        ('{"weight_map": {"a": "/etc/passwd"}}', 'of its own folder'),
        ('{"weight_map": {"a": 3}}', 'of its own folder'),
        ('{"weight_map": {}}', 'of its own folder'),
        ('{"weight_map": {"a": "absent.bin"}}', 'absent.bin does not exist'),
        ('{"a": 1}', 'not an index of weights files'),
        ('{', 'not an index of weights files'),
    ],
)
def test_bad_index(tmp_path, text, message):
    (tmp_path / 'model.bin.index.json').write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / 'model.bin.index.json')


# Files that are no weights


def torch_bytes(tmp_path, **options):
    torch.save({'a': torch.randn(64, 64)}, tmp_path / 'good.pt', **options)
    return (tmp_path / 'good.pt').read_bytes()


def safe_bytes(tmp_path):
    save_file({'a': torch.randn(8, 8)}, tmp_path / 'good.safetensors')
    return (tmp_path / 'good.safetensors').read_bytes()


def archive(members, compression=zipfile.ZIP_STORED):
    def build(tmp_path):
        with zipfile.ZipFile(tmp_path / 'made.zip', 'w', compression) as file:
            for name, data in members.items():
                file.writestr(name, data)
        return (tmp_path / 'made.zip').read_bytes()

    return build


def header(entries, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text


BAD_FILES = {
    'empty': (lambda _: b'', r'is empty \(0 bytes\)'),
    'html': (lambda _: b'\n<!DOCTYPE html><title>Log in</title>', r'37 bytes\) is a web page'),
    'lfs': (lambda _: b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
    'json': (lambda _: b'{"weight_map": {}}', 'JSON text'),
    'text': (lambda _: b'To do:\r\n\t* buy bread\n', r'bytes\) is text, not weights: copy or download'),
    'long text': (lambda _: b'a' + 'ü'.encode() * 999, 'is text, not weights'),
    'gzip': (lambda _: b'\x1f\x8b\x08\x00' + bytes(40), 'gzip archive: unpack'),
    'tar': (lambda _: bytes(257) + b'ustar' + bytes(300), 'tar archive'),
    'noise': (lambda _: bytes(range(7, 200)), 'not a weights file|damaged safetensors'),
    'zip-cut': (lambda t: torch_bytes(t)[:-300], r'truncated or damaged'),
    'zip-half': (lambda t: torch_bytes(t)[:5000], r'5000 bytes\) is truncated'),
    'legacy-cut': (lambda t: torch_bytes(t, _use_new_zipfile_serialization=False)[:-9], 'truncated'),
    'legacy-half': (lambda t: torch_bytes(t, _use_new_zipfile_serialization=False)[:90], 'truncated'),
    'npz': (archive({'params/b.npy': b'x'}), 'big_vision'),
    'other-zip': (archive({'readme.txt': b'x'}), 'zip archive that torch did not write'),
    'two-pickles': (archive({'a/data.pkl': b'N.', 'b/data.pkl': b'N.'}), 'did not write'),
    'compressed': (archive({'a/data.pkl': b'N.' * 99}, zipfile.ZIP_DEFLATED), 'compressed'),
    'no-storage': (
        lambda t: (
            archive({'a/data.pkl': zipfile.ZipFile(t / 'good.pt').read('good/data.pkl')})(t)
            if torch_bytes(t)
            else b''
        ),
        'damaged',
    ),
    'no-tensors': (archive({'a/data.pkl': pickle.dumps({'epoch': 3}, 2)}), r"no state_dict.*\['epoch'\]"),
    'a-list': (archive({'a/data.pkl': pickle.dumps([1], 2)}), 'no state_dict'),
    'huge-frame': (lambda _: b'\x80\x04\x95' + b'\xff' * 7 + b'\x7f' + b'N.', 'damaged|no state_dict'),
    'huge-bytes': (lambda _: b'\x80\x04\x8e' + b'\xff' * 7 + b'\x7f' + b'N.', 'damaged|no state_dict'),
    'deep': (lambda _: b'\x80\x02' + b'(' * 3000 + b'l' * 3000 + b'.', r'damaged|no state_dict'),
    'safe-cut': (lambda t: safe_bytes(t)[:-10], r'truncated: \d+ of \d+ bytes'),
    'safe-cut-header': (lambda t: safe_bytes(t)[:20], 'truncated: 20 of'),
    'safe-huge-header': (lambda _: b'\xff' * 7 + b'\x00{}', 'damaged safetensors|not a weights file'),
    'safe-long-header': (lambda _: header({}, length=90_000_000), 'truncated'),
    'safe-overlap': (
        lambda _: (
            header({name: {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]} for name in ('a', 'b')})
            + bytes(8)
        ),
        'damaged safetensors',
    ),
    'safe-wrong-shape': (
        lambda _: header({'a': {'dtype': 'F32', 'shape': [1 << 60], 'data_offsets': [0, 8]}}) + bytes(8),
        'damaged safetensors',
    ),
    'safe-negative': (
        lambda _: header({'a': {'dtype': 'F32', 'shape': [-2], 'data_offsets': [0, 8]}}) + bytes(8),
        'damaged safetensors',
    ),
    'safe-nan': (
        lambda _: header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}') + bytes(8),
        'damaged safetensors',
    ),
    'safe-unknown-dtype': (
        lambda _: header({'a': {'dtype': 'Q7', 'shape': [2], 'data_offsets': [0, 8]}}) + bytes(8),
        'damaged safetensors',
    ),
    'safe-not-json': (lambda _: header(b'{"a": oh no!!'), 'damaged safetensors'),
}


@pytest.mark.parametrize('name', BAD_FILES)
@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_bad_file_is_one_clear_line(tmp_path, name, suffix):
    build, message = BAD_FILES[name]
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(build(tmp_path))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_missing_file_suggests_the_nearest(tmp_path):
    (tmp_path / 'ViT-B-16.pt').write_bytes(b'x')
    with pytest.raises(CheckpointError, match=r"does not exist.* Did you mean 'ViT-B-16.pt'\?"):
        read_weights(tmp_path / 'ViT-B16.pt')
    with pytest.raises(CheckpointError, match='does not exist'):
        read_weights(tmp_path / 'nowhere' / 'ViT-B16.pt')


def test_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='is a folder'):
        read_weights(tmp_path)


LYING_TENSORS = {
    'past-storage': (0, (4, 4), (4, 1), 8),
    'offset-past-storage': (9, (1,), (1,), 8),
    'negative-stride': (7, (4,), (-1,), 8),
    'negative-size': (0, (-4,), (1,), 8),
    'ranks-differ': (0, (4, 2), (1,), 8),
    'expanded-without-end': (0, (1 << 40,), (0,), 8),
    'storage-past-file': (0, (4,), (1,), 1 << 50),
    'negative-storage': (0, (4,), (1,), -8),
    'not-numbers': (0, ('a',), (1,), 8),
}


@pytest.mark.parametrize('name', LYING_TENSORS)
def test_lying_tensor_is_refused(tmp_path, name):
    offset, size, stride, length = LYING_TENSORS[name]

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ('storage', torch.FloatStorage, '0', 'cpu', length) if isinstance(item, Storage) else None

    with open(tmp_path / 'data.pkl', 'wb') as file:
        Pickler(file, protocol=2).dump({'a': Tensor()})
    members = {'a/data.pkl': (tmp_path / 'data.pkl').read_bytes(), 'a/data/0': bytes(32)}
    (tmp_path / 'weights.pt').write_bytes(archive(members)(tmp_path))
    with pytest.raises(CheckpointError, match='damaged'):
        read_weights(tmp_path / 'weights.pt')


# Writing


def test_written_file_is_what_the_library_reads(tmp_path):
    path = tmp_path / 'new' / 'weights.safetensors'
    write_weights(path, state_dict(), {'format': 'clipdense', 'names': 'Zürich'})
    assert_equal(load_file(path), state_dict())
    file = read_weights(path)
    assert_equal(file.tensors, state_dict())
    assert file.metadata == {'format': 'clipdense', 'names': 'Zürich'}
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_shared_and_empty_dicts_are_written(tmp_path):
    base = torch.arange(4.0)
    write_weights(tmp_path / 'a.safetensors', {'one': base, 'two': base, 'row': base.expand(3, 4)})
    tensors = load_file(tmp_path / 'a.safetensors')
    assert tensors['row'].tolist() == [[0, 1, 2, 3]] * 3
    write_weights(tmp_path / 'b.safetensors', {})
    assert read_weights(tmp_path / 'b.safetensors').tensors == {}


@pytest.mark.parametrize(
    ('tensors', 'metadata', 'message'),
    [
        ({'a': torch.ones(2, dtype=torch.complex64)}, None, 'complex64'),
        ({'a': torch.ones(2, 2).to_sparse()}, None, 'sparse'),
        ({'a': torch.ones(2)}, {'epoch': 3}, 'dict of str to str'),
    ],
    ids=['complex', 'sparse', 'metadata'],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, tensors, metadata, message):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(b'old')
    with pytest.raises(TypeError, match=message):
        write_weights(path, tensors, metadata)
    assert path.read_bytes() == b'old'


def test_failure_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(b'old')

    def fail(tensor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(io, '_bytes', fail)
    with pytest.raises(InputError, match='no space to write'):
        write_weights(path, {'a': torch.ones(2)})
    assert path.read_bytes() == b'old'
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


CHANGES = {
    'value': {'a': torch.tensor([1.0, 3.0]), 'b': torch.zeros(2, 1)},
    'name': {'x': torch.tensor([1.0, 2.0]), 'b': torch.zeros(2, 1)},
    'shape': {'a': torch.tensor([1.0, 2.0]), 'b': torch.zeros(1, 2)},
    'dtype': {'a': torch.tensor([1.0, 2.0]), 'b': torch.zeros(2, 1, dtype=torch.int32)},
    'missing': {'a': torch.tensor([1.0, 2.0])},
}


@pytest.mark.parametrize('change', CHANGES)
def test_digest_sees_every_change(change):
    state = {'a': torch.tensor([1.0, 2.0]), 'b': torch.zeros(2, 1)}
    assert weights_digest(CHANGES[change]) != weights_digest(state)


def test_digest_ignores_order_and_strides():
    matrix = torch.randn(3, 4)
    one = {'a': matrix, 'b': torch.zeros(1)}
    two = {'b': torch.zeros(1), 'a': matrix.t().contiguous().t()}
    assert weights_digest(one) == weights_digest(two)
