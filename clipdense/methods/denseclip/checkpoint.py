"""Load official weights: mmsegmentation checkpoints of raoyongming/DenseCLIP with a Semantic FPN.

D: joint space, n: contexts, K: classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.checkpoint.layouts import LAYOUTS
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import ResNetSize, TextSize, VitSize
from clipdense.clip.text import TextTransformer
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import CheckpointError, refuse_unknown
from clipdense.utils.wording import counted
from clipdense.vocab.class_names import read_class_names
from clipdense.weights.io import WeightsFile
from clipdense.weights.key_map import Row, add_layout, to_ours
from clipdense.weights.strict import mismatches, with_counters
from clipdense.weights.values import check_values

from .method import recognize
from .segmenter import ContextAwareSegmenter

_DETECTOR = ('bbox_head.', 'roi_head.', 'rpn_head.')  # parts of the released detectors
_UNUSED = re.compile(r'auxiliary_head\..+|identity_head\..+')  # trained with the model, not used to segment


def _towers(kind: str) -> list[Row]:
    """Rows of OpenAI's towers, whose names the release keeps after ``backbone.`` and ``text_encoder.``."""
    rows = []
    for ours, theirs, form in LAYOUTS[f'openclip_{kind}']:
        if ours.startswith('image.'):
            name = theirs.removeprefix('visual.')
            rows.append((ours.replace('image.', 'backbone.tower.', 1), f'backbone.{name}', form))
        elif ours.startswith('text.'):
            rows.append((f'clip.{ours}', f'text_encoder.{theirs}', form))
    return rows


def _layer(ours: str, theirs: str) -> list[Row]:
    pairs = [
        *((f'{kind}.{name}.{{p}}', f'{kind}.{name}_proj.{{p}}') for kind in _KINDS for name in 'qkv'),
        *((f'{kind}.proj.{{p}}', f'{kind}.proj.{{p}}') for kind in _KINDS),
        ('fc1.{p}', 'mlp.0.{p}'),
        ('fc2.{p}', 'mlp.3.{p}'),
        *((f'norm{place}.{{p}}', f'norm{place}.{{p}}') for place in (1, 2, 3)),
    ]
    return [(f'{ours}.{one}', f'{theirs}.{other}', 'same') for one, other in pairs]


_KINDS = ('self_attn', 'cross_attn')
_ROWS: list[Row] = [
    *_layer('context_decoder.layers.{n}', 'context_decoder.decoder.{n}'),
    ('contexts', 'contexts', 'one'),
    ('gamma', 'gamma', 'same'),
    ('context_decoder.memory.{n}.{p}', 'context_decoder.memory_proj.{n}.{p}', 'same'),
    ('context_decoder.query.{n}.{p}', 'context_decoder.text_proj.{n}.{p}', 'same'),
    ('context_decoder.out.{n}.{p}', 'context_decoder.out_proj.{n}.{p}', 'same'),
    ('neck.lateral.{n}.{p}', 'neck.lateral_convs.{n}.conv.{p}', 'same'),
    ('neck.output.{n}.{p}', 'neck.fpn_convs.{n}.conv.{p}', 'same'),
    ('classify.{p}', 'decode_head.conv_seg.{p}', 'same'),
    ('fuse.scale.{any}', 'fuse.scale.{any}', 'same'),  # renamed by ``_plain``
    ('backbone.resample.{any}', 'backbone.resample.{any}', 'same'),
]
for _kind in ('vit', 'resnet'):
    add_layout(f'denseclip_{_kind}', [*_towers(_kind), *_ROWS], _UNUSED)


def from_file(file: WeightsFile, **overrides: Any) -> ContextAwareSegmenter:
    """As ``from_official``, for a file that has been read; its ``meta`` may have the class names."""
    known = list(inspect.signature(from_official).parameters)[1:]
    refuse_unknown(overrides, known, 'DenseCLIP weights have no override')
    meta = file.extra.get('meta')
    if isinstance(meta, Mapping) and 'class_names' not in overrides:
        names = meta.get('CLASSES')
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            overrides['class_names'] = [name.strip() for name in names]
    return from_official(file.tensors, **overrides)


