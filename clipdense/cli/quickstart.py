"""``clipdense quickstart``: photographs, then a synthetic dataset, pre-training, segmentation, a gallery."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.utils.files import check_outputs

from .options import Classes, Overwrite, read_vocabulary
from .photographs import Photograph, installed_photographs, say_where, show_photographs

if TYPE_CHECKING:
    from clipdense.inference.segmenter import Segmenter

CONFIG = 'contrastive/clip_scenes_quickstart'
MASKS = 'lseg/lseg_scenes_quickstart'
MASK_STEPS = 400  # fewer than in the config, for a total time below ten minutes
SPLITS = ('base', 'novel', 'unseen')
TILE = 224  # pixels of each image in the gallery
TEMPLATES = ('a {}', 'a picture of a {}')


class Tour(str, Enum):
    """How much is trained after the photographs."""

    NONE = 'none'
    SHORT = 'short'
    FULL = 'full'


MINUTES = {Tour.SHORT: 'about three minutes', Tour.FULL: 'up to ten minutes'}  # on two cores
SHORT_STEPS, SHORT_IMAGES = 200, 2000


def quickstart(
    out: Annotated[Path, typer.Option('--out', help='Output folder.')] = Path('quickstart'),
    photo: Annotated[
        list[str] | None, typer.Option('--photo', help='A photograph of your own; may be repeated.')
    ] = None,
    classes: Classes = None,
    tour: Annotated[
        Tour, typer.Option('--tour', help='Training on generated scenes after the photographs.')
    ] = Tour.FULL,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps [default: the config's].")] = None,
    images: Annotated[
        int | None, typer.Option(min=64, help="Number of training images [default: the config's].")
    ] = None,
    seed: Annotated[int, typer.Option(help='Random seed.')] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Segment photographs, then train small models on generated scenes and evaluate them, without downloads.

    First classifies and segments four photographs (or yours, --photo FILE --classes 'a, b') with a small
    pre-trained model from Python packages. Then pre-trains a CLIP on captions of generated scenes, segments
    without training, trains LSeg on masks of some classes and evaluates it on all; takes up to ten minutes on
    two cores, prints a table and writes a gallery. --tour none skips this part.

    Example: `clipdense quickstart --photo cat.jpg --classes 'cat, sofa' --tour none`
    """
    photographs = _photographs(photo, classes)
    results, gallery = out / 'results.json', out / 'photographs.jpg'
    trained = tour is not Tour.NONE
    check_outputs([gallery, results] if trained else [gallery], overwrite)
    if photographs:
        begin = time.monotonic()
        show_photographs(photographs, gallery)
        say_where(gallery, time.monotonic() - begin)
    if trained:
        typer.echo(
            f'\nNow the training of small models on generated scenes: {MINUTES[tour]} on two cores '
            '(Ctrl-C to stop; --tour none to skip it)',
            err=True,
        )
        short = tour is Tour.SHORT
        _train_on_scenes(
            out, steps or (SHORT_STEPS if short else None), images or (SHORT_IMAGES if short else None), seed
        )


def _photographs(photo: list[str] | None, classes: str | None) -> list[Photograph]:
    """Those of the user, else the installed ones; none, with a message, if their package is missing.

    Raises:
        InputError: one of the options ``--photo`` and ``--classes`` without the other; a missing image.
    """
    if photo is None and classes is None:
        try:
            return installed_photographs()
        except InputError as error:
            typer.echo(f'photographs are left out: {error}', err=True)
            return []
    if photo is None or classes is None:
        raise InputError("give a photograph and its class names: --photo cat.jpg --classes 'cat, sofa'")
    from clipdense.utils.image_files import list_images

    names = tuple(read_vocabulary(classes, None, None).class_names)
    return [Photograph(path, names) for path in list_images(photo)]


