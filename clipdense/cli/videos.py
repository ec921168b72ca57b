"""Segment videos: an overlay video and a JSON file for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError, item_error
from clipdense.utils.files import check_outputs

from .images import each
from .options import OutputArguments

if TYPE_CHECKING:
    from clipdense.inference.segmenter import Segmenter
    from clipdense.utils.live import LiveFrames
    from clipdense.utils.video import VideoFrames


@dataclass(frozen=True)
class LiveArguments:
    """A camera or network stream in place of image files, and how much of it is read."""

    allow_url: Annotated[
        bool, typer.Option('--allow-url', help='Open IMAGES that are the address of a video stream.')
    ] = False
    frames: Annotated[
        int | None, typer.Option('--frames', min=1, help='Frames of a camera or stream; Ctrl-C ends it too.')
    ] = None

    def source(self, images: Sequence[str], max_pixels: int) -> LiveFrames | None:
        """The camera or stream that the images are; None if they are files.

        Raises:
            InputError: a stream without ``--allow-url``, several sources, one that cannot be opened, or
                ``--frames`` without effect.
        """
        from clipdense.utils.live import LiveFrames, is_camera, is_stream

        live = [image for image in images if is_camera(image) or (self.allow_url and is_stream(image))]
        if not live:
            if self.frames is not None:
                raise InputError('--frames is for cameras (camera:0) and streams only: remove it')
            if any(is_stream(image) and not image.lower().startswith('http') for image in images):
                raise InputError('the address of a video stream is opened with --allow-url only')
            return None
        if len(images) > 1:
            raise InputError('give one camera or stream, and nothing beside it')
        return LiveFrames(live[0], self.frames, max_pixels)


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
    paths: Sequence[str | Path], out: Path, overwrite: bool, inputs: Sequence[str | Path | None]
) -> list[Path]:
    """Paths of the output files of each video, without suffix; none of them is an input."""
    from clipdense.utils.image_files import output_stems

    stems = [out / stem for stem in output_stems(paths)]
    files = [Path(f'{stem}{ending}') for stem in stems for ending in ('_overlay.mp4', '.json')]
    check_outputs(files, overwrite, inputs)
    return stems


def segment_videos(
    segmenter: Segmenter,
    videos: Sequence[Path | LiveFrames],
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
    from clipdense.utils.video import VideoFrames

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, video in enumerate(videos):
            try:
                frames = VideoFrames(video, max_pixels) if isinstance(video, Path) else video
                found = _overlay_video(
                    segmenter, frames, Path(f'{stems[index]}_overlay.mp4'), output.opacity, max_pixels
                )
            except Exception as error:
                failed(index, item_error(error, str(video)))
                continue
            yield index, found

    def finish(index: int, found: dict[str, Any]) -> str:
        write_json(f'{stems[index]}.json', found)
        fault = f' ({found["fault"]})' if found['fault'] else ''
        return f'{stems[index]}_overlay.mp4: {len(found["frames"])} frames{fault}'

    each([str(video) for video in videos], predict, finish, 'segmenting', output.out, 'videos')


def _overlay_video(
    segmenter: Segmenter, frames: VideoFrames | LiveFrames, out: Path, opacity: float, max_pixels: int
) -> dict[str, Any]:
    """Write the overlay video; returns values for JSON.

    A damaged end keeps the frames before it, and so does Ctrl-C that ends a camera or stream.
    """
    from clipdense.utils.live import LiveFrames
    from clipdense.utils.video import VideoWriter

    writer, rows = VideoWriter(out, frames.rate), []
    try:
        for number, result in segmenter.stream(frames, max_pixels=max_pixels):
            writer.write(result.draw_frame(opacity))
            shares = {name: round(share, 4) for name, share in result.class_fractions().items()}
            rows.append({'frame': number, 'second': round(number / frames.rate, 3), 'classes': shares})
        writer.finish()
    except KeyboardInterrupt:
        if not rows or not isinstance(frames, LiveFrames):
            raise
        writer.finish()
    finally:
        writer.discard()
    assert segmenter.vocabulary is not None
    return {
        'video': str(frames),
        'precision': segmenter.precision,
        'frames_per_second': frames.rate,
        'fault': frames.fault,
        'classes': list(segmenter.vocabulary.class_names),
        'frames': rows,
    }
