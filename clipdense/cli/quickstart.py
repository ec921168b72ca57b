"""``clipdense quickstart``: write a synthetic dataset, pre-train, classify, segment, draw."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from .options import Overwrite, check_outputs

if TYPE_CHECKING:
    from clipdense.inference.segmenter import Segmenter

CONFIG = 'contrastive/clip_scenes_quickstart'
MASKS = 'lseg/lseg_scenes_quickstart'
MASK_STEPS = 400  # fewer than in the config, for a total time below ten minutes
SPLITS = ('base', 'novel', 'unseen')
TILE = 224  # pixels of each image in the gallery
TEMPLATES = ('a {}', 'a picture of a {}')


def quickstart(
    out: Annotated[Path, typer.Option('--out', help='Output folder.')] = Path('quickstart'),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps [default: the config's].")] = None,
    images: Annotated[
        int | None, typer.Option(min=64, help="Number of training images [default: the config's].")
    ] = None,
    seed: Annotated[int, typer.Option(help='Random seed of images, weights and sample order.')] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train small models on generated scenes and evaluate them: a complete example without downloads.

    Pre-trains a CLIP on captions, segments without training, then trains LSeg on masks of some classes and
    evaluates it on all. Takes up to ten minutes on two cores; prints a table and writes a gallery.

    Example: `clipdense quickstart --out quickstart`
    """
    import torch

    from clipdense.config import load_config
    from clipdense.data.scenes.writers import write_scenes
    from clipdense.engine.launch import test, train
    from clipdense.inference.results import write_json
    from clipdense.inference.segmenter import Segmenter

    data, gallery, results = out / 'scenes', out / 'gallery.png', out / 'results.json'
    weights, masks = out / 'train' / 'clip.safetensors', out / 'lseg' / 'lseg.safetensors'
    check_outputs([results], overwrite)
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
    train(CONFIG, work_dir=weights.parent, seed=seed, options=options)

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
    train(MASKS, work_dir=masks.parent, seed=seed, options=options)
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
