"""Training of an adapter on images by the runner.  B: images, K: classes, D: joint space."""

from __future__ import annotations

import warnings
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
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize, places
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import WeightsFile, read_weights

from .cache import KeyValueCache
from .files import cache_from_file, clip_adapter_from_file
from .method import is_cache
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
        self._zero_shot = False  # of the current classes, none has keys
        self.vocabulary: Vocabulary | None = None
        self._classes: ClassEmbeddings | None = None
        named = isinstance(class_names, Mapping)
        names: Any = build(class_names, DATASETS).class_names if named else class_names
        if names:
            self.set_classes(names)
            self._check_keys()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes; none before ``set_classes``."""
        return () if self.vocabulary is None else self.vocabulary.class_names

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls; labels are indices of these.

        Classes of which none has keys in a cache, such as the new ones of base-to-new, are classified
        zero-shot.

        Raises:
            InputError: invalid names (see ``Vocabulary``).
        """
        self.vocabulary = Vocabulary(tuple(names))
        cache: Any = self.adapter if isinstance(self.adapter, KeyValueCache) else None
        self._zero_shot = cache is not None and not cache.classes_in(self.vocabulary)
        if self._zero_shot:
            warnings.warn('none of the classes has keys in the cache: zero-shot logits only')
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
        adapter = Adapter() if self._zero_shot else self.adapter
        return adapted_logits(adapter, embeddings, self._classes.to(images.device), self.vocabulary, scale)

    def _check_keys(self) -> None:
        """Refuse a cache with keys of classes that are not trained: their images would be test images.

        Raises:
            InputError: naming such classes.
        """
        if not isinstance(self.adapter, KeyValueCache) or self.vocabulary is None:
            return
        known = places(self.class_names)
        other = [name for name in self.adapter.class_names if normalize(name) not in known]
        if other:
            raise InputError(
                f'the cache has {counted(len(other), "class")} that the model is not trained on, such as '
                f'{other[0]!r}: make it from the same classes (`clipdense adapt --classes base`)'
            )

    def exported_tensors(self, file: WeightsFile) -> Mapping[str, Tensor]:
        """See ``FrozenClipClassifier``; a cache takes alpha, beta and balance of the file.

        Raises:
            InputError: an adapter of another kind, of other weights, or with other settings or classes.
        """
        found = cache_from_file(file) if is_cache(file.tensors) else clip_adapter_from_file(file)
        check_adapter(found, self.clip, 'images')
        mine: Any = self.adapter
        if type(found) is not type(mine):
            raise InputError(f'{file.path} has a {type(found).__name__}, not a {type(mine).__name__}')
        if isinstance(mine, KeyValueCache) and isinstance(found, KeyValueCache):
            mine.set_strength(found.alpha, found.beta)
            mine.balance = found.balance
        for name, value in found.settings.items():
            if value != mine.settings[name]:
                raise InputError(
                    f'{file.path} has {name}={value!r:.80}, but the adapter of the config has '
                    f'{mine.settings[name]!r:.80}: give the config that it was trained with'
                )
        return {f'adapter.{name}': tensor for name, tensor in found.state_dict().items()}

    def export(self, folder: Path) -> Path:
        """Write the adapter, which names its CLIP; called after training."""
        if not self.adapter.origin.weights:
            self.adapter.origin = Origin(source_digest(self.clip))
        self.adapter.save(folder / FILE)
        return folder / FILE
