"""Tensor names of GroupViT in official files and in clipdense, as tables for ``weights.key_map``.

Source: the state dicts of NVlabs/GroupViT and of transformers' ``GroupViTModel``.
"""

from __future__ import annotations

from clipdense.clip.checkpoint.layouts import DROPPED
from clipdense.weights.key_map import Row, add_layout

_OURS, _THEIRS = 'image.stages.{n}', 'img_encoder.layers.{n}'
_HF_STAGE = 'vision_model.encoder.stages.{n}'


def _same(*pairs: tuple[str, str]) -> list[Row]:
    return [(ours, theirs, 'same') for ours, theirs in pairs]


def _grouping(theirs: str, cross_out: str) -> list[Row]:
    """The grouping block; both releases use the same names except for one projection."""
    ours, cross = f'{_OURS}.grouping', f'{theirs}.downsample.pre_assign_attn'
    down = f'{theirs}.downsample'
    key_value = '{0}.k_proj.{{p}} + {0}.v_proj.{{p}}'
    return _same(
        (f'{ours}.norm_tokens.{{p}}', f'{down}.norm_tokens.{{p}}'),
        (f'{ours}.norm_x.{{p}}', f'{down}.norm_x.{{p}}'),
        (f'{ours}.mixer.{{any}}', f'{down}.mlp_inter.{{any}}'),
        (f'{ours}.norm_queries.{{p}}', f'{down}.norm_post_tokens.{{p}}'),
        (f'{ours}.cross.q.{{p}}', f'{cross}.attn.q_proj.{{p}}'),
        (f'{ours}.cross.kv.{{p}}', key_value.format(f'{cross}.attn')),
        (f'{ours}.cross.proj.{{p}}', f'{cross}.attn.{cross_out}.{{p}}'),
        (f'{ours}.cross.norm2.{{p}}', f'{cross}.norm2.{{p}}'),
        (f'{ours}.cross.mlp.{{any}}', f'{cross}.mlp.{{any}}'),
        (f'{ours}.cross.norm_post.{{p}}', f'{cross}.norm_post.{{p}}'),
        (f'{ours}.assign.q.{{p}}', f'{down}.assign.q_proj.{{p}}'),
        (f'{ours}.assign.kv.{{p}}', key_value.format(f'{down}.assign')),
        (f'{ours}.assign.proj.{{p}}', f'{down}.assign.proj.{{p}}'),
        (f'{ours}.norm_groups.{{p}}', f'{down}.norm_new_x.{{p}}'),
        (f'{ours}.mlp.{{any}}', f'{down}.mlp_channels.{{any}}'),
        (f'{ours}.reduction.{{n}}.{{p}}', f'{down}.reduction.{{n}}.{{p}}'),
    )


def _projector(ours: str, hidden: str, norm: str, out: str, form: str) -> list[Row]:
    return [
        (f'{ours}.projector.hidden.weight', f'{hidden}.weight', form),
        (f'{ours}.projector.out.weight', f'{out}.weight', form),
        *_same(
            (f'{ours}.projector.hidden.bias', f'{hidden}.bias'),
            (f'{ours}.projector.out.bias', f'{out}.bias'),
            (f'{ours}.projector.norm.{{any}}', f'{norm}.{{any}}'),
        ),
    ]


def _conv_projector(ours: str, theirs: str) -> list[Row]:
    """NVlabs implements these linear layers as convolutions of length 1."""
    hidden = f'{theirs}.linear_hidden'
    return _projector(ours, f'{hidden}.0', f'{hidden}.1', f'{theirs}.linear_out', 'last one')


