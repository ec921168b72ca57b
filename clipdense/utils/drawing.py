"""Draw masks and boxes over images, with labels or a legend, and galleries.

Pillow and NumPy only.  Line widths and text grow with the image.  (H, W): pixels, K: classes, n: boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipdense.utils.wording import counted

from .errors import InputError
from .palette import class_palette, text_color
from .text_layout import fit, font_for, wrap

_SIDE = 512  # images with a smaller longer side (pixels) are enlarged up to this
_LEGEND_ENTRIES = 60
_BLOCK = 1 << 22  # pixels that are processed at a time, which bounds the memory of large images
_PAPER, _INK, _RULE = (255, 255, 255), (24, 24, 24), (128, 128, 128)

Color = tuple[int, ...]
Box = tuple[float, float, float, float]


class _Entry(NamedTuple):
    """A line of a legend."""

    name: str
    value: str
    color: Color | None


class _Label(NamedTuple):
    """Two texts, each with its font, on a colored rectangle (``area``)."""

    name: str
    note: str
    fonts: tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]
    pad: int
    color: Color
    area: Box


def overlay(
    image: Image.Image,
    mask: np.ndarray,
    class_names: Sequence[str],
    palette: np.ndarray | None = None,
    opacity: float = 0.5,
    hidden: Collection[str] = ('background',),
    legend: bool = True,
    side: int = _SIDE,
) -> Image.Image:
    """Color an image by class, with an outline around each segment and a legend below.

    Args:
        image: the image.
        mask: (H, W) class indices; other values (255 for unlabeled) stay uncolored.
        class_names: K names.
        palette: (K or more, 3) uint8 colors; ``class_palette`` by default.
        opacity: opacity of the colors, 0 to 1.
        hidden: classes without color and legend entry.
        legend: whether to list the classes that occur, largest first, with their fraction of the image.
        side: small images are enlarged by an integer factor while their longer side is at most this.

    Returns:
        RGB, as large as the image (enlarged), plus the legend.

    Raises:
        InputError: mask and image differ in size, the palette is too short, or opacity is out of range.
    """
    mask = np.asarray(mask)
    colors = class_palette(len(class_names)) if palette is None else np.asarray(palette, np.uint8)
    if mask.shape != (image.height, image.width):
        raise InputError(
            f'mask size {mask.shape} differs from image size {(image.height, image.width)} (H, W)'
        )
    if len(colors) < len(class_names):
        raise InputError(
            f'the palette has {counted(len(colors), "color")} for {counted(len(class_names), "class")}'
        )
    if not 0 <= opacity <= 1:
        raise InputError(f'opacity must be between 0 and 1, got {opacity}')
    counts = count_indices(mask, len(class_names))
    shown = np.array([name not in hidden for name in class_names] + [False])
    factor = _enlargement(image, side)
    size = image.width * factor, image.height * factor
    entries = [
        _Entry(class_names[at], _percent(counts[at] / mask.size), tuple(colors[at].tolist()))
        for at in np.argsort(-counts, kind='stable').tolist()
        if counts[at] and shown[at]
    ]
    strip = _legend(entries, size) if legend and entries else None
    sheet = _sheet(size, strip)
    for top, band in _colored_bands(image, mask, factor, shown, colors, opacity):
        sheet.paste(band, (0, top))
    return sheet


def draw_boxes(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[str],
    class_ids: np.ndarray,
    masks: np.ndarray | None = None,
    opacity: float = 0.4,
    notes: Sequence[str] | None = None,
    side: int = _SIDE,
) -> Image.Image:
    """Draw labeled boxes on an image; the first boxes are on top, and labels stay inside the image.

    Args:
        image: the image.
        boxes: (n, 4) x1, y1, x2, y2, best first.
        labels: n names; long ones are shortened.
        class_ids: (n,) boxes of one class share a color, that of ``class_palette``.
        masks: (n, H, W) bool, drawn in the color of their box.
        opacity: of the masks.
        notes: n texts after the labels, such as scores; never shortened.
        side: see ``overlay``.

    Returns:
        RGB, as large as the image (enlarged).
    """
    palette = class_palette(int(class_ids.max()) + 1 if len(class_ids) else 0)
    colors = [tuple(palette[class_id].tolist()) for class_id in class_ids]
    factor = _enlargement(image, side)
    sheet = _enlarged(image.convert('RGB'), factor)
    for place in reversed(range(len(boxes) if masks is not None else 0)):
        _color_object(sheet, masks[place], factor, colors[place], opacity)  # type: ignore[index]
    draw, line = ImageDraw.Draw(sheet), max(2, round(max(sheet.size) / 280))
    scaled = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes.astype(float) * factor).tolist()]
    for (x1, y1, x2, y2), color in reversed(list(zip(scaled, colors, strict=True))):
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
    written: list[_Label] = []
    for place, box in enumerate(scaled):
        note = notes[place] if notes is not None else ''
        written.append(_placed(sheet.size, box, labels[place], note, colors[place], written))
    for label in reversed(written):
        _write(draw, label)
    return sheet


def gallery(
    rows: Sequence[Sequence[tuple[Image.Image, str]]], tile: int = 192, title: str | None = None
) -> Image.Image:
    """Draw rows of images, each with its caption below it.

    Args:
        rows: images and captions; rows may differ in length.
        tile: the width that each image is scaled to, in pixels; its height is at most twice that.
        title: text at the top.

    Raises:
        InputError: no images.
    """
    if not any(rows):
        raise InputError('a gallery needs at least one image')
    size, gap = max(13, tile // 14), max(6, tile // 16)
    width = gap + max(len(row) for row in rows) * (tile + gap)
    strips = [_gallery_row(row, tile, gap, width, size) for row in rows if row]
    if title:
        strips.insert(0, _text_block(title, width, gap, round(size * 1.4)))
    sheet = Image.new('RGB', (width, sum(strip.height for strip in strips) + gap), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def count_indices(mask: np.ndarray, count: int) -> np.ndarray:
    """(count,) how often each index occurs; others are not counted.  In blocks of rows, for large masks."""
    total = np.zeros(count, np.int64)
    for rows in _blocks(mask.shape):
        part = mask[rows].ravel()
        total += np.bincount(part[(part >= 0) & (part < count)], minlength=count)[:count]
    return total


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    """Bands of the rows of an array (H, W) that are processed at a time."""
    step = max(1, _BLOCK // max(1, shape[1]))
    return [slice(top, min(top + step, shape[0])) for top in range(0, shape[0], step)]


def _colored_bands(
    image: Image.Image, mask: np.ndarray, factor: int, shown: np.ndarray, colors: np.ndarray, opacity: float
) -> Iterator[tuple[int, Image.Image]]:
    """Bands of the enlarged image with colors and outlines, and the row in which each begins."""
    none = len(shown) - 1  # index of uncolored pixels
    line = max(1, round(max(image.size) * factor / 400))
    for rows in _blocks(mask.shape):
        top, bottom = max(0, rows.start - line - 1), min(image.height, rows.stop + line + 1)
        part = mask[top:bottom]
        classes = np.where((part >= 0) & (part < none), part, none).astype(np.int32)
        classes = classes.repeat(factor, axis=0).repeat(factor, axis=1)
        band = image.crop((0, top, image.width, bottom)).convert('RGB')
        band = _colored(_enlarged(band, factor), classes, shown, colors, opacity, line)
        first, last = (rows.start - top) * factor, (rows.stop - top) * factor
        yield rows.start * factor, band.crop((0, first, band.width, last))


def _colored(
    image: Image.Image, classes: np.ndarray, shown: np.ndarray, colors: np.ndarray, opacity: float, line: int
) -> Image.Image:
    """Blend the colors of classes, and draw outlines of a width; the last of ``shown`` has no color."""
    table = np.zeros((len(shown), 3), np.uint8)
    table[:-1] = colors[: len(shown) - 1]
    alpha = np.where(shown, round(255 * opacity), 0).astype(np.uint8)[classes]
    if opacity:
        alpha[_edges(classes, line) & shown[classes]] = 255
    return Image.composite(Image.fromarray(table[classes]), image, Image.fromarray(alpha))


def _color_object(sheet: Image.Image, mask: np.ndarray, factor: int, color: Color, opacity: float) -> None:
    """Draw the mask (H, W) of an object, to be enlarged; only the image around it is changed."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return
    top, left = max(0, int(rows[0]) - 1), max(0, int(columns[0]) - 1)
    part = mask[top : int(rows[-1]) + 2, left : int(columns[-1]) + 2] != 0
    uncovered = (~part).astype(np.int32).repeat(factor, axis=0).repeat(factor, axis=1)
    place = left * factor, top * factor
    area = sheet.crop((*place, place[0] + uncovered.shape[1], place[1] + uncovered.shape[0]))
    line = max(1, round(max(sheet.size) / 400))
    sheet.paste(_colored(area, uncovered, np.array([True, False]), np.array([color]), opacity, line), place)


