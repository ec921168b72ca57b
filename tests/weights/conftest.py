"""A user without caches, and a server in place of Hugging Face."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

NETWORK = (
    *('CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_TOKEN', 'HF_ENDPOINT'),
    *('HF_HOME', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'XDG_CACHE_HOME'),
    *('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'),
)


class Hub:
    """Repositories on a server of this machine.

    Args:
        folder: ``ORGANIZATION/NAME/REVISION/file`` of each repository.
        url: of the server.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.asked: list[tuple[str, str | None]] = []  # path and authorization
        self.gated: set[str] = set()  # repositories that need a token
        self.moved: dict[str, str] = {}  # path -> where it is

    def repository(self, name: str, revision: str = 'main') -> Path:
        place = self.folder / name / revision
        place.mkdir(parents=True, exist_ok=True)
        return place

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        authorization = handler.headers.get('Authorization')
        self.asked.append((handler.path, authorization))
        name, _, rest = handler.path.strip('/').partition('/resolve/')
        file = self.folder / name / rest
        if handler.path in self.moved:
            self._send(handler, 302, b'', Location=self.moved[handler.path])
        elif name in self.gated and not authorization:
            self._send(handler, 401, b'')
        elif file.is_file():
            self._send(handler, 200, file.read_bytes())
        else:
            self._send(handler, 404, b'')

    def _send(self, handler, status: int, body: bytes, **headers: str) -> None:
        handler.send_response(status)
        headers |= {'Content-Type': 'application/octet-stream', 'Content-Length': str(len(body))}
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(body)


def serve(folder: Path) -> Iterator[Hub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.answer(self)

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    hub = Hub(folder, f'http://127.0.0.1:{server.server_port}')
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """No cache and no setting of this machine's user."""
    for name in NETWORK:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def hub(own_home, tmp_path, monkeypatch):
    for hub in serve(tmp_path / 'hub'):
        monkeypatch.setenv('HF_ENDPOINT', hub.url)
        yield hub


@pytest.fixture
def elsewhere(own_home, tmp_path):
    """A second host."""
    yield from serve(tmp_path / 'elsewhere')
