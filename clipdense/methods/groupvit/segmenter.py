"""Zero-shot segmentation with GroupViT: each pixel takes the class of its group.

B: windows, G: groups, N: patches, (h, w): patch grid, (H, W): pixels of a window, D: joint space, K: classes,
Q: queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import MAX_LOGIT_SCALE
from clipdense.layers.exporting import exporting
from clipdense.registry import MODELS, build_module
from clipdense.structures import ClassEmbeddings, best_of_queries
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.segmentation import SegmentationModel, View
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary

from .checkpoint import load
from .grouping import patch_shares
from .model import GroupEmbeddings, GroupVit

# From the released code, by dataset; the paper states 0.9 for VOC, 0.5 for Context, and none for COCO.
BACKGROUND_THRESHOLDS = {'voc': 0.95, 'context': 0.35, 'coco_object': 0.95}
_NEVER = -1.0  # below every score


@dataclass
class GroupScores:
    """Class scores (1, Q, H, W) of a window, stored as a table by group and the group of each pixel."""

    table: Tensor  # (G, Q)
    owner: Tensor  # (H, W) index of a group

    def __getitem__(self, key: tuple[slice, Any]) -> Tensor:
        """``scores[:, queries]`` -> (1, q, H, W)."""
        return self.table[:, key[1]].mT[:, self.owner][None]


@MODELS.register_module()
class GroupVitSegmenter(SegmentationModel):
    """GroupViT as a segmenter.

    The score of a group for a class is the product of its probability among all classes and its probability
    among the ``top_classes`` of the window.  A pixel belongs to the group with the largest share, where
    shares are products of the soft assignments of all stages.

    Args:
        clip: a GroupViT, its config, or weights as ``checkpoint.load`` takes them.
        slide: see ``SegmentationModel``; ``default_slide`` by default.
        background_threshold: groups with a lower best score become background, if the vocabulary has one: a
            number, or a dict by class name ('' for all other classes).  The group with the highest score of a
            window never becomes background.  None uses the learned background.
        top_classes: number of classes that are kept for each window.
        memory_budget: see ``SegmentationModel``.

    Raises:
        InputError: an invalid argument, or ``background_threshold=None`` without a learned background.

    Source: NVlabs/GroupViT segmentation/evaluation/group_vit_seg.py.
    """

    clip: GroupVit
    _threshold: Tensor
    weights_argument = 'clip'
    joint_over_classes = True
    background = 'window'
    templates = 'simple'
    method = 'groupvit'

    def __init__(
        self,
        clip: nn.Module | dict | str,
        slide: Slide | dict | None = None,
        background_threshold: float | Mapping[str, float] | None = BACKGROUND_THRESHOLDS['voc'],
        top_classes: int = 5,
        memory_budget: int = 256 << 20,
    ) -> None:
        clip = load(clip) if isinstance(clip, (str, Path)) else build_module(clip)
        slide = default_slide(clip) if slide is None else slide
        super().__init__(
            clip.preprocess.mean, clip.preprocess.std, slide, logit_scale=1.0, memory_budget=memory_budget
        )
        if top_classes < 1:
            raise InputError(f'top_classes must be at least 1, got {top_classes}')
        if not isinstance(background_threshold, (int, float, Mapping, type(None))):
            raise InputError(
                'background_threshold must be a number, a dict of class names and numbers, or None, got '
                f'{background_threshold!r}'
            )
        if background_threshold is None and clip.background is None:
            raise InputError(
                'background_threshold=None requires a learned background, which this GroupViT does not have: '
                'pass a threshold, or pre-train with background_weight'
            )
        self.clip = clip
        self.thresholds = background_threshold
        self.top_classes = top_classes
        self.patch_size = clip.image.size.patch_size
        self.register_buffer('_threshold', None, persistent=False)  # (K,)

    def configure(self, options: SegmentationOptions) -> None:
        """As ``SegmentationModel``; the background threshold applies to the scores of groups."""
        super().configure(options)
        if options.background_threshold is not None:
            self.thresholds = options.background_threshold
            if self.vocabulary is not None:
                self._threshold = self._class_thresholds(self.vocabulary).to(self.queries.device)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary, and the thresholds of its classes.

        Raises:
            InputError: a vocabulary without foreground classes, or no threshold for a class.
        """
        if len(vocabulary) - (vocabulary.background is not None) < 1:
            raise InputError('the vocabulary has only a background class: add at least one other class')
        thresholds = self._class_thresholds(vocabulary)
        super().set_vocabulary(vocabulary, embeddings)
        self._threshold = thresholds.to(self.queries.device)

    def encode_pixels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> unit embeddings (B, D) and (B, G, D), group of each pixel (B, H, W)."""
        embedded = self.clip.encode_groups(images)
        owner = pixel_groups(embedded, (images.shape[-2], images.shape[-1]))
        return embedded.image, embedded.groups, owner

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Output of ``encode_pixels``, (Q, D) of the vocabulary -> scores (B, Q, H, W).

        The score of the background is 1 or 0.  The score of a class is stored at its first query.
        """
        return torch.cat([scores[:, :] for scores in self._scores(features, text)])

    def class_scores(self, image: Tensor, groups: Tensor, text: Tensor) -> Tensor:
        """(B, D), (B, G, D), (Q, D) -> scores of each group (B, G, K), the background's column included."""
        scale = self.clip.logit_scale.to(groups.dtype).exp().clamp(max=MAX_LOGIT_SCALE)
        background = self.background_index
        front = [index for index in range(self.num_classes) if index != background]
        to_image = self._by_class(scale * image @ text.mT)[:, front]  # (B, K)
        to_groups = self._by_class(scale * groups @ text.mT)[:, :, front]  # (B, G, K)
        learned = None
        if background is not None and self.thresholds is None and self.clip.background is not None:
            learned = scale * groups @ F.normalize(self.clip.background.to(groups.dtype), dim=-1)  # (B, G)
        scores = group_scores(to_image, to_groups, self.top_classes, learned)
        if background is None:
            return scores
        columns = scores.new_empty(*scores.shape[:2], self.num_classes)
        columns[:, :, front] = scores[:, :, : len(front)]
        if learned is None:
            columns[:, :, background] = background_scores(scores, self._threshold[front])
        else:
            columns[:, :, background] = scores[:, :, -1]
        return columns

    def _classify(self, view: View, text: Tensor) -> Iterator[Any]:
        """Scores of each window, each representing (1, Q, H, W)."""
        for features in view.features:
            yield from self._scores(features, text)

    def _scores(self, features: Any, text: Tensor) -> Iterator[GroupScores]:
        image, groups, owner = features
        columns = self.class_scores(image, groups, text)  # (B, G, K)
        table = columns.new_full((*columns.shape[:2], len(text)), _NEVER)
        # Scores are per class: store each at the first query of the class.
        first = [int((self.query_class == index).nonzero()[0]) for index in range(self.num_classes)]
        table[:, :, first] = columns
        yield from map(GroupScores, table, owner.long())

    def _by_class(self, logits: Tensor) -> Tensor:
        """(..., Q) -> (..., K): the maximum over the queries of each class."""
        return best_of_queries(logits, self.query_class, self.num_classes)

    def _class_thresholds(self, vocabulary: Vocabulary) -> Tensor:
        given = self.thresholds
        if not isinstance(given, Mapping):
            return torch.full((len(vocabulary),), 0.0 if given is None else float(given))
        known = {normalize(name): float(value) for name, value in given.items()}
        names = [normalize(name) for name in vocabulary.class_names]
        missing = [
            name
            for name, key in zip(vocabulary.class_names, names, strict=True)
            if key not in known and '' not in known and name != vocabulary.background
        ]
        if missing:
            raise InputError(
                f"background_threshold has no entry for class {missing[0]!r}: add one, or '' for all others"
            )
        return torch.tensor([known.get(key, known.get('', 0.0)) for key in names])


