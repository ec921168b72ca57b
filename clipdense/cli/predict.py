"""Verbs that say which words fit: an image, or the words alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .images import each
from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    Cache,
    Classes,
    Device,
    Images,
    NamedVocab,
    Overwrite,
    Templates,
    VocabFile,
    Weights,
    read_vocabulary,
    refuse_existing,
    weight_overrides,
)


def classify(
    images: Images,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    top: Annotated[int, typer.Option(min=1, help='Classes to print for each image.')] = 5,
    out: Annotated[
        Path | None, typer.Option('--out', '-o', help='Write all results to this JSON file.')
    ] = None,
    templates: Templates = 'imagenet',
    activation: Activation = None,
    device: Device = None,
    cache: Cache = True,
    overwrite: Overwrite = False,
) -> None:
    """Say which of the words fits each image best.

    Example: `clipdense classify photos/ --classes 'cat, dog, bird' --weights ViT-B-32/openai`
    """
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.results import write_json
    from clipdense.utils.image_files import list_images

    paths = list_images(images)
    vocabulary = read_vocabulary(classes, vocab, preset)
    refuse_existing([out] if out else [], overwrite)
    classifier = Classifier.from_pretrained(
        weights, templates=templates, device=device, cache=cache, **weight_overrides(activation)
    )
    classifier.set_vocabulary(vocabulary)
    rows: list[dict] = []

    def one(index: int) -> str:
        best = classifier(paths[index]).top(top)
        rows.append({'image': str(paths[index]), 'classes': [{'name': n, 'probability': p} for n, p in best]})
        return f'{paths[index]}: ' + ', '.join(f'{name} {probability:.1%}' for name, probability in best)

    try:
        each(paths, one, 'classifying')
    finally:
        if out and rows:
            write_json(out, rows)


def embed(
    context: typer.Context,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option('--out', '-o', help='The .safetensors file to write.')] = Path(
        'vocabulary.safetensors'
    ),
    templates: Templates = 'imagenet',
    activation: Activation = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the embeddings of a vocabulary, for use without the text tower.

    Example: `clipdense embed --preset coco --weights ViT-B-32/openai --out coco.safetensors`
    """
    if context.invoked_subcommand:  # `embed regions`
        return
    from clipdense.clip.text_embeddings import embed_vocabulary, save_embeddings
    from clipdense.inference.hub import load_clip
    from clipdense.vocab.templates import get_templates

    vocabulary = read_vocabulary(classes, vocab, preset)
    refuse_existing([out], overwrite)
    clip = load_clip(weights, device, **weight_overrides(activation))
    embeddings = embed_vocabulary(clip, vocabulary, templates, cache=None)
    save_embeddings(out, vocabulary, embeddings, get_templates(templates))
    queries, width = embeddings.queries.shape
    print(f'{out}: {len(vocabulary)} classes, {queries} queries of {width} numbers')
