"""Write the screenshot of the page for the documentation: ``python tools/demo_screenshot.py [FILE]``.

Needs the extras ``embedded``, ``demo`` and ``browser``, and Chromium or Chrome.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from clipdense.cli.demo import source
from clipdense.cli.photographs import WEIGHTS, installed_photographs
from clipdense.demo.predictions import Engine
from clipdense.demo.server import Address, running
from clipdense.demo.uploads import Limits

SIZE = {'width': 1480, 'height': 860}
WAIT = 600_000  # milliseconds


def use(page: Page, url: str) -> None:
    """Segment a photograph with two methods, and click on the first result."""
    page.set_default_timeout(WAIT)
    page.goto(url)
    photograph = installed_photographs()[1]
    page.set_input_files('#image input[type=file]', photograph.file)
    page.wait_for_selector('#status :text("pixels")')
    page.fill('#classes textarea', ', '.join(photograph.names))
    page.click('#compare input')
    page.click('[role=option]:has-text("vanilla")')
    page.click('#run')
    page.wait_for_selector('#second-image img')
    page.click('#first-image img')
    page.wait_for_selector('#first-point .cd-score')
    page.mouse.move(0, 0)
    page.evaluate('window.scrollTo(0, 0)')
    page.wait_for_timeout(500)


def main(file: str = 'docs/images/demo.jpg') -> None:
    """Serve the page, use it, and write the screenshot."""
    names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        sys.exit(f'none of {", ".join(names)} is installed')
    examples = [(one.file, one.names) for one in installed_photographs()]
    engine = Engine([source(WEIGHTS)], 'cpu', 'fp32')
    with running(engine, Address(port=0), Limits(), examples) as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=['--no-sandbox'])
        page = browser.new_page(viewport=SIZE)
        use(page, url)
        screenshot = Image.open(io.BytesIO(page.screenshot())).convert('RGB')
        browser.close()
    screenshot.save(file, quality=82, optimize=True)
    print(f'{file}: {Path(file).stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main(*sys.argv[1:])
