"""Official layouts of CLIP checkpoints: key tables, layout recognition, and model sizes from tensor shapes.

C: width, D: joint space.  Source of the tables: the modules of openai/CLIP, open_clip, timm, SLIP and
transformers whose keys these are; ``weights.key_map`` defines the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from clipdense.utils.errors import CheckpointError
from clipdense.weights.key_map import Row, add_layout, from_ours, to_ours
from clipdense.weights.names import unwrapped_names

__all__ = [
    'DROPPED',
    'LAYOUTS',
    'Recognized',
    'from_ours',
    'infer_size',
    'recognize',
    'strip_wrappers',
    'to_ours',
]

# Buffers of official files that the model does not need, SLIP's self-supervised head, CoCa's decoder.
DROPPED = re.compile(
    r'(.*\.)?(position_ids|attn_mask)|input_resolution|context_length|vocab_size|(image_mlp|text_decoder)\..*'
)
_PREFIXES = ('module.', 'model.', 'clip_model.', 'clip.', 'state_dict.')
_OPENAI_KEYS = {'input_resolution', 'context_length', 'vocab_size'}

# Unsupported layouts similar to CLIP: prefix of a key -> what the weights are.
_FOREIGN = (
    ('visual.trunk.', 'an image tower of timm with a text tower that is not known'),
    ('image_encoder.model.', 'a MobileCLIP model'),
    ('vision_model.', 'a Hugging Face image tower of another kind than CLIP and SigLIP'),
    ('text_model.', 'a Hugging Face text tower of another kind than CLIP and SigLIP'),
    ('optimizer', 'an optimizer state'),
)


# transformers 5 writes a single tower without the prefix that its names have in the whole model.
_SINGLE = {
    'embeddings.token_embedding.weight': 'text_model.',
    'embeddings.patch_embedding.weight': 'vision_model.',
}
_LOGIT_NAMES = {'logit_scale', 'logit_bias'}

# Parts that SigLIP's image tower in timm does not have, but other towers with an attention pool have.
_NOT_SIGLIP = {f'visual.trunk.{name}' for name in ('head.weight', 'norm_pre.weight', 'cls_token')}


def _same(*pairs: tuple[str, str]) -> list[Row]:
    return [(ours, theirs, 'same') for ours, theirs in pairs]


def _blocks(ours: str, theirs: str) -> list[Row]:
    """Residual blocks under the names of openai/CLIP."""
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
_POOL = 'visual.attn_pool'
_COCA_POOL = [  # the first of the queries; the others feed the decoder
    ('image.pool.query', f'{_POOL}.query', 'first'),
    *_same(
        ('image.pool.norm_query.{p}', f'{_POOL}.ln_q.{{p}}'),
        ('image.pool.norm.{p}', f'{_POOL}.ln_k.{{p}}'),
        ('image.pool.q.weight', f'{_POOL}.attn.q_proj_weight'),
        ('image.pool.kv.weight', f'{_POOL}.attn.k_proj_weight + {_POOL}.attn.v_proj_weight'),
        ('image.pool.q.{p} + 2*image.pool.kv.{p}', f'{_POOL}.attn.in_proj_{{p}}'),
        ('image.pool.proj.{p}', f'{_POOL}.attn.out_proj.{{p}}'),
    ),
]
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
    *_COCA_POOL,
]
_COCA_TEXT = _same(('text.class_token', 'text.cls_emb'))
_RESNET = _same(
    ('image.attn_pool.pos_embed', 'visual.attnpool.positional_embedding'),
    ('image.attn_pool.proj.{p}', 'visual.attnpool.c_proj.{p}'),
    *((f'image.attn_pool.{name}.{{p}}', f'visual.attnpool.{name}_proj.{{p}}') for name in 'qkv'),
    ('image.conv{n}.weight', 'visual.conv{n}.weight'),
    ('image.bn{n}.{any}', 'visual.bn{n}.{any}'),
    ('image.layer{n}.{any}', 'visual.layer{n}.{any}'),
)
_SIGLIP_IMAGE = [
    *_timm('visual.trunk.'),
    ('image.pool.query', 'visual.trunk.attn_pool.latent', 'one one'),
    ('image.pool.{any}', 'visual.trunk.attn_pool.{any}', 'same'),
]
_TRUNK = _same(('image.trunk.{any}', 'visual.trunk.{any}'), ('image.head.{any}', 'visual.head.{any}'))
_HF_TEXT = _same(('text.transformer.{any}', 'text.transformer.{any}'), ('text.proj.{any}', 'text.proj.{any}'))
_SIGLIP = [
    *_SIGLIP_IMAGE,
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
    ('image.norm_pre.{p}', 'vision_model.pre_layrnorm.{p}', 'same'),  # sic
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
    'openclip_custom_vit': [*_VIT, *_text('text.'), *_COCA_TEXT, *_LOGITS],
    'openclip_custom_resnet': [*_RESNET, *_text('text.'), *_LOGITS],
    'openclip_hf_vit': [*_VIT, *_HF_TEXT, *_LOGITS],
    'openclip_timm': [*_TRUNK, *_text(), *_LOGITS],
    'openclip_custom_timm': [*_TRUNK, *_text('text.'), *_LOGITS],
    'openclip_hf_timm': [*_TRUNK, *_HF_TEXT, *_LOGITS],
    'openclip_siglip': [*_SIGLIP, *_LOGITS],
    'openclip_hf_siglip': [*_SIGLIP_IMAGE, *_HF_TEXT, *_LOGITS],
    'slip': [*_SLIP, *_LOGITS],
    'huggingface_clip': _HUGGINGFACE_CLIP,
    'huggingface_siglip': _HUGGINGFACE_SIGLIP,
}
for _name, _rows in LAYOUTS.items():
    add_layout(_name, _rows, DROPPED)


@dataclass(frozen=True)
class Recognized:
    """Weights under the names of clipdense.

    Args:
        layout: a key of ``LAYOUTS``.
        tensors: under the names of clipdense, in the file's dtypes.
        leftover: names in the file that the layout does not define.
        openai: the weights have the three extra keys of OpenAI's archives.
    """

    layout: str
    tensors: dict[str, Tensor]
    leftover: list[str]
    openai: bool = False

    @property
    def towers(self) -> tuple[str, ...]:
        """'image' and 'text', or the one that the weights have."""
        return tuple(
            tower for tower in ('image', 'text') if any(name.startswith(f'{tower}.') for name in self.tensors)
        )


def recognize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Recognized:
    """Find the layout by its keys, strip known wrapper prefixes, and rename to the names of clipdense.

    Raises:
        CheckpointError: not a known layout; the message says what the weights are, or lists the first keys.
    """
    tensors = _with_tower(strip_wrappers(tensors))
    layout = _layout(tensors, metadata or {})
    ours, leftover = to_ours(tensors, layout)
    return Recognized(layout, ours, leftover, openai=tensors.keys() >= _OPENAI_KEYS)


def strip_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the common prefixes that DataParallel, ``torch.compile`` and training programs add to names."""
    stripped = {short: tensors[name] for name, short in unwrapped_names(tensors).items()}
    while prefix := next((prefix for prefix in _PREFIXES if _all_start(stripped, prefix)), ''):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def _with_tower(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    prefix = next((prefix for name, prefix in _SINGLE.items() if name in tensors), '')
    return {f'{prefix}{name}': tensor for name, tensor in tensors.items()} if prefix else tensors


def infer_size(tensors: Mapping[str, Tensor], towers: Iterable[str] = ('image', 'text')) -> dict[str, Any]:
    """Sizes from tensor shapes: the fields of ``clip.sizes.ClipSize`` except heads and activation.

    ``image_size`` is the grid times the patch size; the published size may be larger by less than a patch.
    A tower of timm or transformers, whose architecture cannot be inferred, has no fields.

    Args:
        tensors: under the names of clipdense.
        towers: those that the weights have.

    Raises:
        CheckpointError: a tensor that the sizes are read from is missing or has an invalid shape.
    """
    try:
        read = {'image': _image_size, 'text': _text_size}
        sizes: dict[str, Any] = {tower: read[tower](tensors) for tower in towers}
        if sizes.get('image', {}).get('flavour') == 'clipa' and sizes.get('text'):
            sizes['text']['flavour'] = 'clipa'
        return {**sizes, 'logit_bias': 'logit_bias' in tensors}
    except KeyError as error:
        raise CheckpointError(f'incomplete weights: the tensor {error.args[0]} is missing') from None
    except (IndexError, TypeError, ValueError) as error:  # TypeError: the length of a single number
        raise CheckpointError(f'the weights have invalid shapes: {error}') from None


def _all_start(names: Iterable[str], prefix: str) -> bool:
    names = [name for name in names if not DROPPED.fullmatch(name)]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    if (
        metadata.get('format') == 'clipdense'
        or {'text.blocks.0.attn.qkv.weight', 'text.proj'} <= tensors.keys()
        or {'image.patch_embed.weight', 'image.blocks.0.attn.qkv.weight'} <= tensors.keys()
        or any(name.startswith('image.trunk.') for name in tensors)
    ):
        return 'clipdense'
    if kind := _huggingface(tensors):
        return f'huggingface_{kind}'
    if 'visual.cls_token' in tensors and 'image_projection' in tensors:
        return 'slip'
    image, text = _open_clip_image(tensors), _open_clip_text(tensors)
    if image == 'siglip' and text == 'custom_':
        return 'openclip_siglip'
    if image and text is None and all(name.startswith('visual.') or _beside(name) for name in tensors):
        text = ''  # an image tower alone
    if text is not None and not image and not any(name.startswith('visual') for name in tensors):
        image = 'vit'  # a text tower alone
        if text == 'custom_' and 'text.text_projection' not in tensors:
            return 'openclip_siglip'
    if image and text is not None and f'openclip_{text}{image}' in LAYOUTS:
        return f'openclip_{text}{image}'
    raise CheckpointError(_unknown(tensors))


def _huggingface(tensors: Mapping[str, Tensor]) -> str:
    """'clip' or 'siglip' for the towers of Hugging Face, or one of them; '' for others."""
    if any(name.startswith('vision_model.') for name in tensors):
        if 'vision_model.head.probe' in tensors:
            return 'siglip'
        return 'clip' if 'vision_model.embeddings.class_embedding' in tensors else ''
    if 'text_model.embeddings.token_embedding.weight' in tensors:
        return 'siglip' if 'text_model.head.weight' in tensors else 'clip'
    return ''


def _beside(name: str) -> bool:
    """Whether a tensor belongs to neither tower."""
    return name in _LOGIT_NAMES or DROPPED.fullmatch(name) is not None


def _open_clip_image(tensors: Mapping[str, Tensor]) -> str:
    """The kind of an image tower of open_clip; '' for others."""
    if 'visual.class_embedding' in tensors:
        return 'vit'
    if 'visual.attnpool.positional_embedding' in tensors:
        return 'resnet'
    if not any(name.startswith('visual.trunk.') for name in tensors):
        return ''
    siglip = 'visual.trunk.attn_pool.latent' in tensors and not tensors.keys() & _NOT_SIGLIP
    return 'siglip' if siglip else 'timm'


def _open_clip_text(tensors: Mapping[str, Tensor]) -> str | None:
    """The part of the layout's name that says how the text tower is stored; None if there is none."""
    if 'ln_final.weight' in tensors:
        return ''
    if 'text.ln_final.weight' in tensors:
        return 'custom_'
    return 'hf_' if any(name.startswith('text.transformer.') for name in tensors) else None


def _unknown(tensors: Mapping[str, Tensor]) -> str:
    for beginning, what in _FOREIGN:
        if any(name.startswith(beginning) for name in tensors):
            return f'unsupported weights: {what}'
    shown = ', '.join(sorted(tensors)[:10])
    return (
        'not a known CLIP layout (OpenAI, open_clip, SLIP, SigLIP, Hugging Face, clipdense); the checkpoint '
        f'of a segmenter or detector may need its config (--config); {len(tensors)} tensors: {shown}'
    )


def _image_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if any(name.startswith('image.trunk.') for name in tensors):
        return {}
    return _resnet_size(tensors) if 'image.attn_pool.pos_embed' in tensors else _vit_size(tensors)


def _vit_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = tensors['image.patch_embed.weight'].shape
    flavour = _vit_flavour(tensors)
    siglip = flavour == 'siglip'
    side = _side(len(tensors['image.pos_embed']) - (not siglip))
    return {
        'image_size': side * patch,
        'patch_size': patch,
        'width': width,
        'layers': _count(tensors, r'image\.blocks\.(\d+)\.'),
        'mlp_width': len(tensors['image.blocks.0.mlp.fc1.weight']),
        'embed_dim': width if siglip else tensors['image.proj'].shape[1],
        'flavour': flavour,
    }


def _vit_flavour(tensors: Mapping[str, Tensor]) -> str:
    if 'image.pool.query' in tensors:
        return 'coca' if 'image.class_token' in tensors else 'siglip'
    if 'image.norm_pre.weight' in tensors:
        return 'openai'
    return 'slip' if 'image.patch_embed.bias' in tensors else 'clipa'


def _resnet_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        'image_size': 32 * _side(len(tensors['image.attn_pool.pos_embed']) - 1),
        'width': len(tensors['image.conv3.weight']),
        'layers': [_count(tensors, rf'image\.layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)],
        'embed_dim': len(tensors['image.attn_pool.proj.weight']),
    }


def _text_size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if any(name.startswith('text.transformer.') for name in tensors):
        return {}
    vocab_size, width = tensors['text.token_embed.weight'].shape
    projected, coca = 'text.proj' in tensors, 'text.class_token' in tensors
    plain = 'coca' if coca else 'openai' if projected else 'siglip_plain'
    return {
        'width': width,
        'layers': _count(tensors, r'text\.blocks\.(\d+)\.'),
        'mlp_width': len(tensors['text.blocks.0.mlp.fc1.weight']),
        'embed_dim': tensors['text.proj'].shape[1] if projected else width,
        'vocab_size': vocab_size,
        'context_length': len(tensors['text.pos_embed']) - coca,
        'flavour': 'siglip' if 'text.proj_bias' in tensors else plain,
    }


def _side(cells: int) -> int:
    side = isqrt(max(cells, 0))
    if not side or side * side != cells:
        raise ValueError(f'{cells} position embeddings, which do not form a square grid')
    return side


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if not found:
        raise KeyError(pattern.replace('\\', '').replace('(d+)', '0'))
    if len(found) != max(found) + 1:
        raise ValueError(f'layers are numbered 0 to {max(found)}, but only {len(found)} exist')
    return max(found) + 1
