"""HTML of the page.  Texts of visitors are escaped."""

from __future__ import annotations

from html import escape

import numpy as np

from clipdense.inference.results import Detections, Segmentation
from clipdense.utils.drawing import count_indices
from clipdense.utils.palette import class_palette
from clipdense.vocab.vocabulary import Vocabulary

from .points import Point

_ENTRIES = 40  # of a legend
_LONG = 60  # characters of a name


def header(title: str, subtitle: str) -> str:
    """The top of the page."""
    return f'<h1 class="cd-title">{escape(title)}</h1><p class="cd-subtitle">{escape(subtitle)}</p>'


def heading(text: str) -> str:
    """The title of a result."""
    return f'<h2 class="cd-heading">{escape(text)}</h2>'


def message(text: str, kind: str) -> str:
    """A line of text; ``kind`` is 'error', 'note' or 'done'."""
    role = 'alert' if kind == 'error' else 'status'
    return f'<p class="cd-message cd-{kind}" role="{role}">{escape(text)}</p>'


def legend(result: Segmentation | Detections) -> str:
    """The classes that occur, most first, with their part of the image or number of boxes."""
    count = len(result.vocabulary)
    if isinstance(result, Segmentation):
        counts = count_indices(result.mask, count)
        values = [_percent(number / max(1, result.mask.size)) for number in counts]
    else:
        counts = np.bincount(result.class_ids, minlength=count)
        values = [str(number) for number in counts]
    found = [at for at in np.argsort(-counts, kind='stable').tolist() if counts[at]]
    if not found:
        return message('nothing found: try a lower score threshold or other class names', 'note')
    names, colors = result.vocabulary.class_names, _colors(result.vocabulary)
    items = ''.join(
        f'<li>{_class(names[at], colors[at])}<b>{escape(values[at])}</b></li>' for at in found[:_ENTRIES]
    )
    more = len(found) - _ENTRIES
    return f'<ul class="cd-legend">{items}{f"<li>and {more} more</li>" if more > 0 else ""}</ul>'


def point_scores(point: Point) -> str:
    """Bars with the scores of classes, or of boxes, at a pixel."""
    names, colors = point.vocabulary.class_names, _colors(point.vocabulary)
    where = f'Pixel ({point.column}, {point.row})'
    if point.label:
        where += f': {_shortened(point.label)}'
    elif not point.scores:
        where += ': no box here'
    rows = ''.join(
        f'<div class="cd-score">{_class(names[index], colors[index])}<i><s style="width:{100 * score:.1f}%;'
        f'background:{_code(colors[index])}"></s></i><b>{score:.1%}</b></div>'
        for index, score in point.scores
    )
    return f'<div class="cd-scores"><p>{escape(where)}</p>{rows}</div>'


def _colors(vocabulary: Vocabulary) -> np.ndarray:
    """(K, 3), those of the drawings."""
    name = vocabulary.background
    return class_palette(len(vocabulary), None if name is None else vocabulary.index(name))


def _class(name: str, color: np.ndarray) -> str:
    return f'<em style="background:{_code(color)}"></em><span>{escape(_shortened(name))}</span>'


def _code(color: np.ndarray) -> str:
    return '#' + ''.join(f'{value:02x}' for value in color)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONG else f'{name[:_LONG]}…'


def _percent(part: float) -> str:
    return f'{part:.0%}' if part >= 0.01 else '<1%'
