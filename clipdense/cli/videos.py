"""Segment videos: an overlay video and a JSON file for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdense.utils.errors import InputError, item_error
from clipdense.utils.files import check_outputs

from .images import each
from .options import OutputArguments

if TYPE_CHECKING:
    from clipdense.inference.segmenter import Segmenter


def all_videos(paths: Sequence[Path]) -> bool:
    """Whether the inputs are videos.

    Raises:
        InputError: some are, and some are images.
    """
    from clipdense.utils.video import is_video

    videos = [path for path in paths if is_video(path)]
    if videos and len(videos) < len(paths):
        image = next(path for path in paths if not is_video(path))
        raise InputError(
            f'{videos[0]} is a video and {image} an image: segment videos and images in two commands'
        )
    return bool(videos)


def video_stems(
    paths: Sequence[Path], out: Path, overwrite: bool, inputs: Sequence[str | Path | None]
) -> list[Path]:
    """Paths of the output files of each video, without suffix; none of them is an input."""
    from clipdense.utils.image_files import output_stems

    stems = [out / stem for stem in output_stems(paths)]
    files = [Path(f'{stem}{ending}') for stem in stems for ending in ('_overlay.mp4', '.json')]
    check_outputs(files, overwrite, inputs)
    return stems


def segment_videos(
    segmenter: Segmenter,
    paths: Sequence[Path],
    stems: Sequence[Path],
    output: OutputArguments,
    max_pixels: int,
) -> None:
    """Segment videos with the vocabulary of the segmenter, one frame after another.

    Raises:
        InputError: all failed.
        typer.Exit: with status 1 if some failed.
    """
    from clipdense.inference.results import write_json

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, path in enumerate(paths):
            try:
                found = _overlay_video(
                    segmenter, path, Path(f'{stems[index]}_overlay.mp4'), output.opacity, max_pixels
                )
            except Exception as error:
                failed(index, item_error(error, path))
                continue
            yield index, found

    def finish(index: int, found: dict[str, Any]) -> str:
        write_json(f'{stems[index]}.json', found)
        fault = f' ({found["fault"]})' if found['fault'] else ''
        return f'{stems[index]}_overlay.mp4: {len(found["frames"])} frames{fault}'

    each(paths, predict, finish, 'segmenting', output.out, 'videos')


def _overlay_video(
    segmenter: Segmenter, path: Path, out: Path, opacity: float, max_pixels: int
) -> dict[str, Any]:
    """Write the overlay video; returns values for JSON.  A damaged end keeps the frames before it."""
    from clipdense.utils.video import VideoFrames, VideoWriter

    frames = VideoFrames(path, max_pixels)
    writer, rows = VideoWriter(out, frames.rate), []
    try:
        for number, result in segmenter.stream(frames, max_pixels=max_pixels):
            writer.write(result.draw_frame(opacity))
            shares = {name: round(share, 4) for name, share in result.class_fractions().items()}
            rows.append({'frame': number, 'second': round(number / frames.rate, 3), 'classes': shares})
        writer.finish()
    finally:
        writer.discard()
    assert segmenter.vocabulary is not None
    return {
        'video': str(path),
        'precision': segmenter.precision,
        'frames_per_second': frames.rate,
        'fault': frames.fault,
        'classes': list(segmenter.vocabulary.class_names),
        'frames': rows,
    }
