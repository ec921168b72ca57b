"""Drawings of results, and the files that a visitor can download."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipdense.inference.results import Detections, Segmentation, write_image, write_json

SIDE = 1280  # pixels of the longer side of a drawing on the page


def drawn(result: Segmentation | Detections, opacity: float) -> tuple[Image.Image, Image.Image]:
    """The drawing with its legend in full size, and without it for the page, at most ``SIDE``."""
    assert result.image is not None  # predictors keep what they have read
    sheet = result.draw(opacity=opacity, side=1)
    shown = sheet.crop((0, 0, *result.image.size))
    shown.thumbnail((SIDE, SIDE))
    return sheet, shown


def write_files(folder: Path, stem: str, result: Segmentation | Detections, sheet: Image.Image) -> list[Path]:
    """Write mask (of a segmentation), drawing, JSON and COCO results to a new folder."""
    folder.mkdir(parents=True)
    files = [folder / f'{stem}{ending}' for ending in ('_overlay.jpg', '.json', '_coco.json')]
    write_image(files[0], sheet)
    write_json(files[1], result.to_dict())
    write_json(files[2], result.to_coco())
    if isinstance(result, Segmentation):
        files.insert(0, result.save(folder / f'{stem}_mask.png'))
    return files
