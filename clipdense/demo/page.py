"""The page, with gradio.  It holds no state: what a visitor sends and sees is in the visitor's session."""

from __future__ import annotations

import importlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipdense.utils.errors import InputError

from . import markup
from .files import drawn, write_files
from .points import Points
from .predictions import Answer, Choice, Engine, Settings
from .server import has_gradio
from .uploads import Limits, file_stem, read_upload

# Without the extra this module can still be imported; ``server`` says what is missing.
gr: Any = importlib.import_module('gradio') if has_gradio() else None

TITLE = 'clipdense demo'
KEPT = 3600  # seconds that files and results of a visitor are kept
_NOTHING = 'no comparison'
_REFINE = 'Align masks with edges (slower)'
_START = 'Add an image and class names, then press Run.'
CSS = Path(__file__).with_name('page.css').read_text('utf-8')
Example = tuple[Path, Sequence[str]]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The components that a visitor sets, in the order of the arguments of ``Handlers.run``."""

    image: Any  # gr.Image
    classes: Any  # gr.Textbox
    first: Any  # gr.Dropdown
    first_refine: Any  # gr.Checkbox
    second: Any  # gr.Dropdown
    second_refine: Any  # gr.Checkbox
    background_threshold: Any  # gr.Slider
    area_threshold: Any  # gr.Slider
    score_threshold: Any  # gr.Slider
    opacity: Any  # gr.Slider


@dataclass(frozen=True)
class Shown:
    """What a session keeps of a result: size (width, height) of the drawing, and what answers a click."""

    size: tuple[int, int]
    points: Points


@dataclass(frozen=True)
class Side:
    """The components of one result."""

    column: Any  # gr.Column
    title: Any  # gr.HTML
    image: Any  # gr.Image
    legend: Any  # gr.HTML
    point: Any  # gr.HTML
    files: Any  # gr.File
    shown: Any  # gr.State


class Handlers:
    """What the page does when a visitor acts.

    Args:
        engine: the models.
        limits: of uploads.
        folder: where files for download are written; gradio serves it.
    """

    def __init__(self, engine: Engine, limits: Limits, folder: Path) -> None:
        self.engine, self.limits, self.folder = engine, limits, folder
        self._choices = {choice.label: choice for choice in engine.choices}

    def check(self, path: str | None) -> tuple[Any, str]:
        """After an upload: a file that cannot be read is taken off the page at once."""
        try:
            image = self._read(path)
        except InputError as error:
            return None, markup.message(str(error), 'error')
        return gr.skip(), markup.message(f'{image.width} x {image.height} pixels', 'note')

    def run(self, path: str | None, classes: str, *settings: Any) -> list[Any]:
        """Status and both results; what is wrong with the input is shown, not raised."""
        try:
            return self._run(path, classes, *settings)
        except InputError as error:
            text = str(error)
        except Exception:
            _logger.exception('a request of the page failed')
            text = 'unexpected error: the terminal of the server shows it'
        return [markup.message(text, 'error'), *_cleared(), *_cleared()]

    def point(self, shown: Shown | None, x: int, y: int) -> str:
        """The scores at a pixel of the drawing, column and row."""
        if shown is None:
            return ''
        width, height = shown.size
        return markup.point_scores(shown.points.at((x + 0.5) / width, (y + 0.5) / height))

    def _run(
        self,
        path: str | None,
        classes: str,
        first: str,
        first_refine: bool,
        second: str,
        second_refine: bool,
        background_threshold: float,
        area_threshold: float,
        score_threshold: float,
        opacity: float,
    ) -> list[Any]:
        image, stem = self._read(path), file_stem(str(path))
        shown: list[Any] = []
        notes: dict[str, None] = {}
        seconds = 0.0
        for label, refine in ((first, first_refine), (second, second_refine)):
            choice = self._choices.get(label)
            if choice is None:
                shown += _cleared()
                continue
            settings = Settings(classes, refine, background_threshold, area_threshold, score_threshold)
            answer = self.engine.predict(image, choice, settings)
            aligned = refine and self.engine.segments(choice)
            shown += self._side(answer, choice, stem, aligned, opacity)
            notes |= dict.fromkeys(answer.notes)
            seconds += answer.seconds
        done = f'{image.width} x {image.height} pixels in {seconds:.1f} s. Click on a result for scores.'
        return [markup.message(done, 'done') + ''.join(markup.message(one, 'note') for one in notes), *shown]

    def _side(self, answer: Answer, choice: Choice, stem: str, aligned: bool, opacity: float) -> list[Any]:
        """Values of the components of a ``Side``."""
        sheet, shown = drawn(answer.result, opacity)
        name = '_'.join([stem, *filter(None, [choice.method]), *(['aligned'] if aligned else [])])
        files = write_files(self.folder / secrets.token_hex(16), name, answer.result, sheet)
        title = markup.heading(f'{choice.label}{" · aligned" if aligned else ""}')
        legend = markup.legend(answer.result)
        return [
            gr.update(visible=True),
            title,
            shown,
            legend,
            '',
            [str(file) for file in files],
            Shown(shown.size, answer.points),
        ]

    def _read(self, path: str | None) -> Image.Image:
        if not path:
            raise InputError('no image: drop one on the page, or pick an example')
        return read_upload(path, self.limits)


def build_page(handlers: Handlers, examples: Sequence[Example] = ()) -> Any:
    """The page.

    Args:
        handlers: what it does.
        examples: images to pick, with class names.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(300, KEPT)) as page:
        gr.HTML(markup.header(TITLE, 'Masks and boxes for class names of your choice'))
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                inputs, run = _inputs(handlers, examples)
            with gr.Column(scale=8, min_width=400):
                status = gr.HTML(markup.message(_START, 'note'), elem_id='status')
                with gr.Row():
                    sides = [_new_side(name) for name in ('first', 'second')]
        outputs = [status, *(part for side in sides for part in vars(side).values())]
        asked = list(vars(inputs).values())

        def point(shown: Shown | None, event: Any) -> str:
            return handlers.point(shown, *event.index)

        point.__annotations__['event'] = gr.SelectData  # asks gradio for the place of the click
        own: dict[str, Any] = {'api_visibility': 'private'}  # no entry of a public API
        for event in (run.click, inputs.classes.submit):
            event(handlers.run, asked, outputs, concurrency_id='models', concurrency_limit=1, **own)
        inputs.image.upload(handlers.check, inputs.image, [inputs.image, status], **own)
        for side in sides:
            side.image.select(point, side.shown, side.point, show_progress='hidden', **own)
    return page


