"""Feature maps of the models of timm, for dense prediction.  B: images, C: channels, (h, w): a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict


@MODELS.register_module()
class TimmMaps(nn.Module):
    """A backbone of timm, of which the last map of each stride is taken.

    Args:
        name: in timm, such as 'convnext_tiny'.
        strides: of the maps; a plain ViT has (16,), see ``SimplePyramid``.
        weights: file of timm's weights of this backbone that training begins with.
        pretrained: whether training begins with the weights that timm downloads.
        options: of ``timm.create_model``, such as ``drop_path_rate=0.1``; a ViT needs
            ``dynamic_img_size=True`` for images of any size.

    Attributes:
        channels: of each map.

    Raises:
        InputError: a name that timm does not have, one without maps, strides that it does not have, or both
            weights and ``pretrained``.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (8, 16, 32),
        weights: str | Path | None = None,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise InputError('give weights or pretrained=True, not both')
        with torch.device('meta'):
            there = list(_created(name, options).feature_info.reduction())
        missing = [stride for stride in strides if stride not in there]
        if missing:
            raise InputError(
                f'{name} has no map of stride {missing[0]}, but of {", ".join(map(str, sorted(set(there))))}'
                + (': set strides=(16,) and use SimplePyramid as the neck' if len(set(there)) == 1 else '')
            )
        indices = [len(there) - 1 - there[::-1].index(stride) for stride in strides]
        self._arguments = name, {**options, 'out_indices': indices}
        self.body: Any = _created(*self._arguments)
        self.channels = list(self.body.feature_info.channels())
        self.weights, self.pretrained = weights, pretrained

    def init_weights(self) -> None:
        """Load ``weights``, without the layers that the maps do not need, or those of timm."""
        if self.pretrained:
            self.body.load_state_dict(_created(*self._arguments, pretrained=True).state_dict())
        if self.weights is None:
            return
        own, given = self.body.state_dict(), read_weights(self.weights).tensors
        names = {name: name.replace('.', '_', 1) if name not in own else name for name in given}
        found = {names[name]: value for name, value in given.items() if names[name] in own}
        load_strict(self.body, found, self.weights)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> a map (B, C, h, w) of each stride."""
        maps = self.body(images)
        return tuple(
            one
            if one.shape[1] == channels
            else one.permute(0, 3, 1, 2).contiguous()  # Swin's are (B, h, w, C)
            for one, channels in zip(maps, self.channels, strict=True)
        )


def _created(name: str, options: dict[str, Any], pretrained: bool = False) -> Any:
    if name not in timm.list_models():
        raise InputError(f'timm has no model {name!r}.{nearest(name, timm.list_models())}')
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
        raise InputError(f'timm cannot build {name!r} as a backbone: {error}') from error
