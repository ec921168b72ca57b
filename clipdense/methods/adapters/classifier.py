"""Training of an adapter on images by the runner.  B: images, K: classes, D: joint space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import DATASETS, MODELS, build, build_module
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter, Origin, check_adapter, source_digest
from clipdense.tasks.classification import FrozenClipClassifier
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights

from .cache import KeyValueCache
from .files import cache_from_file
from .train import adapted_logits

FILE = 'adapter.safetensors'


@MODELS.register_module()
class AdapterClassifier(FrozenClipClassifier):
    """Classifies images by a frozen CLIP with an adapter; only the adapter is trained, by cross entropy.

    The CLIP is in evaluation mode and not part of the state dict: checkpoints and exported files have the
    adapter only.  `clipdense adapt` trains on stored embeddings instead, which takes seconds, without
    augmentation.

    Args:
        clip: the model, its config, or weights as ``clipdense.load`` takes them.
        adapter: a ``ClipAdapter`` or its config, to which ``embed_dim`` is added; or a cache, or the file of
            one, whose keys are trained (Tip-Adapter-F).
        class_names: K names, or the config of a dataset that has them; they can be set later
            (``set_classes``).
        templates: prompt templates of the class embeddings.

    Raises:
        InputError: an adapter of another CLIP, or without parameters.
    """

    clip: CLIP
    adapter: Adapter

    def __init__(
        self,
        clip: nn.Module | dict | str,
        adapter: Adapter | Mapping[str, Any] | str | Path,
        class_names: Sequence[str] | Mapping[str, Any] = (),
        templates: Templates = 'imagenet',
    ) -> None:
        model: CLIP = load(clip) if isinstance(clip, str) else build_module(clip)
        super().__init__(model)
        found: Any = adapter
        if isinstance(adapter, str | Path):
            found = cache_from_file(read_weights(adapter))
        elif isinstance(adapter, Mapping):
            found = build_module({'embed_dim': model.embed_dim, **adapter})
        check_adapter(found, model, 'images')
        self.adapter = found.trainable() if isinstance(found, KeyValueCache) else found
        if not any(one.requires_grad for one in self.adapter.parameters()):
            raise InputError(f'a {type(found).__name__} has no parameters to train')
        self.templates = templates
        self.vocabulary: Vocabulary | None = None
        self._classes: ClassEmbeddings | None = None
        named = isinstance(class_names, Mapping)
        names: Any = build(class_names, DATASETS).class_names if named else class_names
        if names:
            self.set_classes(names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes; none before ``set_classes``."""
        return () if self.vocabulary is None else self.vocabulary.class_names

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls; labels are indices of these.

        Raises:
            InputError: invalid names (see ``Vocabulary``).
        """
        self.vocabulary = Vocabulary(tuple(names))
        self._classes = PromptEnsemble(self.clip, self.templates, cache=None).embed(self.vocabulary)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, K).

        Raises:
            InputError: no classes have been set.
        """
        if self._classes is None or self.vocabulary is None:
            raise InputError('no class names: pass class_names, or call set_classes first')
        with torch.no_grad():
            embeddings = F.normalize(at_least_fp32(self.clip.encode_image(images)), dim=-1)  # (B, D)
        scale = self.clip.logit_scale.exp().item()
        return adapted_logits(
            self.adapter, embeddings, self._classes.to(images.device), self.vocabulary, scale
        )

    def export(self, folder: Path) -> Path:
        """Write the adapter, which names its CLIP; called after training."""
        if not self.adapter.origin.weights:
            self.adapter.origin = Origin(source_digest(self.clip))
        self.adapter.save(folder / FILE)
        return folder / FILE
