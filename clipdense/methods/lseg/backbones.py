"""Image networks as four maps of falling resolution.  B: images, N: patches, C: width, (h, w): grid.

A pyramid has ``channels``, of its four maps, and ``stride``, pixels of a cell of its last and coarsest map:
images come in multiples of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.pos_embed import patch_tokens, resize_positions
from clipdense.registry import MODELS, build_module
from clipdense.utils.errors import InputError

from .dpt import ReadoutMode, Reassemble

_SCALES = {8: (2, 1, 0.5, 0.25), 16: (4, 2, 1, 0.5), 32: (8, 4, 2, 1)}  # by patch size


@MODELS.register_module()
class TransformerPyramid(nn.Module):
    """The outputs of four blocks of a ViT, each reassembled to a map of its own resolution.

    Blocks behind the last one that is read, and the final norm, are cut off.

    Args:
        vit: timm's ViT with a class token, CLIP's image tower, or a config of either.
        hooks: the four blocks, counted from 0; the last of each quarter where left out.
        channels: of the four maps.
        scales: resolution of each map over that of the patch grid; by default such that their cells are
            4, 8, 16 and 32 pixels wide.
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
                f"{type(net).__name__} is neither CLIP's image tower nor a timm ViT with a class token"
            )
        depth = len(net.blocks)
        self.hooks = tuple(hooks) if hooks is not None else default_hooks(depth)
        if len(self.hooks) != 4 or list(self.hooks) != sorted({*self.hooks} & {*range(depth)}):
            raise InputError(f'hooks are four ascending blocks of 0 to {depth - 1}, got {list(self.hooks)}')
        self.vit: Any = _cut(net, self.hooks[-1] + 1)
        self.patch_size = _patch_size(net)
        if scales is None and self.patch_size not in _SCALES:
            raise InputError(f'patches of {self.patch_size} pixels have no default scales: give four')
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
        """timm's embedding for images of any size; positions are resized as DPT does."""
        vit = self.vit
        x, grid = patch_tokens(images, vit.patch_embed.proj)  # (B, N, C)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, C)
        positions = resize_positions(vit.pos_embed[0], grid, mode='bilinear', antialias=False)
        return vit.norm_pre(vit.pos_drop(x + positions)), grid


@MODELS.register_module()
class ResNetPyramid(nn.Module):
    """The four stages of a ResNet.

    Args:
        resnet: torchvision's, timm's or CLIP's, or a config of one; its classifier or pool is cut off.

    Raises:
        InputError: a network without the four stages.

    Source: isl-org/lang-seg ``modules/models/lseg_vit_zs.py`` (``clip_resnet101``).
    """

    stride = 32

    def __init__(self, resnet: nn.Module | dict) -> None:
        super().__init__()
        net: Any = build_module(resnet)
        if not all(hasattr(net, name) for name in ('conv1', 'layer1', 'layer2', 'layer3', 'layer4')):
            raise InputError(f'{type(net).__name__} is no ResNet with four stages')
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
        """The four maps of a small image, to learn their channels."""
        training = self.training
        device = next(self.resnet.parameters()).device
        maps = self.eval()(torch.zeros(1, 3, self.stride, self.stride, device=device))
        self.train(training)
        return maps


@MODELS.register_module()
def timm_network(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of timm without its classifier.

    Args:
        name: as timm knows it, 'vit_large_patch16_384' for example.
        pretrained: training starts from timm's weights; they are downloaded then, not before.
        options: of timm's constructor.

    Raises:
        InputError: timm does not know the name.
    """
    import timm

    if not timm.is_model(name.partition('.')[0]):
        close = timm.list_models(f'{name.partition("_")[0]}*')[:5]
        raise InputError(f'timm has no network {name!r}; there are {", ".join(close) or "others"}')
    build = partial(timm.create_model, name, num_classes=0, **options)
    network: Any = build()
    if pretrained:
        network.pretrained = partial(build, pretrained=True)
    return network


def load_pretrained(backbone: nn.Module) -> None:
    """Fill a pyramid's network with the weights it was to start from, if any.

    Raises:
        InputError: they cannot be had.
    """
    network = getattr(backbone, 'vit', None) or getattr(backbone, 'resnet', None)
    fetch = getattr(network, 'pretrained', None)
    if network is None or fetch is None:
        return
    try:
        state = fetch().state_dict()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f'the pre-trained weights cannot be fetched ({str(error).splitlines()[0]}): go online once, or '
            'set pretrained=False'
        ) from error
    network.load_state_dict({name: state[name] for name in network.state_dict()})


def default_hooks(depth: int) -> tuple[int, ...]:
    """The last block of each quarter: 5, 11, 17, 23 of 24, and 2, 5, 8, 11 of 12."""
    return tuple(depth * quarter // 4 - 1 for quarter in range(1, 5))


def _cut(vit: Any, depth: int) -> Any:
    """Without what lies behind block ``depth - 1``."""
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
