"""``clipdense classify`` and ``clipdense embed``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs
from clipdense.utils.wording import counted

from .early import check_templates
from .images import each
from .options import (
    AsJson,
    BatchSize,
    ImageArguments,
    InferenceArguments,
    Overwrite,
    Templates,
    Top,
    VocabularyArguments,
    WeightsArguments,
    grouped,
    tell_precision,
)
from .output import print_json

if TYPE_CHECKING:
    from clipdense.inference.results import Classification


@grouped
def classify(
    images: ImageArguments,
    vocabulary: VocabularyArguments,
    weights: InferenceArguments,
    top: Top = 5,
    out: Annotated[Path | None, typer.Option('--out', help='JSON file to write the results to.')] = None,
    templates: Templates = None,
    batch_size: BatchSize = 'auto',
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Classify images by class names: prints the most probable classes of each image.

    Example: `clipdense classify photos/ --classes 'cat, dog, bird' --weights ViT-B-32/openai`
    """
    paths = images.paths()
    classes = vocabulary.read(templates)
    weights.check()
    check_templates(templates)
    check_outputs(
        [out] if out else [], overwrite, [*paths, vocabulary.vocab, *classes.example_files, *weights.inputs()]
    )
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.results import write_json

    classifier = Classifier.from_pretrained(
        weights.weights,
        templates=templates,
        device=weights.device,
        precision=weights.precision,  # type: ignore[arg-type]  # the classifier checks it
        cache=weights.cache,
        embedder=weights.embedder,
        adapter=weights.adapter,
        **weights.overrides(),
    )
    tell_precision(classifier.precision)
    classifier.set_vocabulary(classes)
    rows: list[dict] = []

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, Classification]]:
        return classifier.stream(paths, batch_size=batch_size, on_error=failed, max_pixels=images.max_pixels)

    def finish(index: int, result: Classification) -> str:
        best = result.top(top)
        found = [{'name': name, 'probability': probability} for name, probability in best]
        rows.append({'image': str(paths[index]), 'classes': found, 'precision': classifier.precision})
        return f'{printable(paths[index])}: ' + ', '.join(
            f'{name} {probability:.1%}' for name, probability in best
        )

    try:
        each(paths, predict, finish, 'classifying', out)
    finally:
        if out and rows:
            write_json(out, rows)
        if as_json and rows:
            print_json(rows)


@grouped
def embed(
    context: typer.Context,
    vocabulary: VocabularyArguments,
    weights: WeightsArguments,
    out: Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')] = Path(
        'vocabulary.safetensors'
    ),
    templates: Templates = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the class embeddings of a vocabulary to a file, for use without the text tower.

    With `--prompts` they are those of learned prompts.

    Example: `clipdense embed --class-list coco --weights ViT-B-32/openai --out coco.safetensors`
    """
    if context.invoked_subcommand:  # a command that a method adds
        return
    classes = vocabulary.read(templates)
    weights.check()
    check_templates(templates)
    if out.suffix != '.safetensors':
        raise InputError(
            f'--out {out}: class embeddings are written as safetensors; use {out.stem}.safetensors'
        )
    check_outputs([out], overwrite, [vocabulary.vocab, weights.weights, weights.embedder])
    from clipdense.clip.embedding_files import save_embeddings
    from clipdense.inference.load import load_embedder, load_text_clip

    clip = load_text_clip(weights.weights, weights.device, **weights.overrides())
    if classes.negatives:
        raise InputError(
            f'{vocabulary.vocab} has negatives, which a file of class embeddings cannot hold: remove them '
            'or make them classes'
        )
    own = templates if weights.embedder else templates or classes.templates or 'imagenet'
    embedder = load_embedder(clip, weights.embedder, own, cache=False)
    if getattr(embedder, 'changes_images', False):
        raise InputError(
            f'{weights.embedder} has prompts of the image tower, which a file of class embeddings cannot '
            'hold: give the prompts themselves to classify and segment (--prompts)'
        )
    embeddings = embedder.embed(classes)
    save_embeddings(out, classes, embeddings, getattr(embedder, 'templates', None))
    queries, width = embeddings.queries.shape
    print(
        f'{out}: {counted(len(classes), "class")}, {counted(queries, "text embedding")} of dimension {width}'
    )
