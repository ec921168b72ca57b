"""Show results: in a window, and in notebooks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from html import escape

from PIL import Image, ImageShow

_SIDE = 1024  # longer side of an image in a notebook, in pixels


def show_image(image: Image.Image, title: str) -> None:
    """Show an image in the notebook or in the system's viewer.

    Warns:
        UserWarning: there is neither, as on a server.
    """
    if not ImageShow.show(image, title):
        warnings.warn(
            'there is no viewer for images here: write the image to a file, with result.draw().save(path)',
            stacklevel=3,
        )


def png(image: Image.Image) -> bytes:
    """An image as PNG, with at most 1024 pixels on its longer side."""
    if max(image.size) > _SIDE:
        image = image.copy()
        image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, 'PNG')
    return file.getvalue()


def table(rows: Sequence[tuple[str, float]]) -> str:
    """Names and fractions as an HTML table with bars; names are escaped."""
    cells = ''.join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:right">{value:.1%}</td>'
        f'<td style="text-align:left"><div style="background:#4a90d9;height:0.8em;width:{100 * value:.0f}px">'
        '</div></td></tr>'
        for name, value in rows
    )
    return f'<table>{cells}</table>'
