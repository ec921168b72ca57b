"""One short function for each training-free method, side by side.

B: windows, N: patches, T: tokens, (h, w): patch grid, C: width, d: width of a head, D: joint space,
K: classes.

A recipe takes an image tower and windows (B, 3, H, W) and returns the pixel embeddings (B, D, h, w), not yet
normalized.  What comes after ``*`` are its options.  A method that needs the words has a second half, its
``read``: the first half returns a tuple, pixel embeddings first, and the second takes it, unit length by now,
with the class embeddings (K, D) to class scores (B, K, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.dense import LastAttention, Tower, encode_dense, last_attention, patches
from clipdense.clip.vit import VisionTransformer

from .affinities import attend_to_alike, cosine_map, like_with_like, neighbourhood
from .dense_method import DENSE_METHODS, DenseMethod, cosines, dense_method, find_dense_method
from .outliers import find_outliers, repair
from .resclip import resclip_round, same_object
from .second_path import gem_attention, second_path, value_attention

__all__ = ['DENSE_METHODS', 'DenseMethod', 'cosines', 'find_dense_method']


@dense_method()
def vanilla(tower: Tower, images: Tensor, *, residual: bool = True) -> Tensor:
    """The last block as it was trained: patches mix with whatever the class token wanted of them."""
    last = last_attention(tower, images)
    return last.embed(last.attend(last.query, last.key), residual)


@dense_method()
def maskclip(tower: Tower, images: Tensor, *, residual: bool = True) -> Tensor:
    """Each patch attends to itself alone; residual and feed-forward stay, as in the released code.

    Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022 (arXiv 2112.01071).
    """
    if not isinstance(tower, VisionTransformer):  # the released code leaves the pool's positions out
        return encode_dense(tower, images)
    last = last_attention(tower, images)
    return last.embed(last.value, residual)


@dense_method()
def maskclip_no_residual(tower: Tower, images: Tensor) -> Tensor:
    """Each patch attends to itself alone and nothing else is added (ClearCLIP's ``ignore_residual``)."""
    return encode_dense(tower, images)


@dense_method()
def sclip(tower: Tower, images: Tensor, *, residual: bool = True) -> Tensor:
    """Patches attend to patches that ask alike and to patches that answer alike; the two are added.

    Wang et al., SCLIP, ECCV 2024 (arXiv 2312.01597).
    """
    last = last_attention(tower, images)
    mixed = last.attend(last.query, last.query) + last.attend(last.key, last.key)
    return last.embed(mixed, residual)


@dense_method()
def clearclip(tower: Tower, images: Tensor, *, residual: bool = False) -> Tensor:
    """Patches attend to patches that ask alike; residual and feed-forward, which blur, are dropped.

    Lan et al., ClearCLIP, ECCV 2024 (arXiv 2407.12442).
    """
    last = last_attention(tower, images)
    return last.embed(last.attend(last.query, last.query), residual)


@dense_method()
def naclip(
    tower: Tower, images: Tensor, *, std: float | None = 5.0, keys: bool = True, residual: bool = False
) -> Tensor:
    """Patches attend to patches that answer alike, near ones more.

    Options: ``std`` of the neighbourhood, in patches, None for none; without ``keys`` nearness alone counts,
    as much as queries and keys are long on average.

    Hajimiri et al., Pay Attention to Your Neighbours, WACV 2025 (arXiv 2404.08181).
    """
    last = last_attention(tower, images)
    near = None if std is None else neighbourhood(last.grid, std, last.prefix, last.key)
    if keys or near is None:
        return last.embed(last.attend(last.key, last.key, near), residual)
    lengths = last.query.norm(dim=-1).mean(dim=-1) * last.key.norm(dim=-1).mean(dim=-1)  # (B, heads)
    weight = lengths.mean(dim=1)[:, None, None, None] * last.key.shape[-1] ** -0.5
    nothing = torch.zeros_like(last.key)
    return last.embed(last.attend(nothing, nothing, weight * near), residual)


@dense_method(needs_transformer=True)
def gem(tower: VisionTransformer, images: Tensor, *, blocks: int = 6, residual: bool = True) -> Tensor:
    """Beside the last six blocks, a stream in which queries, keys and values each attend to themselves.

    Bousselham et al., Grounding Everything, CVPR 2024 (arXiv 2312.00878).
    """
    blocks = min(blocks, len(tower.blocks))
    inputs, grid = tower.forward_layers(images, [-blocks])
    second, _ = second_path(tower, inputs[-blocks], blocks, gem_attention, residual)
    return tower.project_patches(patches(second, grid), grid)


def _without_redundancy(
    tower: Tower, features: tuple[Tensor, Tensor], text: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """Classes weighted by how much the whole image looks like them, less what all classes share.

    What is shared is one number for each pixel: it changes the maps, not which class wins.
    """
    embeddings, pooled = features
    weight = (F.normalize(pooled, dim=-1) @ text.mT * temperature).softmax(dim=-1)  # (B, K)
    weight = weight / weight.mean(dim=-1, keepdim=True)
    scores = cosines(embeddings, text) * weight[..., None, None]
    return scores - scores.mean(dim=1, keepdim=True)


@dense_method(read=_without_redundancy)
def clip_surgery(tower: Tower, images: Tensor, *, blocks: int = 6) -> tuple[Tensor, Tensor]:
    """Beside the last six blocks, a stream in which values attend to like values; then feature surgery.

    Returns pixel embeddings and the image's (B, D).  A ResNet's stream is its pool, eight times as sharp.
    The maps are not stretched from 0 to 1 for each class, as the released demonstration does: a class that is
    not there would reach 1 as well.

    Li et al., CLIP Surgery (arXiv 2304.05653).
    """
    if not isinstance(tower, VisionTransformer):
        last = last_attention(tower, images)
        unit = F.normalize(last.value, dim=-1)
        return last.embed(last.attend(8 * unit, unit)), last.pooled()
    blocks = min(blocks, len(tower.blocks))
    inputs, grid = tower.forward_layers(images, [-blocks])
    second, x = second_path(tower, inputs[-blocks], blocks, value_attention)
    return tower.project_patches(patches(second, grid), grid), tower.project(tower.pool_tokens(x))


def _smooth_and_denoise(
    tower: Tower,
    features: tuple[Tensor, Tensor],
    text: Tensor,
    *,
    ks_threshold: float = 1.0,
    pd_threshold: float = 0.5,
    temperature: float = 100.0,
) -> Tensor:
    """Prompt denoising, then key smoothing; the result ranks the classes and is no probability.

    A class that no patch is sure of is dropped, unless that would drop all; patches that are not sure take
    what patches with like keys say.
    """
    embeddings, keys = features
    logits = cosines(embeddings, text) * temperature
    absent = logits.softmax(dim=1).amax(dim=(2, 3)) < pd_threshold  # (B, K)
    absent = absent & ~absent.all(dim=1, keepdim=True)
    shares = logits.masked_fill(absent[..., None, None], float('-inf')).softmax(dim=1)  # (B, K, h, w)
    smooth = shares.flatten(2) @ cosine_map(keys)  # (B, K, N)
    unsure = shares.amax(dim=1, keepdim=True) < ks_threshold
    return torch.where(unsure, smooth.view_as(shares), shares)


@dense_method(read=_smooth_and_denoise)
def maskclip_denoised(tower: Tower, images: Tensor, *, residual: bool = True) -> tuple[Tensor, Tensor]:
    """MaskCLIP with key smoothing and prompt denoising; made for whole images.

    Returns pixel embeddings and keys (B, N, C), which the released code normalizes over patches, by
    oversight, and we over their width, as the paper has it.

    Zhou et al. (arXiv 2112.01071) section 3.2.
    """
    if not isinstance(tower, VisionTransformer):
        features = tower(images)
        keys = tower.attn_pool.k(features.patch_tokens)
        return tower.project_patches(features.patch_tokens, features.grid), keys
    last = last_attention(tower, images)
    keys = patches(last.key.transpose(1, 2).flatten(2), last.grid)
    return last.embed(last.value, residual), keys


@dense_method(needs_transformer=True)
def sc_clip(
    tower: VisionTransformer,
    images: Tensor,
    *,
    neighbours: int = 30,
    outlier_share: float = 0.05,
    threshold: float = 0.4,
    class_share: float = 0.3,
) -> Tensor:
    """Outlying patches repaired, patches averaged with those alike in middle layers, layers 3 to 9 added.

    Layers are the paper's, of twelve; of a deeper tower those at the same depth.  The released code mixes up
    rows and columns of images that are not square; here every shape is right.

    Bai et al., Self-Calibrated CLIP (arXiv 2411.15869).
    """
    layers = [_of_twelve(tower, layer) for layer in range(4, 11)]  # inputs: what blocks 3 to 9 gave
    inputs, grid = tower.forward_layers(images, {*layers, -1})
    tokens = patches(inputs[-1], grid)  # (B, N, C)
    outliers = find_outliers(tokens, neighbours, outlier_share)
    middle = cosine_map(repair(patches(inputs[_of_twelve(tower, 9)], grid), outliers, grid))
    early = cosine_map(patches(inputs[layers[0]], grid))
    attention = attend_to_alike(middle, beta=1.0, gamma=3.0)[:, None]  # (B, 1, N, N)

    def through_last(tokens: Tensor, class_token: Tensor) -> Tensor:
        block = tower.blocks[-1]
        _, key, value = block.attn.split(block.norm1(tokens))
        weights = (attention + like_with_like(key).softmax(dim=-1)) / 2
        x = block.attn.merge(weights @ value) + class_share * class_token
        return _average_alike(x, early, threshold)

    calm = _average_alike(repair(tokens, outliers, grid), middle, threshold)
    total = torch.stack([inputs[layer] for layer in layers]).sum(dim=0)
    x = through_last(calm, _class_token(tower, inputs[-1]))
    x = x + through_last(patches(total, grid), _class_token(tower, total))
    return tower.project_patches(x, grid)


def _second_round(
    tower: VisionTransformer,
    features: tuple[Tensor, Tensor, Tensor],
    text: Tensor,
    *,
    base: str = 'naclip',
    std: float = 5.0,
    cross: tuple[float, float] = (0.3, 2.0),
    feedback: tuple[float, float] = (0.7, 2.2),
) -> Tensor:
    """Round two: patches that round one gave to one object attend to each other more."""
    embeddings, x, crossed = features
    grid = (embeddings.shape[-2], embeddings.shape[-1])
    last = LastAttention(tower, x, grid)
    together = same_object(cosines(embeddings, text).argmax(dim=1), std).to(x.dtype)
    together = F.pad(together, (last.prefix, 0, last.prefix, 0))[:, None]  # (B, 1, T, T)
    share, gain = feedback
    refined = resclip_round(
        last, crossed, base, std, cross, lambda products: gain * ((1 - share) * products + share * together)
    )
    return cosines(F.normalize(refined, dim=1), text)


@dense_method(read=_second_round, needs_transformer=True)
def resclip(
    tower: VisionTransformer,
    images: Tensor,
    *,
    base: str = 'naclip',
    std: float = 5.0,
    cross: tuple[float, float] = (0.3, 2.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Another method's attention, mixed with that of the middle layers; a second round after a first answer.

    Options: ``base``: sclip, clearclip or naclip; ``std`` in patches; ``cross`` and ``feedback``: share and
    gain of the middle layers' attention and of the first answer (defaults: the released VOC21 settings).  The
    first answer is taken patch by patch; the released code refines it with PAMR.  Returns pixel embeddings,
    the input of the last block (B, T, C) and the middle attention (B, heads, T, T).

    Yang et al., ResCLIP, CVPR 2025 (arXiv 2411.15851).
    """
    layers = [_of_twelve(tower, layer) for layer in range(5, 9)]  # the paper's 6 to 9
    inputs, grid = tower.forward_layers(images, {*layers, -1})
    crossed = torch.stack([_attention(tower, layer, inputs[layer]) for layer in layers]).mean(dim=0)
    last = LastAttention(tower, inputs[-1], grid)
    return resclip_round(last, crossed, base, std, cross, lambda products: products), inputs[-1], crossed


@dense_method()
def proxyclip(
    tower: Tower, images: Tensor, *, proxy: nn.Module, beta: float = 1.2, gamma: float = 3.0
) -> Tensor:
    """Patches attend to patches that a self-supervised backbone finds alike, on that backbone's grid.

    Lan et al., ProxyCLIP, ECCV 2024 (arXiv 2408.04883).
    """
    last = last_attention(tower, images)
    features = proxy(images)  # (B, C', h', w')
    grid = (features.shape[-2], features.shape[-1])
    attention = attend_to_alike(cosine_map(features.flatten(2).mT), beta, gamma)[:, None]  # (B, 1, N', N')
    value = patches(last.value.transpose(1, 2).flatten(2), last.grid)  # (B, N, C)
    value = F.interpolate(value.mT.unflatten(2, last.grid), grid, mode='bilinear', align_corners=False)
    value = value.flatten(2).unflatten(1, (last.value.shape[1], -1)).mT  # (B, heads, N', d)
    return last.embed(attention @ value, grid=grid)


def _of_twelve(tower: VisionTransformer, layer: int) -> int:
    """Where a layer of a tower of twelve lies in this one."""
    return min(round(layer * len(tower.blocks) / 12), len(tower.blocks) - 1)


def _attention(tower: VisionTransformer, layer: int, x: Tensor) -> Tensor:
    """(B, T, C) -> (B, heads, T, T): the attention of a block, as trained."""
    block = tower.blocks[layer]
    query, key, _ = block.attn.split(block.norm1(x))
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)


def _average_alike(tokens: Tensor, alike: Tensor, threshold: float) -> Tensor:
    """(B, N, C): each the mean of those whose cosine reaches the threshold, weighted by it."""
    weight = alike * (alike >= threshold)
    return weight @ tokens / (weight.sum(dim=-1, keepdim=True) + 1e-6)


def _class_token(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """(B, T, C) -> (B, 1, C); zeros where the tower has none."""
    return tokens[:, : tower.prefix].sum(dim=1, keepdim=True)
