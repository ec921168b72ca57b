"""Tensor names of BLIP in official files and in clipdense, as tables for ``weights.key_map``.

Source: the state dicts of salesforce/BLIP and of transformers' BLIP classes.
"""

from __future__ import annotations

import re

from clipdense.weights.key_map import Row, add_layout

OFFICIAL, HUGGINGFACE = 'blip_official', 'blip_huggingface'
HEAD = 'text_decoder.cls.predictions'

# Copies and queues of pre-training, and a buffer.
DROPPED = re.compile(
    r'(.*\.)?position_ids|(visual_encoder|text_encoder|vision_proj|text_proj)_m\..*|'
    r'(image|text|idx)_queue|queue_ptr|ptr_queue'
)


def _same(*pairs: tuple[str, str]) -> list[Row]:
    return [(ours, theirs, 'same') for ours, theirs in pairs]


def _stack(ours: str, theirs: str) -> list[Row]:
    layer, their = f'{ours}.layers.{{n}}', f'{theirs}.encoder.layer.{{n}}'
    own, cross = f'{their}.attention', f'{their}.crossattention'
    return _same(
        (f'{ours}.embed.words.weight', f'{theirs}.embeddings.word_embeddings.weight'),
        (f'{ours}.embed.positions.weight', f'{theirs}.embeddings.position_embeddings.weight'),
        (f'{ours}.embed.norm.{{p}}', f'{theirs}.embeddings.LayerNorm.{{p}}'),
        (
            f'{layer}.self_attn.attn.qkv.{{p}}',
            ' + '.join(f'{own}.self.{name}.{{p}}' for name in ('query', 'key', 'value')),
        ),
        (f'{layer}.self_attn.attn.proj.{{p}}', f'{own}.output.dense.{{p}}'),
        (f'{layer}.self_attn.norm.{{p}}', f'{own}.output.LayerNorm.{{p}}'),
        (f'{layer}.cross.q.{{p}}', f'{cross}.self.query.{{p}}'),
        (f'{layer}.cross.kv.{{p}}', f'{cross}.self.key.{{p}} + {cross}.self.value.{{p}}'),
        (f'{layer}.cross.proj.{{p}}', f'{cross}.output.dense.{{p}}'),
        (f'{layer}.cross.norm.{{p}}', f'{cross}.output.LayerNorm.{{p}}'),
        (f'{layer}.feed.mlp.fc1.{{p}}', f'{their}.intermediate.dense.{{p}}'),
        (f'{layer}.feed.mlp.fc2.{{p}}', f'{their}.output.dense.{{p}}'),
        (f'{layer}.feed.norm.{{p}}', f'{their}.output.LayerNorm.{{p}}'),
    )


def bert_stack() -> list[Row]:
    """Names of BERT in transformers, whose layers have no cross-attention; ours begin with 'stack'."""
    head = 'cls.predictions'
    return [
        *_stack('stack', 'bert'),
        *_same(
            ('stack.head.dense.{p}', f'{head}.transform.dense.{{p}}'),
            ('stack.head.norm.{p}', f'{head}.transform.LayerNorm.{{p}}'),
            ('stack.head.bias', f'{head}.bias'),
        ),
    ]


_TEXT: list[Row] = [
    *_stack('encoder', 'text_encoder'),
    *_stack('decoder', 'text_decoder.bert'),
    *_same(
        ('decoder.head.dense.{p}', f'{HEAD}.transform.dense.{{p}}'),
        ('decoder.head.norm.{p}', f'{HEAD}.transform.LayerNorm.{{p}}'),
        ('decoder.head.bias', f'{HEAD}.bias'),
        ('joint.image.{p}', 'vision_proj.{p}'),
        ('joint.text.{p}', 'text_proj.{p}'),
        ('itm_head.{p}', 'itm_head.{p}'),
    ),
]
_OFFICIAL: list[Row] = [
    ('joint.temperature', 'temp', 'scalar'),
    ('image.class_token', 'visual_encoder.cls_token', 'one one'),
    ('image.pos_embed', 'visual_encoder.pos_embed', 'one'),
    *_same(
        ('image.patch_embed.{p}', 'visual_encoder.patch_embed.proj.{p}'),
        ('image.blocks.{any}', 'visual_encoder.blocks.{any}'),
        ('image.norm_post.{p}', 'visual_encoder.norm.{p}'),
    ),
    *_TEXT,
]
_BLOCK, _THEIRS = 'image.blocks.{n}', 'vision_model.encoder.layers.{n}'
_HUGGINGFACE: list[Row] = [
    ('image.class_token', 'vision_model.embeddings.class_embedding', 'one one'),
    ('image.pos_embed', 'vision_model.embeddings.position_embedding', 'one'),
    *_same(
        ('image.patch_embed.{p}', 'vision_model.embeddings.patch_embedding.{p}'),
        (f'{_BLOCK}.norm1.{{p}}', f'{_THEIRS}.layer_norm1.{{p}}'),
        (f'{_BLOCK}.attn.qkv.{{p}}', f'{_THEIRS}.self_attn.qkv.{{p}}'),
        (f'{_BLOCK}.attn.proj.{{p}}', f'{_THEIRS}.self_attn.projection.{{p}}'),
        (f'{_BLOCK}.norm2.{{p}}', f'{_THEIRS}.layer_norm2.{{p}}'),
        (f'{_BLOCK}.mlp.{{any}}', f'{_THEIRS}.mlp.{{any}}'),
        ('image.norm_post.{p}', 'vision_model.post_layernorm.{p}'),
    ),
    *_TEXT,
]
add_layout(OFFICIAL, _OFFICIAL, DROPPED)
add_layout(HUGGINGFACE, _HUGGINGFACE, DROPPED)
