"""Image towers of timm, as open_clip builds them: ConvNeXt, EVA, ViTamin, FastViT, PE and others.

B: images, N: locations or patches, P: tokens before the first patch, (h, w): grid, C: width, D: joint space.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.structures import ImageFeatures
from clipdense.utils.errors import InputError, MissingPackage, nearest

from .conse import ConvexCombination
from .sizes import TimmSize


@MODELS.register_module()
class TimmImageTower(nn.Module):
    """An image tower of timm and the projection that open_clip puts on it, for images of any size.

    Position embeddings are resized at run time where the tower has them.

    Args:
        size: architecture, pooling and projection; or a dict with the fields of ``TimmSize``.

    Raises:
        MissingPackage: an architecture that the installed timm does not have.

    Source: open_clip timm_model.py ``TimmModel``.
    """

    kind = 'timm'

    def __init__(self, size: TimmSize | dict) -> None:
        super().__init__()
        self.size = size = TimmSize(**size) if isinstance(size, dict) else size
        self.trunk: Any = _trunk(size)
        self.head = _head(size, self.trunk.num_features)
        self._gradient_checkpointing = False

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': type(self), 'size': asdict(self.size)}

    def parameter_depths(self) -> dict[str, int]:
        """Depths as timm groups the trunk for a rate that falls with depth; the projection comes last."""
        from timm.models import group_parameters

        trunk: dict[str, int] = group_parameters(self.trunk, self.trunk.group_matcher(), reverse=True)
        last = max(trunk.values()) + 1
        head = {f'head.{name}': last for name, _ in self.head.named_parameters()}
        return {f'trunk.{name}': depth for name, depth in trunk.items()} | head

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        self.trunk.set_grad_checkpointing(on)
        self._gradient_checkpointing = on

    @property
    def transformer(self) -> bool:
        """Whether the last stage is made of tokens."""
        return hasattr(self.trunk, 'blocks') and hasattr(self.trunk, 'fc_norm')

    @property
    def patch_size(self) -> int:
        """Side of a patch or location in pixels."""
        return self.trunk.feature_info[-1]['reduction']

    @property
    def prefix(self) -> int:
        """P, the number of tokens before the first patch; 0 in a convolutional tower."""
        return getattr(self.trunk, 'num_prefix_tokens', 0)

    def forward(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W), normalized -> pooled (B, C), locations or patches (B, N, C) after the final norm.

        A transformer drops incomplete patches.

        Raises:
            InputError: images smaller than one patch.
        """
        features = self._features(images)
        pooled = self.trunk.forward_head(features, pre_logits=True)  # (B, C)
        if features.ndim == 4:
            return ImageFeatures(pooled, features.flatten(2).mT, (features.shape[2], features.shape[3]))
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        return ImageFeatures(pooled, features[:, self.prefix :], grid)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> the pooled features (B, C) of ``forward``."""
        return self.trunk.forward_head(self._features(images), pre_logits=True)

    def project(self, pooled: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.head(self.trunk.get_classifier()(pooled))

    def encode_dense(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> pixel embeddings (B, D, h, w), not normalized.

        * A convolutional tower, and a transformer that averages its patches: pooling is left out, the rest of
          the head is applied at each location (FC-CLIP, arXiv 2308.02487, section 3.2).
        * A transformer that pools by attention ('map'): the value path of the pool for each patch.
        * A transformer with a class token: the value path of the last block without its residual and
          feed-forward part (MaskCLIP, arXiv 2112.01071, as ClearCLIP simplifies it).
        """
        if not self.transformer or self.trunk.global_pool != 'token':
            return self.encode_patches(images)
        tokens, grid = self._inputs_of_last_block(images)
        tokens = self.trunk.norm(_attend_to_itself(self.trunk.blocks[-1], tokens))  # (B, N, C)
        return self.project(self.trunk.fc_norm(tokens)).mT.unflatten(2, grid)

    def encode_patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w): the head for each location or patch of the unmodified tower."""
        if not self.transformer:
            return self.project_locations(self._features(images))
        _, tokens, grid = self(images)  # (B, N, C)
        if self.trunk.global_pool == 'map':  # attention to one token is its value path
            tokens = self.trunk.attn_pool(tokens.reshape(-1, 1, tokens.shape[-1])).reshape(tokens.shape)
        return self.project(self.trunk.fc_norm(tokens)).mT.unflatten(2, grid)

    def at_full_stride(self) -> TimmImageTower:
        """This tower; or, if its last stages are dilated (``output_stride``), a copy with strides instead."""
        if 'output_stride' not in self.size.options:
            return self
        options = {key: value for key, value in self.size.options.items() if key != 'output_stride'}
        copy = TimmImageTower(replace(self.size, options=options))
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def stages(self, strides: Sequence[int]) -> list[tuple[int, int]]:
        """Index and channels of the last stage at each of these strides in pixels.

        Raises:
            InputError: the tower has no stage at one of the strides.
        """
        facts = self.trunk.feature_info
        found = {stage['reduction']: (index, stage['num_chs']) for index, stage in enumerate(facts)}
        if not set(strides) <= set(found):
            raise InputError(
                f'{self.size.model} has no stages at strides of {list(strides)} pixels, only at '
                f'{sorted(found)}: use a convolutional tower such as ConvNeXt or EfficientNet'
            )
        return [found[stride] for stride in strides]

    @property
    def layers_after_stages(self) -> list[nn.Module]:
        """The layers between the last stage and the joint space, which the maps of stages do not need."""
        layers = dict(self.trunk.named_children())  # in the order in which they are applied
        last = list(layers).index(self.trunk.feature_info[-1]['module'].partition('.')[0])
        return [*list(layers.values())[last + 1 :], self.head]

    def encode_stages(self, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> locations (B, C, h, w) as ``project_locations`` takes them, maps of the stages."""
        features, maps = self.trunk.forward_intermediates(self._laid_out(images), indices=list(indices))
        return features, maps

    def _features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w) of a convolutional tower, (B, P + N, C) of a transformer."""
        height, width = images.shape[-2:]
        if height < self.patch_size or width < self.patch_size:
            raise InputError(
                f'images of {width} x {height} pixels are smaller than one patch ({self.patch_size} pixels)'
            )
        if self.transformer:
            images = images[..., : height - height % self.patch_size, : width - width % self.patch_size]
        return self.trunk.forward_features(self._laid_out(images))

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images in channels-last memory for convolutions, of which those by depth are faster on CPUs."""
        return images if self.transformer else images.contiguous(memory_format=torch.channels_last)

    def project_locations(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w): each location is pooled by itself."""
        batch, _, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1], 1, 1)
        embeddings = self.project(self.trunk.forward_head(cells, pre_logits=True))  # (B h w, D)
        return embeddings.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def _inputs_of_last_block(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> patches before the last block (B, N, C), grid."""
        (features,) = self.trunk.forward_intermediates(
            images,
            indices=[len(self.trunk.blocks) - 2],
            stop_early=True,
            intermediates_only=True,
        )  # (B, C, h, w)
        return features.flatten(2).mT, (features.shape[2], features.shape[3])


