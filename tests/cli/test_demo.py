"""``clipdense demo``: what it refuses at once, and that it serves and stops."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from clipdense.cli.app import main


def fail(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        main(['demo', *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr('clipdense.demo.server.has_gradio', lambda: False)
    assert 'pip install "clipdense[demo]"' in fail(capsys)


@pytest.fixture
def with_gradio(monkeypatch):
    """Refusals come before gradio is imported."""
    monkeypatch.setattr('clipdense.demo.server.has_gradio', lambda: True)


def test_a_port_in_use_is_refused(capsys, with_gradio):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f'cannot be served at 127.0.0.1:{port}' in fail(capsys, '--port', str(port))


@pytest.mark.parametrize(
    'arguments',
    [('--port', '-1'), ('--port', '70000'), ('--host', 'no.such.host.invalid'), ('--max-pixels', '0')],
)
def test_wrong_options_are_refused(capsys, with_gradio, arguments):
    assert arguments[0] in fail(capsys, *arguments)


def test_missing_weights_are_refused(capsys, with_gradio, apart):
    assert 'gone.safetensors' in fail(capsys, '--port', '0', '-w', 'gone.safetensors')


def test_other_hosts_are_warned_of(capsys, with_gradio, apart):
    Path('broken.safetensors').write_bytes(b'no weights')
    told = fail(capsys, '--host', '0.0.0.0', '--port', '0', '-w', 'broken.safetensors')
    assert 'without a password' in told
    assert '0.0.0.0' in told


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(weights, apart, tmp_path, monkeypatch, number):
    pytest.importorskip('gradio', reason='pip install "clipdense[demo]"')
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    command = [sys.executable, '-m', 'clipdense', 'demo', '-w', weights, '--port', '0', '--device', 'cpu']
    pipes: dict[str, Any] = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL, 'text': True}
    # a test run in the background ignores SIGINT, which programs inherit
    pipes['preexec_fn'] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes) as process:
        url = re.match(r'http://localhost:\d+', process.stdout.readline())[0]
        assert urllib.request.urlopen(url, timeout=60).status == 200
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not list(tmp_path.glob('clipdense-demo-*'))  # files of visitors are gone
