"""LSeg on a frozen image tower that also classifies by itself, for classes without masks.

B: images, (H, W): pixels, (h, w): cells of the pixel map, D: joint space, K: classes, Q: queries.

Source: FC-CLIP (Yu et al., arXiv 2308.02487), section 3.3, with LSeg in place of its mask decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.padding import pad_to_multiple
from clipdense.registry import MODELS
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary

from .backbones import StagePyramid
from .segmenter import LSeg


@MODELS.register_module()
class EnsembleLSeg(LSeg):
    """LSeg whose scores are combined with those of its frozen image tower.

    Training is that of LSeg.  Afterwards the probability of a class is the product of the decoder's and the
    tower's, with a weight in the exponent that depends on whether the class had masks in training.

    Args:
        seen: names of the classes of the training.
        backbone, clip, width, temperature, loss, statistics, slide: as in ``LSeg``; the backbone is a
            ``StagePyramid`` of an image tower of the same joint space as ``clip``, such as its own.
        tower_weights: exponents of the tower's probability, from 0 to 1, for seen and for other classes; the
            decoder has the rest.  (0.4, 0.8) in FC-CLIP.
        tower_temperature: divisor of the tower's cosines.

    Raises:
        InputError: no seen classes, weights out of range, or a backbone that does not fit.
    """

    joint_over_classes = True
    templates = 'a photo of a {}.'  # the tower needs sentences
    seen_queries: Tensor

    def __init__(
        self,
        seen: Sequence[str],
        backbone: nn.Module | dict | None = None,
        clip: nn.Module | dict | str | None = None,
        width: int = 256,
        temperature: float = 0.07,
        loss: dict[str, Any] | None = None,
        statistics: str = 'half',
        slide: Slide | dict | None = None,
        tower_weights: tuple[float, float] = (0.0, 1.0),
        tower_temperature: float = 0.05,
    ) -> None:
        super().__init__(
            backbone,
            clip,
            width=width,
            temperature=temperature,
            loss=loss,
            statistics=statistics,
            slide=slide,
            lock_backbone=True,
        )
        self.joint_over_classes = True
        if isinstance(seen, str):
            raise InputError(f'seen must be a list of class names, got the text {seen!r}')
        self.seen = tuple(seen)
        self.tower_weights, self.tower_temperature = tuple(tower_weights), tower_temperature
        if not self.seen:
            raise InputError('seen is empty: give the names of the training classes')
        if len(self.tower_weights) != 2 or not all(0 <= weight <= 1 for weight in self.tower_weights):
            raise InputError(f'tower_weights must be two numbers from 0 to 1, got {list(tower_weights)}')
        if tower_temperature <= 0:
            raise InputError(f'tower_temperature must be positive, got {tower_temperature}')
        if not isinstance(self.backbone, StagePyramid):
            raise InputError(
                f'EnsembleLSeg needs a StagePyramid as its backbone, got {type(self.backbone).__name__}'
            )
        own, dim = self.backbone.tower.size.embed_dim, self.project.out_channels
        if own != dim:
            raise InputError(
                f'the image tower has embeddings of {own} values, the text tower of {dim}: use the two '
                'towers of one CLIP'
            )
        self.register_buffer('seen_queries', None, persistent=False)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """As ``LSeg``; classes count as seen by their name or a synonym."""
        super().set_vocabulary(vocabulary, embeddings)
        seen = {normalize(name) for name in self.seen}
        known = {at for name, at in vocabulary.queries if normalize(name) in seen}
        self.seen_queries = torch.tensor(
            [int(at) in known for at in embeddings.query_class], device=self.queries.device
        )

    def loss(self, images: Any, samples: Any) -> dict[str, Tensor]:
        """As ``LSeg``.

        Raises:
            InputError: as ``LSeg``, or a training class that is not among ``seen``.
        """
        self._text()
        if not self.seen_queries.all():
            at = int(self.query_class[~self.seen_queries][0])
            name = self.vocabulary.class_names[at] if self.vocabulary else at
            raise InputError(
                f'the class {name!r} of the training data is not in model.seen: add it.'
                f'{nearest(str(name), self.seen)}'
            )
        return super().loss(images, samples)

    def encode_pixels(self, images: Tensor) -> Any:
        """As ``LSeg``; in evaluation mode with the unit embeddings (B, D, h', w') of the tower."""
        if self.training:
            return super().encode_pixels(images)
        embeddings, maps = self.backbone.encode(pad_to_multiple(images, self.backbone.stride))
        kept, size = self._keep(maps, images)
        return kept, size, F.normalize(embeddings, dim=1)

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Features, (Q, D) of the vocabulary's queries -> log probabilities (B, Q, H, W), not normalized."""
        if self.training:
            return super().classify_pixels(features, text)
        kept, sizes, embeddings = features
        trained = self.cell_logits(kept, text)  # (B, Q, h, w)
        own = torch.einsum('bdhw,qd->bqhw', embeddings, text / self.tower_temperature)
        own = F.interpolate(own, trained.shape[-2:], mode='bilinear', align_corners=True)
        seen, other = self.tower_weights
        weight = torch.where(self.seen_queries, seen, other)
        return self.to_pixels(geometric_ensemble(trained, own, weight), sizes)

    def with_pixel_embeddings(self, features: Any, embeddings: Tensor) -> Any:
        """Features with other embeddings of the decoder; those of the tower stay."""
        return embeddings, *features[1:]


def geometric_ensemble(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Logits (B, Q, h, w) of two classifiers, weight of the second (Q,) -> mean log probabilities."""
    weight = weight[:, None, None]
    return (1 - weight) * first.log_softmax(dim=1) + weight * second.log_softmax(dim=1)
