"""Self-supervised backbones through which ProxyCLIP sees which patches are alike.

B: windows, (h, w): grid of the backbone, C: its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest
from clipdense.weights.io import read_weights


@MODELS.register_module()
class TimmProxy(nn.Module):
    """Any backbone of timm as a function of CLIP's windows: its last feature map, frozen.

    Args:
        name: of the timm model, with or without the tag of its weights: 'vit_base_patch8_224.dino'.
        mean, std: of the windows that it will be given, on the 0 .. 1 scale: CLIP's.
        weights: True takes timm's, over the network where they are not on disk; a file is read as it is;
            False starts from chance (tests).

    Attributes:
        patch_size: pixels of a patch, or of a cell of its last stage.

    Raises:
        InputError: an unknown name, or weights that cannot be had.
    """

    factor: Tensor
    offset: Tensor

    def __init__(
        self,
        name: str,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        weights: bool | str | Path = True,
    ) -> None:
        super().__init__()
        self.backbone = _create(name, weights).eval().requires_grad_(False)
        own = self.backbone.pretrained_cfg
        own_mean, own_std, given_mean, given_std = (
            torch.tensor(values).view(3, 1, 1) for values in (own['mean'], own['std'], mean, std)
        )
        # x * std + mean is the picture; the backbone wants it less its own mean, by its own std.
        self.register_buffer('factor', given_std / own_std, persistent=False)
        self.register_buffer('offset', (given_mean - own_mean) / own_std, persistent=False)
        self.patch_size = self.backbone.feature_info[-1]['reduction']

    def train(self, mode: bool = True) -> TimmProxy:
        """It is frozen: always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised for CLIP -> (B, C, h, w).

        Sides that are no multiple of a patch are stretched to the next one.
        """
        patch = self.patch_size
        size = tuple(-(-side // patch) * patch for side in images.shape[-2:])
        if size != images.shape[-2:]:
            images = F.interpolate(images, size, mode='bilinear', align_corners=False)
        (features,) = self.backbone.forward_intermediates(
            images * self.factor + self.offset, indices=1, norm=True, intermediates_only=True
        )
        return features


def _create(name: str, weights: bool | str | Path) -> Any:
    """The timm model.  Transformers are told to take pictures of any size."""
    import timm

    if name.partition('.')[0] not in timm.list_models():
        raise InputError(f'timm has no backbone {name!r}.{nearest(name, timm.list_models())}')
    sizes: dict[str, Any] = {'dynamic_img_size': True} if name.startswith(('vit_', 'deit')) else {}
    try:
        model = timm.create_model(name, pretrained=weights is True, num_classes=0, **sizes)
    except Exception as error:  # timm passes on whatever its download raised
        raise InputError(
            f'the weights of {name!r} cannot be had ({error}): give a file, as TimmProxy(name, weights=FILE)'
        ) from error
    if not isinstance(weights, bool):
        model.load_state_dict(read_weights(weights).tensors)
    return model
