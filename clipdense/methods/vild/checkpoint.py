"""Load the ViLD weights of DetPro, which were trained with mmdet 2.

Source: dyabel/detpro ``mmdet/models/roi_heads/{standard_roi_head,bbox_heads/convfc_bbox_head}.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from clipdense.config import load_config
from clipdense.data.detection.transforms import Resize
from clipdense.registry import build_module
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import WeightsFile
from clipdense.weights.strict import load_strict

from .detector import ViLD

_MARKS = ('roi_head.projection.weight', 'roi_head.bg_embedding.weight')
_UNUSED = (
    'roi_head.clip_model.',
    'roi_head.bbox_head.fc_cls.',
)  # the teacher, and an unused layer
_NAMES = {
    'roi_head.projection.': 'roi_head.bbox_head.projection.',
    'roi_head.projection_for_image.': 'roi_head.bbox_head.image_projection.',
    'roi_head.bbox_head.shared_convs_for_image.': 'roi_head.bbox_head.image_convs.',
    'roi_head.bbox_head.shared_fcs_for_image.': 'roi_head.bbox_head.image_fcs.',
}
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_NORMED = ('neck.', 'bbox_head.', 'mask_head.')
_TEST_TEMPERATURE = 0.007
TEACHER = 'ViT-B-32/openai'  # its text tower embeds the class names
TRANSFORMS = ({'type': Resize, 'scale': (1333, 800), 'keep_ratio': True},)  # of test images


def is_detpro(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of DetPro's weights."""
    return set(_MARKS) <= set(keys)


def from_file(file: WeightsFile, test_temperature: float | None = None) -> ViLD:
    """A detector from DetPro's weights; exported files are self-describing and need no loader.

    DetPro's weights have no text tower: ``model.clip`` is None, ``model.clip_name`` names their teacher.

    Args:
        file: the weights.
        test_temperature: temperature of DetPro's text head at test, 0.007 by default.

    Raises:
        InputError: weights that need a config.
    """
    if not is_detpro(file.tensors):
        raise InputError(
            f'{file.path} is a training checkpoint that needs its config: pass --config, or use '
            'Detector.from_config'
        )
    overrides = {} if test_temperature is None else {'test_temperature': test_temperature}
    return from_official(file.tensors, **overrides)


def from_official(state_dict: Mapping[str, Tensor], **overrides: Any) -> ViLD:
    """DetPro's weights -> a detector in evaluation mode, without vocabulary and teacher.

    Args:
        state_dict: tensors by their official names.
        overrides: settings of the box head that tensors do not specify, such as ``test_temperature`` (0.007).

    Raises:
        CheckpointError: other weights, or missing, unexpected or mis-shaped tensors.
    """
    if not is_detpro(state_dict):
        raise CheckpointError(f"not DetPro's ViLD: the tensors {' and '.join(_MARKS)} are missing")
    state = rename(state_dict)
    model = build_module(_config(state, overrides))
    for name, tensor in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            state.setdefault(name, tensor)
    load_strict(model, state, "DetPro's weights")
    model.apply_portable_config({'transforms': TRANSFORMS})
    model.clip_name = TEACHER
    return model.eval()


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names.  The background embedding is the output of DetPro's background layer for 1."""
    state = {}
    for name, tensor in state_dict.items():
        if name.startswith(_UNUSED) or name.startswith('roi_head.bg_embedding.'):
            continue
        old = next((prefix for prefix in _NAMES if name.startswith(prefix)), '')
        state[_NAMES.get(old, '') + name.removeprefix(old)] = tensor
    layer = 'roi_head.bg_embedding'
    state['roi_head.bbox_head.background'] = state_dict[f'{layer}.weight'][:, 0] + state_dict[f'{layer}.bias']
    return state


def _config(state: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> Any:
    """The model config that matches the weights."""
    cfg = load_config('vild/vild_lvis').model
    cfg.clip = None
    blocks = tuple(
        len({name.split('.')[2] for name in state if name.startswith(f'backbone.layer{stage}.')})
        for stage in (1, 2, 3, 4)
    )
    if blocks not in _DEPTHS:
        raise CheckpointError(f'the backbone has {blocks} blocks, which is not a ResNet-50, 101 or 152')
    cfg.backbone.depth = _DEPTHS[blocks]
    normed = {part: any(part in name and '.bn.' in name for name in state) for part in _NORMED}
    for part, entry in (
        ('neck.', cfg.neck),
        ('bbox_head.', cfg.roi_head.bbox_head),
        ('mask_head.', cfg.roi_head.mask_head),
    ):
        if not normed[part]:
            entry.norm_cfg = None
    cfg.rpn_head.num_convs = 1 if 'rpn_head.rpn_conv.weight' in state else 2
    head = cfg.roi_head.bbox_head
    head.fc_norm, head.test_temperature = False, _TEST_TEMPERATURE
    head.embed_dim = len(state['roi_head.bbox_head.background'])
    head.num_shared_convs = _count(state, 'roi_head.bbox_head.shared_convs.')
    head.num_shared_fcs = _count(state, 'roi_head.bbox_head.shared_fcs.')
    head.variant = 'ensemble' if 'roi_head.bbox_head.image_projection.weight' in state else 'vild'
    head.update(overrides)
    return cfg


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split('.')[0] for name in state if name.startswith(prefix)})
