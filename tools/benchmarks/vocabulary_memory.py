"""Thousands of classes on one image: what it takes above the model, and whether the mask is the same."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import build_clip
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.reduction import merge_windows
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

from .harness import Found, Options, Row, set_threads

CLASSES, SIDE = 5000, 512
_STATUS, _RESET = Path('/proc/self/status'), Path('/proc/self/clear_refs')


class Outcome(NamedTuple):
    """One image, one fresh process."""

    peak: int  # bytes above the model
    seconds: float
    mask: str  # digest


def vocabulary_memory(options: Options) -> Found:
    """5,000 classes on 512 x 512 pixels, memory above the model: class chunks against all logits at once."""
    outcomes: dict[bool, list[Outcome]] = {True: [], False: []}
    for _ in range(options.repeats):
        for chunked, kept in outcomes.items():
            with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
                kept.append(pool.submit(segment_once, chunked, options).result())
    masks = {outcome.mask for kept in outcomes.values() for outcome in kept}
    if len(masks) > 1:
        raise SystemExit('the masks of the two ways differ')
    peak, seconds = (
        [median(getattr(outcome, name) for outcome in outcomes[chunked]) for chunked in (True, False)]
        for name in ('peak', 'seconds')
    )
    rows = [Row('peak memory', peak[0] / 2**20, peak[1] / 2**20, 'MiB'), Row('time', *seconds, 's')]
    return rows, {'classes': CLASSES, 'pixels': f'{SIDE} x {SIDE}', 'masks': 'identical'}


@torch.no_grad()
def segment_once(chunked: bool, options: Options) -> Outcome:
    """In a process of its own: build the model, then watch the memory while it segments."""
    set_threads(options)
    torch.manual_seed(0)
    model = DenseCLIP(build_clip(options.model), slide=Slide()).eval().to(options.device)
    text = F.normalize(torch.randn(CLASSES, model.clip.embed_dim), dim=-1)
    names = Vocabulary(tuple(f'class {index}' for index in range(CLASSES)))
    model.set_vocabulary(names, ClassEmbeddings(text, torch.arange(CLASSES), CLASSES))
    image = torch.randn(3, SIDE, SIDE).to(options.device)

    before, start = start_watching(options.device), time.perf_counter()
    mask = model.segment(image).classes if chunked else plain_mask(model, image)
    seconds = time.perf_counter() - start
    peak = peak_memory(options.device) - before
    return Outcome(peak, seconds, hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest())


def plain_mask(model: DenseCLIP, image: Tensor) -> Tensor:
    """All class logits at full size, then their maximum."""
    size = (image.shape[-2], image.shape[-1])
    (view,) = model.encode_image(image).views
    logits = [
        part for features in view.features for part in model.classify_pixels(features, model.queries).split(1)
    ]
    return merge_windows(logits, view.windows, size, size).argmax(dim=0)


def start_watching(device: str) -> int:
    """Forget earlier peaks; bytes in use now."""
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    _RESET.write_text('5')  # Linux: the peak of resident memory starts again from here
    return _status('VmRSS')


def peak_memory(device: str) -> int:
    """The most bytes in use since ``start_watching``."""
    return torch.cuda.max_memory_allocated() if device.startswith('cuda') else _status('VmHWM')


def memory_of(run: Callable[[], object], device: str) -> int:
    """Bytes that a call takes above what is there."""
    before = start_watching(device)
    run()
    return peak_memory(device) - before


def _status(field: str) -> int:
    lines = dict(line.split(':', 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024