def _edges(classes: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels at most ``width`` from a pixel of another class."""
    edges = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        ahead, behind = _shifted(classes, axis)
        differs = ahead != behind
        for part in _shifted(edges, axis):
            part |= differs
    reached = 0  # distance in steps along rows and columns
    while reached < width - 1:
        step = min(
            max(1, (reached + 1) // 2), width - 1 - reached
        )  # longer steps would miss pixels at borders
        before = edges.copy()
        for axis in (0, 1):
            (ahead, behind), (old_ahead, old_behind) = (
                _shifted(edges, axis, step),
                _shifted(before, axis, step),
            )
            ahead |= old_behind
            behind |= old_ahead
        reached += step
    return edges


def _shifted(array: np.ndarray, axis: int, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Views without the first and without the last rows (or columns)."""
    return (array[step:], array[:-step]) if axis == 0 else (array[:, step:], array[:, :-step])


def under_legend(
    image: Image.Image, class_names: Sequence[str], palette: np.ndarray, hidden: Collection[str] = ()
) -> Image.Image:
    """The image above a legend of all classes, which depends on its size and the classes only."""
    colors = np.asarray(palette, np.uint8).tolist()
    entries = [
        _Entry(name, '', tuple(color))
        for name, color in zip(class_names, colors, strict=False)
        if name not in hidden
    ]
    if not entries:
        return image
    strip = _legend(entries, image.size)
    result = Image.new('RGB', (max(image.width, strip.width), image.height + strip.height), _PAPER)
    result.paste(image, (0, 0))
    result.paste(strip, (0, image.height))
    return result


def _legend(entries: Sequence[_Entry], image_size: tuple[int, int]) -> Image.Image:
    """A white strip with columns of color, name and value, at least as wide as the image."""
    largest = int(min(max(max(image_size) / 34, 14), 160))
    if len(entries) > _LEGEND_ENTRIES:
        rest = len(entries) - _LEGEND_ENTRIES
        entries = [*entries[:_LEGEND_ENTRIES], _Entry(f'and {rest} more', '', None)]
    for size in range(largest, min(13, largest) - 1, -1):  # smaller text if the list is too large
        width, gap, line = max(image_size[0], 10 * size), round(size * 0.5), round(size * 1.5)
        column = _column_width(entries, size, gap, width)
        rows = -(-len(entries) // max(1, (width - gap) // column))
        fits = rows * line < 0.6 * image_size[1] and column < width - gap
        if fits or size < 0.75 * largest:
            break
    strip = Image.new('RGB', (width, rows * line + 2 * gap), _PAPER)
    for at, entry in enumerate(entries):
        place = gap + at // rows * column, gap + at % rows * line + line // 2
        _legend_entry(ImageDraw.Draw(strip), place, entry, size, column - 3 * gap)
    return strip


def _column_width(entries: Sequence[_Entry], size: int, gap: int, width: int) -> int:
    names = max(font_for(entry.name, size).getlength(entry.name) for entry in entries)
    values = max(font_for(entry.value, size).getlength(entry.value) for entry in entries)
    return int(min(min(names, 16 * size) + size + 5 * gap + values + 1, width - gap))


def _legend_entry(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], entry: _Entry, size: int, width: int
) -> None:
    """Draw color, name and value at ``place``, the middle of the left end; a long name is shortened."""
    (left, middle), gap = place, round(size * 0.5)
    if entry.color is not None:
        square = (left, middle - size // 2, left + size, middle + size // 2)
        draw.rectangle(square, fill=entry.color, outline=_RULE, width=max(1, size // 16))
    font, plain = font_for(entry.name, size), font_for(entry.value, size)
    name = fit(entry.name, width - size - 2 * gap - plain.getlength(entry.value), font)
    draw.text((left + size + gap, middle), name, fill=_INK, font=font, anchor='lm')
    draw.text((left + width, middle), entry.value, fill=_INK, font=plain, anchor='rm')


def _placed(
    size: tuple[int, int], box: Box, name: str, note: str, color: Color, others: Sequence[_Label]
) -> _Label:
    """A label at a box, inside the image and, if possible, not overlapping others."""
    height_of_text = int(min(max(max(size) / 42, 13), 120))
    fonts, pad = (font_for(name, height_of_text), font_for(note, height_of_text)), height_of_text // 4
    note_width = fonts[1].getlength(note) + pad if note else 0
    name = fit(name, max(min(size[0] - 2 * pad - note_width, 20 * height_of_text), 0), fonts[0])
    width, height = fonts[0].getlength(name) + note_width + 2 * pad, round(height_of_text * 1.3)
    x = max(0, min(box[0], size[0] - width))
    tops = (box[1] - height, box[1], box[3] - height, box[3])
    places = [(x, min(max(top, 0), max(size[1] - height, 0))) for top in tops]
    areas = [(left, top, left + width, top + height) for left, top in places]
    free = [area for area in areas if not any(_overlap(area, other.area) for other in others)]
    return _Label(name, note, fonts, pad, color, free[0] if free else areas[0])


def _write(draw: ImageDraw.ImageDraw, label: _Label) -> None:
    left, top, right, bottom = label.area
    draw.rectangle(label.area, fill=label.color)
    ink, middle = text_color(label.color), (top + bottom) / 2
    draw.text((left + label.pad, middle), label.name, fill=ink, font=label.fonts[0], anchor='lm')
    draw.text((right - label.pad, middle), label.note, fill=ink, font=label.fonts[1], anchor='rm')


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _gallery_row(
    row: Sequence[tuple[Image.Image, str]], tile: int, gap: int, width: int, size: int
) -> Image.Image:
    line = round(size * 1.3)
    images = [_fitted(image.convert('RGB'), tile) for image, _ in row]
    fonts = [font_for(caption, size) for _, caption in row]
    captions = [wrap(caption, tile, font) for (_, caption), font in zip(row, fonts, strict=True)]
    ends = [image.height + len(lines) * line for image, lines in zip(images, captions, strict=True)]
    height = gap + max(ends) + gap // 2
    strip = Image.new('RGB', (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for at, (image, lines, font) in enumerate(zip(images, captions, fonts, strict=True)):
        left = gap + at * (tile + gap)
        strip.paste(image, (left + (tile - image.width) // 2, gap))
        _lines(draw, (left, gap + image.height + gap // 2), lines, font, line)
    return strip


def _text_block(text: str, width: int, gap: int, size: int) -> Image.Image:
    font, line = font_for(text, size), round(size * 1.3)
    lines = wrap(text, width - 2 * gap, font)
    strip = Image.new('RGB', (width, gap + len(lines) * line), _PAPER)
    _lines(ImageDraw.Draw(strip), (gap, gap), lines, font, line)
    return strip


def _lines(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    height: int,
) -> None:
    for number, text in enumerate(lines):
        draw.text((place[0], place[1] + (number + 0.5) * height), text, fill=_INK, font=font, anchor='lm')


def _sheet(size: tuple[int, int], strip: Image.Image | None) -> Image.Image:
    """A white image of (width, height), with a strip below it."""
    if strip is None:
        return Image.new('RGB', size, _PAPER)
    sheet = Image.new('RGB', (max(size[0], strip.width), size[1] + strip.height), _PAPER)
    sheet.paste(strip, (0, size[1]))
    return sheet


def _enlargement(image: Image.Image, side: int) -> int:
    return max(1, side // max(image.size))


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _fitted(image: Image.Image, width: int) -> Image.Image:
    """Resized to the width, at most twice as high; enlarged without smoothing, which keeps pixels visible."""
    scale = min(width / image.width, 2 * width / image.height)
    if scale == 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _percent(fraction: float) -> str:
    return f'{fraction:.0%}' if fraction >= 0.01 else '<1%'