def from_official(
    state_dict: Mapping[str, Tensor],
    *,
    class_names: Sequence[str] | str | None = None,
    num_heads: int | None = None,
    text_num_heads: int | None = None,
    decoder_num_heads: int = 4,
    taps: Sequence[int] | None = None,
) -> ContextAwareSegmenter:
    """A DenseCLIP in evaluation mode, in fp32, from the tensors of an official checkpoint.

    Args:
        state_dict: tensors by official names.
        class_names: the K classes of the training in their order, or the name of a class list ('ade20k').
        num_heads: attention heads of the image tower; by default for a head width of 64 (ViT) or 32 heads
            (the pool of a ResNet).
        text_num_heads: attention heads of the text tower; by default for a head width of 64.
        decoder_num_heads: attention heads of the context decoder.
        taps: blocks of a ViT that are read; 3, 5, 7 and 11 of 12 by default.

    Raises:
        CheckpointError: missing or unexpected tensors, or no or another number of class names.
    """
    state = {key: x.float() if x.is_floating_point() else x for key, x in state_dict.items()}
    if any(key.startswith(_DETECTOR) for key in state):
        raise CheckpointError(
            'a DenseCLIP detector (RetinaNet or Mask R-CNN), which does not load: give a DenseCLIP segmenter '
            '(Semantic FPN), or for detection the weights of a detector, see `clipdense methods`'
        )
    if not recognize(state) or 'decode_head.conv_seg.weight' not in state:
        raise CheckpointError(
            'not a DenseCLIP with a Semantic FPN: contexts, gamma, context_decoder or decode_head is missing'
        )
    classes = len(state['decode_head.conv_seg.weight'])
    names = _class_names(class_names, classes)
    kind = 'resnet' if 'backbone.layer1.0.conv1.weight' in state else 'vit'
    ours, leftover = to_ours({_plain(key): x for key, x in state.items()}, f'denseclip_{kind}')
    if leftover:
        raise CheckpointError(f'{len(leftover)} unexpected tensors for DenseCLIP: {", ".join(leftover[:10])}')
    try:
        tower = _image(ours, num_heads)
        text = TextTransformer(_text_size(ours, text_num_heads))
        layers = 1 + max(int(key.split('.')[2]) for key in ours if key.startswith('context_decoder.layers.'))
        width = len(ours['context_decoder.query.1.weight'])
        contexts, fpn = len(ours['contexts']), len(ours['neck.lateral.0.weight'])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f'the weights are incomplete: {error.args[0]} (our name) is missing') from None
    backbone = {'image': tower, 'taps': taps}
    decoder = {'width': width, 'layers': layers, 'num_heads': decoder_num_heads}
    model = ContextAwareSegmenter(names, FrozenText(text), backbone, contexts, fpn, decoder)
    model.unused_keys = tuple(key for key in state if _UNUSED.fullmatch(key))
    _fill(model, ours)
    return model.eval()


def _class_names(given: Sequence[str] | str | None, count: int) -> tuple[str, ...]:
    if given is None:
        raise CheckpointError(
            f'the weights do not record the names of their {count} classes: pass class_names, such as '
            "class_names='ade20k'"
        )
    names = read_class_names(given).class_names
    if len(names) != count:
        raise CheckpointError(f'the weights have {counted(count, "class")}, but class_names has {len(names)}')
    return names


def _plain(key: str) -> str:
    """Names that a row cannot express: layers between which other layers are counted."""
    if match := re.fullmatch(r'decode_head\.scale_heads\.(\d+)\.(\d+)\.(conv|bn)\.(.+)', key):
        level, place, part, name = match.groups()
        step = int(place) // 2  # convolutions and upsampling take turns
        return f'fuse.scale.{level}.{step}.{"01"[part == "bn"]}.{name}'
    if match := re.fullmatch(r'backbone\.fpn(\d)\.(?:(\d)\.)?(.+)', key):
        level, place, name = match.groups()
        return f'backbone.resample.{int(level) - 1}.{place or 0}.{name}'
    return key


def _image(ours: dict[str, Tensor], num_heads: int | None) -> ModifiedResNet | VisionTransformer:
    prefix = 'backbone.tower.'
    positions = 'attn_pool.pos_embed' if f'{prefix}layer1.0.conv1.weight' in ours else 'pos_embed'
    side = isqrt(len(ours[f'{prefix}{positions}']) - 1)
    if positions != 'pos_embed':
        depths = [_depth(ours, f'{prefix}layer{stage}.') for stage in (1, 2, 3, 4)]
        size = ResNetSize(
            image_size=32 * side,
            width=len(ours[f'{prefix}conv3.weight']),
            layers=(depths[0], depths[1], depths[2], depths[3]),
            num_heads=num_heads or 32,
            embed_dim=len(ours[f'{prefix}attn_pool.proj.weight']),
        )
        return ModifiedResNet(size, position_mode='bilinear', antialias=False)
    width, _, patch, _ = ours[f'{prefix}patch_embed.weight'].shape
    token = f'{prefix}class_token'
    ours[token] = 2 * ours[token]  # the release adds the class token twice, also in training
    return VisionTransformer(
        VitSize(
            image_size=side * patch,
            patch_size=patch,
            width=width,
            layers=_depth(ours, f'{prefix}blocks.'),
            num_heads=num_heads or _heads(width, 'num_heads'),
            mlp_width=len(ours[f'{prefix}blocks.0.mlp.fc1.weight']),
            embed_dim=ours[f'{prefix}proj'].shape[1],
        ),
        position_mode='bilinear',
        antialias=False,
    )


def _text_size(ours: Mapping[str, Tensor], num_heads: int | None) -> TextSize:
    vocab, width = ours['clip.text.token_embed.weight'].shape
    return TextSize(
        width=width,
        layers=_depth(ours, 'clip.text.blocks.'),
        num_heads=num_heads or _heads(width, 'text_num_heads'),
        mlp_width=len(ours['clip.text.blocks.0.mlp.fc1.weight']),
        embed_dim=ours['clip.text.proj'].shape[1],
        vocab_size=vocab,
        context_length=len(ours['clip.text.pos_embed']),
    )


def _depth(ours: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered parts after a prefix."""
    return 1 + max(
        (int(key.removeprefix(prefix).split('.')[0]) for key in ours if key.startswith(prefix)), default=-1
    )


def _heads(width: int, name: str) -> int:
    if width % 64:
        raise CheckpointError(f'cannot infer the attention heads of a width of {width}: pass {name}')
    return width // 64


def _fill(model: ContextAwareSegmenter, tensors: Mapping[str, Tensor]) -> None:
    """Load strictly."""
    expected = model.state_dict()
    if problems := mismatches(expected, tensors):
        raise CheckpointError(f'the weights (our names) do not fit DenseCLIP: {problems}')
    check_values(tensors, 'the weights')
    with torch.no_grad():
        model.load_state_dict(with_counters(expected, tensors))
