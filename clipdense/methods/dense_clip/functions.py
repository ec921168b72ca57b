"""The training-free methods, one function each.

B: windows, N: patches, T: tokens, (h, w): patch grid, C: width, d: width of a head, D: joint space,
K: classes.

A function takes an image tower and windows (B, 3, H, W) and returns pixel embeddings (B, D, h, w), not
normalized.  Its keyword-only arguments are the options of the method.  A method that needs the text has a
second function, ``read``: the first returns a tuple that begins with the pixel embeddings, and ``read`` takes
this tuple, with normalized pixel embeddings, and the class embeddings (K, D), and returns class scores
(B, K, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.dense import (
    AttentionTower,
    LastAttention,
    Tower,
    encode_dense,
    last_attention,
    patches,
)
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.clip.vit import VisionTransformer

from .affinities import cosine_map, like_with_like, neighbourhood, similarity_attention
from .dense_method import DENSE_METHODS, DenseMethod, cosines, dense_method, find_dense_method
from .outliers import find_outliers, repair
from .resclip import resclip_round, same_object
from .second_path import gem_attention, second_path, value_attention

__all__ = ['DENSE_METHODS', 'DenseMethod', 'cosines', 'find_dense_method']


@dense_method(towers=('vit', 'resnet', 'timm'))
def vanilla(tower: Tower, images: Tensor, *, residual: bool = True) -> Tensor:
    """The unmodified last block (baseline)."""
    if isinstance(tower, TimmImageTower):
        return tower.encode_patches(images)
    last = last_attention(tower, images)
    return last.embed(last.attend(last.query, last.key), residual)


@dense_method(towers=('vit', 'resnet', 'timm'))
def maskclip(tower: Tower, images: Tensor, *, residual: bool = True) -> Tensor:
    """Each patch attends to itself only; residual and feed-forward are kept, as in the released code.

    Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022 (arXiv 2112.01071).
    """
    if not isinstance(tower, VisionTransformer):  # as released: without the positions of the pool
        return encode_dense(tower, images)
    last = last_attention(tower, images)
    return last.embed(last.value, residual)


@dense_method(towers=('vit', 'resnet', 'timm'))
def maskclip_no_residual(tower: Tower, images: Tensor) -> Tensor:
    """Each patch attends to itself only, without residual and feed-forward (``ignore_residual``)."""
    return encode_dense(tower, images)


@dense_method()
def sclip(tower: AttentionTower, images: Tensor, *, residual: bool = True) -> Tensor:
    """The sum of query-query attention and key-key attention.

    Wang et al., SCLIP, ECCV 2024 (arXiv 2312.01597).
    """
    last = last_attention(tower, images)
    mixed = last.attend(last.query, last.query) + last.attend(last.key, last.key)
    return last.embed(mixed, residual)


@dense_method()
def clearclip(tower: AttentionTower, images: Tensor, *, residual: bool = False) -> Tensor:
    """Query-query attention; the residual connection and the feed-forward are dropped.

    Lan et al., ClearCLIP, ECCV 2024 (arXiv 2407.12442).
    """
    last = last_attention(tower, images)
    return last.embed(last.attend(last.query, last.query), residual)


@dense_method()
def naclip(
    tower: AttentionTower,
    images: Tensor,
    *,
    std: float | None = 5.0,
    keys: bool = True,
    residual: bool = False,
) -> Tensor:
    """Key-key attention, with a Gaussian of the patch distance added to the logits.

    Options: ``std`` of the Gaussian in patches, None for no Gaussian.  ``keys=False`` uses the Gaussian only,
    scaled by the product of the mean norms of queries and keys.

    Hajimiri et al., Pay Attention to Your Neighbours, WACV 2025 (arXiv 2404.08181).
    """
    last = last_attention(tower, images)
    near = None if std is None else neighbourhood(last.grid, std, last.prefix, last.key)
    if keys or near is None:
        return last.embed(last.attend(last.key, last.key, near), residual)
    lengths = last.query.norm(dim=-1).mean(dim=-1) * last.key.norm(dim=-1).mean(dim=-1)  # (B, heads)
    weight = lengths.mean(dim=1)[:, None, None, None] * last.key.shape[-1] ** -0.5
    zeros = torch.zeros_like(last.key)
    return last.embed(last.attend(zeros, zeros, weight * near), residual)


@dense_method(towers=('vit',))
def gem(tower: VisionTransformer, images: Tensor, *, blocks: int = 6, residual: bool = True) -> Tensor:
    """A second path of self-self attention of queries, keys and values, parallel to the last blocks.

    Bousselham et al., Grounding Everything, CVPR 2024 (arXiv 2312.00878).
    """
    blocks = min(blocks, len(tower.blocks))
    inputs, grid = tower.forward_layers(images, [-blocks])
    second, _ = second_path(tower, inputs[-blocks], blocks, gem_attention, residual)
    return tower.project_patches(patches(second, grid), grid)


def _without_redundancy(
    tower: AttentionTower, features: tuple[Tensor, Tensor], text: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """Feature surgery: classes weighted by their similarity to the whole image, minus the class mean.

    The mean over the classes is one value per pixel: it changes the scores, but not the argmax.
    """
    embeddings, pooled = features
    weight = (F.normalize(pooled, dim=-1) @ text.mT * temperature).softmax(dim=-1)  # (B, K)
    weight = weight / weight.mean(dim=-1, keepdim=True)
    scores = cosines(embeddings, text) * weight[..., None, None]
    return scores - scores.mean(dim=1, keepdim=True)


@dense_method(read=_without_redundancy)
def clip_surgery(tower: AttentionTower, images: Tensor, *, blocks: int = 6) -> tuple[Tensor, Tensor]:
    """A second path of value-value attention parallel to the last blocks; then feature surgery.

    Returns pixel embeddings and image embeddings (B, D).  A ResNet has value-value attention in its pool,
    with logits times eight.  Unlike the released demo, maps are not rescaled to 0 .. 1 per class, since
    absent classes would reach 1 as well.

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
    tower: AttentionTower,
    features: tuple[Tensor, Tensor],
    text: Tensor,
    *,
    ks_threshold: float = 1.0,
    pd_threshold: float = 0.5,
    temperature: float = 100.0,
) -> Tensor:
    """Prompt denoising, then key smoothing.  The scores rank the classes; they are not probabilities.

    Classes that reach ``pd_threshold`` in no patch are dropped, unless this would drop all.  Patches below
    ``ks_threshold`` take the average of patches with similar keys.
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
def maskclip_denoised(
    tower: AttentionTower, images: Tensor, *, residual: bool = True
) -> tuple[Tensor, Tensor]:
    """MaskCLIP with key smoothing and prompt denoising; intended for whole images.

    Returns pixel embeddings and keys (B, N, C).  Keys are normalized over their width, as in the paper; the
    released code normalizes them over the patches.

    Zhou et al. (arXiv 2112.01071) section 3.2.
    """
    if not isinstance(tower, VisionTransformer):
        features = tower(images)
        keys = tower.attn_pool.k(features.patch_tokens)
        return tower.project_patches(features.patch_tokens, features.grid), keys
    last = last_attention(tower, images)
    keys = patches(last.key.transpose(1, 2).flatten(2), last.grid)
    return last.embed(last.value, residual), keys


@dense_method(towers=('vit',))
def sc_clip(
    tower: VisionTransformer,
    images: Tensor,
    *,
    neighbours: int = 30,
    outlier_share: float = 0.05,
    threshold: float = 0.4,
    class_share: float = 0.3,
) -> Tensor:
    """Outlier patches replaced, patches averaged by similarity in the middle layers, layers 3 to 9 added.

    Layers are those of the paper for 12 blocks; deeper towers use the layers at the same relative depth.  The
    released code swaps rows and columns of images that are not square; this implementation does not.

    Bai et al., Self-Calibrated CLIP (arXiv 2411.15869).
    """
    layers = [_of_twelve(tower, layer) for layer in range(4, 11)]  # inputs: the outputs of blocks 3 to 9
    inputs, grid = tower.forward_layers(images, {*layers, -1})
    tokens = patches(inputs[-1], grid)  # (B, N, C)
    outliers = find_outliers(tokens, neighbours, outlier_share)
    middle = cosine_map(repair(patches(inputs[_of_twelve(tower, 9)], grid), outliers, grid))
    early = cosine_map(patches(inputs[layers[0]], grid))
    attention = similarity_attention(middle, beta=1.0, gamma=3.0)[:, None]  # (B, 1, N, N)

    def through_last(tokens: Tensor, class_token: Tensor) -> Tensor:
        block = tower.blocks[-1]
        _, key, value = block.attn.split(block.norm1(tokens))
        weights = (attention + like_with_like(key).softmax(dim=-1)) / 2
        x = block.attn.merge(weights.to(value.dtype) @ value) + class_share * class_token
        return _average_similar(x, early, threshold)

    smooth = _average_similar(repair(tokens, outliers, grid), middle, threshold)
    total = torch.stack([inputs[layer] for layer in layers]).sum(dim=0)
    x = through_last(smooth, _class_token(tower, inputs[-1]))
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
    """The second pass: patches with the same class in the first prediction get more attention."""
    embeddings, *inner = features
    x, crossed = (part.to(tower.pos_embed.dtype) for part in inner)
    grid = (embeddings.shape[-2], embeddings.shape[-1])
    last = LastAttention(tower, x, grid)
    together = same_object(cosines(embeddings, text).argmax(dim=1), std).to(x.dtype)
    together = F.pad(together, (last.prefix, 0, last.prefix, 0))[:, None]  # (B, 1, T, T)
    share, gain = feedback
    refined = resclip_round(
        last, crossed, base, std, cross, lambda products: gain * ((1 - share) * products + share * together)
    )
    return cosines(F.normalize(refined.to(text.dtype), dim=1), text)


@dense_method(read=_second_round, towers=('vit',))
def resclip(
    tower: VisionTransformer,
    images: Tensor,
    *,
    base: str = 'naclip',
    std: float = 5.0,
    cross: tuple[float, float] = (0.3, 2.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of a base method mixed with that of the middle layers, refined in a second pass.

    Options: ``base``: sclip, clearclip or naclip; ``std`` in patches; ``cross`` and ``feedback``: share and
    gain of the middle layers' attention and of the first prediction (defaults: the released VOC21 settings).
    The first prediction is computed per patch; the released code refines it with PAMR.  Returns pixel
    embeddings, the input of the last block (B, T, C) and the middle attention (B, heads, T, T).

    Yang et al., ResCLIP, CVPR 2025 (arXiv 2411.15851).
    """
    layers = [_of_twelve(tower, layer) for layer in range(5, 9)]  # the paper's 6 to 9
    inputs, grid = tower.forward_layers(images, {*layers, -1})
    crossed = torch.stack([_attention(tower, layer, inputs[layer]) for layer in layers]).mean(dim=0)
    last = LastAttention(tower, inputs[-1], grid)
    return resclip_round(last, crossed, base, std, cross, lambda products: products), inputs[-1], crossed


