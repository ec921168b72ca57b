"""Images to look at: masks over photographs with a legend, and galleries.  Pillow and NumPy only."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .errors import InputError
from .image_io import voc_palette

_SMALLEST = 240  # pixels of the longer side; smaller images are enlarged, so that one sees something
_LEGEND_ENTRIES = 60
_PAPER, _INK = (255, 255, 255), (24, 24, 24)


def overlay(
    image: Image.Image,
    mask: np.ndarray,
    class_names: Sequence[str],
    palette: np.ndarray | None = None,
    opacity: float = 0.5,
    hidden: Collection[str] = ('background',),
) -> Image.Image:
    """Colour an image by class, with a legend below it.

    Images with a longer side under 240 pixels are enlarged by a whole factor.

    Args:
        image: the image.
        mask: (H, W) class indices; other values (255 for unlabelled) stay uncoloured.
        class_names: K names.
        palette: (K or more, 3) uint8 colours; VOC's by default.
        opacity: of the colours, 0 to 1.
        hidden: classes that stay uncoloured and out of the legend.

    Returns:
        RGB, the image on top and the classes that occur below it, largest first, with their share of it.

    Raises:
        InputError: mask and image differ in size, too few colours, or an opacity out of range.
    """
    mask = np.asarray(mask)
    colours = voc_palette(max(len(class_names), 1)) if palette is None else np.asarray(palette, np.uint8)
    if mask.shape != (image.height, image.width):
        raise InputError(f'the mask is {mask.shape}, its image {(image.height, image.width)} (height, width)')
    if len(colours) < len(class_names):
        raise InputError(f'{len(colours)} colours for {len(class_names)} classes')
    if not 0 <= opacity <= 1:
        raise InputError(f'opacity is between 0 and 1, not {opacity}')
    none = len(class_names)  # the index of whatever is not coloured
    classes = np.where((mask >= 0) & (mask < none), mask, none)
    counts = np.bincount(classes.ravel(), minlength=none + 1)
    shown = np.array([name not in hidden for name in class_names] + [False])
    image = _enlarged(_coloured(image.convert('RGB'), classes, shown, colours, opacity))
    entries = [
        (f'{class_names[at]}  {_share(counts[at] / mask.size)}', tuple(colours[at].tolist()))
        for at in np.argsort(-counts, kind='stable')
        if counts[at] and shown[at]
    ]
    return _above(image, _legend(entries, image)) if entries else image


def draw_boxes(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[str],
    class_ids: np.ndarray,
    masks: np.ndarray | None = None,
    opacity: float = 0.4,
) -> Image.Image:
    """An image with boxes, the worst first so that the best lie on top.

    Images with a longer side under 240 pixels are enlarged by a whole factor.

    Args:
        image: the image.
        boxes: (n, 4) x1, y1, x2, y2, best first.
        labels: what is written at each.
        class_ids: (n,) boxes of one class share a colour.
        masks: (n, H, W) bool, laid over the image in the colour of their box.
        opacity: of the masks.
    """
    palette = distinct_palette(int(class_ids.max()) + 1 if len(class_ids) else 0)
    sheet = image.convert('RGB')
    for place in reversed(range(len(boxes) if masks is not None else 0)):
        alpha = Image.fromarray((masks[place] * round(255 * opacity)).astype(np.uint8))  # type: ignore[index]
        sheet.paste(tuple(palette[class_ids[place]].tolist()), mask=alpha)
    sheet = _enlarged(sheet)
    factor, line = sheet.width / image.width, max(1, round(max(sheet.size) / 300))
    font = _font(int(min(max(max(sheet.size) / 48, 11), 80)))
    draw = ImageDraw.Draw(sheet)
    for place in reversed(range(len(boxes))):
        colour = tuple(palette[class_ids[place]].tolist())
        x1, y1, x2, y2 = (float(value) * factor for value in boxes[place])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        text = fit(labels[place], max(sheet.width - x1, 40), font)
        top = max(y1 - font.size * 1.3, 0)
        draw.rectangle((x1, top, x1 + font.getlength(text) + 4, top + font.size * 1.3), fill=colour)
        draw.text((x1 + 2, top), text, fill=(255, 255, 255), font=font)
    return sheet


def gallery(
    rows: Sequence[Sequence[tuple[Image.Image, str]]], tile: int = 192, title: str | None = None
) -> Image.Image:
    """A contact sheet: rows of images, each with its caption below it.

    Args:
        rows: images and captions; rows may differ in length.
        tile: side of the square that each image is fitted into, in pixels.
        title: above everything.

    Raises:
        InputError: there is no image.
    """
    if not any(rows):
        raise InputError('a gallery needs at least one image')
    font, gap = _font(max(11, tile // 14)), max(6, tile // 24)
    width = gap + max(len(row) for row in rows) * (tile + gap)
    strips = [_gallery_row(row, tile, gap, width, font) for row in rows if row]
    if title:
        strips.insert(0, _text_block(title, width, gap, _font(max(14, tile // 9))))
    sheet = Image.new('RGB', (width, sum(strip.height for strip in strips) + gap), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def distinct_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 vivid colours, neighbours far apart in hue: easier on the eye than VOC's."""
    hues = [(0.02 + 0.618034 * index) % 1 for index in range(count)]
    tones = [((0.9, 0.95), (0.55, 0.98), (0.9, 0.65))[index // 8 % 3] for index in range(count)]
    colours = [colorsys.hsv_to_rgb(hue, *tone) for hue, tone in zip(hues, tones, strict=True)]
    return np.round(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def fit(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The text, or as much of its beginning as fits into ``width`` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # text[:low] fits
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + '…') <= width else (low, middle)
    return text[:low].rstrip() + '…'


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont, most: int = 3) -> list[str]:
    """At most ``most`` lines that fit into ``width`` pixels; the rest is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f'{lines[-1]} {word}') <= width:
            lines[-1] += f' {word}'
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] += f' {word}'  # too long by now: cut below
    return [fit(line, width, font) for line in lines]


def _coloured(
    image: Image.Image, classes: np.ndarray, shown: np.ndarray, colours: np.ndarray, opacity: float
) -> Image.Image:
    table = np.zeros((len(shown), 3), np.uint8)
    table[:-1] = colours[: len(shown) - 1]
    alpha = np.where(shown, round(255 * opacity), 0).astype(np.uint8)
    return Image.composite(Image.fromarray(table[classes]), image, Image.fromarray(alpha[classes]))


def _legend(entries: Sequence[tuple[str, tuple[int, ...]]], image: Image.Image) -> Image.Image:
    """A white strip with a coloured square before each name, at least as wide as the image."""
    size = int(min(max(max(image.size) / 36, 13), 160))
    font, line, gap = _font(size), round(size * 1.6), round(size * 0.6)
    width = max(image.width, 20 * size)
    if len(entries) > _LEGEND_ENTRIES:
        rest = len(entries) - _LEGEND_ENTRIES
        entries = [*entries[:_LEGEND_ENTRIES], (f'and {rest} more', _PAPER)]
    places, left, top = [], gap, gap
    for text, colour in entries:
        text = fit(text, width - 4 * gap - size, font)
        needed = size + gap + round(font.getlength(text)) + 2 * gap
        if left > gap and left + needed > width:
            left, top = gap, top + line
        places.append((left, top, text, colour))
        left += needed
    strip = Image.new('RGB', (width, top + line + gap), _PAPER)
    draw = ImageDraw.Draw(strip)
    for left, top, text, colour in places:
        outline = _PAPER if colour == _PAPER else (128, 128, 128)
        draw.rectangle((left, top, left + size, top + size), fill=colour, outline=outline)
        draw.text((left + size + gap, top + size / 2), text, fill=_INK, font=font, anchor='lm')
    return strip


def _gallery_row(
    row: Sequence[tuple[Image.Image, str]], tile: int, gap: int, width: int, font: ImageFont.FreeTypeFont
) -> Image.Image:
    line = round(font.size * 1.3)
    captions = [wrap(caption, tile, font) for _, caption in row]
    height = gap + tile + gap // 2 + max(len(lines) for lines in captions) * line
    strip = Image.new('RGB', (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for at, ((image, _), lines) in enumerate(zip(row, captions, strict=True)):
        left = gap + at * (tile + gap)
        small = _fitted(image.convert('RGB'), tile)
        strip.paste(small, (left + (tile - small.width) // 2, gap + (tile - small.height) // 2))
        for number, text in enumerate(lines):
            draw.text((left, gap + tile + gap // 2 + number * line), text, fill=_INK, font=font)
    return strip


def _text_block(text: str, width: int, gap: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    lines = wrap(text, width - 2 * gap, font)
    line = round(font.size * 1.3)
    strip = Image.new('RGB', (width, gap + len(lines) * line), _PAPER)
    draw = ImageDraw.Draw(strip)
    for number, part in enumerate(lines):
        draw.text((gap, gap + number * line), part, fill=_INK, font=font)
    return strip


def _above(image: Image.Image, strip: Image.Image) -> Image.Image:
    sheet = Image.new('RGB', (max(image.width, strip.width), image.height + strip.height), _PAPER)
    sheet.paste(image, (0, 0))
    sheet.paste(strip, (0, image.height))
    return sheet


def _enlarged(image: Image.Image) -> Image.Image:
    factor = -(-_SMALLEST // max(image.size))
    if factor <= 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Scaled to fit into a square; enlarged without smoothing, so that pixels stay visible."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _share(share: float) -> str:
    return f'{share:.0%}' if share >= 0.01 else '<1%'


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InputError('this Pillow has no FreeType to draw text with: install the wheel from PyPI')
    return font
