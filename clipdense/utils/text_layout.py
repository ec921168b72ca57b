"""Text in drawings: fonts for all characters, and text shortened or wrapped to a width in pixels."""

from __future__ import annotations

import functools
import unicodedata
import warnings

from PIL import ImageFont

from .errors import InputError

# Tried in this order if Pillow's own font, which has little more than ASCII, lacks a character; Pillow
# searches the system's font folders.
_SYSTEM_FONTS = (
    *(
        'NotoSans-Regular.ttf',
        'DejaVuSans.ttf',
        'LiberationSans-Regular.ttf',
    ),  # Linux: Latin, Greek, Cyrillic
    *('segoeui.ttf', 'arial.ttf', 'Arial.ttf', 'Arial Unicode.ttf'),  # Windows, macOS
    *('NotoSansCJK-Regular.ttc', 'NotoSansCJKsc-Regular.otf', 'SourceHanSans-Regular.ttc'),
    *('wqy-microhei.ttc', 'wqy-zenhei.ttc', 'DroidSansFallbackFull.ttf', 'DroidSansFallback.ttf'),
    *('fonts-japanese-gothic.ttf', 'NanumGothic.ttf', 'uming.ttc'),
    *('msyh.ttc', 'YuGothM.ttc', 'meiryo.ttc', 'malgun.ttf', 'simsun.ttc'),  # Windows
    *('PingFang.ttc', 'Hiragino Sans GB.ttc', 'AppleSDGothicNeo.ttc'),  # macOS
    *('NotoSansArabic-Regular.ttf', 'NotoNaskhArabic-Regular.ttf', 'NotoSansHebrew-Regular.ttf'),
    *('NotoSansDevanagari-Regular.ttf', 'NotoSansThai-Regular.ttf', 'Nirmala.ttf', 'Nirmala.ttc'),
    *('FreeSans.ttf', 'unifont.otf', 'unifont.ttf'),
)
_PROBE = 16  # pixels; size at which glyphs are compared


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font for a text: Pillow's own, or a system font that has more of the characters.

    Args:
        text: the text to draw.
        size: in pixels.

    Raises:
        InputError: Pillow was built without FreeType.

    Warns:
        UserWarning: no font has all characters; the missing ones are drawn as boxes.
    """
    return _font(_font_name(text), size)


def fit(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The text, shortened with an ellipsis to at most ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # text[:low] fits
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + '…') <= width else (low, middle)
    return text[:low].rstrip() + '…'


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont, most: int = 3) -> list[str]:
    """Split into at most ``most`` lines of ``width`` pixels; the rest is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f'{lines[-1]} {word}') <= width:
            lines[-1] += f' {word}'
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] += f' {word}'  # too long, cut below
    return [fit(line, width, font) for line in lines]


@functools.lru_cache(maxsize=4096)
def _font_name(text: str) -> str | None:
    """The first font with the fewest missing characters; None is Pillow's own."""
    missing = _missing(text, None)
    best: str | None = None
    for name in _SYSTEM_FONTS if missing else ():
        if _exists(name) and len(left := _missing(text, name)) < len(missing):
            best, missing = name, left
        if not missing:
            break
    if missing:
        _warn(''.join(sorted(missing)))
    return best


@functools.lru_cache(maxsize=1024)
def _warn(characters: str) -> None:
    """Warn once for the same characters."""
    warnings.warn(
        f'no font found for {characters!r}; these characters are drawn as boxes. '
        'Install a font that has them: DejaVu Sans (fonts-dejavu), or Noto Sans CJK (fonts-noto-cjk) for '
        'Chinese, Japanese and Korean',
        stacklevel=4,
    )


def _missing(text: str, name: str | None) -> set[str]:
    return {character for character in text if not _has_glyph(name, character)}


@functools.lru_cache(maxsize=16384)
def _has_glyph(name: str | None, character: str) -> bool:
    """Whether a character is drawn differently from a missing one."""
    if character.isspace() or unicodedata.category(character) in ('Cc', 'Cf', 'Mn'):
        return True
    font = _font(name, _PROBE)
    return _glyph(font, character) != _glyph(font, '\U0010ffff')


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    glyph = font.getmask(character)
    return glyph.size, bytes(glyph)


@functools.lru_cache(maxsize=64)
def _exists(name: str) -> bool:
    try:
        _font(name, _PROBE)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    if name is not None:
        return ImageFont.truetype(name, size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InputError(
            'Pillow was built without FreeType, which is needed to draw text; install Pillow from PyPI'
        )
    return font
