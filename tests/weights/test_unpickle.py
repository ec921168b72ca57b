"""No pickle runs code: each row would leave a mark if its payload ran, or a module if it were imported."""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from clipdense.utils.errors import CheckpointError
from clipdense.weights.io import read_weights
from clipdense.weights.unpickle import Inert


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return self.function, self.arguments, self.state


def text(value):
    return b'X' + len(value.encode()).to_bytes(4, 'little') + value.encode()


def payloads(mark):
    """Name -> (pickle, what the refusal names)."""
    command, python = f'touch {mark}', f'open({str(mark)!r}, "w")'

    def dump(value, protocol=2):
        return pickle.dumps(value, protocol)

    return {
        'os.system': (dump(Calls(os.system, command)), 'posix.system'),
        'exec': (dump(Calls(exec, python)), 'builtins.exec'),
        'eval': (dump(Calls(eval, python), 4), 'builtins.eval'),
        'popen': (dump(Calls(subprocess.Popen, ['touch', str(mark)]), 4), 'subprocess.Popen'),
        'import': (dump(Calls(__import__, 'this')), 'builtins.__import__'),
        'in a state dict': (dump({'state_dict': {'a': [1.0], 'b': Calls(os.system, command)}}),
                            'posix.system'),
        'as a key': (dump({(Calls(os.system, command),): 1}), 'posix.system'),
        'getattr': (b'cbuiltins\ngetattr\n(cos\npath\n' + text('x') + b'tR.', 'os.path'),
        'getattr of text': (b'\x80\x02cbuiltins\ngetattr\n(' + text('a') + text('format') + b'tR.',
                            'builtins.getattr'),
        'getattr of a function': (
            b'\x80\x02cbuiltins\ngetattr\n(c_codecs\nencode\n' + text('__globals__') + b'tR.',
            'builtins.getattr',
        ),
        'dotted name': (b'\x80\x04' + text('builtins') + text('getattr.__call__') + b'\x93.',
                        'builtins.getattr.__call__'),
        'dotted inert': (b'\x80\x02cos.path\nos.system\n(' + text(command) + b'tR.', 'os.path.os.system'),
        'INST': (b'(' + text(command) + b'ios\nsystem\n.', 'os.system'),
        'OBJ': (b'(cos\nsystem\n' + text(command) + b'o.', 'os.system'),
        'NEWOBJ': (b'\x80\x02csubprocess\nPopen\n' + text(command) + b'\x85\x81.', 'subprocess.Popen'),
        'import only': (b'cthis\ns\n.', 'this.s'),
        'torch submodule': (b'ctorch.hub\nload\n(' + text('x') + text('y') + b'tR.', 'torch.hub.load'),
        'torch.load': (b'ctorch.serialization\nload\n.', 'torch.serialization.load'),
        'numpy runstring': (b'cnumpy.testing._private.utils\nrunstring\n.', 'numpy.testing._private.utils'),
        'a call of a record': (
            b'\x80\x02cargparse\nNamespace\n)R(' + text(command) + b'tR.',
            'a call of Inert',
        ),
        'state of a function': (
            b'\x80\x02c_codecs\nencode\n}' + text('__call__') + b'cos\nsystem\nsb.',
            'os.system',
        ),
        'state of a name': (b'\x80\x02c_codecs\nencode\n}' + text('x') + b'K\x01sb.', 'state of Global'),
        'state of a dict': (b'\x80\x02}}' + text('x') + b'K\x01sb.', 'state of dict'),
        'state of text': (b'\x80\x02' + text('x') + b'}b.', 'state of str'),
        'storage of another kind': (
            b'\x80\x02(' + text('module') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu') + b'K\x01tQ.',
            'persistent object',
        ),
        'storage of another class': (
            b'\x80\x02(' + text('storage') + b'cenum\nEnum\n' + text('0') + text('cpu') + b'K\x01tQ.',
            'persistent object',
        ),
        'whole model': (dump(torch.nn.Linear(1, 1)), 'torch.nn.modules.linear.Linear'),
    }  # fmt: skip


NAMES = list(payloads(''))


@pytest.fixture
def no_mark(tmp_path):
    sys.modules.pop('this', None)
    mark = tmp_path / 'mark'
    yield mark
    assert not mark.exists()
    assert 'this' not in sys.modules


