"""Load GLIP's released weights: microsoft's files, and those that mmdet converted from them.

GLIPv2's weights were never released.

Source: microsoft/GLIP; mmdet tools/model_converters/glip_to_mmdet.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.sizes import HFTextSize
from clipdense.data.detection.transforms import Resize
from clipdense.registry import build_module
from clipdense.utils.errors import CheckpointError, InputError, nearest
from clipdense.weights.io import WeightsFile
from clipdense.weights.strict import load_strict

from .detector import GLIP
from .head import GLIPHead
from .parts import FPN, DetDataPreprocessor, Swin
from .released import count_of, is_released, state_of
from .sizes import PUBLISHED, HeadSize
from .text import GroundingText, default_tokenizer

_HEAD_WIDTH = 64  # of BERT's attention
_FUSION_HEADS, _GROUPS = 8, 16
CONTEXT_LENGTH = 256
_BERT_BASE = {
    'vocab_size': 30522,
    'hidden_size': 768,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'intermediate_size': 3072,
    'max_position_embeddings': 512,
}
BERT_BASE = HFTextSize('bert', 768, 'cls_last_hidden_state_pooler', None, CONTEXT_LENGTH, _BERT_BASE)
TRANSFORMS = ({'type': Resize, 'scale': (1333, 800), 'keep_ratio': True},)  # of test images
PREPROCESSOR = {  # BGR
    'type': DetDataPreprocessor,
    'mean': [103.53, 116.28, 123.675],
    'std': [57.375, 57.12, 58.395],
    'rgb_to_bgr': True,
    'pad_size_divisor': 32,
}
NECK = {'type': FPN, 'out_channels': 256, 'num_outs': 5} | {
    'add_extra_convs': 'on_output',
    'relu_before_extra_convs': True,
}


def from_file(
    file: WeightsFile,
    text_num_heads: int | None = None,
    fusion_heads: int | None = None,
    groups: int | None = None,
) -> GLIP:
    """A detector from released weights; exported files are self-describing and need no loader.

    Args:
        file: the weights.
        text_num_heads: attention heads of BERT; one for each 64 channels by default.
        fusion_heads: attention heads between image and text, 8 by default.
        groups: of the group normalizations, 16 by default.

    Raises:
        InputError: weights that need a config.
        CheckpointError: other weights.
    """
    if not is_released(file.tensors):
        raise InputError(
            f'{file.path} is a training checkpoint that needs its config: pass --config, or use '
            'Detector.from_config'
        )
    given = {'text_num_heads': text_num_heads, 'fusion_heads': fusion_heads, 'groups': groups}
    model = from_official(file.tensors, **{name: value for name, value in given.items() if value is not None})
    model.clip.tokenizer = default_tokenizer(model.clip.text.size, file.path)
    return model


def from_official(state_dict: Mapping[str, Tensor], **overrides: Any) -> GLIP:
    """Released weights -> a detector in evaluation mode, without vocabulary.

    Args:
        state_dict: tensors by their names in microsoft's or mmdet's files.
        overrides: settings that tensors do not tell: ``text_num_heads``, ``fusion_heads``, ``groups``.

    Raises:
        CheckpointError: other weights, or missing, unexpected or mis-shaped tensors.
    """
    state = state_of(state_dict)
    model = build_module(config_of(state, **overrides))
    load_strict(model, state, "GLIP's weights")
    model.apply_portable_config({'transforms': TRANSFORMS})
    return model.eval()


def config_of(
    state: Mapping[str, Tensor],
    text_num_heads: int | None = None,
    fusion_heads: int = _FUSION_HEADS,
    groups: int = _GROUPS,
) -> dict[str, Any]:
    """The model config that matches tensors under our names.

    Raises:
        CheckpointError: tensors that every GLIP has are missing.
    """
    try:
        text = _text_size(state, text_num_heads)
        swin = _swin(state)
        head = _head_size(state, text, fusion_heads, groups)
    except (KeyError, IndexError) as error:
        raise CheckpointError(f'tensors of a GLIP are missing, the first is {error}') from error
    return _config(swin, head, text)


def published(name: str) -> GLIP:
    """A published model with new weights.

    Args:
        name: in ``sizes.PUBLISHED``, such as 'GLIP-T'.

    Raises:
        InputError: an unknown name.
    """
    if name not in PUBLISHED:
        raise InputError(
            f'unknown model {name!r}: use one of {", ".join(PUBLISHED)}.{nearest(name, PUBLISHED)}'
        )
    size = PUBLISHED[name]
    return build_module(_config(size.backbone, size.head, BERT_BASE))


def _config(swin: Mapping[str, Any], head: HeadSize, text: HFTextSize) -> dict[str, Any]:
    channels = [swin['embed_dims'] * 2**stage for stage in (1, 2, 3)]
    return {
        'type': GLIP,
        'data_preprocessor': PREPROCESSOR,
        'backbone': {'type': Swin, **swin},
        'neck': {**NECK, 'in_channels': channels, 'out_channels': head.channels},
        'head': {'type': GLIPHead, 'size': head},
        'clip': {'type': GroundingText, 'text': {'type': HFTextTower, 'size': text}},
        'prompts': {'max_names': 40},
        'detection': {'score_threshold': 0.0, 'iou_threshold': 0.6, 'max_detections': 100},
    }


def _swin(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of mmdet's Swin."""
    depths, heads, window = [], [], 7
    for stage in range(count_of(state, r'backbone\.stages\.(\d+)\..*')):
        depths.append(count_of(state, rf'backbone\.stages\.{stage}\.blocks\.(\d+)\..*'))
        table = state[f'backbone.stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table']
        heads.append(int(table.shape[1]))
        window = (round(table.shape[0] ** 0.5) + 1) // 2
    return {
        'embed_dims': int(state['backbone.patch_embed.projection.weight'].shape[0]),
        'depths': depths,
        'num_heads': heads,
        'window_size': window,
        'drop_path_rate': 0.2,
        'out_indices': (1, 2, 3),
    }


