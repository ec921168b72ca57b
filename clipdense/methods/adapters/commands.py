"""``clipdense embed tip-cache``; what it needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdense.utils.command_options import Classes, Overwrite, VocabFile, Weights


def tip_cache(
    keys: Annotated[Path, typer.Argument(help="``keys_16shots.pt`` of Tip-Adapter's official code.")],
    values: Annotated[Path, typer.Argument(help='``values_16shots.pt``.')],
    trained: Annotated[
        Path | None, typer.Option(help='``best_F_16shots.pt``: trained keys (Tip-Adapter-F).')
    ] = None,
    classes: Classes = None,
    vocab: VocabFile = None,
    alpha: Annotated[float, typer.Option(help='The alpha that was found, which the files lack.')] = 1.0,
    beta: Annotated[float, typer.Option(help='The beta that was found, which the files lack.')] = 5.5,
    weights: Weights = 'RN50/openai',
    out: Annotated[Path, typer.Option('--out', help='The .safetensors file to write.')] = Path(
        'adapter.safetensors'
    ),
    overwrite: Overwrite = False,
) -> None:
    """Write the cache of Tip-Adapter's official files as one file for `--adapter`, with class names and CLIP.

    Class names are in the order of the values.

    Example: `clipdense embed tip-cache keys_16shots.pt values_16shots.pt --vocab names.txt`
    """
    from clipdense.clip.checkpoint import load
    from clipdense.tasks.adapters import Origin, check_adapter, source_digest
    from clipdense.utils.errors import InputError
    from clipdense.utils.files import check_outputs
    from clipdense.vocab.vocabulary import Vocabulary

    from .files import official_cache

    if (classes is None) == (vocab is None):
        raise InputError('give the class names in the order of the values, with --classes or with --vocab')
    check_outputs([out], overwrite, [keys, values, trained, vocab, weights])
    known = Vocabulary.parse(classes) if classes is not None else Vocabulary.from_file(str(vocab))
    clip = load(weights)
    origin = Origin(source_digest(clip))
    cache = official_cache(keys, values, known.class_names, trained, origin, alpha=alpha, beta=beta)
    check_adapter(cache, clip, 'images')
    cache.save(out)
    print(f'{out}: {cache.summary()}')
