"""Prompt templates: the sentences that a text tower reads in place of a class name.  T: templates."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError, nearest

from .vild_prompts import vild_prompts

# Radford et al. 2021, "Prompt_Engineering_for_ImageNet" in openai/CLIP: 80 sentences, in the published order.
_IMAGENET = (
    'a bad photo of a {}.',
    'a photo of many {}.',
    'a sculpture of a {}.',
    'a photo of the hard to see {}.',
    'a low resolution photo of the {}.',
    'a rendering of a {}.',
    'graffiti of a {}.',
    'a bad photo of the {}.',
    'a cropped photo of the {}.',
    'a tattoo of a {}.',
    'the embroidered {}.',
    'a photo of a hard to see {}.',
    'a bright photo of a {}.',
    'a photo of a clean {}.',
    'a photo of a dirty {}.',
    'a dark photo of the {}.',
    'a drawing of a {}.',
    'a photo of my {}.',
    'the plastic {}.',
    'a photo of the cool {}.',
    'a close-up photo of a {}.',
    'a black and white photo of the {}.',
    'a painting of the {}.',
    'a painting of a {}.',
    'a pixelated photo of the {}.',
    'a sculpture of the {}.',
    'a bright photo of the {}.',
    'a cropped photo of a {}.',
    'a plastic {}.',
    'a photo of the dirty {}.',
    'a jpeg corrupted photo of a {}.',
    'a blurry photo of the {}.',
    'a photo of the {}.',
    'a good photo of the {}.',
    'a rendering of the {}.',
    'a {} in a video game.',
    'a photo of one {}.',
    'a doodle of a {}.',
    'a close-up photo of the {}.',
    'a photo of a {}.',
    'the origami {}.',
    'the {} in a video game.',
    'a sketch of a {}.',
    'a doodle of the {}.',
    'a origami {}.',
    'a low resolution photo of a {}.',
    'the toy {}.',
    'a rendition of the {}.',
    'a photo of the clean {}.',
    'a photo of a large {}.',
    'a rendition of a {}.',
    'a photo of a nice {}.',
    'a photo of a weird {}.',
    'a blurry photo of a {}.',
    'a cartoon {}.',
    'art of a {}.',
    'a sketch of the {}.',
    'a embroidered {}.',
    'a pixelated photo of a {}.',
    'itap of the {}.',
    'a jpeg corrupted photo of the {}.',
    'a good photo of a {}.',
    'a plushie {}.',
    'a photo of the nice {}.',
    'a photo of the small {}.',
    'a photo of the weird {}.',
    'the cartoon {}.',
    'art of the {}.',
    'a drawing of the {}.',
    'a photo of the large {}.',
    'a black and white photo of a {}.',
    'the plushie {}.',
    'a dark photo of a {}.',
    'itap of a {}.',
    'graffiti of the {}.',
    'a toy {}.',
    'itap of my {}.',
    'a photo of a cool {}.',
    'a photo of a small {}.',
    'a tattoo of the {}.',
)

# The seven selected by greedy search, in the order of selection (same notebook).
_OPENAI7 = (
    'itap of a {}.',
    'a bad photo of the {}.',
    'a origami {}.',
    'a photo of the large {}.',
    'a {} in a video game.',
    'art of the {}.',
    'a photo of the small {}.',
)

# Added to the 80 by MaskCLIP (arXiv 2112.01071) and CLIPSurgery (arXiv 2304.05653).
_IN_THE_SCENE = (
    'there is a {} in the scene.',
    'there is the {} in the scene.',
    'this is a {} in the scene.',
    'this is the {} in the scene.',
    'this is one {} in the scene.',
)

# openai/CLIP data/prompts.md, CIFAR-10 and CIFAR-100: nine sentences with each article.
_CIFAR = tuple(
    sentence.replace('ARTICLE', article)
    for article in ('a', 'the')
    for sentence in (
        'a photo of ARTICLE {}.',
        'a blurry photo of ARTICLE {}.',
        'a black and white photo of ARTICLE {}.',
        'a low contrast photo of ARTICLE {}.',
        'a high contrast photo of ARTICLE {}.',
        'a bad photo of ARTICLE {}.',
        'a good photo of ARTICLE {}.',
        'a photo of ARTICLE small {}.',
        'a photo of ARTICLE big {}.',
    )
)


@dataclass(frozen=True)
class TemplateSet:
    """T prompts for a class name.

    Args:
        rule: format strings with ``{}`` exactly once, where the class name goes; or a function, class name ->
            T prompts, for sets with rules of grammar.
    """

    rule: tuple[str, ...] | Callable[[str], Sequence[str]]

    def prompts(self, name: str) -> list[str]:
        """The T prompts for a class name.

        Raises:
            InputError: a name that the function of the set refuses, such as a blank one; or the function does
                not return a list of prompts.
        """
        if callable(self.rule):
            found = self.rule(name)
            prompts = [] if isinstance(found, str) or not isinstance(found, Iterable) else list(found)
            if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
                raise InputError(f'templates must give a list of prompts for {name!r}, got {found!r:.60}')
            return prompts
        return [fill(template, name) for template in self.rule]

    @property
    def formats(self) -> list[str]:
        """What the prompts look like, with ``{}`` for the class name: for people and file headers."""
        return self.prompts('{}')

    def __len__(self) -> int:
        return len(self.formats)


Templates = str | Sequence[str] | Callable[[str], Sequence[str]] | TemplateSet

TEMPLATES: dict[str, TemplateSet] = {
    'imagenet': TemplateSet(_IMAGENET),
    'imagenet_scene': TemplateSet(_IMAGENET + _IN_THE_SCENE),
    'openai7': TemplateSet(_OPENAI7),
    'cifar': TemplateSet(_CIFAR),
    'vild': TemplateSet(vild_prompts),
    'simple': TemplateSet(('a photo of a {}.',)),
    'name': TemplateSet(('{}',)),
}


def fill(template: str, name: str) -> str:
    """The prompt for a class name."""
    return template.replace('{}', name)


def get_templates(templates: Templates) -> TemplateSet:
    """A named set of templates, or one's own, checked.

    Args:
        templates: a key of ``TEMPLATES``, one format string, a list of them, or a function, class name ->
            prompts.

    Raises:
        InputError: an unknown set, no templates, or a template without exactly one ``{}``, or with other
            braces (no ``{name}`` or ``{{``).

    Warns:
        UserWarning: a template that is listed twice; it counts twice.
    """
    if isinstance(templates, TemplateSet):
        return templates
    if callable(templates):
        return TemplateSet(templates)
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if '{' not in templates:
            if Path(templates).suffix in ('.txt', '.json') or '/' in templates:
                raise InputError(
                    f'templates are not read from a file ({templates!r}): use {", ".join(TEMPLATES)}, or '
                    'sentences with {} for the class name'
                )
            raise InputError(
                f'unknown template set {templates!r}.{nearest(templates, TEMPLATES)} '
                f'Use {", ".join(TEMPLATES)}, or sentences with {{}} for the class name'
            )
        templates = (templates,)
    return TemplateSet(_checked(templates))


def _checked(templates: Any) -> tuple[str, ...]:
    if isinstance(templates, (bytes, Mapping, set, frozenset)) or not isinstance(templates, Iterable):
        kind = type(templates).__name__
        raise InputError(f'templates must be the name of a set, or a list of sentences with {{}}, got {kind}')
    templates = tuple(templates)
    if not templates:
        raise InputError('no prompt templates given; pass at least one')
    for template in templates:
        if not isinstance(template, str) or template.count('{}') != 1:
            raise InputError(f'a template must contain {{}} exactly once, for the class name: {template!r}')
        if set(template.replace('{}', '')) & set('{}'):
            raise InputError(f'a template must have no other braces than {{}}: {template!r}')
    twice = [template for template, count in Counter(templates).items() if count > 1]
    if twice:
        warnings.warn(f'the template {twice[0]!r} is listed twice and counts twice', stacklevel=3)
    return templates