_TEXT_BLOCK = 'text_encoder.transformer.resblocks.{n}'
_NVLABS: list[Row] = [
    ('logit_scale', 'logit_scale', 'scalar'),
    ('multi_label_logit_scale', 'multi_label_logit_scale', 'scalar'),
    ('image.pos_embed', 'img_encoder.pos_embed', 'one'),
    (f'{_OURS}.group_tokens', f'{_THEIRS}.group_token', 'one'),
    *_same(
        ('image.patch_embed.{p}', 'img_encoder.patch_embed.proj.{p}'),
        ('image.norm_patch.{p}', 'img_encoder.patch_embed.norm.{p}'),
        ('image.norm_post.{p}', 'img_encoder.norm.{p}'),
        (f'{_OURS}.blocks.{{any}}', f'{_THEIRS}.blocks.{{any}}'),
        (f'{_OURS}.group_projector.norm.{{p}}', f'{_THEIRS}.group_projector.0.{{p}}'),
        (f'{_OURS}.group_projector.mixer.fc{{n}}.{{p}}', f'{_THEIRS}.group_projector.1.fc{{n}}.{{p}}'),
        (f'{_OURS}.group_projector.narrow.norm.{{p}}', f'{_THEIRS}.group_projector.0.0.{{p}}'),
        (f'{_OURS}.group_projector.narrow.mixer.{{any}}', f'{_THEIRS}.group_projector.0.1.{{any}}'),
        (f'{_OURS}.group_projector.norm_wide.{{p}}', f'{_THEIRS}.group_projector.1.{{p}}'),
        (f'{_OURS}.group_projector.wide.weight', f'{_THEIRS}.group_projector.2.weight'),
        ('text.token_embed.weight', 'text_encoder.token_embedding.weight'),
        ('text.pos_embed', 'text_encoder.positional_embedding'),
        ('text.norm_post.{p}', 'text_encoder.ln_final.{p}'),
        ('text.blocks.{n}.norm1.{p}', f'{_TEXT_BLOCK}.ln_1.{{p}}'),
        ('text.blocks.{n}.attn.qkv.{p}', f'{_TEXT_BLOCK}.attn.in_proj_{{p}}'),
        ('text.blocks.{n}.attn.proj.{p}', f'{_TEXT_BLOCK}.attn.out_proj.{{p}}'),
        ('text.blocks.{n}.norm2.{p}', f'{_TEXT_BLOCK}.ln_2.{{p}}'),
        ('text.blocks.{n}.mlp.fc1.{p}', f'{_TEXT_BLOCK}.mlp.c_fc.{{p}}'),
        ('text.blocks.{n}.mlp.fc2.{p}', f'{_TEXT_BLOCK}.mlp.c_proj.{{p}}'),
    ),
    *_grouping(_THEIRS, 'proj'),
    *_conv_projector('image', 'img_projector'),
    *_conv_projector('text', 'text_projector'),
]


def _hf_blocks(ours: str, theirs: str) -> list[Row]:
    fused = ' + '.join(f'{theirs}.self_attn.{name}_proj.{{p}}' for name in 'qkv')
    return _same(
        (f'{ours}.norm1.{{p}}', f'{theirs}.layer_norm1.{{p}}'),
        (f'{ours}.attn.qkv.{{p}}', fused),
        (f'{ours}.attn.proj.{{p}}', f'{theirs}.self_attn.out_proj.{{p}}'),
        (f'{ours}.norm2.{{p}}', f'{theirs}.layer_norm2.{{p}}'),
        (f'{ours}.mlp.{{any}}', f'{theirs}.mlp.{{any}}'),
    )


_HUGGINGFACE: list[Row] = [
    ('logit_scale', 'logit_scale', 'scalar'),
    ('image.pos_embed', 'vision_model.embeddings.position_embeddings', 'one'),
    (f'{_OURS}.group_tokens', f'{_HF_STAGE}.group_token', 'one'),
    *_same(
        ('image.patch_embed.{p}', 'vision_model.embeddings.patch_embeddings.projection.{p}'),
        ('image.norm_patch.{p}', 'vision_model.embeddings.layernorm.{p}'),
        ('image.norm_post.{p}', 'vision_model.layernorm.{p}'),
        (f'{_OURS}.group_projector.norm.{{p}}', f'{_HF_STAGE}.group_projector.0.{{p}}'),
        (f'{_OURS}.group_projector.mixer.{{any}}', f'{_HF_STAGE}.group_projector.1.{{any}}'),
        ('text.token_embed.weight', 'text_model.embeddings.token_embedding.weight'),
        ('text.pos_embed', 'text_model.embeddings.position_embedding.weight'),
        ('text.norm_post.{p}', 'text_model.final_layer_norm.{p}'),
    ),
    *_hf_blocks(f'{_OURS}.blocks.{{n}}', f'{_HF_STAGE}.layers.{{n}}'),
    *_hf_blocks('text.blocks.{n}', 'text_model.encoder.layers.{n}'),
    *_grouping(_HF_STAGE, 'out_proj'),
    *_projector('image', 'visual_projection.0', 'visual_projection.1', 'visual_projection.3', 'same'),
    *_projector('text', 'text_projection.0', 'text_projection.1', 'text_projection.3', 'same'),
]
add_layout('groupvit_nvlabs', _NVLABS, DROPPED)
add_layout('groupvit_huggingface', _HUGGINGFACE, DROPPED)
