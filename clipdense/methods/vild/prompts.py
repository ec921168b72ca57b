"""ViLD's 63 prompts with their article rule.  K: classes, D: joint space.

Source: tensorflow/tpu ``projects/vild/ViLD_demo.ipynb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.engine.hooks import VocabularyHook
from clipdense.registry import HOOKS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

VILD = 'vild'  # name of the set, wherever templates are asked for
SINGLE = 'a photo of {article} {}.'

_ADJECTIVES = ('nice', 'cool', 'weird', 'small', 'large', 'clean', 'dirty')
_QUALITIES = ('low resolution', 'cropped', 'close-up', 'jpeg corrupted', 'blurry', 'pixelated')
_KINDS = ('plastic', 'toy', 'plushie', 'cartoon')
_OF = ('{article}', 'the')


def _templates() -> tuple[str, ...]:
    scene = [
        'There is {article} {} in the scene.',
        'There is the {} in the scene.',
        *(f'a photo of {word} {{}} in the scene.' for word in ('{article}', 'the', 'one')),
    ]
    simple = [f'itap of {word} {{}}.' for word in ('{article}', 'my', 'the')]
    simple += [f'a photo of {word} {{}}.' for word in ('{article}', 'my', 'the', 'one', 'many')]
    judged = [f'a {worth} photo of {word} {{}}.' for worth in ('good', 'bad') for word in _OF]
    described = [f'a photo of {word} {adjective} {{}}.' for adjective in _ADJECTIVES for word in ('a', 'the')]
    lit = [f'a {light} photo of {word} {{}}.' for light in ('bright', 'dark') for word in _OF]
    hard = [f'a photo of {word} hard to see {{}}.' for word in ('a', 'the')]
    poor = [f'a {quality} photo of {word} {{}}.' for quality in _QUALITIES for word in _OF]
    grey = [f'a black and white photo of {word} {{}}.' for word in reversed(_OF)]
    made = [f'{word} {kind} {{}}.' for kind in _KINDS for word in ('a', 'the')]
    made += ['an embroidered {}.', 'the embroidered {}.', 'a painting of the {}.', 'a painting of a {}.']
    return (*scene, *simple, *judged, *described, *lit, *hard, *poor, *grey, *made)


TEMPLATES = _templates()


def article_of(name: str) -> str:
    """'an' before a vowel letter of the name as it is written: "orange", but not "Orange"."""
    return 'an' if name[0] in 'aeiou' else 'a'


def plain_name(name: str) -> str:
    """'hot_dog' -> 'hot dog', 'a/b' -> 'a or b', lower case, no full stop at the end."""
    return name.replace('_', ' ').replace('/', ' or ').lower().rstrip('.')


def prompts(name: str, templates: Sequence[str] = TEMPLATES) -> list[str]:
    """The sentences for a class name; those that begin with an article get "This is " in front.

    Raises:
        InputError: a blank name.
    """
    plain = plain_name(name)
    if not plain.strip():
        raise InputError(f'a class name is blank: {name!r}')
    article = article_of(name)
    texts = [template.replace('{article}', article).replace('{}', plain) for template in templates]
    return [f'This is {text}' if text.startswith(('a', 'the')) else text for text in texts]


def embed_words(
    clip: CLIP | FrozenText,
    vocabulary: Vocabulary,
    templates: str | Sequence[str] = VILD,
    cache: str | Path | Literal['default'] | None = None,
) -> ClassEmbeddings:
    """As ``embed_vocabulary``; ``templates='vild'`` means the prompts of this page."""
    if templates != VILD:
        return embed_vocabulary(clip, vocabulary, templates, cache=cache)
    sentences_of = {word: tuple(prompts(word)) for word, _ in vocabulary.queries}
    sentences = list(dict.fromkeys(sentences_of.values()))  # 'hot_dog' and 'hot dog' have the same
    # One class a word, asked by its prompts: the cache of ``embed_vocabulary`` then serves here as well.
    asked = Vocabulary(tuple(texts[0] for texts in sentences), {texts[0]: texts[1:] for texts in sentences})
    found = embed_vocabulary(clip, asked, 'name', cache=cache)
    means = F.normalize(found.queries.view(len(sentences), len(TEMPLATES), -1).mean(dim=1), dim=-1)
    place = {texts: index for index, texts in enumerate(sentences)}
    rows = torch.tensor([place[sentences_of[word]] for word, _ in vocabulary.queries], device=means.device)
    query_class = torch.tensor([index for _, index in vocabulary.queries], device=means.device)
    return ClassEmbeddings(means[rows], query_class, len(vocabulary))


@HOOKS.register_module()
class DetectionVocabularyHook(VocabularyHook):
    """``VocabularyHook`` that knows the templates 'vild'.

    Args:
        templates: what ``embed_words`` takes.
    """

    def __init__(self, templates: str | Sequence[str] = VILD) -> None:
        super().__init__(templates)

    def embed(self, clip: CLIP | None, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The embeddings of a vocabulary, kept on disk.

        Raises:
            InputError: the detector has no teacher to embed words with.
        """
        if clip is None:
            raise InputError('the detector has no teacher to read the words: give model.clip in the config')
        return embed_words(clip, vocabulary, self.templates, cache='default')
