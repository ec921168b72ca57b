"""Maps that explain the masks of a GroupViT: the groups of each stage, with the best class of each.

G: groups of a stage, (H, W): pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipdense.data.batches import to_tensor
from clipdense.utils.drawing import overlay
from clipdense.utils.modules import evaluating

from .segmenter import GroupVitSegmenter, pixel_groups


@dataclass(frozen=True)
class StageMap:
    """The groups of one stage.

    Args:
        stage: from 1, as the paper counts.
        owner: (H, W) each pixel's group.
        words: best class of each of the G groups, and its score in 0 .. 1.  Groups of an early stage have no
            embedding in the joint space; they take the class of the group that they are assigned to.
    """

    stage: int
    owner: NDArray[np.integer]
    words: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """Part of the name of its file."""
        return f'groups_{self.stage}'

    def draw(self, image: Image.Image, opacity: float = 0.6) -> Image.Image:
        """The image colored by group, with a legend of classes and scores."""
        names = [f'{index}: {word} {score:.2f}' for index, (word, score) in enumerate(self.words)]
        return overlay(image, self.owner, names, opacity=opacity, hidden=())


@torch.no_grad()
def explain(model: GroupVitSegmenter, image: Image.Image) -> list[StageMap]:
    """The maps of all grouping stages, the first one first, with the whole image in one window.

    Args:
        model: the segmenter, with a vocabulary.
        image: an image of any size.

    Raises:
        InputError: no vocabulary yet.
    """
    text = model._text()
    with evaluating(model):
        pixels = model.data_preprocessor.normalize(to_tensor(image).to(text.device))
        size = model.slide.resized((image.height, image.width), model.patch_size)
        shown = torch.nn.functional.interpolate(pixels[None], size, mode='bilinear', antialias=True)
        embedded = model.clip.encode_groups(shown)
        scores = model.class_scores(embedded.image, embedded.groups, text)[0]  # (G, K)
        if model.background_index is not None and model.thresholds is not None:
            scores[:, model.background_index] = -1  # it is 0 or 1, by the threshold
    best, class_ids = scores.max(dim=1)
    assert model.vocabulary is not None
    names = model.vocabulary.class_names
    words = [(names[at], score) for at, score in zip(class_ids.tolist(), best.tolist(), strict=True)]
    maps = []
    for stage in range(len(embedded.assignments), 0, -1):
        early = embedded._replace(assignments=embedded.assignments[:stage])
        owner = pixel_groups(early, (image.height, image.width))[0].cpu().numpy()
        maps.append(StageMap(stage, owner, tuple(words)))
        goes_to = embedded.assignments[stage - 1].soft[0].argmax(dim=0).tolist()  # of each earlier group
        words = [words[at] for at in goes_to]
    return maps[::-1]
