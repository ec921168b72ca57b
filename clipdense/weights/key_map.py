"""Our state-dict names against those of the official layouts: tables, read in both directions.

A row is (ours, theirs, form).  ``{n}`` is a number, ``{p}`` 'weight' or 'bias', ``{any}`` anything; ``a + b``
are tensors that the other side keeps joined along their first axis, ``2*a`` one that counts twice in it.
Source: the modules of openai/CLIP, open_clip, timm, SLIP and transformers whose keys these are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from clipdense.utils.errors import CheckpointError

Row = tuple[str, str, str]

# Buffers that official files carry and that hold no knowledge, and SLIP's self-supervised head.
DROPPED = re.compile(
    r'(.*\.)?(position_ids|attn_mask)|input_resolution|context_length|vocab_size|image_mlp\..*'
)
_HOLES = {'{n}': r'(\d+)', '{p}': '(weight|bias)', '{any}': '(.+)'}
_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {  # to ours, from ours
    'same': (lambda x: x, lambda x: x),
    'transposed': (lambda x: x.t(), lambda x: x.t()),
    'scalar': (lambda x: x.reshape(()) if x.numel() == 1 else x, lambda x: x),
    'one': (lambda x: x.squeeze(0), lambda x: x.unsqueeze(0)),
    'one one': (lambda x: x.squeeze(0).squeeze(0), lambda x: x.unsqueeze(0).unsqueeze(0)),
    'last one': (lambda x: x.squeeze(-1), lambda x: x.unsqueeze(-1)),
}


def _same(*pairs: tuple[str, str]) -> list[Row]:
    return [(ours, theirs, 'same') for ours, theirs in pairs]


def _blocks(ours: str, theirs: str) -> list[Row]:
    """Residual blocks as openai/CLIP names them."""
    return _same(
        (f'{ours}.{{n}}.norm1.{{p}}', f'{theirs}.{{n}}.ln_1.{{p}}'),
        (f'{ours}.{{n}}.attn.qkv.{{p}}', f'{theirs}.{{n}}.attn.in_proj_{{p}}'),
        (f'{ours}.{{n}}.attn.proj.{{p}}', f'{theirs}.{{n}}.attn.out_proj.{{p}}'),
        (f'{ours}.{{n}}.norm2.{{p}}', f'{theirs}.{{n}}.ln_2.{{p}}'),
        (f'{ours}.{{n}}.mlp.fc1.{{p}}', f'{theirs}.{{n}}.mlp.c_fc.{{p}}'),
        (f'{ours}.{{n}}.mlp.fc2.{{p}}', f'{theirs}.{{n}}.mlp.c_proj.{{p}}'),
    )


def _text(prefix: str = '') -> list[Row]:
    return [
        *_same(
            ('text.token_embed.weight', f'{prefix}token_embedding.weight'),
            ('text.pos_embed', f'{prefix}positional_embedding'),
            ('text.norm_post.{p}', f'{prefix}ln_final.{{p}}'),
            ('text.proj', f'{prefix}text_projection'),
        ),
        *_blocks('text.blocks', f'{prefix}transformer.resblocks'),
    ]


def _timm(prefix: str) -> list[Row]:
    return [
        *_same(
            ('image.patch_embed.{p}', f'{prefix}patch_embed.proj.{{p}}'),
            ('image.blocks.{n}.{any}', f'{prefix}blocks.{{n}}.{{any}}'),
            ('image.norm_post.{p}', f'{prefix}norm.{{p}}'),
        ),
        ('image.pos_embed', f'{prefix}pos_embed', 'one'),
    ]


def _huggingface_blocks(tower: str, theirs: str) -> list[Row]:
    layer = f'{theirs}.encoder.layers.{{n}}'
    projections = ' + '.join(f'{layer}.self_attn.{name}_proj.{{p}}' for name in 'qkv')
    return _same(
        (f'{tower}.blocks.{{n}}.norm1.{{p}}', f'{layer}.layer_norm1.{{p}}'),
        (f'{tower}.blocks.{{n}}.attn.qkv.{{p}}', projections),
        (f'{tower}.blocks.{{n}}.attn.proj.{{p}}', f'{layer}.self_attn.out_proj.{{p}}'),
        (f'{tower}.blocks.{{n}}.norm2.{{p}}', f'{layer}.layer_norm2.{{p}}'),
        (f'{tower}.blocks.{{n}}.mlp.{{any}}', f'{layer}.mlp.{{any}}'),
    )


_LOGITS = [('logit_scale', 'logit_scale', 'scalar'), ('logit_bias', 'logit_bias', 'scalar')]
_VIT = [
    *_same(
        ('image.patch_embed.weight', 'visual.conv1.weight'),
        ('image.class_token', 'visual.class_embedding'),
        ('image.pos_embed', 'visual.positional_embedding'),
        ('image.norm_pre.{p}', 'visual.ln_pre.{p}'),
        ('image.norm_post.{p}', 'visual.ln_post.{p}'),
        ('image.proj', 'visual.proj'),
    ),
    *_blocks('image.blocks', 'visual.transformer.resblocks'),
]
_RESNET = _same(
    ('image.attn_pool.pos_embed', 'visual.attnpool.positional_embedding'),
    ('image.attn_pool.proj.{p}', 'visual.attnpool.c_proj.{p}'),
    *((f'image.attn_pool.{name}.{{p}}', f'visual.attnpool.{name}_proj.{{p}}') for name in 'qkv'),
    ('image.conv{n}.weight', 'visual.conv{n}.weight'),
    ('image.bn{n}.{any}', 'visual.bn{n}.{any}'),
    ('image.layer{n}.{any}', 'visual.layer{n}.{any}'),
)
_SIGLIP = [
    *_timm('visual.trunk.'),
    ('image.pool.query', 'visual.trunk.attn_pool.latent', 'one one'),
    ('image.pool.{any}', 'visual.trunk.attn_pool.{any}', 'same'),
    ('text.proj', 'text.text_projection.weight', 'transposed'),
    ('text.proj_bias', 'text.text_projection.bias', 'same'),
    *(row for row in _text('text.') if row[0] != 'text.proj'),
]
_SLIP = [
    *_timm('visual.'),
    ('image.class_token', 'visual.cls_token', 'one one'),
    ('image.proj', 'image_projection', 'same'),
    *_text(),
]
_HUGGINGFACE = [
    *_same(
        ('image.patch_embed.{p}', 'vision_model.embeddings.patch_embedding.{p}'),
        ('image.pos_embed', 'vision_model.embeddings.position_embedding.weight'),
        ('image.norm_post.{p}', 'vision_model.post_layernorm.{p}'),
        ('text.token_embed.weight', 'text_model.embeddings.token_embedding.weight'),
        ('text.pos_embed', 'text_model.embeddings.position_embedding.weight'),
        ('text.norm_post.{p}', 'text_model.final_layer_norm.{p}'),
    ),
    *_huggingface_blocks('image', 'vision_model'),
    *_huggingface_blocks('text', 'text_model'),
]
_HUGGINGFACE_CLIP = [
    *_HUGGINGFACE,
    ('image.class_token', 'vision_model.embeddings.class_embedding', 'same'),
    ('image.norm_pre.{p}', 'vision_model.pre_layrnorm.{p}', 'same'),  # their spelling
    ('image.proj', 'visual_projection.weight', 'transposed'),
    ('text.proj', 'text_projection.weight', 'transposed'),
    *_LOGITS,
]
_HEAD = 'vision_model.head'
_HUGGINGFACE_SIGLIP = [
    *_HUGGINGFACE,
    ('image.pool.query', f'{_HEAD}.probe', 'one one'),
    ('image.pool.q.{p} + 2*image.pool.kv.{p}', f'{_HEAD}.attention.in_proj_{{p}}', 'same'),
    ('image.pool.proj.{p}', f'{_HEAD}.attention.out_proj.{{p}}', 'same'),
    ('image.pool.norm.{p}', f'{_HEAD}.layernorm.{{p}}', 'same'),
    ('image.pool.mlp.{any}', f'{_HEAD}.mlp.{{any}}', 'same'),
    ('text.proj', 'text_model.head.weight', 'transposed'),
    ('text.proj_bias', 'text_model.head.bias', 'same'),
    ('logit_scale', 'logit_scale', 'one'),
    ('logit_bias', 'logit_bias', 'one'),
]
LAYOUTS: dict[str, list[Row]] = {
    'clipdense': [('{any}', '{any}', 'same')],
    'openclip_vit': [*_VIT, *_text(), *_LOGITS],
    'openclip_resnet': [*_RESNET, *_text(), *_LOGITS],
    'openclip_custom_vit': [*_VIT, *_text('text.'), *_LOGITS],
    'openclip_custom_resnet': [*_RESNET, *_text('text.'), *_LOGITS],
    'openclip_siglip': [*_SIGLIP, *_LOGITS],
    'slip': [*_SLIP, *_LOGITS],
    'huggingface_clip': _HUGGINGFACE_CLIP,
    'huggingface_siglip': _HUGGINGFACE_SIGLIP,
}

_ADDED: dict[str, list[Row]] = {}


def add_layout(name: str, rows: list[Row]) -> None:
    """Make the table of a method's model known; ``LAYOUTS`` has those of CLIP."""
    _ADDED[name] = rows


