"""Official weights in: Lightning checkpoints of isl-org/lang-seg, and their bare networks.

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

from .backbones import ResNetPyramid, TransformerPyramid, default_hooks
from .dpt import ReadoutMode
from .method import recognize
from .regularize import Activation, BottleneckBlock, DepthwiseBlock, RegularizationBlock
from .segmenter import LSeg

Block = Literal['none', 'depthwise', 'bottleneck']

_NET, _CLIP = 'net.', 'clip_pretrained.'
_KERNEL = 'scratch.head_block.depthwise.depthwise.'
_BLOCKS: dict[str, type[RegularizationBlock]] = {'depthwise': DepthwiseBlock, 'bottleneck': BottleneckBlock}
_RULES: Sequence[tuple[str, str]] = (  # theirs, ours; "\1 - 1" below
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
# In official files and without effect there: the final norm and classifier of the image network, the unit of
# the coarsest fusion that would take a finer map, the similarity of the scratch training code.
_UNUSED = re.compile(
    r'pretrained\.model\.(norm|head|head_dist|fc_norm|pre_logits)\..+|scratch\.refinenet4\.resConfUnit1\..+'
    r'|logit_scale|auxlayer\..+|scratch\.output_conv\..+'
)
_NUMBERED = re.compile(r'(reassemble|reduce|fuse)\.(\d)\.')


def from_file(file: WeightsFile, **overrides: Any) -> LSeg:
    """An LSeg in evaluation mode from a file that has been read; else as ``from_official``."""
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
    """An LSeg in evaluation mode, in fp32, from a Lightning checkpoint's tensors.

    Its ``unused_keys`` names what the file holds and the release does not use.

    Args:
        state_dict: under official names, with or without 'net.'.
        hooks: blocks of the image transformer that are read; by default the last of each quarter.
        num_heads, text_num_heads: attention heads, for widths other than 64 a head.
        readout: 'add' or 'ignore', which leave no tensors; the first where nothing else is said.
        block, depth, activation: the regularisation, of which the tensors tell only that there is one; where
            they do, ``block`` and ``depth`` have to be said.  'none' ignores the kernel.
        network: an empty ResNet of the right sizes, where it is not torchvision's.
        statistics: of the images; 'half' for transformers and 'imagenet' for ResNets by default.

    Raises:
        CheckpointError: keys that are missing or have no place, or a kernel whose block nothing tells.
    """
    state = {key.removeprefix(_NET): tensor.float() for key, tensor in state_dict.items()}
    clip_state = {key.removeprefix(_CLIP): x for key, x in state.items() if key.startswith(_CLIP)}
    state = {key: x for key, x in state.items() if not key.startswith(_CLIP)}
    if not recognize(state):
        raise CheckpointError(f'no LSeg: scratch.head1 is missing; there are {", ".join(sorted(state)[:5])}')
    ours, unused = _rename(state)
    regularisation = _block(ours, unused, block, depth, activation)
    if any(key.startswith('backbone.vit.') for key in ours):
        backbone: nn.Module = _transformer(ours, unused, hooks, num_heads, readout)
    else:
        backbone = ResNetPyramid(network or _resnet(ours))
    text = _text(clip_state, text_num_heads, unused)
    embed_dim, width = ours['project.weight'].shape[:2]
    batch_norm = 'decoder.fuse.0.unit.bn1.weight' in ours
    if not batch_norm:
        raise CheckpointError('the decoder has no batch norm: no LSeg was published without')
    statistics = statistics or ('half' if isinstance(backbone, TransformerPyramid) else 'imagenet')
    model = LSeg(backbone, text, embed_dim, width, regularisation, statistics=statistics)
    _fill(model, ours)
    model.unused_keys = tuple(unused)
    return model.eval()


def _rename(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and the names of those that the release does not use."""
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
        raise CheckpointError(f'{len(strange)} keys have no place in LSeg: {", ".join(strange[:10])}')
    return ours, unused


def _block(
    ours: dict[str, Tensor], unused: list[str], block: Block | None, depth: int | None, activation: Activation
) -> RegularizationBlock | None:
    """The regularisation that the caller names; its kernel is set aside where that is none."""
    if 'block.conv.weight' not in ours:
        if block not in (None, 'none'):
            raise CheckpointError(f'block={block!r} needs a kernel, and the weights have no {_KERNEL}weight')
        return None
    if block is None or (block != 'none' and depth is None):
        raise CheckpointError(
            'the weights have a regularisation kernel, and nothing tells how it is used: say '
            "block='bottleneck' (--arch_option 1), 'depthwise' (2) or 'none' (0), and depth= (--block_depth)"
        )
    if block == 'none':
        unused += [
            f'{_KERNEL}{name}' for name in ('weight', 'bias') if ours.pop(f'block.conv.{name}') is not None
        ]
        return None
    if block not in _BLOCKS:
        raise InputError(f"block is 'none', 'depthwise' or 'bottleneck', got {block!r}")
    return _BLOCKS[block](max(depth or 1, 1), activation)  # their depth 0 is the same as 1


def _transformer(
    ours: dict[str, Tensor],
    unused: list[str],
    hooks: Sequence[int] | None,
    num_heads: int | None,
    readout: ReadoutMode | None,
) -> TransformerPyramid:
    """An empty pyramid of the sizes that the tensors tell; blocks behind the last hook are set aside."""
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
            f'a transformer of width {width} is unknown: say how many heads with num_heads='
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
    """torchvision's ResNet with as many blocks as there are tensors."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    depths = [
        len({key.split('.')[3] for key in ours if key.startswith(f'backbone.resnet.layer{stage}.')})
        for stage in (1, 2, 3, 4)
    ]
    deep = 'backbone.resnet.layer1.0.conv3.weight' in ours
    return ResNet(Bottleneck if deep else BasicBlock, depths)


def _text(state: Mapping[str, Tensor], heads: int | None, unused: list[str]) -> FrozenText | None:
    """The text half of the CLIP inside; None where there is none."""
    if not state:
        return None
    found = recognize_clip(state)
    facts = Recorded("LSeg's checkpoint", TowerFacts('quick_gelu'), TowerFacts('quick_gelu'))
    asked = Overrides(num_heads=1, text_num_heads=heads)  # the image tower stays behind, whatever its heads
    size = complete(infer_size(found.tensors), facts, asked).text
    tower = TextTransformer(size)
    text = {key.removeprefix('text.'): x for key, x in found.tensors.items() if key.startswith('text.')}
    unused += [f'{_CLIP}{key}' for key in state if key.startswith('visual.') or key in _CLIP_EXTRAS]
    _fill(tower, text, 'clip_pretrained')
    return FrozenText(tower)


_CLIP_EXTRAS = {'logit_scale', 'input_resolution', 'context_length', 'vocab_size'}


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str = 'the weights') -> None:
    """Load strictly; text towers that are filled already need not be in ``tensors``."""
    expected = {key: x for key, x in module.state_dict().items() if not key.startswith('clip.')}
    if told := mismatches(expected, tensors):
        raise CheckpointError(f'{source} (our names) do not fit LSeg: {told}')
    with torch.no_grad():
        module.load_state_dict(dict(tensors), strict=False)
