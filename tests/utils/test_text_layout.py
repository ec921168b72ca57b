"""Text fits its width; fonts of the system are used where Pillow's own lacks characters, and never needed."""

from __future__ import annotations

import warnings

import pytest
from PIL import ImageFont

from clipdense.utils import text_layout
from clipdense.utils.text_layout import fit, font_for, wrap

FONT = ImageFont.load_default(12)
TEXTS = ['', 'a', 'some words', 'Donaudampfschifffahrt' * 9, '日本 ' * 40, 'line\nbreak ' * 30, 'قطة ' * 30]


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('width', [20, 90])
def test_text_fits(text, width):
    assert FONT.getlength(fit(text.replace('\n', ' '), width, FONT)) <= width
    lines = wrap(text, width, FONT)
    assert len(lines) <= 3
    assert all(FONT.getlength(line) <= width for line in lines)


def test_short_text_is_left_alone():
    assert fit('a cat', 300, FONT) == 'a cat'
    assert wrap('a cat  on\na mat', 300, FONT) == ['a cat on a mat']
    assert wrap('one two three four five', FONT.getlength('one two'), FONT, most=2)[-1].endswith('…')


@pytest.fixture
def system_fonts(monkeypatch):
    """Fonts of a system: named ones, each a stand-in that holds some characters."""

    class StandIn:
        def __init__(self, name: str, held: str, size: int) -> None:
            self.name, self.held, self.size = name, held, size

        def getmask(self, character: str) -> Mask:
            return Mask(character.encode() if character in self.held else b'box')

    class Mask(bytes):
        size = (1, 1)

    original = ImageFont.truetype

    def install(fonts: dict[str, str]) -> None:
        def truetype(name, size, **options):
            if not isinstance(name, str):  # Pillow's own font
                return original(name, size, **options)
            if name not in fonts:
                raise OSError('cannot open resource')
            return StandIn(name, fonts[name], size)

        monkeypatch.setattr(text_layout.ImageFont, 'truetype', truetype)
        for name in ('_font', '_exists', '_has_glyph', '_font_name', '_warn'):
            getattr(text_layout, name).cache_clear()

    yield install
    for name in ('_font', '_exists', '_has_glyph', '_font_name', '_warn'):
        getattr(text_layout, name).cache_clear()


CJK, ARABIC = 'NotoSansCJK-Regular.ttc', 'DejaVuSans.ttf'


@pytest.mark.parametrize(
    ('text', 'fonts', 'expected', 'warned'),
    [
        ('cat, traffic light (red) 12% …', {CJK: 'cat'}, None, ''),
        ('naïve', {ARABIC: 'naïve'}, ARABIC, ''),
        ('日本', {CJK: '日本'}, CJK, ''),
        ('日本 house', {CJK: '日本house'}, CJK, ''),
        ('قطة', {CJK: '日本', ARABIC: 'قطة'}, ARABIC, ''),
        ('日本', {ARABIC: '日'}, ARABIC, "'本'"),
        ('日本', {}, None, "'日本'"),
        ('日本', {ARABIC: 'قطة'}, None, "'日本'"),
    ],
    ids=['ASCII', 'accents', 'Japanese', 'mixed', 'Arabic', 'some of it', 'no fonts', 'no such font'],
)
def test_the_font_with_the_characters(system_fonts, text, fonts, expected, warned):
    system_fonts(fonts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        font = font_for(text, 20)
        font_for(text, 30)
    assert getattr(font, 'name', None) == expected
    assert font.size == 20
    assert len(caught) == bool(warned)  # once, not at every size
    assert all(f'no font found for {warned}' in str(warning.message) for warning in caught)
