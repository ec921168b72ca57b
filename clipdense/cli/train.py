"""Commands that write data and train."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from clipdense.config import parse_options
from clipdense.utils.command_options import ConfigOptions, JobPart, MaxBadFraction
from clipdense.utils.errors import InputError, one_line
from clipdense.utils.files import check_new_folder
from clipdense.utils.wording import counted

from .caption_shards import tell_damaged
from .early import check_choice, check_config
from .options import Captions, Overwrite, SafeConfig, caption_sources

Modules = Annotated[
    list[str] | None,
    typer.Option(
        '--import',
        help='Import a module of your own first: my_package.models. May be repeated.',
        metavar='MODULE',
    ),
]
Config = Annotated[
    str, typer.Argument(help='A config file, or the name of an included config: contrastive/clip_scenes.')
]


def scenes(
    out: Annotated[Path, typer.Argument(help='Output folder.')],
    difficulty: Annotated[str, typer.Option(help='easy, standard or hard.')] = 'standard',
    train: Annotated[int, typer.Option(min=1, help='Number of training images.')] = 5000,
    val: Annotated[int, typer.Option(min=1, help='Number of validation images per split.')] = 200,
    seed: Annotated[int, typer.Option(help='Random seed.')] = 0,
    image_size: Annotated[int | None, typer.Option(help='Side of the images in pixels.')] = None,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Write to an existing folder.')] = False,
) -> None:
    """Write the synthetic scenes dataset: PASCAL VOC, COCO and webdataset shards with captions.

    Example: `clipdense scenes data/scenes --difficulty standard --train 20000`
    """
    from clipdense.data.scenes import DIFFICULTIES
    from clipdense.utils.files import check_output_folder

    check_choice(difficulty, DIFFICULTIES, '--difficulty')
    check_output_folder(out)
    from clipdense.data.scenes import write_scenes

    write_scenes(out, difficulty, train, val, seed, image_size, overwrite, workers=os.cpu_count() or 1)
    images = f'{counted(train, "training image")} and {counted(val, "validation image")}'
    print(f'{out}: {images} per split, as VOC, COCO and shards')


def nouns(
    shards: Annotated[str, typer.Argument(help="Webdataset shards: a folder, or 'data/{000..099}.tar'.")],
    out: Annotated[Path, typer.Argument(help='Output folder.')],
    kind: Annotated[
        str, typer.Option(help='What to extract: phrase (noun phrases), noun, or word (nouns and verbs).')
    ] = 'phrase',
    tagger: Annotated[
        str, typer.Option(help='Part-of-speech tagger: lemminflect, hanta, spacy or nltk.')
    ] = 'lemminflect',
    captions: Captions = 'txt',
    part: JobPart = None,
    max_bad_fraction: MaxBadFraction = 0.01,
    overwrite: Overwrite = False,
) -> None:
    """Copy shards and add the nouns of each caption, so that training need not extract them.

    Run it again after an interruption.

    Example: `clipdense nouns data/cc3m data/cc3m_nouns`
    """
    from clipdense.utils.jobs import STATE, Part
    from clipdense.vocab.noun_phrases import Kind, NounExtractor

    own = Part.parse(part)

    check_choice(kind, get_args(Kind), '--kind')
    check_new_folder(out, overwrite, [shards], STATE)
    extractor = NounExtractor(cast(Kind, kind), tagger)
    from clipdense.data.image_text.noun_prompts import add_nouns

    written = add_nouns(
        shards, out, extractor, caption_sources(captions), max_bad_fraction, part=own, overwrite=overwrite
    )
    of_part = f' (part {own})' if own.count > 1 else ''
    print(f'{out}: {counted(len(written), "shard")} with nouns.json{of_part}')
    tell_damaged(out)


def train(
    config: Config,
    work_dir: Annotated[Path | None, typer.Option(help='Output folder.')] = None,
    resume: Annotated[
        bool, typer.Option('--resume', help='Resume from the newest intact checkpoint in the work dir.')
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Random seed [default: the config's].")] = None,
    option: ConfigOptions = None,
    safe_config: SafeConfig = False,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Remove checkpoints of an earlier run in the work dir.')
    ] = False,
    modules: Modules = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            '--log',
            help='Where losses and scores go besides metrics.jsonl: tensorboard, wandb, mlflow, or none. '
            'May be repeated [default: tensorboard, if it is installed].',
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option('--profile', help='Write a trace of three steps to the work dir.')
    ] = False,
) -> None:
    """Train the model of a config.

    Example: `clipdense train contrastive/clip_scenes --work-dir runs/clip`
    """
    check_config(config, safe_config)
    parse_options(option or ())
    import_own(modules or [], config)
    from clipdense.config import load_config
    from clipdense.engine.launch import train as run

    run(
        load_config(config, safe=safe_config),
        work_dir=work_dir,
        resume=resume,
        seed=seed,
        options=option or (),
        overwrite=overwrite,
        log=log,
        profile=profile,
    )


def import_own(modules: list[str], config: str) -> None:
    """Import modules of the user, from the current folder, the folder of the config or what is installed.

    Raises:
        InputError: a module that does not exist, or that fails.
    """
    folders = [os.getcwd(), os.path.dirname(os.path.abspath(os.path.expanduser(config)))]
    sys.path[:0] = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # anything that the code of the user raises
            raise InputError(f'--import {module}: {type(error).__name__}: {one_line(error)}') from error
