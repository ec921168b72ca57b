"""ViLD's 63 prompts with their article rule.

Source: tensorflow/tpu ``projects/vild/ViLD_demo.ipynb``.
"""

from __future__ import annotations

from collections.abc import Sequence

from clipdense.utils.errors import InputError

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


VILD = _templates()


def article_of(name: str) -> str:
    """'an' before a vowel letter of the name as it is written: "orange", but not "Orange"."""
    return 'an' if name[0] in 'aeiou' else 'a'


def plain_name(name: str) -> str:
    """'hot_dog' -> 'hot dog', 'a/b' -> 'a or b', lower case, no full stop at the end."""
    return name.replace('_', ' ').replace('/', ' or ').lower().rstrip('.')


def vild_prompts(name: str, templates: Sequence[str] = VILD) -> list[str]:
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
