"""DenseCLIP with Semantic FPN as published: for the classes that it was trained on.

B: images, (H, W): pixels, (h, w): cells, D: joint space, K: trained classes, Q: queries, W: width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.layers.padding import pad_to_multiple
from clipdense.registry import MODELS
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.class_names import read_class_names
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .base import ContextAware, expanded
from .context_decoder import score_map
from .contexts import embed_names
from .fpn import FPN, FuseLevels

Features = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # four maps, pooled, local, sizes


@MODELS.register_module()
class ContextAwareSegmenter(ContextAware):
    """The published DenseCLIP: the score map is concatenated to a map of the backbone, K channels.

    The channels fix the K classes.  A vocabulary may list some of them, in any order; other names are
    refused.  ``OpenContextAwareSegmenter`` takes any names.

    Args:
        class_names: the K classes, as ``read_class_names`` takes them: names, or the name of a class list.
        clip, backbone, decoder, loss, statistics, slide: see ``ContextAware``.
        n_ctx: learned context tokens; 8 as published.
        width: W, channels of the FPN.
        temperature: of the loss on the score map.

    Raises:
        InputError: as ``ContextAware``.
    """

    joint_over_classes = True

    def __init__(
        self,
        class_names: Sequence[str] | str,
        clip: nn.Module | dict | str,
        backbone: Mapping[str, Any] | None = None,
        n_ctx: int = 8,
        width: int = 256,
        decoder: Mapping[str, Any] | None = None,
        temperature: float = 0.07,
        loss: Mapping[str, Any] | None = None,
        statistics: str = 'openai',
        slide: Slide | dict | None = None,
    ) -> None:
        super().__init__(clip, backbone, n_ctx, decoder, temperature, loss, statistics, slide)
        self.class_names = read_class_names(class_names).class_names
        channels = list(self.backbone.channels)
        channels[self.backbone.score_index] += len(self.class_names)
        self.neck = FPN(channels, width)
        self.fuse = FuseLevels(width)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(width, len(self.class_names), 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)
        self._kept: tuple[Any, Tensor] | None = None  # class embeddings, and the state that they belong to

    @property
    def embed_dim(self) -> int:
        """K: the rows that stand for class embeddings are one-hot."""
        return len(self.class_names)

    @property
    def embedder(self) -> FixedClasses:
        """The ``ClassEmbedder``: it selects trained classes."""
        return FixedClasses(self.class_names)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary for subsequent calls.

        Raises:
            InputError: embeddings that are not those of ``embedder``.
        """
        rows = embeddings.queries
        if rows.shape[1] != len(self.class_names) or not ((rows == 0) | (rows == 1)).all():
            raise InputError(
                'a DenseCLIP with a fixed set of classes embeds its class names itself, with its learned '
                'contexts: remove the embedder'
            )
        super().set_vocabulary(vocabulary, embeddings)

    def encode_pixels(self, images: Tensor) -> Features:
        """(B, 3, H, W) of any size -> four maps, image and local embeddings, sizes of the images."""
        sizes = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        stages = self.backbone(pad_to_multiple(images, self.backbone.stride))
        first, second, third, fourth = stages.maps
        return first, second, third, fourth, stages.pooled, stages.local, sizes

    def classify_pixels(self, features: Features, text: Tensor) -> Tensor:
        """Features, one-hot rows (Q, K) of ``FixedClasses`` -> logits (B, Q, H, W)."""
        logits, _ = self.decode(features)
        return self.to_image(torch.einsum('bkhw,qk->bqhw', logits, text.to(logits.dtype)), features[-1])

    def decode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Features -> logits (B, K, h, w) at stride 4 and the score map (B, K, h', w')."""
        dtype = self.gamma.dtype
        *maps, pooled, local = (part.to(dtype) for part in features[:-1])
        text = self.adapt_text(expanded(self.class_texts(), len(pooled)), pooled, local)  # (B, K, D)
        scores = score_map(local, text)
        place = self.backbone.score_index
        maps[place] = torch.cat([maps[place], scores], dim=1)
        fused = self.fuse(self.neck(maps))  # (B, W, h, w)
        return self.classify(self.dropout(fused)), scores

    def class_texts(self) -> Tensor:
        """(K, D) class embeddings, not normalized; kept between calls without gradients."""
        if torch.is_grad_enabled() and self.contexts is not None:
            return self._embed_classes()
        tensors = [*self.clip.parameters(), *([] if self.contexts is None else [self.contexts])]
        state = [(one.device, one.dtype, one._version, one.data_ptr()) for one in tensors]
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                self._kept = state, self._embed_classes()
        return self._kept[1]

    def loss(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> dict[str, Tensor]:
        """Images of one size and their masks -> ``loss_mask`` and ``loss_identity``.

        Raises:
            InputError: as ``training_batch``.
        """
        images, labels = self.training_batch(images, samples)
        features = self.encode_pixels(images)
        chosen = self._text()
        both = (torch.einsum('bkhw,qk->bqhw', one.float(), chosen) for one in self.decode(features))
        logits, scores = (self.to_image(one, features[-1]) for one in both)
        return self.losses(logits, scores, labels)

    def _embed_classes(self) -> Tensor:
        if self.contexts is not None:
            return embed_names(self.clip, self.class_names, self.contexts)
        parameter = next(self.clip.parameters())
        token_ids = torch.as_tensor(self.clip.tokenizer(list(self.class_names)))
        return self.clip.encode_text(token_ids.to(parameter.device))


class FixedClasses:
    """A ``ClassEmbedder`` for fixed classes: a one-hot row for each query.

    Args:
        class_names: the K classes.
    """

    uses_templates = False

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """(Q, K) one-hot rows.

        Raises:
            InputError: a class name that is not among the K.
        """
        place = places(self.class_names)
        for name, _ in vocabulary.queries:
            if normalize(name) not in place:
                raise InputError(
                    f'{name!r} is not one of the {len(self.class_names)} classes of this DenseCLIP, whose '
                    'decoder has one input channel for each of them: use these names, or train the '
                    f'open-vocabulary variant.{nearest(name, self.class_names)}'
                )
        rows = torch.zeros(len(vocabulary.queries), len(self.class_names))
        for row, (name, _) in zip(rows, vocabulary.queries, strict=True):
            row[place[normalize(name)]] = 1
        query_class = torch.tensor([index for _, index in vocabulary.queries])
        return ClassEmbeddings(rows, query_class, len(vocabulary))
