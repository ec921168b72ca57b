"""Names of the tensors of GLIP's official files and of mmdet's.

Blocks of the head are numbered here: ``blocks.3.fusion``, where the official files count the parts of all
blocks (``dyhead_tower.9``), see ``numbered_blocks``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from clipdense.weights.key_map import Row, add_layout

HEAD = 'glip head'
_PARTS = ('fusion', 'language', 'image')
_TOWER = re.compile(r'dyhead_tower\.(\d+)\.(.+)')
_FUSION = {
    'norm_image.{p}': 'b_attn.layer_norm_v.{p}',
    'norm_text.{p}': 'b_attn.layer_norm_l.{p}',
    'query.{p}': 'b_attn.attn.v_proj.{p}',
    'key.{p}': 'b_attn.attn.l_proj.{p}',
    'image_value.{p}': 'b_attn.attn.values_v_proj.{p}',
    'text_value.{p}': 'b_attn.attn.values_l_proj.{p}',
    'image_proj.{p}': 'b_attn.attn.out_v_proj.{p}',
    'text_proj.{p}': 'b_attn.attn.out_l_proj.{p}',
    'image_scale': 'b_attn.gamma_v',
    'text_scale': 'b_attn.gamma_l',
}
_BERT = {
    'query.{p}': 'attention.self.query.{p}',
    'key.{p}': 'attention.self.key.{p}',
    'value.{p}': 'attention.self.value.{p}',
    'proj.{p}': 'attention.output.dense.{p}',
    'norm1.{p}': 'attention.output.LayerNorm.{p}',
    'fc1.{p}': 'intermediate.dense.{p}',
    'fc2.{p}': 'output.dense.{p}',
    'norm2.{p}': 'output.LayerNorm.{p}',
}
_CLIP = {
    'block.attn.qkv.weight': 'attn.in_proj_weight',
    'block.attn.qkv.bias': 'attn.in_proj_bias',
    'block.attn.proj.{p}': 'attn.out_proj.{p}',
    'block.norm1.{p}': 'ln_1.{p}',
    'block.norm2.{p}': 'ln_2.{p}',
    'block.mlp.fc1.{p}': 'mlp.c_fc.{p}',
    'block.mlp.fc2.{p}': 'mlp.c_proj.{p}',
}
_IMAGE = {
    **{
        f'{ours}.{kind}': f'DyConv.{number}.{theirs}'
        for number, ours in enumerate(('from_coarser', 'from_same', 'from_finer'))
        for kind, theirs in (('{p}', 'conv.{p}'), ('norm.{p}', 'bn.{p}'))
    },
    'offset.{p}': 'offset.{p}',
    'scale.{p}': 'AttnConv.1.{p}',
    'relu.fc1.{p}': 'relu.fc.0.{p}',
    'relu.fc2.{p}': 'relu.fc.2.{p}',
}
_OUTER = {
    'box.{p}': 'bbox_pred.{p}',
    'centerness.{p}': 'centerness.{p}',
    'words.{p}': 'dot_product_projection_text.{p}',
    'log_scale': 'log_scale',
    'text_bias': 'bias_lang',
    'bias': 'bias0',
}


def _rows(part: str, names: Mapping[str, str]) -> list[Row]:
    return [
        (f'blocks.{{n}}.{part}.{ours}', f'blocks.{{n}}.{part}.{theirs}', 'same')
        for ours, theirs in names.items()
    ]


def head_layout(levels: int) -> str:
    """The name of the table for a head of so many levels."""
    scales = ' + '.join(f'scales.{level}.scale' for level in range(levels))
    name = f'{HEAD} of {levels} levels'
    add_layout(
        name,
        [
            *_rows('fusion', _FUSION),
            *_rows('language', _BERT),
            *_rows('language', _CLIP),
            *_rows('image', _IMAGE),
            *((ours, theirs, 'same') for ours, theirs in _OUTER.items()),
            ('box_scales', scales, 'same'),
        ],
        re.compile(r'cls_logits\.(weight|bias)'),  # not used by GLIP
    )
    return name


def is_fused(names: Iterable[str]) -> bool:
    """Whether a head, by its official names, has fusion in its blocks."""
    return any('.b_attn.' in name for name in names)


def numbered_blocks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a head with ``blocks.3.fusion`` in place of ``dyhead_tower.9``; scales of shape (1,)."""
    parts = _PARTS if is_fused(state) else _PARTS[-1:]
    found = {}
    for name, tensor in state.items():
        match = _TOWER.fullmatch(name)
        if match:
            block, part = divmod(int(match[1]), len(parts))
            name = f'blocks.{block}.{parts[part]}.{match[2]}'
        found[name] = tensor.reshape(1) if name.startswith('scales.') and tensor.ndim == 0 else tensor
    return found
