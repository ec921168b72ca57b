"""Prompt templates: sentences with one ``{}`` where the class name goes."""

from __future__ import annotations

from collections.abc import Sequence

from clipdense.utils.errors import InputError, nearest

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

# The seven that a greedy search kept, in the order it took them (same notebook).
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

TEMPLATES: dict[str, tuple[str, ...]] = {
    'imagenet': _IMAGENET,
    'imagenet_scene': _IMAGENET + _IN_THE_SCENE,
    'openai7': _OPENAI7,
    'cifar': _CIFAR,
    'simple': ('a photo of a {}.',),
    'name': ('{}',),
}


def fill(template: str, name: str) -> str:
    """The prompt for a class name."""
    return template.replace('{}', name)


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of a named set, or one's own, checked.

    Args:
        templates: a key of ``TEMPLATES``, one template, or a list of templates.

    Raises:
        InputError: an unknown set (the nearest is named), no templates, or one without exactly one ``{}``.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if '{' not in templates:
            raise InputError(
                f'unknown template set {templates!r}.{nearest(templates, TEMPLATES)} '
                f'Sets: {", ".join(TEMPLATES)}; or give sentences with {{}} for the class name'
            )
        templates = (templates,)
    templates = tuple(templates)
    if not templates:
        raise InputError('no prompt templates given')
    for template in templates:
        if not isinstance(template, str) or template.count('{}') != 1:
            raise InputError(f'a template must hold {{}} exactly once, for the class name: {template!r}')
    return templates
