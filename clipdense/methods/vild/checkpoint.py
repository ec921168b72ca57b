"""DetPro's ViLD, an mmdet 2 program, as our detector.

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
)  # the teacher, and a layer that is never asked
_NAMES = {
    'roi_head.projection.': 'roi_head.bbox_head.projection.',
    'roi_head.projection_for_image.': 'roi_head.bbox_head.image_projection.',
    'roi_head.bbox_head.shared_convs_for_image.': 'roi_head.bbox_head.image_convs.',
    'roi_head.bbox_head.shared_fcs_for_image.': 'roi_head.bbox_head.image_fcs.',
}
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_NORMED = ('neck.', 'bbox_head.', 'mask_head.')
_TEST_TEMPERATURE = 0.007
TEACHER = 'ViT-B-32/openai'  # whose text tower embeds the class names
TRANSFORMS = ({'type': Resize, 'scale': (1333, 800), 'keep_ratio': True},)  # of images to detect in


def is_detpro(keys: Iterable[str]) -> bool:
    """Whether these are names of DetPro's weights."""
    return set(_MARKS) <= set(keys)


def from_file(file: WeightsFile, test_temperature: float | None = None) -> ViLD:
    """A detector out of DetPro's weights; files that training exports are self-describing.

    DetPro's bring no text tower: ``model.clip`` is None, and ``model.clip_name`` is what they learned from.

    Args:
        file: the weights.
        test_temperature: of DetPro's text head, 0.007 unless given.

    Raises:
        InputError: weights that need a config.
    """
    if not is_detpro(file.tensors):
        raise InputError(
            f'{file.path} does not describe its detector: give its config too (--config, '
            'Detector.from_config)'
        )
    overrides = {} if test_temperature is None else {'test_temperature': test_temperature}
    return from_official(file.tensors, **overrides)


def from_official(state_dict: Mapping[str, Tensor], **overrides: Any) -> ViLD:
    """DetPro's weights -> our detector in evaluation mode, without vocabulary and teacher.

    Args:
        state_dict: tensors by their official names.
        overrides: entries of the box head that weights do not tell, such as ``test_temperature`` (0.007).

    Raises:
        CheckpointError: not such weights, or ones that do not fit; says which.
    """
    if not is_detpro(state_dict):
        raise CheckpointError(f'these are no weights of DetPro: {_MARKS} are not among them')
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
    """Our names.  The background is what a layer of one input makes of a 1."""
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
    """The detector that the weights are of."""
    cfg = load_config('vild/vild_lvis').model
    cfg.clip = None
    blocks = tuple(
        len({name.split('.')[2] for name in state if name.startswith(f'backbone.layer{stage}.')})
        for stage in (1, 2, 3, 4)
    )
    if blocks not in _DEPTHS:
        raise CheckpointError(f'a backbone of {blocks} blocks is no ResNet-50, 101 or 152')
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