def contained(data, container, path):
    """The pickle in one of torch's containers."""
    if container == 'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', data)
            archive.writestr('archive/version', b'3\n')
    elif container == 'torchscript':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('m/constants.pkl', b'\x80\x02).')
            archive.writestr('m/data.pkl', data)
    elif container == 'before-1.6':
        start = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}]
        path.write_bytes(b''.join(pickle.dumps(item, 2) for item in start) + data + pickle.dumps([], 2))
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize('container', ['zip', 'torchscript', 'before-1.6', 'bare'])
@pytest.mark.parametrize('name', NAMES)
def test_code_is_refused_by_name(tmp_path, no_mark, name, container):
    data, named = payloads(no_mark)[name]
    path = contained(data, container, tmp_path / 'weights.pt')
    with pytest.raises(CheckpointError, match='no code was run') as caught:
        read_weights(path)
    assert named in str(caught.value)
    assert '\n' not in str(caught.value)


DEEP = b')' + b'\x85' * 200_000  # a tuple in a tuple in a tuple ...: its hash overflows the stack

DEEP_KEYS = {
    'SETITEM': b'\x80\x02}' + DEEP + b'K\x01s.',
    'SETITEMS': b'\x80\x02}(' + DEEP + b'K\x01u.',
    'ADDITEMS': b'\x80\x04\x8f(' + DEEP + b'\x90.',
    'FROZENSET': b'\x80\x04(' + DEEP + b'\x91.',
    'set': b'\x80\x02cbuiltins\nset\n]' + DEEP + b'a\x85R.',
    'frozenset': b'\x80\x02cbuiltins\nfrozenset\n]' + DEEP + b'a\x85R.',
    'OrderedDict': b'\x80\x02ccollections\nOrderedDict\n]' + DEEP + b'K\x01\x86a\x85R.',
}


@pytest.mark.parametrize('name', DEEP_KEYS)
def test_nesting_does_not_crash_the_process(tmp_path, name):
    path = contained(DEEP_KEYS[name], 'bare', tmp_path / 'weights.pt')
    with pytest.raises(CheckpointError, match='a nested key'):
        read_weights(path)


def test_payloads_do_run_elsewhere(tmp_path):
    """The rows above would be worthless if their payloads did nothing."""
    mark = tmp_path / 'mark'
    for name in ('os.system', 'exec', 'INST', 'OBJ'):
        pickle.loads(payloads(mark)[name][0])
        assert mark.exists(), name
        mark.unlink()


def test_registered_extension_is_refused(tmp_path, no_mark):
    copyreg.add_extension('posix', 'system', 240)
    try:
        path = contained(
            b'\x80\x02\x82\xf0' + text(f'touch {no_mark}') + b'\x85R.', 'bare', tmp_path / 'a.pt'
        )
        with pytest.raises(CheckpointError, match='registered extension 240'):
            read_weights(path)
    finally:
        copyreg.remove_extension('posix', 'system', 240)


def test_placeholder_only_records(tmp_path, no_mark):
    """A harmless class that is called, given a state and asked for attributes keeps them and does nothing."""
    import argparse

    hostile = {
        'state_dict': {'a': torch.ones(1)},
        'called': Calls(argparse.Namespace, f'touch {no_mark}'),
        'stated': Calls(argparse.Namespace, state={'__setstate__': 'x', '__class__': 'y'}),
        'method': Calls(getattr, argparse.Namespace, '__init__'),
    }
    torch.save(hostile, tmp_path / 'weights.pt')
    extra = read_weights(tmp_path / 'weights.pt').extra
    assert extra['called'] == Inert('argparse.Namespace', (f'touch {no_mark}',))
    assert extra['stated'] == Inert('argparse.Namespace', (), {'__setstate__': 'x', '__class__': 'y'})
    assert extra['method'] == Inert('argparse.Namespace.__init__')


def test_classes_of_absent_packages_are_not_needed(tmp_path):
    """OmegaConf nodes and the like come without their package: names, contents, nothing imported."""
    node = b'comegaconf.dictconfig\nDictConfig\n)\x81}' + text('lr') + b'K\x03sb'
    data = b'\x80\x02}(' + text('cfg') + node + text('epoch') + b'K\x07u.'
    path = contained(data, 'zip', tmp_path / 'a.pt')
    with pytest.raises(CheckpointError, match=r"top-level keys: \['cfg', 'epoch'\]"):
        read_weights(path)
    assert 'omegaconf' not in sys.modules