def to_ours(tensors: Mapping[str, Tensor], layout: str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of an official layout under our names, and the names that have no place with us.

    Raises:
        CheckpointError: one part of a tensor that we keep joined is missing.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    return _rename(kept, _rules(layout, to_ours=True))


def from_ours(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Our tensors under the names of an official layout; the inverse of ``to_ours``, bit for bit.

    Raises:
        CheckpointError: the layout has no place for some of them.
    """
    renamed, leftover = _rename(tensors, _rules(layout, to_ours=False))
    if leftover:
        shown = ', '.join(leftover[:10])
        raise CheckpointError(f'the layout {layout} has no place for {len(leftover)} tensors: {shown}')
    return renamed


@dataclass(frozen=True)
class _Rule:
    sources: tuple[tuple[re.Pattern[str], str], ...]  # pattern to match, template to name the part
    targets: tuple[tuple[str, int], ...]  # template, share of the first axis
    form: Callable[[Tensor], Tensor]


@cache
def _rules(layout: str, to_ours: bool) -> tuple[_Rule, ...]:
    rules = []
    for ours, theirs, form in _ADDED.get(layout) or LAYOUTS[layout]:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        sources = tuple((_pattern(part), part) for part, _ in _parts(source))
        rules.append(_Rule(sources, _parts(target), _FORMS[form][0 if to_ours else 1]))
    return tuple(rules)


def _parts(side: str) -> tuple[tuple[str, int], ...]:
    """'a + 2*b' -> (('a', 1), ('b', 2))."""
    parts = (part.split('*', 1) if '*' in part else ('1', part) for part in side.split(' + '))
    return tuple((name, int(share)) for share, name in parts)


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r'(\{\w+\})', template)
    return re.compile(''.join(_HOLES.get(piece) or re.escape(piece) for piece in pieces))


def _fill(template: str, values: tuple[str, ...]) -> str:
    remaining = iter(values)
    return re.sub(r'\{\w+\}', lambda _: next(remaining), template)


def _rename(tensors: Mapping[str, Tensor], rules: tuple[_Rule, ...]) -> tuple[dict[str, Tensor], list[str]]:
    renamed: dict[str, Tensor] = {}
    leftover: list[str] = []
    done: set[str] = set()
    for name in tensors:
        if name in done:
            continue
        rule, values = _find(name, rules)
        if rule is None:
            leftover.append(name)
            continue
        names = [_fill(template, values) for _, template in rule.sources]
        missing = [part for part in names if part not in tensors]
        if missing:
            raise CheckpointError(f'{name} is there, but not {", ".join(missing)}: they belong together')
        done.update(names)
        parts = [tensors[part] for part in names]
        joined = rule.form(parts[0] if len(parts) == 1 else torch.cat(parts))
        for (template, _), part in zip(rule.targets, _split(joined, rule.targets), strict=True):
            renamed[_fill(template, values)] = part
    return renamed, leftover


def _find(name: str, rules: tuple[_Rule, ...]) -> tuple[_Rule | None, tuple[str, ...]]:
    for rule in rules:
        for pattern, _ in rule.sources:
            if match := pattern.fullmatch(name):
                return rule, match.groups()
    return None, ()


def _split(tensor: Tensor, targets: tuple[tuple[str, int], ...]) -> tuple[Tensor, ...]:
    if len(targets) == 1:
        return (tensor,)
    shares = [share for _, share in targets]
    if tensor.ndim == 0 or len(tensor) % sum(shares):
        raise CheckpointError(
            f'a tensor of shape {tuple(tensor.shape)} cannot be split into {targets[0][0]} ...'
        )
    unit = len(tensor) // sum(shares)
    return tensor.split([unit * share for share in shares])
