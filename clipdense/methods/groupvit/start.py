"""Initialize a GroupViT from the weights of a CLIP (not in the paper; similar to SegCLIP)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError

from .model import GroupVit


@torch.no_grad()
def start_from_clip(model: GroupVit, clip: CLIP) -> list[str]:
    """Copy from a CLIP what both have: patch embedding, positions, blocks one after another, the text tower.

    The scale of the logits comes along, for all losses: at that of a fresh model (14), groups learn their
    names much later.  Group tokens, grouping blocks, projectors and norms that CLIP does not have stay as
    they are.

    Args:
        model: changed in place.
        clip: a transformer of the same width, patch and image size, with no fewer blocks.

    Returns:
        The names that were copied.

    Raises:
        InputError: towers that do not fit, in shape or activation, saying in what.
    """
    if not isinstance(clip.image, VisionTransformer):
        raise InputError(f'a GroupViT starts from a ViT of CLIP, not from a {type(clip.image).__name__}')
    _check_activations(model, clip)
    ours, theirs = model.state_dict(), clip.state_dict()
    wanted = {name: theirs[name] for name in _shared_text(ours, theirs)}
    wanted['image.patch_embed.weight'] = theirs['image.patch_embed.weight']
    wanted['image.pos_embed'] = theirs['image.pos_embed'][clip.image.prefix :]
    first = 0
    for index, stage in enumerate(model.image.stages):
        for place, _ in enumerate(stage.blocks):
            source = f'image.blocks.{first + place}.'
            target = f'image.stages.{index}.blocks.{place}.'
            found = {name: value for name, value in theirs.items() if name.startswith(source)}
            if not found:
                raise InputError(
                    f'the CLIP has {first + place} image blocks, fewer than the GroupViT: use a deeper CLIP'
                )
            wanted |= {target + name.removeprefix(source): value for name, value in found.items()}
        first += len(stage.blocks)
    wrong = [name for name, value in wanted.items() if ours[name].shape != value.shape]
    if wrong:
        shapes = f'{tuple(wanted[wrong[0]].shape)}, expected {tuple(ours[wrong[0]].shape)}'
        raise InputError(f'the CLIP does not match the GroupViT: {wrong[0]} has shape {shapes}')
    for name, value in wanted.items():
        ours[name].copy_(value)
    for scale in (model.logit_scale, model.multi_label_logit_scale):
        if scale is not None:
            scale.copy_(clip.logit_scale)
    if model.image.patch_embed.bias is not None:
        model.image.patch_embed.bias.zero_()
    return sorted(wanted)


def _check_activations(model: GroupVit, clip: CLIP) -> None:
    pairs = {'image': ('gelu', clip.size.image.activation)}  # type: ignore[union-attr]
    pairs['text'] = (
        model.size.text.activation,
        getattr(clip.size.text, 'activation', 'of another text tower'),
    )
    for tower, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise InputError(
                f'the {tower} tower of the CLIP has the activation {theirs}, that of the GroupViT {ours}: '
                f'use a CLIP with {ours}'
            )


def _shared_text(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    return [name for name in theirs if name.startswith('text.') and name in ours]
