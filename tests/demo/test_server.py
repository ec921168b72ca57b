"""What the server gives away and what it refuses, over HTTP."""

from __future__ import annotations

import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from clipdense.demo.server import Address
from clipdense.utils.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def http(page_url):
    import httpx

    with httpx.Client(base_url=page_url, timeout=120) as client:
        yield client


@pytest.fixture(scope='module')
def config(http):
    return http.get('/config').json()


def upload(http, name, content):
    return http.post('/gradio_api/upload', files={'files': (name, content)})


def ask(http, config, path, names='cat, dog', session='visitor'):
    """Press Run as the browser does; returns the last message of the server."""
    by_id = {one['id']: one for one in config['components']}
    button = next(at for at, one in by_id.items() if one['props'].get('elem_id') == 'run')
    event = next(one for one in config['dependencies'] if [button, 'click'] in one['targets'])
    data = [by_id[at]['props'].get('value') for at in event['inputs']]
    data[0] = path and {'path': path, 'meta': {'_type': 'gradio.FileData'}}
    data[1] = names
    body = {'data': data, 'fn_index': event['id'], 'session_hash': session}
    joined = http.post('/gradio_api/queue/join', json=body)
    assert joined.status_code == 200, joined.text
    answer = http.get('/gradio_api/queue/data', params={'session_hash': session}).text
    messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith('data: ')]
    return next(one for one in messages if one['msg'] == 'process_completed')


def test_the_page_loads_nothing_from_elsewhere(http):
    page = http.get('/')
    assert page.status_code == 200
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="(https?://[^"]*)', page.text)
    assert loaded == []


def test_the_page_names_no_folder_of_the_server(http, config, weights):
    assert str(weights.parent) not in json.dumps(config)
    assert str(ROOT) not in json.dumps(config)


@pytest.mark.parametrize(
    'path',
    [
        '/etc/passwd',
        '/proc/self/environ',
        str(ROOT / 'setup.py'),
        'setup.py',
        '../../../../etc/passwd',
        '%2fetc%2fpasswd',
    ],
)
@pytest.mark.parametrize('route', ['/gradio_api/file=', '/file=', '/gradio_api/file/'])
def test_files_of_the_server_are_not_served(http, route, path):
    assert http.get(route + path).status_code in (403, 404)


def test_weights_are_not_served(http, weights):
    assert http.get(f'/gradio_api/file={weights}').status_code in (403, 404)


@pytest.fixture
def elsewhere():
    """Another server of this machine, and the requests that reach it."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/cat.png', seen
    server.shutdown()


@pytest.mark.parametrize('route', ['/gradio_api/file=', '/gradio_api/proxy='])
def test_files_of_other_servers_are_not_passed_on(http, elsewhere, route):
    address, seen = elsewhere
    assert http.get(route + address).status_code in (403, 404)
    assert seen == []


def test_images_are_not_read_from_addresses_or_folders(http, config, elsewhere):
    address, seen = elsewhere
    for path in (address, '/etc/passwd', str(ROOT / 'docs/images/photographs.jpg')):
        answer = ask(http, config, path)
        assert not answer['success']
        assert 'root:' not in json.dumps(answer)
    assert seen == []


def test_an_uploaded_image_is_answered(http, config):
    file = io.BytesIO()
    Image.new('RGB', (40, 30), (200, 30, 30)).save(file, 'PNG')
    (path,) = upload(http, 'red.png', file.getvalue()).json()
    output = ask(http, config, path, '<b>cat</b>, dog')['output']['data']
    assert '40 x 30 pixels' in output[0]
    assert '<b>cat' not in json.dumps(output)


@pytest.mark.parametrize(
    ('content', 'names', 'said'),
    [
        (b'hello', 'cat, dog', 'not an image'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', 'cat, dog', 'web page or XML'),
        (None, 'cat, dog', 'no image'),
    ],
)
def test_bad_input_is_told(http, config, content, names, said):
    path = content and upload(http, 'a.jpg', content).json()[0]
    answer = ask(http, config, path, names)
    assert answer['success']
    assert said in answer['output']['data'][0]


def test_large_files_are_refused(http):
    assert upload(http, 'a.png', bytes(2_100_000)).status_code == 413


def test_an_uploaded_svg_is_not_opened_in_the_page(http):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    (path,) = upload(http, 'a.svg', svg).json()
    assert http.get(f'/gradio_api/file={path}').headers['content-disposition'].startswith('attachment')


def test_there_is_no_public_api(http):
    assert http.get('/gradio_api/info').json()['named_endpoints'] == {}


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '127.0.0.5'])
def test_local_addresses(host):
    assert Address(host).local


@pytest.mark.parametrize(
    ('host', 'port', 'said'),
    [
        ('no.such.host.invalid', 0, 'no.such.host.invalid'),
        ('192.0.2.1', 0, '--host'),
        ('127.0.0.1', 70_000, 'port'),
    ],
)
def test_addresses_are_refused(host, port, said):
    assert not Address('0.0.0.0').local
    with pytest.raises(InputError, match=said):
        Address(host, port).free()
