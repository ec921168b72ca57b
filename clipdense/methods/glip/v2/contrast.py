"""Which region is an instance of which token, across the images of a batch (GLIPv2).

R: regions of all images, B: images, A: anchors, C: channels, T: tokens of a text, D: text width, M: boxes.

Zhang et al., GLIPv2 (arXiv 2206.05836), section 3.2.

Source: microsoft/GLIP modeling/rpn/loss.py, shallow contrastive loss of ``ATSSLossComputation``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.dist import gather_rows, gather_with_grad, world_size
from clipdense.utils.errors import InputError

from ..assignment import BACKGROUND
from ..losses import contrast_along, region_word_loss
from ..structures import Targets, TextFeatures

NO_CLASS = -1  # of a token
OF_CAPTION = -10  # class of a region of grounding data, which only its own text describes


class RegionWordContrast(nn.Module):
    """Contrast of the regions with a box and the tokens of all texts of the batch, before they are fused.

    A region of class "dog" belongs to the tokens of "dog" in every text of class names of the batch; one of a
    caption to those of its phrase.  All other tokens are negatives.  Regions and texts of all processes take
    part: each compares its own regions with all tokens and its own tokens with all regions, so that the mean
    over processes is the loss of the joined batch.

    Args:
        channels: C.
        text_width: D.
        width: of the joint space.
        max_regions: of an image; more are drawn at random.
        without_first_boxes: leave out the anchors of the first box of each image, as the official code does
            by mistake.

    Raises:
        InputError: a number that is not at least 1.
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        width: int = 64,
        max_regions: int = 100,
        without_first_boxes: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (('width', width), ('max_regions', max_regions)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f'{name} of the contrast must be a whole number, at least 1, got {value!r}')
        self.max_regions, self.without_first_boxes = max_regions, without_first_boxes
        self.image, self.text = nn.Linear(channels, width), nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        levels: Sequence[Tensor],
        text: TextFeatures,
        owner: Tensor,
        targets: Sequence[Targets],
        labels: Sequence[Tensor],
        token_label: Tensor,
    ) -> Tensor:
        """The loss, over the number of anchors with a box.

        Args:
            levels: (B, C, h, w) of each level.
            text: of the texts.
            owner: (B, A) the box of each anchor.
            targets: of each image.
            labels: (M,) class of each box, or ``OF_CAPTION``.
            token_label: (B, T) class of a token, or ``NO_CLASS``.
        """
        places = torch.cat([level.flatten(2).mT for level in levels], dim=1)  # (B, A, C)
        image, place = self._regions(owner)  # (R,)
        box = owner[image, place]
        label = torch.cat([one[own] for one, own in _of_images(labels, image, box)])
        own = torch.cat([one.positive[row] for one, row in _of_images(targets, image, box)])
        words = F.normalize(at_least_fp32(self.text(text.hidden)), dim=-1).flatten(0, 1)  # (B * T, width)
        regions = F.normalize(at_least_fp32(self.image(places[image, place])), dim=-1)  # (R, width)
        found = region_word_targets(image, label, own.to(words), token_label)  # (R, B * T)
        count = (owner != BACKGROUND).sum()
        mask = text.mask.flatten()
        if world_size() == 1:
            loss = region_word_loss(regions @ words.mT / self.log_scale.exp(), found, mask)
            return loss / count.clamp(min=1)
        sides = self._of_all_processes(regions, words, label, token_label.flatten(), mask, found)
        return sides / (gather_with_grad(count[None]).sum().clamp(min=1) / world_size())

    def _of_all_processes(
        self,
        regions: Tensor,
        words: Tensor,
        label: Tensor,
        token_label: Tensor,
        mask: Tensor,
        found: Tensor,
    ) -> Tensor:
        """The loss of the own regions with all tokens, and of the own tokens with all regions."""
        scale = self.log_scale.exp()
        all_words, first_word = gather_rows(words)
        all_regions, first_region = gather_rows(regions)
        all_masks = gather_rows(mask.long())[0].bool()
        of_regions = (label[:, None] == gather_rows(token_label)[0]).to(found)
        of_regions[:, first_word : first_word + len(words)] = found
        of_words = (gather_rows(label)[0][:, None] == token_label).to(found)
        of_words[first_region : first_region + len(regions)] = found
        rows = contrast_along(regions @ all_words.mT / scale, of_regions, all_masks, dim=1)
        columns = contrast_along(all_regions @ words.mT / scale, of_words, mask, dim=0)
        return (rows + columns) / 2

    def _regions(self, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Image and anchor of each region, image after image."""
        found = []
        for row, boxes in enumerate(owner):
            place = (boxes > BACKGROUND + self.without_first_boxes).nonzero()[:, 0]
            if len(place) > self.max_regions:
                chosen = torch.randperm(len(place))[: self.max_regions].sort().values
                place = place[chosen.to(place.device)]
            found.append((torch.full_like(place, row), place))
        image, place = zip(*found, strict=True)
        return torch.cat(image), torch.cat(place)


def token_classes(
    phrases: Sequence[Sequence[Sequence[int]]], classes: Sequence[Sequence[int] | None], length: int
) -> Tensor:
    """The class of each token of each text -> (B, T), ``NO_CLASS`` for others and for captions.

    Args:
        phrases: of each text, the tokens of each phrase.
        classes: of each text, the class of each phrase; None for a caption.
        length: T.
    """
    found = torch.full((len(phrases), length), NO_CLASS)
    for row, (of_phrases, of_text) in enumerate(zip(phrases, classes, strict=True)):
        for tokens, index in zip(of_phrases, of_text or (), strict=of_text is not None):
            found[row, list(tokens)] = index
    return found


def region_word_targets(image: Tensor, label: Tensor, own: Tensor, token_label: Tensor) -> Tensor:
    """1 where a region is an instance of a token -> (R, B * T).

    In the text of its own image a region belongs to the tokens of its phrase, in other texts to those of its
    class.

    Args:
        image: (R,) index of the image of a region.
        label: (R,) class of a region, or ``OF_CAPTION``.
        own: (R, T) tokens of its phrase in its own text.
        token_label: (B, T) class of a token, or ``NO_CLASS``.
    """
    targets = (label[:, None, None] == token_label).to(own)  # (R, B, T)
    rows = torch.arange(len(image), device=image.device)
    return targets.index_put((rows, image), own).flatten(1)


def _of_images(values: Sequence, image: Tensor, box: Tensor) -> list[tuple]:
    """For each image, its value and the boxes of its regions."""
    return [(value, box[image == row]) for row, value in enumerate(values)]