def build(clip: GroupVit, name: str, options: Mapping[str, Any]) -> GroupVitSegmenter:
    """A GroupViT as a segmenter, with options of the method."""
    return GroupVitSegmenter(clip, **options)


def default_slide(clip: GroupVit, short_side: int | None = None) -> Slide:
    """The released protocol scaled to the image size: for 224 short side 448, window 448, stride 224."""
    side = clip.image.size.image_size
    return Slide(short_side=short_side or 2 * side, window=2 * side, stride=side)


def pixel_groups(embedded: GroupEmbeddings, size: tuple[int, int]) -> Tensor:
    """The group with the largest share in each pixel, (B, H, W) uint8 (int16 beyond 256 groups)."""
    shares = patch_shares(embedded.assignments).unflatten(-1, embedded.grid)  # (B, G, h, w)
    shares = F.interpolate(shares, size, mode='bilinear', align_corners=False)
    return shares.argmax(dim=1).to(torch.uint8 if shares.shape[1] <= 256 else torch.int16)


def group_scores(to_image: Tensor, to_groups: Tensor, top: int, background: Tensor | None = None) -> Tensor:
    """Logits (B, K) of windows and (B, G, K) of their groups -> scores (B, G, K), each in 0 .. 1.

    Args:
        to_image, to_groups: scaled similarities.
        top: number of classes that are kept for each window.
        background: (B, G) logits of a learned background, which is always kept, as column K + 1.
    """
    dropped = ~best_classes(to_image, top)[:, None]  # (B, 1, K)
    if background is not None:
        to_groups = torch.cat([to_groups, background[..., None]], dim=-1)
        dropped = F.pad(dropped, (0, 1))
    among_kept = to_groups.masked_fill(dropped, -torch.inf).softmax(dim=-1)
    return among_kept * to_groups.softmax(dim=-1)


def best_classes(logits: Tensor, top: int) -> Tensor:
    """(B, K) -> (B, K) bool: the classes with the ``top`` highest logits, all if there are fewer."""
    if (
        exporting()
    ):  # K is a symbol, and the k of a top-k must not exceed it: count the classes that are ahead
        own, other = logits[:, :, None], logits[:, None]
        place = torch.arange(logits.shape[-1], device=logits.device)
        ahead = (other > own) | ((other == own) & (place < place[:, None]))  # (B, K, K)
        return ahead.sum(dim=-1) < top
    kept = logits.topk(min(top, logits.shape[-1]), dim=-1).indices  # (B, 5)
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, kept, True)


def background_scores(scores: Tensor, thresholds: Tensor) -> Tensor:
    """(B, G, K), thresholds (K,) -> (B, G): 1 for groups whose best class is below its threshold, else 0.

    Thresholds are limited to the best score of the window, so that at least one group is not background.
    """
    best, class_ids = scores.max(dim=-1)  # (B, G)
    bound = torch.minimum(thresholds[class_ids], best.amax(dim=-1, keepdim=True))
    return (best < bound).to(scores.dtype)
