"""Load official weights: Lightning checkpoints of isl-org/lang-seg, and state dicts of their networks.

C: channels, D: joint space.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint.layouts import infer_size
from clipdense.clip.checkpoint.layouts import recognize as recognize_clip
from clipdense.clip.checkpoint.settings import Overrides, Recorded, TowerFacts, complete
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.text import TextTransformer
from clipdense.utils.errors import CheckpointError, InputError, refuse_unknown
from clipdense.weights.io import WeightsFile
from clipdense.weights.strict import mismatches
from clipdense.weights.values import check_values

from .backbones import ResNetPyramid, TransformerPyramid, default_hooks
from .dpt import ReadoutMode
from .method import recognize
from .regularize import Activation, BottleneckBlock, DepthwiseBlock, RegularizationBlock
from .segmenter import LSeg

Block = Literal['none', 'depthwise', 'bottleneck']

_NET, _CLIP = 'net.', 'clip_pretrained.'
_KERNEL = 'scratch.head_block.depthwise.depthwise.'
_BLOCKS: dict[str, type[RegularizationBlock]] = {'depthwise': DepthwiseBlock, 'bottleneck': BottleneckBlock}
_RULES: Sequence[tuple[str, str]] = (  # official name, our name; stages are renumbered from 0 below
    (r'pretrained\.model\.(.+)', r'backbone.vit.\1'),
    (r'pretrained\.act_postprocess(\d)\.0\.project\.0\.(.+)', r'backbone.reassemble.\1.readout.project.\2'),
    (r'pretrained\.act_postprocess(\d)\.3\.(.+)', r'backbone.reassemble.\1.project.\2'),
    (r'pretrained\.act_postprocess(\d)\.4\.(.+)', r'backbone.reassemble.\1.resample.\2'),
    (r'pretrained\.layer1\.0\.(.+)', r'backbone.resnet.conv1.\1'),
    (r'pretrained\.layer1\.1\.(.+)', r'backbone.resnet.bn1.\1'),
    (r'pretrained\.layer1\.4\.(.+)', r'backbone.resnet.layer1.\1'),
    (r'pretrained\.(layer[234]\..+)', r'backbone.resnet.\1'),
    (r'scratch\.layer(\d)_rn\.(.+)', r'decoder.reduce.\1.\2'),
    (r'scratch\.refinenet(\d)\.resConfUnit1\.(.+)', r'decoder.fuse.\1.skip_unit.\2'),
    (r'scratch\.refinenet(\d)\.resConfUnit2\.(.+)', r'decoder.fuse.\1.unit.\2'),
    (r'scratch\.refinenet(\d)\.out_conv\.(.+)', r'decoder.fuse.\1.out_conv.\2'),
    (r'scratch\.head1\.(.+)', r'project.\1'),
    (re.escape(_KERNEL) + r'(.+)', r'block.conv.\1'),
)
# Tensors that the official code does not use: the final norm and classifier of the image network, the skip
# unit of the coarsest fusion, the logit scale.
_UNUSED = re.compile(
    r'pretrained\.model\.(norm|head|head_dist|fc_norm|pre_logits)\..+|scratch\.refinenet4\.resConfUnit1\..+'
    r'|logit_scale|auxlayer\..+|scratch\.output_conv\..+'
)
_NUMBERED = re.compile(r'(reassemble|reduce|fuse)\.(\d)\.')


def from_file(file: WeightsFile, **overrides: Any) -> LSeg:
    """As ``from_official``, for a file that has been read."""
    known = list(inspect.signature(from_official).parameters)[1:]
    refuse_unknown(overrides, known, 'LSeg weights have no override')
    return from_official(file.tensors, **overrides)


def from_official(
    state_dict: Mapping[str, Tensor],
    *,
    hooks: Sequence[int] | None = None,
    num_heads: int | None = None,
    text_num_heads: int | None = None,
    readout: ReadoutMode | None = None,
    block: Block | None = None,
    depth: int | None = None,
    activation: Activation = 'lrelu',
    network: nn.Module | None = None,
    statistics: str | None = None,
) -> LSeg:
    """An LSeg in evaluation mode, in fp32, from the tensors of a Lightning checkpoint.

    Its ``unused_keys`` are the tensors of the file that the official code does not use.

    Args:
        state_dict: tensors by official names, with or without the prefix 'net.'.
        hooks: blocks of the image transformer that are read; by default the last of each quarter.
        num_heads, text_num_heads: attention heads; by default for a head width of 64.
        readout: 'add' (default) or 'ignore', for weights without a readout projection.
        block, depth, activation: the regularization.  Required (``block`` and ``depth``) if the weights have
            a regularization kernel, since tensors do not specify its use; 'none' ignores the kernel.
        network: a ResNet of matching sizes, if it is not torchvision's.
        statistics: image normalization; 'half' for transformers and 'imagenet' for ResNets by default.

    Raises:
        CheckpointError: missing or unexpected keys, or a regularization kernel without ``block``.
        InputError: an unknown ``block``.
    """
    state = {
        key.removeprefix(_NET): x.float() if x.is_floating_point() else x for key, x in state_dict.items()
    }
    clip_state = {key.removeprefix(_CLIP): x for key, x in state.items() if key.startswith(_CLIP)}
    state = {key: x for key, x in state.items() if not key.startswith(_CLIP)}
    if not recognize(state):
        raise CheckpointError(
            f'not an LSeg: scratch.head1 is missing; the tensors are {", ".join(sorted(state)[:5])}, ...'
        )
    ours, unused = _rename(state)
    regularization = _block(ours, unused, block, depth, activation)
    if any(key.startswith('backbone.vit.') for key in ours):
        backbone: nn.Module = _transformer(ours, unused, hooks, num_heads, readout)
    else:
        backbone = ResNetPyramid(network or _resnet(ours))
    text = _text(clip_state, text_num_heads, unused)
    embed_dim, width = ours['project.weight'].shape[:2]
    batch_norm = 'decoder.fuse.0.unit.bn1.weight' in ours
    if not batch_norm:
        raise CheckpointError('the decoder has no batch norm, which is not supported')
    statistics = statistics or ('half' if isinstance(backbone, TransformerPyramid) else 'imagenet')
    model = LSeg(backbone, text, embed_dim, width, regularization, statistics=statistics)
    _fill(model, ours)
    model.unused_keys = tuple(unused)
    return model.eval()


def _rename(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and the names of unused tensors."""
    ours, unused, strange = {}, [], []
    for key, tensor in state.items():
        if _UNUSED.fullmatch(key):
            unused.append(key)
            continue
        for pattern, target in _RULES:
            if match := re.fullmatch(pattern, key):
                name = _NUMBERED.sub(lambda found: f'{found[1]}.{int(found[2]) - 1}.', match.expand(target))
                ours[name] = tensor
                break
        else:
            strange.append(key)
    if strange:
        raise CheckpointError(f'{len(strange)} unexpected keys for LSeg: {", ".join(strange[:10])}')
    return ours, unused


