"""Verbs that write data, train and evaluate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer

ConfigOptions = Annotated[
    list[str] | None,
    typer.Option('--option', '-o', help="Change a setting: 'train_cfg.max_steps=100'. May be repeated."),
]
Config = Annotated[
    str, typer.Argument(help='A config file, or its name as in configs/: contrastive/clip_scenes.')
]


def scenes(
    out: Annotated[Path, typer.Argument(help='Folder to write to.')],
    difficulty: Annotated[str, typer.Option(help='easy, standard or hard.')] = 'standard',
    train: Annotated[int, typer.Option(min=1, help='Images to train on.')] = 5000,
    val: Annotated[int, typer.Option(min=1, help='Images to evaluate on, for each split.')] = 200,
    seed: Annotated[int, typer.Option(help='The same seed draws the same images.')] = 0,
    image_size: Annotated[int | None, typer.Option(help='Side of the images in pixels.')] = None,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Write into a folder that is there.')
    ] = False,
) -> None:
    """Write the embedded set to disk: PASCAL VOC, COCO and webdataset shards.

    Example: `clipdense scenes data/scenes --difficulty standard --train 20000`
    """
    from clipdense.data.scenes.writers import write_scenes

    write_scenes(out, difficulty, train, val, seed, image_size, overwrite, workers=os.cpu_count() or 1)
    print(f'{out}: {train} training images and {val} for each split, as VOC, COCO and shards')


def nouns(
    shards: Annotated[str, typer.Argument(help="Webdataset shards: a folder, or 'data/{000..099}.tar'.")],
    out: Annotated[Path, typer.Argument(help='Folder for the copies.')],
    kind: Annotated[str, typer.Option(help='phrase, noun, or word (nouns and verbs).')] = 'phrase',
    tagger: Annotated[str, typer.Option(help='lemminflect, or hanta, spacy, nltk.')] = 'lemminflect',
    captions: Annotated[str, typer.Option(help='Ending of the captions in the shards.')] = 'txt',
) -> None:
    """Copy shards with the nouns of their captions beside them, so that training need not look for them.

    Example: `clipdense nouns data/cc3m data/cc3m_nouns`
    """
    from clipdense.data.image_text.noun_prompts import add_nouns
    from clipdense.vocab.noun_phrases import Kind, NounExtractor

    written = add_nouns(shards, out, NounExtractor(cast(Kind, kind), tagger), captions)
    print(f'{out}: {len(written)} shards with nouns.json')


def train(
    config: Config,
    work_dir: Annotated[Path | None, typer.Option(help='Where checkpoints and logs go.')] = None,
    resume: Annotated[bool, typer.Option('--resume', help='Go on from the newest sound checkpoint.')] = False,
    seed: Annotated[int | None, typer.Option(help='Of everything random.')] = None,
    option: ConfigOptions = None,
) -> None:
    """Train what a config describes.

    Example: `clipdense train contrastive/clip_scenes --work-dir runs/clip`
    """
    from clipdense.engine.launch import train as run

    run(config, work_dir=work_dir, resume=resume, seed=seed, options=option or ())


def test(
    config: Config,
    checkpoint: Annotated[str, typer.Argument(help='Weights to evaluate.')],
    work_dir: Annotated[Path | None, typer.Option(help='Where results go.')] = None,
    option: ConfigOptions = None,
) -> None:
    """Evaluate weights as a config describes.

    Example: `clipdense test dense_clip/maskclip_voc runs/clip/clip.safetensors`
    """
    from clipdense.engine.hooks import grouped
    from clipdense.engine.launch import test as run

    print(grouped(run(config, checkpoint, work_dir=work_dir, options=option or ())))
