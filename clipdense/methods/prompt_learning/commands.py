"""``clipdense embed prompts``; what it needs is imported when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.command_options import Classes, Override, Overwrite, VocabFile, Weights

if TYPE_CHECKING:
    from .learner import PromptLearner


def prompts(
    file: Annotated[Path, typer.Argument(help="Learned prompts: ours, CoOp's, CoCoOp's, MaPLe's, DetPro's.")],
    weights: Weights = 'ViT-B-16/openai',
    override: Override = None,
    out: Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')] = Path(
        'prompts.safetensors'
    ),
    position: Annotated[
        str | None, typer.Option(help='Where the context of an official CoOp file is: end, middle or front.')
    ] = None,
    classes: Classes = None,
    vocab: VocabFile = None,
    words: Annotated[
        int, typer.Option(min=0, help='Print this many nearest words of each context token.')
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write learned prompts of an official file with what it does not record: position, class names, CLIP.

    Class-specific contexts belong to the class names in their order.

    Example: `clipdense embed prompts model.pth.tar-50 --position end --out coop.safetensors`
    """
    from clipdense.clip.checkpoint import load
    from clipdense.config import parse_options
    from clipdense.utils.errors import InputError
    from clipdense.utils.files import check_outputs, regular_file
    from clipdense.vocab.vocabulary import Vocabulary

    from .checkpoint import load_prompts, save_prompts

    if classes is not None and vocab is not None:
        raise InputError('--classes and --vocab cannot be combined: use only one of them')
    if out.suffix != '.safetensors':
        raise InputError(f'--out {out}: prompts are written as safetensors; use {out.stem}.safetensors')
    regular_file(file)
    check_outputs([out], overwrite, [file, weights, vocab])
    known = Vocabulary.parse(classes) if classes is not None else None
    known = Vocabulary.from_file(vocab) if vocab is not None else known
    clip = load(weights, **parse_options(override or []))
    learner = load_prompts(file, clip, position, None if known is None else list(known.class_names))
    lines = list(_nearest(learner, words)) if words else []
    save_prompts(learner, out)
    for line in lines:
        print(line)
    print(f'{out}: {type(learner).__name__}, {learner.n_ctx} context tokens')


def _nearest(learner: PromptLearner, words: int) -> Iterator[str]:
    """A line for each context token, of each class that has its own."""
    for name in getattr(learner, 'known', ()) or (None,):
        for number, near in enumerate(learner.nearest_words(words, name), 1):
            of = '' if name is None else f'{name}, '
            yield f'{of}token {number}: ' + ', '.join(f'{word} ({far:.2f})' for word, far in near)