def _block(
    ours: dict[str, Tensor], unused: list[str], block: Block | None, depth: int | None, activation: Activation
) -> RegularizationBlock | None:
    """The regularization block; for 'none' its kernel is moved to ``unused``."""
    if 'block.conv.weight' not in ours:
        if block not in (None, 'none'):
            raise CheckpointError(
                f'the weights have no regularization kernel ({_KERNEL}weight): remove block={block!r}'
            )
        return None
    if block is None or (block != 'none' and depth is None):
        raise CheckpointError(
            'the weights have a regularization kernel, but do not record its use: pass the training values, '
            "block='bottleneck' (--arch_option 1), 'depthwise' (2) or 'none' (0), and depth (--block_depth)"
        )
    if block == 'none':
        unused += [
            f'{_KERNEL}{name}' for name in ('weight', 'bias') if ours.pop(f'block.conv.{name}') is not None
        ]
        return None
    if block not in _BLOCKS:
        raise InputError(f"block must be 'none', 'depthwise' or 'bottleneck', got {block!r}")
    return _BLOCKS[block](max(depth or 1, 1), activation)  # their depth 0 is the same as 1


def _transformer(
    ours: dict[str, Tensor],
    unused: list[str],
    hooks: Sequence[int] | None,
    num_heads: int | None,
    readout: ReadoutMode | None,
) -> TransformerPyramid:
    """A pyramid with the sizes of the tensors; blocks after the last hook are removed from ``ours``."""
    from timm.models.vision_transformer import VisionTransformer

    try:
        width, _, patch, _ = ours['backbone.vit.patch_embed.proj.weight'].shape
        side = isqrt(ours['backbone.vit.pos_embed'].shape[1] - 1)
        mlp = len(ours['backbone.vit.blocks.0.mlp.fc1.weight'])
        channels = [len(ours[f'backbone.reassemble.{stage}.project.weight']) for stage in range(4)]
    except KeyError as error:
        raise CheckpointError(f'{error.args[0]} (our name) is missing: the weights are incomplete') from None
    depth = 1 + max(int(key.split('.')[3]) for key in ours if key.startswith('backbone.vit.blocks.'))
    if num_heads is None and width % 64:
        raise CheckpointError(
            f'cannot infer the attention heads of a transformer of width {width}: pass num_heads'
        )
    hooks = tuple(hooks) if hooks is not None else default_hooks(depth)
    vit = VisionTransformer(
        img_size=side * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads or width // 64,
        mlp_ratio=mlp / width,
        num_classes=0,
    )
    projects = 'backbone.reassemble.0.readout.project.weight' in ours
    mode: ReadoutMode = 'project' if projects else readout or 'add'
    pyramid = TransformerPyramid(vit, hooks, channels, readout=mode)
    behind = [
        key
        for key in ours
        if (n := re.match(r'backbone\.vit\.blocks\.(\d+)\.', key)) and int(n[1]) > hooks[-1]
    ]
    for key in behind:
        del ours[key]
        unused.append(key.replace('backbone.vit.', 'pretrained.model.'))
    return pyramid