@dense_method()
def proxyclip(
    tower: AttentionTower, images: Tensor, *, proxy: nn.Module, beta: float = 1.2, gamma: float = 3.0
) -> Tensor:
    """Attention from the similarity of a self-supervised backbone's features, on the grid of that backbone.

    Lan et al., ProxyCLIP, ECCV 2024 (arXiv 2408.04883).
    """
    last = last_attention(tower, images)
    features = proxy(images)  # (B, C', h', w')
    grid = (features.shape[-2], features.shape[-1])
    attention = similarity_attention(cosine_map(features.flatten(2).mT), beta, gamma)[
        :, None
    ]  # (B, 1, N', N')
    value = patches(last.value.transpose(1, 2).flatten(2), last.grid)  # (B, N, C)
    value = F.interpolate(value.mT.unflatten(2, last.grid), grid, mode='bilinear', align_corners=False)
    value = value.flatten(2).unflatten(1, (last.value.shape[1], -1)).mT  # (B, heads, N', d)
    return last.embed(attention.to(value.dtype) @ value, grid=grid)


def _of_twelve(tower: VisionTransformer, layer: int) -> int:
    """Index of the layer at the same relative depth as ``layer`` in a tower of 12 blocks."""
    return min(round(layer * len(tower.blocks) / 12), len(tower.blocks) - 1)


def _attention(tower: VisionTransformer, layer: int, x: Tensor) -> Tensor:
    """(B, T, C) -> (B, heads, T, T): the unmodified attention of a block."""
    block = tower.blocks[layer]
    query, key, _ = block.attn.split(block.norm1(x))
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)


def _average_similar(tokens: Tensor, cosine: Tensor, threshold: float) -> Tensor:
    """(B, N, C): each token is the mean of tokens with a cosine of at least ``threshold``, weighted by it."""
    weight = cosine * (cosine >= threshold)  # (B, N, N)
    total = weight.sum(dim=-1, keepdim=True).to(tokens.dtype) + 1e-6
    return weight.to(tokens.dtype) @ tokens / total


def _class_token(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """(B, T, C) -> (B, 1, C); zeros if the tower has no class token."""
    return tokens[:, : int(tower.class_token is not None)].sum(dim=1, keepdim=True)
