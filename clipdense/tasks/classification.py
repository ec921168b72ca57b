"""Models on a frozen CLIP of which a small part is trained, and classifiers among them.

B: images, K: classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.utils.errors import InputError
from clipdense.weights.io import WeightsFile

from .model import Model, warn_of_image_size

_UNREADABLE = -1  # label of images that could not be read


class FrozenClipModel(Model):
    """A model with a CLIP that is frozen, in evaluation mode, and not part of its state dict.

    Checkpoints and exported files have what was trained, and nothing else.

    Args:
        clip: the CLIP, or its text tower.
        data_preprocessor: see ``Model``.
    """

    clip: Any

    def __init__(self, clip: nn.Module, data_preprocessor: nn.Module | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.clip = clip.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_without_clip)
        self.register_load_state_dict_post_hook(_clip_is_not_missing)

    def train(self, mode: bool = True) -> FrozenClipModel:
        """The CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self


class FrozenClipClassifier(FrozenClipModel):
    """Classifies images by a frozen CLIP and what is trained beside it, by cross entropy.

    A subclass writes ``logits``.

    Args:
        clip: a CLIP with an image tower.
    """

    def __init__(self, clip: Any) -> None:
        super().__init__(clip, ImagePreprocessor(clip.preprocess.mean, clip.preprocess.std))

    def own_tensors(self, file: WeightsFile) -> Mapping[str, Tensor]:
        """The tensors of a training checkpoint or of an exported file, under the names of this model.

        Raises:
            InputError: as ``exported_tensors``.
        """
        trained = file.tensors.keys() & self.state_dict().keys()
        return file.tensors if trained else self.exported_tensors(file)

    def exported_tensors(self, file: WeightsFile) -> Mapping[str, Tensor]:
        """The tensors of what ``export`` wrote, under the names of this model.

        Raises:
            InputError: a file of another kind, or with other settings than this model's.
        """
        return file.tensors

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, K)."""

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        """A batch -> the loss and the accuracy ('loss'), the logits of each image ('predict'), or (B, K).

        Args:
            images: (B, 3, H, W), normalized.
            labels: (B,), -1 for images that could not be read, which do not count.
            mode: see above.
        """
        logits = self.logits(images)
        if mode != 'loss':
            return list(logits) if mode == 'predict' else logits
        if labels is None:
            raise InputError('training needs labels: use a dataset with labels')
        warn_of_image_size(self.clip, images)
        return self.loss(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of (B, K) and (B,) with -1 for none, and the fraction of correct images.

        Raises:
            InputError: a label without a class.
        """
        labels = labels.long()
        if len(labels) and int(labels.max()) >= logits.shape[1]:
            raise InputError(
                f'label {int(labels.max())} in the dataset, but only {logits.shape[1]} class names: set '
                'those of the dataset (set_classes)'
            )
        count = (labels != _UNREADABLE).sum().clamp(min=1)
        loss = F.cross_entropy(logits.float(), labels, ignore_index=_UNREADABLE, reduction='sum') / count
        accuracy = (logits.argmax(dim=1) == labels).sum() / count
        return {'loss': loss, 'accuracy': accuracy}


def _without_clip(model: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
    """A hook of ``state_dict``: leave out the CLIP."""
    for name in [name for name in state if name.startswith(f'{prefix}clip.')]:
        del state[name]


def _clip_is_not_missing(model: nn.Module, keys: Any) -> None:
    """A hook of ``load_state_dict`` for such a state."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith('clip.')]
