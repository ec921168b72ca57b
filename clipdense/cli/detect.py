"""Verbs of open-vocabulary detection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError

from .options import (
    Cache,
    Classes,
    Device,
    Images,
    NamedVocab,
    Overwrite,
    VocabFile,
    read_vocabulary,
    refuse_existing,
)

if TYPE_CHECKING:
    from clipdense.vocab.vocabulary import Vocabulary

DetectorConfig = Annotated[
    str | None,
    typer.Option(
        '--config', help='Config of the detector, where its weights do not tell: a file, or vild/vild_scenes.'
    ),
]
Checkpoint = Annotated[
    Path, typer.Option('--weights', '-w', help="What training exported, DetPro's weights, or a checkpoint.")
]
Teacher = Annotated[
    str | None, typer.Option(help='The CLIP whose text tower reads the words, where it is another one.')
]


def detect(
    images: Images,
    weights: Checkpoint,
    config: DetectorConfig = None,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    clip: Teacher = None,
    out: Annotated[Path, typer.Option('--out', help='Folder for the results.')] = Path('detected'),
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help='Least score of a detection.')] = 0.3,
    threshold_of: Annotated[
        list[str] | None, typer.Option(help="Another one for a class: 'cat=0.5'. May be repeated.")
    ] = None,
    overlap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help='IoU above which the weaker of two boxes goes.')
    ] = 0.5,
    agnostic: Annotated[
        bool, typer.Option('--agnostic', help='Boxes of different classes compete too.')
    ] = False,
    most: Annotated[int, typer.Option('--max', min=1, help='Detections of an image.')] = 100,
    templates: Annotated[str, typer.Option(help='Prompts: vild (63), imagenet (80), simple, name.')] = 'vild',
    batch_size: Annotated[int, typer.Option(min=1, help='Images that go through together.')] = 1,
    device: Device = None,
    cache: Cache = True,
    overwrite: Overwrite = False,
) -> None:
    """Detect what the words name: an overlay for each image, and one COCO results file for all.

    Example: `clipdense detect photos/ --classes 'cat, dog' --weights vild.safetensors`
    """
    from clipdense.inference.detector import Detector
    from clipdense.inference.results import write_image, write_json
    from clipdense.utils.image_files import list_images, output_stems

    paths = list_images(images)
    vocabulary = read_vocabulary(classes, vocab, preset)
    special = _thresholds(threshold_of or [], vocabulary)
    stems = [out / stem for stem in output_stems(paths)]
    boxes_file, names_file = out / 'detections.json', out / 'names.json'
    drawn = [Path(f'{stem}_boxes.png') for stem in stems]
    refuse_existing([*drawn, boxes_file, names_file], overwrite)
    common: dict[str, Any] = {'clip': clip, 'templates': templates, 'device': device, 'cache': cache}
    if config is None:
        detector = Detector.from_pretrained(weights, **common)
    else:
        detector = Detector.from_config(config, weights, **common)
    detector.set_vocabulary(vocabulary)
    detector.set_rules(threshold, special, overlap, agnostic, most)
    rows: list[dict] = []
    skipped: list[InputError] = []

    def skip(error: InputError) -> None:
        typer.echo(f'clipdense: skipped: {error}', err=True)
        skipped.append(error)

    found = detector.many(paths, batch_size=batch_size, skip=skip)
    for index, result in found:
        write_image(f'{stems[index]}_boxes.png', result.draw())
        rows += result.to_coco(index + 1)
        print(f'{stems[index]}_boxes.png: {result.summary()}')
    names = [{'id': number, 'name': name} for number, name in enumerate(vocabulary.class_names, 1)]
    files = [{'id': number, 'file_name': str(path)} for number, path in enumerate(paths, 1)]
    write_json(boxes_file, rows)
    write_json(names_file, {'images': files, 'categories': names})
    if skipped:
        typer.echo(f'clipdense: {len(skipped)} of {len(paths)} images were skipped', err=True)
        raise typer.Exit(1)


def regions(
    config: Annotated[str, typer.Argument(help='Config with the detector, its teacher and the images.')],
    checkpoint: Annotated[Path, typer.Argument(help='Weights of a detector trained on base classes.')],
    out: Annotated[Path, typer.Argument(help='Folder of the store, new or begun.')],
    most: Annotated[int, typer.Option('--max', '--regions', min=1, help='Regions of an image.')] = 300,
    workers: Annotated[int, typer.Option(min=0, help='Processes that read and cut images.')] = 0,
    cfg_options: Annotated[
        list[str] | None, typer.Option('--cfg-options', '-o', help='Change a setting of the config.')
    ] = None,
    device: Device = None,
) -> None:
    """Write what the teacher sees in each proposed region; started again, it goes on where it was.

    Example: `clipdense embed regions vild/vild_scenes work_dirs/vild_scenes_rpn/step_1000.pth data/regions`
    """
    from clipdense.inference.load import choose_device
    from clipdense.methods.vild.region_embeddings import embed_regions

    store = embed_regions(
        config, checkpoint, out, cfg_options or (), most, workers=workers, device=choose_device(device)
    )
    print(f'{out}: {len(store)} images, up to {store.facts.regions} regions of {store.facts.width} numbers')


def _thresholds(texts: list[str], vocabulary: Vocabulary) -> dict[str | int, float]:
    """``['cat=0.5']`` -> thresholds by class index."""
    found: dict[str | int, float] = {}
    for text in texts:
        name, _, value = text.rpartition('=')
        try:
            threshold = float(value)
        except ValueError:
            threshold = -1.0
        if not name or not 0 <= threshold <= 1:
            raise InputError(f'{text!r} is no threshold of a class: write cat=0.5, from 0 to 1')
        found[vocabulary.index(name.strip())] = threshold
    return found