def _trunk(size: TimmSize) -> Any:
    """The network of timm, with the pooling of open_clip, and its classifier where that is the projection."""
    import timm

    if not timm.is_model(size.model):
        near = nearest(size.model, timm.list_models())
        raise MissingPackage(
            f'the installed timm {timm.__version__} has no model {size.model!r}.{near} '
            'A newer release may: pip install --upgrade timm'
        )
    classes = size.embed_dim if size.projection is None else 0
    options: dict[str, Any] = {'num_classes': classes, **size.options}
    if size.pool:
        options['global_pool'] = size.pool
    try:
        trunk = timm.create_model(size.model, dynamic_img_size=True, **options)
    except TypeError as error:
        if 'dynamic_img_size' not in str(error):
            raise
        trunk = timm.create_model(size.model, **options)  # has no positions to resize
    _compute_buffers(trunk)
    return trunk


def _head(size: TimmSize, width: int) -> nn.Sequential:
    """The projection after the trunk: nothing, a linear layer, two layers with GELU, or ConSE."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if size.projection == 'linear':
        layers['proj'] = nn.Linear(width, size.embed_dim, bias=size.projection_bias)
    elif size.projection == 'mlp':
        layers['mlp'] = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, 2 * size.embed_dim),
                act=nn.GELU(),
                fc2=nn.Linear(2 * size.embed_dim, size.embed_dim, bias=size.projection_bias),
            )
        )
    elif size.projection == 'conse':
        layers['conse'] = ConvexCombination(size.options['num_classes'], size.embed_dim)
    elif size.projection == 'none' and width != size.embed_dim:
        raise InputError(
            f'{size.model} has width {width} and no projection, but embed_dim is {size.embed_dim}'
        )
    return nn.Sequential(layers)


def _compute_buffers(trunk: Any) -> None:
    """Compute on the CPU the buffers that no file contains, also in a tower built on the meta device."""
    with torch.device('cpu'):
        for module in trunk.modules():
            for name in module._non_persistent_buffers_set:
                if module._buffers[name] is not None and module._buffers[name].is_meta:
                    module._buffers[name] = torch.empty_like(module._buffers[name], device='cpu')
            if hasattr(module, 'init_non_persistent_buffers'):
                module.init_non_persistent_buffers()


def _attend_to_itself(block: Any, tokens: Tensor) -> Tensor:
    """The attention branch of a block where each of the tokens (B, N, C) attends to itself only.

    A sequence of one token is such an attention: its softmax is 1, and rotary positions have no effect.
    """
    from timm.models.eva import EvaBlockPostNorm

    alone = tokens.reshape(-1, 1, tokens.shape[-1])  # (B N, 1, C)
    if isinstance(block, EvaBlockPostNorm):
        return block.norm1(block.attn(alone)).reshape(tokens.shape)
    values = block.attn(block.norm1(alone))
    scale = getattr(block, 'gamma_1', None)
    values = values if scale is None else scale * values
    return getattr(block, 'ls1', nn.Identity())(values).reshape(tokens.shape)
