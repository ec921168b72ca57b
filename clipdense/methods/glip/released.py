"""The tensors of GLIP's released files, microsoft's and those that mmdet converted, under our names.

Source: microsoft/GLIP; mmdet tools/model_converters/glip_to_mmdet.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mmdet.models.backbones.swin import swin_converter
from torch import Tensor

from clipdense.utils.errors import CheckpointError
from clipdense.weights.key_map import to_ours
from clipdense.weights.strict import first_names

from .layouts import head_layout, numbered_blocks

_OFFICIAL, _MMDET = 'rpn.head.', 'bbox_head.head.'
_TEXT = {_OFFICIAL: 'language_backbone.body.model.', _MMDET: 'language_model.language_backbone.body.model.'}
_UNUSED = re.compile(
    r'rpn\.anchor_generator\..*|.*\.pooler\..*|.*embeddings\.position_ids|.*resizer\..*|data_preprocessor\..*'
)
_FPN = {
    **{f'backbone.fpn.fpn_inner{level}.': f'neck.lateral_convs.{level - 2}.conv.' for level in (2, 3, 4)},
    **{f'backbone.fpn.fpn_layer{level}.': f'neck.fpn_convs.{level - 2}.conv.' for level in (2, 3, 4)},
    **{f'backbone.fpn.top_blocks.p{level}.': f'neck.fpn_convs.{level - 3}.conv.' for level in (6, 7)},
}
_MMDET_HEAD = (('.dyconvs.', '.DyConv.'), ('.attnconv.', '.AttnConv.'))


def is_released(names: Iterable[str]) -> bool:
    """Whether these are tensor names of microsoft's or mmdet's files."""
    return any(name.startswith((_OFFICIAL, _MMDET)) for name in names)


def state_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of released weights or of ours, under our names.

    Raises:
        CheckpointError: tensors that no GLIP has.
    """
    if not is_released(tensors):
        return dict(tensors)
    state, leftover = rename(tensors)
    if leftover:
        raise CheckpointError(f'unexpected tensors for a GLIP: {first_names(leftover)}')
    return state


def rename(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and the names that neither layout has.

    Raises:
        CheckpointError: no head of GLIP, or a text tower other than BERT.
    """
    layout = next((one for one in (_OFFICIAL, _MMDET) if any(n.startswith(one) for n in state_dict)), None)
    if layout is None:
        raise CheckpointError(f'not a GLIP: no tensor begins with {_OFFICIAL} or {_MMDET}')
    text = _TEXT[layout]
    if f'{text}embeddings.word_embeddings.weight' not in state_dict:
        raise CheckpointError(
            f'the text tower is not BERT: {text}embeddings.word_embeddings.weight is missing'
        )
    kept = {name: tensor for name, tensor in state_dict.items() if not _UNUSED.fullmatch(name)}
    head = {name.removeprefix(layout): kept.pop(name) for name in list(kept) if name.startswith(layout)}
    words = {name.removeprefix(text): kept.pop(name) for name in list(kept) if name.startswith(text)}
    if layout == _MMDET:
        for theirs, ours in _MMDET_HEAD:
            head = {name.replace(theirs, ours): tensor for name, tensor in head.items()}
        body = {name: kept.pop(name) for name in list(kept) if name.startswith(('backbone.', 'neck.'))}
    else:
        body = _official_body(kept)
    found, leftover = to_ours(numbered_blocks(head), head_layout(count_of(head, r'scales\.(\d+)\.scale')))
    state = {
        **body,
        **{f'head.{name}': tensor for name, tensor in found.items()},
        **{f'clip.text.transformer.{name}': tensor for name, tensor in words.items()},
    }
    return state, [*(f'{layout}{name}' for name in leftover), *kept]


def count_of(names: Iterable[str], pattern: str) -> int:
    """The number of different first groups of the names that match."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})


def _official_body(kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """Backbone and neck under mmdet's names; they are taken out of ``kept``."""
    prefix = 'backbone.body.'
    swin = {name.removeprefix(prefix): kept.pop(name) for name in list(kept) if name.startswith(prefix)}
    body = dict(swin_converter(swin))
    for name in list(kept):
        theirs = next((one for one in _FPN if name.startswith(one)), None)
        if theirs is not None:
            body[_FPN[theirs] + name.removeprefix(theirs)] = kept.pop(name)
    return body
