"""Backbones with four maps of decreasing resolution.  B: images, N: patches, C: width, (h, w): grid.

A pyramid has ``channels`` of its four maps and the ``stride`` of the coarsest one in pixels; the sides of
images must be multiples of the stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.pos_embed import patch_tokens, resize_positions
from clipdense.registry import MODELS, build_module
from clipdense.utils.errors import InputError

from .dpt import ReadoutMode, Reassemble

_SCALES = {8: (2, 1, 0.5, 0.25), 16: (4, 2, 1, 0.5), 32: (8, 4, 2, 1)}  # by patch size


@MODELS.register_module()
class TransformerPyramid(nn.Module):
    """The outputs of four blocks of a ViT, each reassembled to a map of its own resolution.

    Blocks after the last hook and the final norm are removed.

    Args:
        vit: a timm ViT with a class token, an image tower of CLIP, or a config of either.
        hooks: indices of the four blocks; the last of each quarter by default.
        channels: channels of the four maps.
        scales: resolution of each map relative to the patch grid; by default for strides of 4, 8, 16 and 32
            pixels.
        readout: see ``Readout``.

    Raises:
        InputError: hooks that are not four ascending blocks, a network of another kind, or a patch size that
            has no default scales.

    Source: isl-org/lang-seg ``modules/models/lseg_vit.py``.
    """

    def __init__(
        self,
        vit: nn.Module | dict,
        hooks: Sequence[int] | None = None,
        channels: Sequence[int] = (256, 512, 1024, 1024),
        scales: Sequence[float] | None = None,
        readout: ReadoutMode = 'project',
    ) -> None:
        super().__init__()
        net: Any = build_module(vit)
        if not isinstance(net, VisionTransformer) and getattr(net, 'num_prefix_tokens', None) != 1:
            raise InputError(
                'vit must be an image tower of CLIP or a timm ViT with a class token, got '
                f'{type(net).__name__}'
            )
        depth = len(net.blocks)
        self.hooks = tuple(hooks) if hooks is not None else default_hooks(depth)
        if len(self.hooks) != 4 or list(self.hooks) != sorted({*self.hooks} & {*range(depth)}):
            raise InputError(
                f'hooks must be four ascending block indices from 0 to {depth - 1}, got {list(self.hooks)}'
            )
        self.vit: Any = _cut(net, self.hooks[-1] + 1)
        self.patch_size = _patch_size(net)
        if scales is None and self.patch_size not in _SCALES:
            raise InputError(f'no default scales for patch size {self.patch_size}: pass four scales')
        self.scales = tuple(_SCALES[self.patch_size] if scales is None else scales)
        self.channels = tuple(channels)
        self.stride = round(self.patch_size * max(1 / min(self.scales), 1))
        prefix = net.prefix if isinstance(net, VisionTransformer) else 1
        width = net.pos_embed.shape[-1]
        self.reassemble: Any = nn.ModuleList(
            Reassemble(width, out, scale, readout if prefix else None)
            for out, scale in zip(self.channels, self.scales, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), multiples of the stride -> four maps, finest first."""
        tokens, grid = self.tokens(images)
        return [stage(x, grid) for stage, x in zip(self.reassemble, tokens, strict=True)]

    def tokens(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """(B, 3, H, W) -> outputs (B, 1 + N, C) of the four blocks, not normalized, and the grid."""
        if isinstance(self.vit, VisionTransformer):
            found, grid = self.vit.forward_layers(images, [hook + 1 for hook in self.hooks])
            return [found[hook + 1] for hook in self.hooks], grid
        x, grid = self._embed(images)
        outputs = []
        for index, block in enumerate(self.vit.blocks):
            x = block(x)
            if index in self.hooks:
                outputs.append(x)
        return outputs, grid

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """timm's patch embedding for images of any size; position embeddings are resized as in DPT."""
        vit = self.vit
        x, grid = patch_tokens(images, vit.patch_embed.proj)  # (B, N, C)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, C)
        positions = resize_positions(vit.pos_embed[0], grid, mode='bilinear', antialias=False)
        return vit.norm_pre(vit.pos_drop(x + positions)), grid


@MODELS.register_module()
class ResNetPyramid(nn.Module):
    """The four stages of a ResNet.

    Args:
        resnet: a ResNet of torchvision, timm or CLIP, or its config; its classifier or pool is removed.

    Raises:
        InputError: a network without the four stages.

    Source: isl-org/lang-seg ``modules/models/lseg_vit_zs.py`` (``clip_resnet101``).
    """

    stride = 32

    def __init__(self, resnet: nn.Module | dict) -> None:
        super().__init__()
        net: Any = build_module(resnet)
        if not all(hasattr(net, name) for name in ('conv1', 'layer1', 'layer2', 'layer3', 'layer4')):
            raise InputError(f'resnet must be a ResNet with layer1 to layer4, got {type(net).__name__}')
        for name in ('fc', 'attn_pool'):
            if hasattr(net, name):
                setattr(net, name, nn.Identity())
        self.resnet: Any = net
        self.channels = tuple(x.shape[1] for x in self._probe())

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), multiples of 32 -> four maps, finest first."""
        net = self.resnet
        if isinstance(net, ModifiedResNet):
            x = net.stem(images)
        else:
            activate = net.act1 if hasattr(net, 'act1') else net.relu
            x = net.maxpool(activate(net.bn1(net.conv1(images))))  # (B, C, H / 4, W / 4)
        maps = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    @torch.no_grad()
    def _probe(self) -> list[Tensor]:
        """The four maps of a small image, to determine their channels."""
        training = self.training
        device = next(self.resnet.parameters()).device
        maps = self.eval()(torch.zeros(1, 3, self.stride, self.stride, device=device))
        self.train(training)
        return maps


@MODELS.register_module()
class StagePyramid(nn.Module):
    """The stages of a convolutional image tower of timm (EfficientNet, ConvNeXt) at strides 4, 8, 16 and 32.

    Args:
        tower: a ``TimmImageTower``, such as that of a CLIP, or its config.  Dilated stages are used without
            dilation, at their full stride.  The layers after the last stage are kept, for the tower's own
            pixel embeddings, and are not trained.

    Raises:
        InputError: a network of another kind, or without these stages.
    """

    stride = 32

    def __init__(self, tower: nn.Module | dict) -> None:
        super().__init__()
        net = build_module(tower)
        if not isinstance(net, TimmImageTower):
            raise InputError(f'tower must be an image tower of timm, got {type(net).__name__}')
        self.tower: TimmImageTower = net.at_full_stride()
        for layer in self.tower.layers_after_stages:
            layer.requires_grad_(False)
        stages = self.tower.stages((4, 8, 16, 32))
        self.indices = [index for index, _ in stages]
        self.channels = tuple(channels for _, channels in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), multiples of 32 -> four maps, finest first."""
        return self.tower.encode_stages(images, self.indices)[1]

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As ``forward``, and the tower's own embeddings (B, D, h, w), not normalized, at stride 32."""
        features, maps = self.tower.encode_stages(images, self.indices)
        return self.tower.project_locations(features), maps


