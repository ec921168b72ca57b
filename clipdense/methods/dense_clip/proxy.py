"""Self-supervised backbones whose features give the attention of ProxyCLIP.

B: windows, (h, w): grid of the backbone, C: its width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.utils.errors import CheckpointError, InputError, nearest
from clipdense.utils.json_files import parse_json
from clipdense.weights.io import read_weights, write_weights
from clipdense.weights.strict import load_strict

_METADATA = 'timm'  # metadata key that records the backbone of a file
_PATCHES = 'patch_embed.proj.weight'  # in timm's transformers
_FILES = ('.safetensors', '.pt', '.pth', '.bin')


@MODELS.register_module()
class TimmProxy(nn.Module):
    """The last feature map of a frozen timm backbone, for images normalized as CLIP's.

    Args:
        name: name of a timm model, with or without its weights tag ('vit_base_patch8_224.dino'); NAME=FILE
            reads the weights from a file; a file written by ``save_backbone`` records name and arguments.
        mean, std: normalization of the input windows (CLIP's), for values in 0 .. 1.
        weights: True loads timm's weights, downloading them if needed; a path loads a file; False keeps the
            random initialization (controls, tests).
        arguments: further arguments of ``timm.create_model``, such as ``{'img_size': 32, 'patch_size': 4}``.

    Attributes:
        patch_size: patch size, or stride of the last stage, in pixels.

    Raises:
        InputError: an unknown name, arguments that the model does not take, weights that cannot be loaded, or
            weights of another model.
    """

    factor: Tensor
    offset: Tensor

    def __init__(
        self,
        name: str,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        weights: bool | str | Path = True,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        name, weights, arguments = _source(name, weights, arguments or {})
        self.backbone = _create(name, weights, arguments).eval().requires_grad_(False)
        own = self.backbone.pretrained_cfg
        own_mean, own_std, given_mean, given_std = (
            torch.tensor(values).view(3, 1, 1) for values in (own['mean'], own['std'], mean, std)
        )
        # x * std + mean is the image in 0 .. 1; it is normalized again with the backbone's mean and std.
        self.register_buffer('factor', given_std / own_std, persistent=False)
        self.register_buffer('offset', (given_mean - own_mean) / own_std, persistent=False)
        self.patch_size = self.backbone.feature_info[-1]['reduction']

    def train(self, mode: bool = True) -> TimmProxy:
        """Always in evaluation mode, since it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized for CLIP -> (B, C, h, w).

        Sides that are not multiples of the patch size are resized to the next multiple.
        """
        patch = self.patch_size
        size = tuple(-(-side // patch) * patch for side in images.shape[-2:])
        if size != images.shape[-2:]:
            images = F.interpolate(images, size, mode='bilinear', align_corners=False)
        (features,) = self.backbone.forward_intermediates(
            images * self.factor + self.offset, indices=1, norm=True, intermediates_only=True
        )
        return features


def save_backbone(path: str | Path, backbone: nn.Module, name: str, arguments: Mapping[str, Any]) -> None:
    """Write a timm backbone as a file that ``TimmProxy(path)`` loads without further arguments.

    Args:
        path: the safetensors file to write.
        backbone: ``timm.create_model(name, **arguments)``, trained.
        name, arguments: see ``TimmProxy``; arguments must be numbers.

    Raises:
        InputError: no disk space or no permission; an existing file is left intact.
    """
    described = json.dumps({'name': name, 'arguments': dict(arguments)})
    write_weights(path, backbone.state_dict(), {_METADATA: described})


def create_backbone(name: str, arguments: Mapping[str, Any], pretrained: bool = False) -> Any:
    """The timm model without its classifier.  Transformers take images of any size.

    Raises:
        InputError: an unknown name, invalid arguments, or weights that cannot be loaded.
    """
    import timm

    if name.partition('.')[0] not in timm.list_models():
        raise InputError(f'timm has no backbone {name!r}.{nearest(name, timm.list_models())}')
    sizes = {'dynamic_img_size': True} if name.startswith(('vit_', 'deit')) else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **{**sizes, **arguments})
    except Exception as error:  # timm raises errors of many types, from downloads and from its layers
        reason = ' '.join(str(error).split())
        if pretrained:
            raise InputError(
                f'the weights of {name!r} cannot be loaded ({reason}): pass a local file as {name}=FILE'
            ) from error
        raise InputError(f'timm cannot build {name!r} with {dict(arguments)}: {reason}') from error


def _source(
    name: str, weights: bool | str | Path, arguments: Mapping[str, Any]
) -> tuple[str, bool | str | Path, Mapping[str, Any]]:
    """Name, weights and arguments from a name, NAME=FILE or FILE."""
    if '=' in name and not Path(name).is_file():
        model, _, file = name.partition('=')
        return model, file, arguments
    if not (name.endswith(_FILES) or Path(name).is_file()):
        return name, weights, arguments
    text = read_weights(name).metadata.get(_METADATA)
    if text is None:
        raise CheckpointError(
            f'{name} does not record its timm model: pass its name, such as vit_base_patch8_224.dino={name}'
        )
    try:
        described = parse_json(text, _METADATA)
        own, model = described['arguments'], str(described['name'])
        if not all(isinstance(value, int | float) for value in own.values()):  # no paths, no URLs
            raise ValueError('arguments must be numbers')
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{name} has an invalid record of its timm model: {error}') from None
    return model, weights and name, {**own, **arguments}


def _create(name: str, weights: bool | str | Path, arguments: Mapping[str, Any]) -> Any:
    """The model with its weights."""
    model = create_backbone(name, arguments, pretrained=weights is True)
    if isinstance(weights, bool):
        return model
    tensors = read_weights(weights).tensors
    head = model.pretrained_cfg.get('classifier') or ()  # not part of a proxy
    heads = tuple(f'{part}.' for part in ((head,) if isinstance(head, str) else head))
    tensors = {key: tensor for key, tensor in tensors.items() if not (heads and key.startswith(heads))}
    ours = model.state_dict()
    if _PATCHES in tensors and _PATCHES in ours:
        found, wanted = (state[_PATCHES].shape[-1] for state in (tensors, ours))
        if found != wanted:
            raise CheckpointError(
                f'{weights} has patch size {found}, but {name} has {wanted}: pass the name of its timm model'
            )
    load_strict(model, tensors, weights)
    return model