def _resnet(ours: Mapping[str, Tensor]) -> nn.Module:
    """A ResNet of torchvision with the number of blocks of the tensors."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    depths = [
        len({key.split('.')[3] for key in ours if key.startswith(f'backbone.resnet.layer{stage}.')})
        for stage in (1, 2, 3, 4)
    ]
    deep = 'backbone.resnet.layer1.0.conv3.weight' in ours
    return ResNet(Bottleneck if deep else BasicBlock, depths)


def _text(state: Mapping[str, Tensor], heads: int | None, unused: list[str]) -> FrozenText | None:
    """The text tower of the CLIP in the checkpoint, or None."""
    if not state:
        return None
    found = recognize_clip(state)
    facts = Recorded("LSeg's checkpoint", TowerFacts('quick_gelu'), TowerFacts('quick_gelu'))
    asked = Overrides(num_heads=1, text_num_heads=heads)  # the image tower stays behind, whatever its heads
    size = complete(infer_size(found.tensors), facts, asked)['text']
    tower = TextTransformer(size)
    text = {key.removeprefix('text.'): x for key, x in found.tensors.items() if key.startswith('text.')}
    unused += [f'{_CLIP}{key}' for key in state if key.startswith('visual.') or key in _CLIP_EXTRAS]
    _fill(tower, text, 'clip_pretrained')
    return FrozenText(tower)


_CLIP_EXTRAS = {'logit_scale', 'input_resolution', 'context_length', 'vocab_size'}


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str = 'the weights') -> None:
    """Load strictly; text towers are already loaded and need not be in ``tensors``."""
    expected = {key: x for key, x in module.state_dict().items() if not key.startswith('clip.')}
    if problems := mismatches(expected, tensors):
        raise CheckpointError(f'{source} (our names) do not fit LSeg: {problems}')
    check_values(tensors, source)
    with torch.no_grad():
        module.load_state_dict(dict(tensors), strict=False)