def _train_on_scenes(out: Path, steps: int | None, images: int | None, seed: int) -> None:
    """Write scenes, train on them, evaluate, and draw held-out scenes."""
    import torch

    from clipdense.config import load_config
    from clipdense.data.scenes.writers import write_scenes
    from clipdense.engine.launch import test, train
    from clipdense.inference.results import write_json
    from clipdense.inference.segmenter import Segmenter

    data, gallery, results = out / 'scenes', out / 'gallery.png', out / 'results.json'
    weights, masks = out / 'train' / 'clip.safetensors', out / 'lseg' / 'lseg.safetensors'
    begin, cores = time.monotonic(), os.cpu_count() or 1
    cfg = load_config(CONFIG)
    count = images or cfg.num_images
    _say(begin, f'writing {count} scenes to {data}')
    write_scenes(data, cfg.difficulty, count, cfg.num_val, seed, overwrite=True, workers=cores)

    torch.set_num_threads(max(1, cores - 1))  # one core reads the data
    _say(begin, f'pre-training a small CLIP from their captions ({CONFIG})')
    options: dict[str, Any] = {
        'train_dataloader.dataset.urls': str(data / 'shards' / 'train'),
        'train_dataloader.dataset.samples_per_epoch': count,
        'custom_hooks.evaluation.at_end': False,  # evaluated by the test below
    }
    if steps:
        options['train_cfg.max_steps'] = steps
        options['param_scheduler.warmup'] = min(cfg.param_scheduler.warmup, steps - 1)
    train(CONFIG, work_dir=weights.parent, seed=seed, options=options, overwrite=True)

    _say(begin, 'classifying and segmenting held-out scenes')
    metrics = test(CONFIG, weights, work_dir=out / 'test', options=options)

    _say(begin, f'training LSeg on masks of the base classes ({MASKS})')
    options = {
        'model.clip': str(weights),
        'train_cfg.max_steps': min(steps or MASK_STEPS, MASK_STEPS),
        'param_scheduler.warmup': min((steps or MASK_STEPS) - 1, MASK_STEPS // 10),
        'custom_hooks.evaluation.interval': None,
        'custom_hooks.evaluation.at_end': False,  # evaluated by the test below
    }
    train(MASKS, work_dir=masks.parent, seed=seed, options=options, overwrite=True)
    metrics |= test(MASKS, masks, work_dir=out / 'lseg_test', options=options)
    _write_gallery(Segmenter.from_pretrained(masks, cache=False), weights, data / 'voc', gallery)
    minutes = (time.monotonic() - begin) / 60
    print(table(metrics))
    write_json(results, {'minutes': round(minutes, 2), 'seed': seed, **metrics})
    print(f'\n{minutes:.1f} minutes.  Weights: {weights}  Gallery: {gallery}  Results: {results}')
    print(f"Next: clipdense segment PHOTO --classes 'a, b, c' --weights {masks}")
    print(f"or, training-free: clipdense segment PHOTO --classes 'a, b, c' --weights {weights}")


def table(metrics: Mapping[str, float]) -> str:
    """The table of results: each metric and its chance level."""
    rows = [('', 'score', 'chance')]
    for direction, name in (('image_to_text', 'image to caption'), ('text_to_image', 'caption to image')):
        key = f'retrieval/{direction}'
        rows.append((f'retrieval, {name}, recall@1', *_pair(metrics, f'{key}/r1', f'{key}/chance_r1')))
    for split in SPLITS:
        for suffix, names in (('', 'own names'), ('_all', 'all names')):
            key = f'zero_shot{suffix}/{split}'
            rows.append((f'accuracy, {split}, {names}', *_pair(metrics, f'{key}/top1', f'{key}/chance')))
    for split in SPLITS:
        key = f'segmentation/{split}'
        chance = f'{key}/foreground_chance'
        rows.append((f'mIoU without masks, {split}, own names', *_pair(metrics, f'{key}/foreground', chance)))
        rows.append((f'mIoU, LSeg, {split}, own names', *_pair(metrics, f'scenes/own/{split}', chance)))
        rows.append((f'mIoU, LSeg, {split}, all names', *_pair(metrics, f'scenes/all/{split}', '')))
    return '\n'.join(f'{name:48} {score:>7} {chance:>7}' for name, score, chance in rows)


def _pair(metrics: Mapping[str, float], score: str, chance: str) -> tuple[str, str]:
    return tuple(f'{metrics[key]:.3f}' if key in metrics else '' for key in (score, chance))  # type: ignore[return-value]


def _write_gallery(segmenter: Segmenter, weights: Path, voc: Path, file: Path, columns: int = 3) -> None:
    """A row of images for each split, with predicted class and mask, for the vocabulary of all classes."""
    from clipdense.data.segmentation.datasets import VOCSegmentation
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.results import write_image
    from clipdense.utils.drawing import gallery

    classifier = Classifier.from_pretrained(weights, templates=TEMPLATES, cache=False)
    rows = []
    for split in SPLITS:
        dataset = VOCSegmentation(voc, f'val_{split}')
        vocabulary = dataset.vocabulary
        foreground = vocabulary.subset(
            [name for name in vocabulary.class_names if name != vocabulary.background]
        )
        row = []
        for index in range(columns):
            image = Image.open(dataset.images[index]).convert('RGB')
            result = segmenter(image, vocabulary)
            best, probability = classifier(image, foreground).top(1)[0]
            row.append((image, f'{split}: {best} {probability:.0%}'))
            row.append((result.draw(side=TILE), ''))
        rows.append(row)
    write_image(file, gallery(rows, tile=TILE, title='Held-out scenes, vocabulary of all 64 class names'))


def _say(begin: float, text: str) -> None:
    typer.echo(f'[{(time.monotonic() - begin) / 60:4.1f} min] {text}', err=True)
