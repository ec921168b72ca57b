"""Training of prompts on labeled images.  B: images, K: classes, D: joint space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import DATASETS, MODELS, build, build_module
from clipdense.tasks.classification import FrozenClipClassifier
from clipdense.utils.errors import InputError
from clipdense.weights.io import WeightsFile

from .checkpoint import describe, load_prompts, save_prompts
from .learner import PromptLearner

FILE = 'prompts.safetensors'


@MODELS.register_module()
class PromptClassifier(FrozenClipClassifier):
    """Classifies images by the prompts of a learner; only these are trained, by cross entropy.

    The CLIP is frozen and in evaluation mode.  It is not part of the state dict: checkpoints and exported
    files have the prompts only.

    Args:
        clip: the model, its config, or weights as ``clipdense.load`` takes them.
        learner: a ``PromptLearner`` of this CLIP, or its config, to which ``clip`` is added.
        class_names: K names, or the config of a dataset that has them; they can be set later
            (``set_classes``) if the contexts are not class-specific.
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time (CoCoOp).

    Raises:
        InputError: as the learner, or a learner of another CLIP.
    """

    clip: CLIP
    learner: PromptLearner

    def __init__(
        self,
        clip: nn.Module | dict | str,
        learner: PromptLearner | Mapping[str, Any],
        class_names: Sequence[str] | Mapping[str, Any] = (),
        gradient_checkpointing: bool = False,
    ) -> None:
        given = build(class_names, DATASETS).class_names if isinstance(class_names, Mapping) else class_names
        model: CLIP = load(clip) if isinstance(clip, str) else build_module(clip)
        super().__init__(model)
        model.set_gradient_checkpointing(gradient_checkpointing)
        if isinstance(learner, Mapping):
            names = {'class_names': list(given)} if given else {}
            self.learner = build_module({**names, **learner, 'clip': model})
        else:
            self.learner = learner
            if given:
                learner.set_classes(given)
        if self.learner.clip is not model:
            raise InputError('the learner was built for another CLIP: give both the same')

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes."""
        return self.learner.class_names

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls, see ``PromptLearner.set_classes``."""
        self.learner.set_classes(names)

    def check_classes(self, names: Sequence[str]) -> None:
        """Refuse classes that ``set_classes`` refuses, without a pass of the text tower.

        Raises:
            InputError: see ``PromptLearner.set_classes``.
        """
        self.learner.texts_of(names)

    def exported_tensors(self, file: WeightsFile) -> Mapping[str, Tensor]:
        """See ``FrozenClipClassifier``; official files of prompts are read too.

        Raises:
            InputError: as ``load_prompts``, or prompts with other settings than the learner's.
        """
        found = load_prompts(file, self.clip)
        theirs, ours = ({'type': type(one).__name__, **one.config} for one in (found, self.learner))
        different = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if different:
            name = different[0]
            raise InputError(
                f'{file.path} has prompts with {name}={theirs.get(name)!r:.80}, but the learner has '
                f'{ours.get(name)!r:.80}: set model.learner.{name} to that of the file'
            )
        return {f'learner.{name}': tensor for name, tensor in found.state_dict().items()}

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> unit embeddings (B, D), with the prompts of the image tower."""
        learned = self.learner.changes_images
        with torch.set_grad_enabled(torch.is_grad_enabled() and learned):
            if not learned:
                return F.normalize(at_least_fp32(self.clip.encode_image(images)), dim=-1)
            tower: Any = self.clip.image  # a vision transformer, which the learner has checked
            with tower.prompted(self.learner.image_prompts()):
                return F.normalize(at_least_fp32(self.clip.encode_image(images)), dim=-1)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, K): cosines times CLIP's logit scale."""
        embeddings = self.encode_images(images)  # (B, D)
        classes = self.learner(embeddings)  # (K, D) or (B, K, D)
        scale = self.clip.logit_scale.to(embeddings.dtype).exp()
        return scale * torch.einsum(
            'bd,...kd->bk' if classes.ndim == 2 else 'bd,bkd->bk', embeddings, classes
        )

    def checkpoint_meta(self) -> dict[str, Any]:
        """Metadata of training checkpoints, from which ``load_prompts`` reads them."""
        return {'prompts': describe(self.learner)}

    def export(self, folder: Path) -> Path:
        """Write the prompts, see ``save_prompts``; called after training."""
        return save_prompts(self.learner, folder / FILE)