def theme() -> Any:
    """Colors and fonts; those of the system, so that none are loaded."""
    fonts = {'font': ['ui-sans-serif', 'system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}
    return gr.themes.Default(primary_hue='teal', neutral_hue='slate', **fonts)


def _inputs(handlers: Handlers, examples: Sequence[Example]) -> tuple[Inputs, Any]:
    """The left column."""
    limits, labels = handlers.limits, [choice.label for choice in handlers.engine.choices]
    image = _upload()
    gr.HTML(f'<p class="cd-limit">Up to {limits.pixels / 1e6:g} million pixels, {limits.megabytes} MB</p>')
    classes = gr.Textbox(
        label='Class names',
        info='Separated by commas',
        placeholder='cat, sofa, wall',
        lines=2,
        elem_id='classes',
    )
    run = gr.Button('Run', variant='primary', elem_id='run')
    first = gr.Dropdown(labels, value=labels[0], label='Model and method', elem_id='method')
    first_refine = gr.Checkbox(True, label=_REFINE, elem_id='refine')
    second = gr.Dropdown([_NOTHING, *labels], value=_NOTHING, label='Compare with', elem_id='compare')
    second_refine = gr.Checkbox(True, label=_REFINE, elem_id='compare-refine')
    with gr.Accordion('Thresholds and drawing', open=False):
        sliders = _sliders(handlers)
    if examples:
        rows = [[str(file), ', '.join(names)] for file, names in examples]
        gr.Examples(rows, [image, classes], label='Examples', api_visibility='private')
    return Inputs(image, classes, first, first_refine, second, second_refine, *sliders), run


def _upload() -> Any:
    """An image input whose file gradio does not open; addresses, which it would download, are refused."""
    image = gr.Image(
        sources=['upload', 'clipboard'], type='filepath', label='Image', height=300, elem_id='image'
    )
    to_cache = image.async_move_resource_to_block_cache

    def path_of(payload: Any) -> str | None:
        return None if payload is None else payload.path

    async def uploaded_only(path: Any) -> str | None:
        if '://' in str(path or ''):
            raise gr.Error('only uploaded files are read, no addresses')
        return await to_cache(path)

    # Not a subclass: gradio writes a file beside the source of each class of components.
    own = {'preprocess': path_of, 'async_move_resource_to_block_cache': uploaded_only}
    for name, function in own.items():
        setattr(image, name, function)
    return image


def _sliders(handlers: Handlers) -> list[Any]:
    """Thresholds of the tasks that the page has, and the opacity; in the order of ``Inputs``."""
    engine = handlers.engine
    tasks = {engine.segments(choice) for choice in engine.choices}
    return [
        gr.Slider(
            0, 1, 0, step=0.01, label='Background threshold', visible=True in tasks, elem_id='background',
            info="Pixels whose best class is less probable become background; 0: the model's own",
        ),
        gr.Slider(
            0, 1, 0, step=0.005, label='Area threshold', visible=True in tasks, elem_id='area',
            info="Classes that cover at most this part of the foreground are dropped; 0: the model's own",
        ),
        gr.Slider(
            0, 1, 0.3, step=0.01, label='Score threshold of boxes', visible=False in tasks, elem_id='score',
        ),
        gr.Slider(0, 1, 0.6, step=0.05, label='Opacity of the colors', elem_id='opacity'),
    ]  # fmt: skip


def _new_side(name: str) -> Side:
    """The components of a result, empty."""
    with gr.Column(visible=False, min_width=360) as column:
        title = gr.HTML()
        image = gr.Image(
            format='png', label='Result', interactive=False, buttons=['fullscreen'], elem_id=f'{name}-image'
        )
        legend, point = gr.HTML(elem_id=f'{name}-legend'), gr.HTML(elem_id=f'{name}-point')
        files = gr.File(label='Download', interactive=False, file_count='multiple', elem_id=f'{name}-files')
    return Side(column, title, image, legend, point, files, gr.State(time_to_live=KEPT))


def _cleared() -> list[Any]:
    """Values of the components of a ``Side`` without a result."""
    return [gr.update(visible=False), '', None, '', '', None, None]
