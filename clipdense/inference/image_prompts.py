"""Embedders that need more of a model than its text tower: prompts of the image tower, prompts for each
image.

See ``clip.class_embeddings.ClassEmbedder``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError

from .load import method_of


def per_image(embedder: ClassEmbedder) -> bool:
    """Whether class embeddings depend on the image."""
    return getattr(embedder, 'per_image', False)


def check_embedder(model: Any, embedder: ClassEmbedder) -> None:
    """Check that a model has what an embedder needs.

    Raises:
        InputError: prompts of the image tower for a model that does not work on the image tower of a CLIP, or
            prompts for each image for a model without one.
    """
    method, kind = method_of(model), type(model).__name__
    clip = getattr(model, 'clip', model)
    image = getattr(clip, 'image', None)
    if getattr(embedder, 'changes_images', False):
        alone = type(model) is CLIP or (method is not None and method.any_clip)
        if not alone or not isinstance(image, VisionTransformer):
            raise InputError(
                f'these prompts change the image tower of their CLIP, and {kind} has an image tower of its '
                'own: use prompts of the text tower only (CoOp; MaPLe with image=False)'
            )
    if per_image(embedder) and not isinstance(clip, CLIP):
        raise InputError(
            f'these prompts depend on the image embedding of their CLIP (CoCoOp), and {kind} has its text '
            'tower only: use prompts that all images share (CoOp)'
        )


@contextmanager
def with_image_prompts(model: Any, embedder: ClassEmbedder) -> Iterator[None]:
    """The image tower of the model has the prompts of the embedder in this context, if it has any."""
    if not getattr(embedder, 'changes_images', False):
        yield
        return
    with getattr(model, 'clip', model).image.prompted(embedder.image_prompts()):  # type: ignore[attr-defined]
        yield
