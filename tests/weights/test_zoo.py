"""Named weights, and downloads from a real server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import sys
import threading
from typing import Any

import pytest

from clipdense.clip.checkpoint.config_files import from_zoo
from clipdense.clip.listing import model_table
from clipdense.utils.errors import InputError
from clipdense.weights import zoo
from clipdense.weights.download import NotPublished, download, offline
from clipdense.weights.zoo import ZOO, Entry, fetch, find

BODY = bytes(range(256)) * 9000  # 2.3 MB: more than two blocks
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """One behaviour a path; ``asked`` keeps what was requested, with its range."""

    asked: list[tuple[str, str | None]]

    def do_GET(self):
        self.asked.append((self.path, self.headers.get('Range')))
        name = self.path.strip('/').split('/')[0]
        if name == 'page':
            self.answer(200, b'<html>', 'text/html; charset=utf-8')
        elif name == 'moved':
            self.send_response(302)
            self.send_header('X-Linked-Etag', f'"{DIGEST}"' if 'right' in self.path else f'"{"0" * 64}"')
            self.send_header('Location', '/file')
            self.end_headers()
        elif name == 'cut':
            self.answer(200, BODY, length=len(BODY) + 5)
        elif name == 'file' and self.headers.get('Range'):
            start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
            if start >= len(BODY):
                self.answer(416, b'')
            else:
                self.answer(206, BODY[start:])
        elif name in ('file', 'no-ranges') or self.path.endswith('open_clip_pytorch_model.bin'):
            self.answer(200, BODY)
        elif self.path.endswith('tokenizer.json'):
            self.answer(200, b'{}')
        else:
            self.answer(403 if name == 'closed' else 404, b'no')

    def answer(self, status, body, kind='application/octet-stream', length=None):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    class Recording(Handler):
        asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    instance: Any = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Recording)
    thread = threading.Thread(target=instance.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    instance.url = f'http://127.0.0.1:{instance.server_port}'
    instance.asked = Recording.asked
    yield instance
    instance.shutdown()
    instance.server_close()
    thread.join()


pytestmark = pytest.mark.usefixtures('own_home')


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock')


@pytest.mark.parametrize('digest', ['', DIGEST, DIGEST[:8]], ids=['unknown', 'whole', 'first digits'])
@pytest.mark.parametrize('path', ['/file', '/no-ranges', '/moved/right'])
def test_download(server, tmp_path, path, digest):
    target = tmp_path / 'new' / 'weights.pt'
    assert download(server.url + path, target, digest) == target
    assert target.read_bytes() == BODY
    assert files(target.parent) == ['weights.pt']
    count = len(server.asked)
    download(server.url + path, target, digest)
    assert len(server.asked) == count


BAD_ANSWERS = {
    'not there': ('/absent', '', NotPublished, 'does not exist'),
    'not allowed': ('/closed', '', InputError, 'HTTP status 403'),
    'web page': ('/page', '', InputError, 'is a web page'),
    'wrong digest': ('/file', '0' * 64, InputError, f'has sha256 {DIGEST}, expected 0000.*removed'),
    'wrong digits': ('/file', '00000000', InputError, f'has sha256 {DIGEST[:8]}, expected 00000000'),
    'stated digest': ('/moved/wrong', '', InputError, 'has sha256 .*, expected'),
}


@pytest.mark.parametrize('name', BAD_ANSWERS)
def test_bad_answers_leave_nothing(server, tmp_path, name):
    path, digest, error, message = BAD_ANSWERS[name]
    with pytest.raises(error, match=message) as caught:
        download(server.url + path, tmp_path / 'weights.pt', digest)
    assert '\n' not in str(caught.value)
    assert files(tmp_path) == []


def test_what_broke_off_is_continued(server, tmp_path):
    target = tmp_path / 'weights.pt'
    with pytest.raises(InputError, match=f'stopped after {len(BODY)} of {len(BODY) + 5} bytes; run again'):
        download(f'{server.url}/cut', target)
    assert files(tmp_path) == ['weights.pt.part']
    (tmp_path / 'weights.pt.part').write_bytes(BODY[:1000])
    download(f'{server.url}/file', target, DIGEST)
    assert server.asked[-1] == ('/file', 'bytes=1000-')
    assert target.read_bytes() == BODY


@pytest.mark.parametrize('path', ['/no-ranges', '/file'], ids=['no ranges', 'too long already'])
def test_a_useless_beginning_is_replaced(server, tmp_path, path):
    (tmp_path / 'weights.pt.part').write_bytes(b'?' * (len(BODY) if path == '/file' else 7))
    download(server.url + path, tmp_path / 'weights.pt', DIGEST)
    assert (tmp_path / 'weights.pt').read_bytes() == BODY


def test_unreachable_server(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match='cannot be reached'):
        download(f'http://127.0.0.1:{port}/file', tmp_path / 'weights.pt')


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(InputError, match='CLIPDENSE_CACHE'):
        download(f'{server.url}/file', tmp_path / 'file' / 'weights.pt')


def test_many_at_once_download_once(server, tmp_path):
    target = tmp_path / 'weights.pt'
    threads = [
        threading.Thread(target=download, args=(f'{server.url}/file', target, DIGEST)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == BODY
    assert len(server.asked) == 1


# Names


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('ViT-B-16/openai', 'ViT-B-16/openai'),
        ('ViT-B-16:openai', 'ViT-B-16/openai'),
        ('ViT-B/16', 'ViT-B-16/openai'),
        ('ViT-L/14@336px', 'ViT-L-14-336/openai'),
        ('RN50x64/openai', 'RN50x64/openai'),
    ],
)
def test_names_of_openai_need_no_open_clip(name, found, monkeypatch):
    monkeypatch.setattr(zoo, '_all', None)
    assert find(name).name == found


def test_openai_entries():
    entries = [entry for name, entry in ZOO.items() if name.endswith('/openai')]
    assert len(entries) == 9
    for entry in entries:
        assert len(entry.sha256) == 64
        assert entry.sha256 in entry.url
        assert entry.license == 'MIT'
        recorded = from_zoo(entry)
        assert recorded.image.activation == recorded.text.activation == 'quick_gelu'
        assert recorded.preprocess['mean'] == (0.48145466, 0.4578275, 0.40821073)
    sizes = {entry.name: from_zoo(entry).image.image_size for entry in entries}
    assert sizes['RN50x64/openai'] == 448
    assert sizes['ViT-L-14-336/openai'] == 336


def test_list_is_plain_and_openai_first():
    rows = json.loads(json.dumps(model_table()))
    assert rows[0]['name'] == 'RN50/openai'
    assert rows[5] == {
        'name': 'ViT-B-32/openai',
        'source': f'{zoo.OPENAI_URL}/{rows[5]["sha256"]}/ViT-B-32.pt',
        'license': 'MIT',
        'sha256': '40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af',
        'activation': 'quick_gelu',
        'image_size': 224,
        'mean': [0.48145466, 0.4578275, 0.40821073],
        'std': [0.26862954, 0.26130258, 0.27577711],
        'interpolation': 'bicubic',
        'resize': 'shortest',
    }


@pytest.fixture
def open_clip_list():
    if len(ZOO) == 9:
        pytest.skip('open_clip is not installed')


ROWS = [  # name, activation of image and text, heads of the image tower, mean, resize
    ('ViT-B-32/laion400m_e32', 'quick_gelu', 'quick_gelu', 12, 0.48145466, 'shortest'),
    ('ViT-B-32/laion2b_s34b_b79k', 'gelu', 'gelu', 12, 0.48145466, 'shortest'),
    ('ViT-B-32-quickgelu/metaclip_400m', 'quick_gelu', 'quick_gelu', 12, 0.48145466, 'shortest'),
    ('ViT-L-14/laion2b_s32b_b82k', 'gelu', 'gelu', 16, 0.5, 'shortest'),
    ('ViT-H-14-378/dfn5b', 'quick_gelu', 'quick_gelu', 16, 0.48145466, 'squash'),
    ('ViT-bigG-14/laion2b_s39b_b160k', 'gelu', 'gelu', 16, 0.48145466, 'shortest'),
    ('ViT-B-16-SigLIP/webli', 'gelu', 'gelu', 12, 0.5, 'squash'),
    ('ViT-B-16-SigLIP2/webli', 'gelu', 'gelu_tanh', 12, 0.5, 'squash'),
    ('ViT-SO400M-16-SigLIP2-256/webli', 'gelu_tanh', 'gelu_tanh', 16, 0.5, 'squash'),
]


@pytest.mark.parametrize(
    ('name', 'image', 'text', 'heads', 'mean', 'resize'), ROWS, ids=[row[0] for row in ROWS]
)
def test_open_clip_entries(open_clip_list, name, image, text, heads, mean, resize):
    recorded = from_zoo(find(name.replace('_', '-') if 'laion2b_s34b' in name else name))
    assert (recorded.image.activation, recorded.text.activation) == (image, text)
    assert recorded.image.num_heads == heads
    assert recorded.preprocess['mean'][0] == mean
    assert recorded.preprocess['resize'] == resize


def test_every_published_name_has_its_activation(open_clip_list):
    """Also those that open_clip lists under two models, '<model>' and '<model>-quickgelu'."""
    published, folder = zoo._open_clip_list()
    for model, tags in published.items():
        sizes = json.loads((folder / f'{model}.json').read_text('utf-8'))
        for tag, facts in tags.items():
            quick = bool(facts.get('quick_gelu', sizes.get('quick_gelu')))
            assert bool(find(f'{model}/{tag}').config['model_cfg'].get('quick_gelu')) is quick, (model, tag)


LICENSES = [
    ('ViT-B-32/metaclip_400m', 'CC-BY-NC-4.0'),
    ('ViT-B-16/dfn2b', 'Apple, see the model page'),
    ('MobileCLIP2-S0/dfndr2b', 'Apple, see the model page'),
    ('PE-Core-B-16/meta', 'Apache-2.0'),
    ('EVA02-B-16/merged2b_s8b_b131k', 'MIT'),
    ('ViT-B-16-SigLIP2/webli', 'Apache-2.0'),
    ('nllb-clip-base-siglip/v1', 'see the model page'),
    ('ViT-L-14-CLIPA/datacomp1b', 'see the model page'),
]


@pytest.mark.parametrize(('name', 'license'), LICENSES)
def test_licenses(open_clip_list, name, license):
    assert find(name).license == license


def test_every_entry_is_complete(open_clip_list):
    for name, entry in ZOO.items():
        assert entry.name == name
        assert entry.source.startswith('https://')
        assert entry.license
        assert entry.url or entry.files or entry.parts
        assert from_zoo(entry).preprocess['image_size'] >= 224
    assert len(ZOO['ViT-B-32/laion2b_e16'].sha256) == 8
    assert ZOO['ViT-B-32/laion2b_e16'].url.endswith(f'{ZOO["ViT-B-32/laion2b_e16"].sha256}.pth')


def test_the_list_costs_no_import_of_open_clip(open_clip_list, monkeypatch):
    for module in [
        name for name in sys.modules if name.split('.')[0] in ('open_clip', '_clipdense_open_clip')
    ]:
        monkeypatch.delitem(sys.modules, module)
    zoo._all.cache_clear()
    assert len(ZOO) > 9
    assert 'open_clip' not in sys.modules


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('ViT-B-16/opnai', r"unknown weights 'ViT-B-16/opnai'. Did you mean 'ViT-B-16/openai'\?"),
        (
            'ViT-B-32-quickgelu/laion2b_s34b_b79k',
            r'unknown weights .* use ViT-B-32/laion2b_s34b_b79k',
        ),
        ('ViT-B-16', r'is a model size: add a tag, as in ViT-B-16/openai; tags: openai'),
        ('nonsense', r"unknown weights 'nonsense'\..*clipdense models"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        find(name)


# Fetching


@pytest.fixture
def entries(server, monkeypatch):
    """A small zoo on the local server."""
    config = {'model_cfg': {'text_cfg': {'hf_tokenizer_name': 'timm/x'}, 'vision_cfg': {}}}
    plain = {'model_cfg': {'text_cfg': {}, 'vision_cfg': {}}}
    hub = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
    made = [
        Entry('A/url', f'{server.url}/file', '', (), DIGEST, 'MIT', plain),
        Entry('A/wrong', f'{server.url}/file', '', (), '0' * 64, 'MIT', plain),
        Entry('A/hub', '', 'someone/something', hub, '', 'MIT', config),
        Entry('A/gone', '', 'someone/gone', ('weights.pt',), '', 'MIT', plain),
    ]
    monkeypatch.setattr(zoo, '_openai', lambda: {entry.name: entry for entry in made})
    monkeypatch.setattr(zoo, '_all', lambda: {entry.name: entry for entry in made})
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    return {entry.name: entry for entry in made}


def test_fetch_by_url(entries, server, tmp_path):
    path = fetch('A/url')
    assert path == tmp_path / 'cache' / 'weights' / 'A-url' / 'file'
    assert path.read_bytes() == BODY
    assert fetch('A/url') == path
    assert len(server.asked) == 1


def test_fetch_from_hub_takes_the_next_file_and_the_tokenizer(entries, server):
    path = fetch('A/hub')
    assert path.name == 'open_clip_pytorch_model.bin'
    assert files(path.parent) == ['open_clip_pytorch_model.bin', 'tokenizer.json']
    assert ('/someone/something/resolve/main/open_clip_model.safetensors', None) in server.asked


def test_fetch_of_what_is_gone(entries):
    with pytest.raises(InputError, match=r'someone/gone has none of the files weights.pt'):
        fetch('A/gone')


def test_wrong_file_is_not_kept(entries, tmp_path):
    with pytest.raises(InputError, match=r'has sha256 .*, expected'):
        fetch('A/wrong')
    assert files(tmp_path / 'cache' / 'weights' / 'A-wrong') == []


def test_caches_of_others_are_used(entries, server, tmp_path):
    ours = tmp_path / 'home' / '.cache' / 'clip' / 'file'
    ours.parent.mkdir(parents=True)
    ours.write_bytes(BODY)
    assert fetch('A/url') == ours
    hub = tmp_path / 'home' / '.cache' / 'huggingface' / 'hub' / 'models--someone--something'
    (hub / 'snapshots' / 'abc').mkdir(parents=True)
    (hub / 'refs').mkdir()
    (hub / 'refs' / 'main').write_text('abc')
    (hub / 'snapshots' / 'abc' / 'open_clip_model.safetensors').write_bytes(b'x')
    assert fetch('A/hub') == hub / 'snapshots' / 'abc' / 'open_clip_model.safetensors'
    assert server.asked == []


def test_broken_file_in_the_cache_of_another_is_passed_over(entries, tmp_path):
    broken = tmp_path / 'home' / '.cache' / 'clip' / 'file'
    broken.parent.mkdir(parents=True)
    broken.write_bytes(BODY[:100])
    assert fetch('A/url').parent == tmp_path / 'cache' / 'weights' / 'A-url'


@pytest.mark.parametrize('variable', ['CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'])
@pytest.mark.parametrize('name', ['A/url', 'A/hub'])
def test_offline_touches_no_network(entries, server, monkeypatch, variable, name):
    def refuse(*_):
        raise AssertionError('a socket was opened')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setenv(variable, '1')
    with pytest.raises(
        InputError, match=f'{variable}=1 disables downloads.*path of the file.*--weights embedded'
    ) as caught:
        fetch(name)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('value', 'forbidden'), [('1', True), ('TRUE', True), ('0', False), ('', False)])
def test_offline_values(monkeypatch, value, forbidden):
    monkeypatch.setenv('HF_HUB_OFFLINE', value)
    assert bool(offline()) is forbidden


def test_offline_still_finds_the_cache(entries, monkeypatch):
    path = fetch('A/url')
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
    assert fetch('A/url') == path
