"""``clipdense embed prompts``; what it needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prompts(
    file: Annotated[Path, typer.Argument(help="Learned prompts: ours, CoOp's, CoCoOp's, MaPLe's, DetPro's.")],
    weights: Annotated[
        str, typer.Option('--weights', '-w', help='The CLIP that the prompts were learned for.')
    ] = 'ViT-B-16/openai',
    out: Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')] = Path(
        'prompts.safetensors'
    ),
    position: Annotated[
        str | None, typer.Option(help='Where the context of an official CoOp file is: end, middle or front.')
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option('--classes', '-c', help='Class names of class-specific contexts, in their order.'),
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option('--vocab', help='The class names as a file, one per line.')
    ] = None,
    words: Annotated[
        int, typer.Option(min=0, help='Print this many nearest words of each context token.')
    ] = 0,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing file.')] = False,
) -> None:
    """Write learned prompts of an official file with what it does not record: position, class names, CLIP.

    Example: `clipdense embed prompts model.pth.tar-50 --position end --out coop.safetensors`
    """
    from clipdense.clip.checkpoint import load
    from clipdense.utils.errors import InputError
    from clipdense.vocab.vocabulary import Vocabulary

    from .checkpoint import load_prompts, save_prompts

    if classes is not None and vocab is not None:
        raise InputError('--classes and --vocab cannot be combined: use only one of them')
    if out.suffix != '.safetensors':
        raise InputError(f'--out {out}: prompts are written as safetensors; use {out.stem}.safetensors')
    if out.exists() and not overwrite:
        raise InputError(f'{out} exists: choose another --out, or add --overwrite to replace')
    known = Vocabulary.parse(classes) if classes is not None else None
    known = Vocabulary.from_file(vocab) if vocab is not None else known
    learner = load_prompts(file, load(weights), position, None if known is None else list(known.class_names))
    save_prompts(learner, out)
    for number, near in enumerate(learner.nearest_words(words) if words else [], 1):
        print(f'{number}: ' + ', '.join(f'{word} ({distance:.2f})' for word, distance in near))
    print(f'{out}: {type(learner).__name__}, {learner.n_ctx} context tokens')