def _text_size(state: Mapping[str, Tensor], num_heads: int | None) -> HFTextSize:
    tower = 'clip.text.transformer.'
    words = state[f'{tower}embeddings.word_embeddings.weight']
    width = int(words.shape[1])
    options = {
        'vocab_size': int(words.shape[0]),
        'hidden_size': width,
        'num_hidden_layers': count_of(state, rf'{re.escape(tower)}encoder\.layer\.(\d+)\..*'),
        'num_attention_heads': num_heads or max(1, width // _HEAD_WIDTH),
        'intermediate_size': int(state[f'{tower}encoder.layer.0.intermediate.dense.weight'].shape[0]),
        'max_position_embeddings': int(state[f'{tower}embeddings.position_embeddings.weight'].shape[0]),
    }
    length = min(CONTEXT_LENGTH, options['max_position_embeddings'])
    return HFTextSize('bert', width, 'cls_last_hidden_state_pooler', None, length, options)


def _head_size(state: Mapping[str, Tensor], text: HFTextSize, heads: int, groups: int) -> HeadSize:
    fused = 'head.blocks.0.fusion.query.weight' in state
    more: dict[str, Any] = {}
    if fused:
        more = {
            'fusion_width': int(state['head.blocks.0.fusion.query.weight'].shape[0]),
            'text_mlp': int(state['head.blocks.0.language.fc1.weight'].shape[0]),
        }
    return HeadSize(
        channels=int(state['head.words.weight'].shape[0]),
        text_width=text.width,
        depth=count_of(state, r'head\.blocks\.(\d+)\..*'),
        fused=fused,
        fusion_heads=heads,
        text_heads=text.options['num_attention_heads'],
        groups=groups,
        **more,
    )
