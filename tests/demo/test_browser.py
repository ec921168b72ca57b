"""The page in a real browser: Chromium without a window, driven by playwright.

Needs the extras ``demo`` and ``browser`` and a Chromium or Chrome in the path; skips otherwise.
"""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from clipdense.inference.segmenter import Segmenter
from clipdense.tasks.options import SegmentationOptions

pytestmark = pytest.mark.browser
WAIT = 120_000  # milliseconds, for machines with much else to do
NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
STATUS = '#status .cd-message'
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


@pytest.fixture(scope='module')
def browser(page_url):
    playwright = pytest.importorskip('playwright.sync_api', reason='pip install "clipdense[browser]"')
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f'none of {", ".join(NAMES)} is installed')
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, page_url):
    """``visit() -> page`` of a new visitor.  A script that ran would have opened a dialog."""
    contexts, dialogs, addresses = [], [], []

    def new():
        contexts.append(browser.new_context(viewport={'width': 1400, 'height': 1100}))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on('dialog', lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on('request', lambda request: addresses.append(request.url))
        page.goto(page_url)
        page.wait_for_selector('#run')
        return page

    yield new
    for context in contexts:
        context.close()
    assert dialogs == []
    foreign = {url for url in addresses if not url.startswith((page_url, 'data:', 'blob:'))}
    assert foreign == set()  # works without a network


@pytest.fixture
def photo(tmp_path, image):
    image.save(tmp_path / 'two halves.png')
    return tmp_path / 'two halves.png'


def status(page) -> str:
    return page.inner_text(STATUS)


def give(page, file) -> None:
    """Add an image and wait until the server has looked at it."""
    before = status(page)
    page.set_input_files('#image input[type=file]', file)
    page.wait_for_function(f'before => document.querySelector("{STATUS}").innerText != before', arg=before)


def run(page, names: str) -> None:
    page.fill('#classes textarea', names)
    page.click('#run')
    page.wait_for_function(f'() => /pixels in/.test(document.querySelector("{STATUS}").innerText)')
    page.wait_for_selector('#first-image img')


def shown(page, side='first') -> np.ndarray:
    """The pixels of a result, as the browser got them."""
    address = page.locator(f'#{side}-image img').get_attribute('src')
    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert('RGB'))


def expected(weights, image, names, method=None):
    options = SegmentationOptions(refine=True)  # as the page begins
    return Segmenter.from_pretrained(weights, method, options=options, cache=False)(image, names)


def test_an_image_is_segmented(visit, photo, image, weights):
    page = visit()
    give(page, photo)
    assert '64 x 48 pixels' in status(page)
    run(page, 'cat, dog, sofa')
    wanted = expected(weights, image, ['cat', 'dog', 'sofa'])
    assert np.array_equal(shown(page), wanted.plot(legend=False, side=1))
    with page.expect_download() as download:
        page.click('#first-files a >> nth=0')
    assert download.value.suggested_filename == 'two_halves_maskclip_aligned_mask.png'
    assert np.array_equal(np.asarray(Image.open(download.value.path())), wanted.mask)
    page.click('#first-image img')
    page.wait_for_selector('#first-point .cd-score')
    assert wanted.vocabulary.class_names[wanted.mask[24, 32]] in page.inner_text('#first-point')


def test_two_methods_are_compared(visit, photo, image, weights):
    page = visit()
    give(page, photo)
    page.click('#compare input')
    page.click('[role=option]:has-text("naclip")')
    run(page, 'cat, dog')
    page.wait_for_selector('#second-image img')
    for side, method in (('first', 'maskclip'), ('second', 'naclip')):
        wanted = expected(weights, image, ['cat', 'dog'], method)
        assert np.array_equal(shown(page, side), wanted.plot(legend=False, side=1))


def test_visitors_see_their_own_only(visit, photo):
    first, second = visit(), visit()
    give(first, photo)
    run(first, 'a secret, a wall')
    assert 'secret' not in second.content()
    assert second.locator('#first-image img').count() == 0
    give(second, photo)
    run(second, 'lake, boat')
    later = visit()
    assert not [page for page in (second, later) if 'secret' in page.content()]
    assert not [page for page in (first, later) if 'lake' in page.content()]
    assert 'secret' in first.inner_text('#first-legend')


def sixty_megapixels() -> bytes:
    file = io.BytesIO()
    Image.new('1', (10_000, 6_000)).save(file, 'PNG')
    return file.getvalue()


REFUSED = {
    '60 megapixels': (
        'large.png',
        'image/png',
        sixty_megapixels,
        'large.png: the image has 10000 x 6000 pixels',
    ),
    'SVG': ('drawing.svg', 'image/svg+xml', lambda: SVG, 'drawing.svg: the image is a web page or XML'),
    'text': ('notes.jpg', 'image/jpeg', lambda: b'hello', 'notes.jpg: the image is not an image'),
}


@pytest.mark.parametrize(('name', 'kind', 'content', 'said'), REFUSED.values(), ids=REFUSED)
def test_files_are_refused(visit, name, kind, content, said):
    page = visit()
    give(page, {'name': name, 'mimeType': kind, 'buffer': content()})
    assert said in page.inner_text('#status [role=alert]')
    page.wait_for_function('() => !document.querySelector("#image img")')  # it is off the page


def test_names_are_text(visit, photo):
    page = visit()
    give(page, photo)
    page.fill('#classes textarea', ' ')
    page.click('#run')
    page.wait_for_selector('#status [role=alert]:has-text("no class names")')
    name = '<img src=x onerror=alert(1)>'
    run(page, f'{name}, <script>alert(2)</script>')
    assert name in page.inner_text('#first-legend') + page.inner_text('#status')


def test_a_closed_page_leaves_the_others(visit, photo):
    page, other = visit(), visit()
    give(page, photo)
    page.fill('#classes textarea', ', '.join(f'class {index}' for index in range(500)))
    page.click('#run')
    page.close()
    give(other, photo)
    run(other, 'cat, dog')
