"""Backbones of torchvision for the detector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest


@MODELS.register_module()
class TorchvisionBackbone(nn.Module):
    """Feature maps of any torchvision model.

    Args:
        name: name of the torchvision model, such as 'resnet18'.
        weights: 'DEFAULT', the name of an entry, or None for random weights.
        nodes: names of the layers whose outputs are the feature maps.

    Raises:
        InputError: torchvision has no such model.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        nodes: Sequence[str] = ('layer1', 'layer2', 'layer3', 'layer4'),
    ) -> None:
        super().__init__()
        from torchvision.models import get_model, list_models
        from torchvision.models.feature_extraction import create_feature_extractor

        if name not in list_models():
            raise InputError(f'torchvision has no model {name!r}.{nearest(name, list_models())}')
        self.body = create_feature_extractor(get_model(name, weights=weights), list(nodes))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> a map for each node."""
        return tuple(self.body(images).values())
