"""The server of the page: its address, limits, and what it does not offer."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdense.utils.errors import InputError, MissingPackage

from .uploads import Limits

if TYPE_CHECKING:
    from .page import Example
    from .predictions import Engine

QUEUE = 16  # visitors that wait for a result, at most
SESSIONS = 32  # visitors whose last results are kept


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Raises:
        InputError: a port out of range.
    """

    host: str = '127.0.0.1'
    port: int = 7860

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f'the port must be 0 to 65535, got {self.port}')

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == 'localhost' or self.host.startswith('127.') or self.host == '::1'

    def free(self) -> Address:
        """This address, with a free port instead of 0.

        Raises:
            InputError: it cannot be used.
        """
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((self.host, self.port))
                return Address(self.host, tried.getsockname()[1])
        except (OSError, UnicodeError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise InputError(
                f'the page cannot be served at {self.host}:{self.port} ({reason}): choose another --port or '
                '--host'
            ) from error


def has_gradio() -> bool:
    """Whether gradio is installed; it is not imported, and a folder of this name is not taken for it."""
    spec = importlib.util.find_spec('gradio')
    return spec is not None and spec.origin is not None


def check_installed() -> None:
    """Check that gradio is installed; does not import it.

    Raises:
        MissingPackage: it is not.
    """
    if not has_gradio():
        raise MissingPackage('gradio is not installed: pip install "clipdense[demo]"')


@contextmanager
def running(
    engine: Engine, address: Address, limits: Limits, examples: Sequence[Example] = (), browser: bool = False
) -> Iterator[str]:
    """Serve the page in other threads while the context is open; yields its URL.

    Files of visitors are in a folder of their own, which is deleted at the end.

    Raises:
        MissingPackage: gradio is not installed.
        InputError: the address cannot be used.
    """
    check_installed()
    address = address.free()
    with tempfile.TemporaryDirectory(prefix='clipdense-demo-', ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        with _environment(folder):
            from .page import CSS, Handlers, build_page, theme

            page = build_page(Handlers(engine, limits, folder / 'results'), examples)
            page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
            try:
                page.launch(
                    server_name=address.host,
                    server_port=address.port,
                    inbrowser=browser,
                    max_file_size=limits.megabytes * 1_000_000,
                    allowed_paths=[str(folder / 'none')],  # given, so that the environment adds none
                    theme=theme(),
                    css=CSS,
                    app_kwargs={'middleware': [(_NoAddresses, (), {})]},
                    **_CLOSED,
                )
                yield f'http://{"localhost" if address.local else address.host}:{address.port}'
            finally:
                page.close(verbose=False)


# Given explicitly, so that no variable of the environment switches them on.
_CLOSED: dict[str, Any] = {
    'share': False,
    'ssr_mode': False,
    'mcp_server': False,
    'run_history': False,
    'enable_monitoring': False,
    'pwa': False,
    'show_error': False,
    'strict_cors': True,
    'footer_links': [],
    'state_session_capacity': SESSIONS,
    'root_path': '',
    'prevent_thread_lock': True,
    'quiet': True,
}


class _NoAddresses:
    """Middleware: refuses requests for files of other servers, which gradio would pass on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        asked = str(scope.get('path', ''))
        if scope['type'] == 'http' and ('://' in asked or 'proxy=' in asked):
            await send({'type': 'http.response.start', 'status': 403, 'headers': []})
            await send({'type': 'http.response.body', 'body': b'only files of this page are served'})
        else:
            await self.app(scope, receive, send)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What gradio reads from the environment only: its folder, and no reports to its makers."""
    wanted = {
        'GRADIO_TEMP_DIR': str(folder),
        'GRADIO_ANALYTICS_ENABLED': 'False',
        'HF_HUB_DISABLE_TELEMETRY': '1',
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def wait_for_interrupt() -> None:
    """Return at Ctrl-C or when the process is asked to end."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(1):
        pass