@MODELS.register_module()
def timm_network(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """A timm model without its classifier.

    Args:
        name: name of the timm model, such as 'vit_large_patch16_384'.
        pretrained: load timm's weights at the start of training; they are downloaded only then.
        options: further arguments of ``timm.create_model``.

    Raises:
        InputError: timm has no model of this name.
    """
    import timm

    if not timm.is_model(name.partition('.')[0]):
        close = timm.list_models(f'{name.partition("_")[0]}*')[:5]
        hint = f': similar names are {", ".join(close)}' if close else ''
        raise InputError(f'timm has no model {name!r}{hint}')
    build = partial(timm.create_model, name, num_classes=0, **options)
    network: Any = build()
    if pretrained:
        network.pretrained = partial(build, pretrained=True)
    return network


def load_pretrained(backbone: nn.Module) -> None:
    """Load the pre-trained weights of a pyramid's network, if it has any.

    Raises:
        InputError: they cannot be downloaded.
    """
    network = getattr(backbone, 'vit', None) or getattr(backbone, 'resnet', None)
    fetch = getattr(network, 'pretrained', None)
    if network is None or fetch is None:
        return
    try:
        state = fetch().state_dict()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f'the pre-trained weights cannot be downloaded ({str(error).splitlines()[0]}): check the network '
            'connection, or set pretrained=False'
        ) from error
    network.load_state_dict({name: state[name] for name in network.state_dict()})


def default_hooks(depth: int) -> tuple[int, ...]:
    """The last block of each quarter: 5, 11, 17, 23 of 24, and 2, 5, 8, 11 of 12."""
    return tuple(depth * quarter // 4 - 1 for quarter in range(1, 5))


def _cut(vit: Any, depth: int) -> Any:
    """Remove the blocks after the first ``depth``, the final norm and the head."""
    vit.blocks = vit.blocks[:depth]
    ours = isinstance(vit, VisionTransformer)
    for name in ('norm_post',) if ours else ('norm', 'fc_norm', 'head'):
        setattr(vit, name, nn.Identity())
    if ours:
        vit.pool, vit.proj = None, None
    return vit


def _patch_size(vit: Any) -> int:
    conv = vit.patch_embed if isinstance(vit, VisionTransformer) else vit.patch_embed.proj
    return conv.kernel_size[0]
