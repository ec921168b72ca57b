"""Weights that pre-training starts from: a supervised ViT or the image tower of another model, and a BERT.

C: width, N: patches, V: words of a BERT, L: its positions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import load_any, open_weights
from clipdense.clip.checkpoint.config_files import huggingface_config_beside
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import VitSize
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.pos_embed import resize_positions
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import WeightsFile
from clipdense.weights.key_map import add_layout, to_ours
from clipdense.weights.strict import mismatches
from clipdense.weights.values import check_values

from .layouts import bert_stack

if TYPE_CHECKING:
    from .model import Blip
    from .text import Med

Weights = str | Path
_HUB = {'bert-base-uncased': 'google-bert/bert-base-uncased'}  # an old name, without organization
_TIMM, _BERT = 'blip_start_timm', 'blip_start_bert'
_DISTILLED = ('dist_token', 'head_dist.weight')
_OLD_NAMES = {'LayerNorm.gamma': 'LayerNorm.weight', 'LayerNorm.beta': 'LayerNorm.bias'}
_TYPES = 'bert.embeddings.token_type_embeddings.weight'
_POOLING = re.compile(r'(proj|pool\..*)$')  # of a ViT, which BLIP does not use

add_layout(
    _TIMM,
    [
        ('patch_embed.{p}', 'patch_embed.proj.{p}', 'same'),
        ('class_token', 'cls_token', 'one one'),
        ('pos_embed', 'pos_embed', 'one'),
        ('blocks.{any}', 'blocks.{any}', 'same'),
        ('norm_post.{p}', 'norm.{p}', 'same'),
    ],
    re.compile(r'(head|pre_logits)\..*'),
)
add_layout(
    _BERT,
    bert_stack(),
    re.compile(r'.*position_ids|bert\.pooler\..*|cls\.seq_relationship\..*|cls\.predictions\.decoder\..*'),
)


def start(
    blip: Blip,
    image_weights: Weights | None = None,
    text_weights: Weights | None = None,
    own_preprocess: bool = False,
) -> None:
    """``start_image`` and ``start_text``, for the weights that are given.

    Args:
        blip: changed in place.
        image_weights, text_weights: see there.
        own_preprocess: keep the normalization of the BLIP's images, whatever the image weights record.

    Raises:
        InputError: weights that are not a name or path, or as there.
    """
    for name, weights in (('image_weights', image_weights), ('text_weights', text_weights)):
        if weights is not None and not (isinstance(weights, Weights) and str(weights).strip()):
            raise InputError(f'{name} must be a name or path, got {weights!r:.80}')
    if image_weights is not None:
        found = start_image(blip, image_weights)
        if found is not None and not own_preprocess:
            blip.preprocess = replace(blip.preprocess, mean=found.mean, std=found.std)
    if text_weights is not None:
        start_text(blip, text_weights)


def start_image(blip: Blip, weights: Weights) -> Preprocess | None:
    """Copy the weights of an image tower; position embeddings are resized (bicubic).

    Args:
        blip: changed in place.
        weights: a ViT as timm has it, without its classifier; a CLIP, with one tower or both, without its
            projection; or a BLIP.

    Returns:
        The preprocessing that a CLIP or BLIP records.

    Raises:
        CheckpointError: weights that cannot be read, or tensors that do not match, by name.
        InputError: a tower of another kind, or one that computes in another way.
    """
    opened = open_weights(weights)
    source, preprocess = str(opened.file.path), None
    tensors = opened.file.tensors
    if {'cls_token', 'patch_embed.proj.weight'} <= tensors.keys():
        if any(name in tensors for name in _DISTILLED):
            raise CheckpointError(f'{source} is a distilled ViT, with a second token: use one without')
        if not isinstance(blip.image, VisionTransformer):
            raise InputError(f'{source} is a ViT, the image tower of the BLIP a {_kind(blip.image)}')
        found, leftover = to_ours(tensors, _TIMM)
    else:
        model = _load(opened)
        _check_alike(blip.image, model.image, source)
        found, leftover, preprocess = dict(model.image.state_dict()), [], model.preprocess
        if isinstance(blip.image, VisionTransformer):
            found = {name: x for name, x in found.items() if not _POOLING.match(name)}
    expected = blip.image.state_dict()
    if 'pos_embed' in found and isinstance(blip.image, VisionTransformer):
        found['pos_embed'] = _resized(blip.image, found['pos_embed'], source)
    _copy(expected, found, leftover, source, 'the image tower')
    return preprocess


def start_text(blip: Blip, weights: Weights) -> None:
    """Copy the weights of a BERT into encoder and decoder, as far as they have the same parts.

    Cross-attentions, the two added ids, projections and the matching head stay random, and so does the
    language modeling head where the BERT has none, with a warning.  BERT's embedding of the first token type
    is added to the positions, so that a text alone is encoded as BERT does; the release leaves it out.

    Args:
        blip: changed in place; of BERT's vocabulary and the two added ids, with at most BERT's positions.
        weights: a file or folder of transformers (``BertModel``, ``BertForPreTraining``, ``BertForMaskedLM``)
            or a repository such as 'bert-base-uncased'.

    Raises:
        CheckpointError: weights that cannot be read, or tensors that do not match, by name.
        InputError: a vocabulary or a context length that the BERT does not have.
    """
    known = str(weights) in _HUB and not Path(weights).exists()
    file = open_weights(_HUB[str(weights)] if known else weights).file
    tensors = _bert_tensors(file)
    _check_config(blip, file)
    types = tensors.pop(_TYPES, None)
    found, leftover = to_ours(tensors, _BERT)
    if 'stack.embed.words.weight' not in found or 'stack.embed.positions.weight' not in found:
        raise CheckpointError(
            f'{file.path} is not a BERT: it has no word and position embeddings under the names of '
            'transformers (BertModel)'
        )
    if types is not None:
        found['stack.embed.positions.weight'] = found['stack.embed.positions.weight'] + types[0]
    for stack, head in ((blip.encoder, False), (blip.decoder, True)):
        if stack is not None:
            _start_stack(stack, found, leftover, head, str(file.path))


def _start_stack(
    stack: Med, found: Mapping[str, Tensor], leftover: list[str], head: bool, source: str
) -> None:
    """One of the two; layers that they share are copied twice."""
    mine = {name.removeprefix('stack.'): tensor for name, tensor in found.items()}
    missing = head and 'head.bias' not in mine
    if missing:
        warnings.warn(f'{source} has no language modeling head: that of the decoder stays random')
    skipped = re.compile(r'layers\.\d+\.cross\.' if head and not missing else r'layers\.\d+\.cross\.|head\.')
    mine = {name: x for name, x in mine.items() if head or not name.startswith('head.')}
    expected = {name: x for name, x in stack.state_dict().items() if not skipped.match(name)}
    words, positions = len(mine['embed.words.weight']), len(mine['embed.positions.weight'])
    size = stack.size
    if size.vocab_size != words + 2 or {size.ids.dec, size.ids.enc} != {words, words + 1}:
        raise InputError(
            f'{source} has {words} words, the text transformer {size.vocab_size} ids: they must be the words '
            'of the BERT and then [DEC] and [ENC] (text=dict() in the size for bert-base-uncased)'
        )
    if size.context_length > positions:
        raise InputError(
            f'{source} has {positions} positions, the text transformer {size.context_length}: set '
            f'context_length={positions} in the size, or less'
        )
    for name, count in (('embed.words.weight', words), ('head.bias', words)):
        if name in expected:
            expected[name] = expected[name][:count]
    mine['embed.positions.weight'] = mine['embed.positions.weight'][: size.context_length]
    _copy(expected, mine, leftover, source, 'the text transformer')


def _bert_tensors(file: WeightsFile) -> dict[str, Tensor]:
    """Under the present names of transformers, which a single encoder has without a prefix."""
    names = {name: name if name.startswith(('bert.', 'cls.')) else f'bert.{name}' for name in file.tensors}
    for old, new in _OLD_NAMES.items():
        names = {
            name: f'{short.removesuffix(old)}{new}' if short.endswith(old) else short
            for name, short in names.items()
        }
    return {short: file.tensors[name] for name, short in names.items()}


def _check_config(blip: Blip, file: WeightsFile) -> None:
    """Refuse what the tensors do not show, if a config is next to them."""
    config, size = huggingface_config_beside(file.path, 'bert', 'BERT'), blip.text_size
    if config is None:
        return
    config.require(hidden_act='gelu', position_embedding_type='absolute')
    heads, eps = config.integer('num_attention_heads', 12), config.number('layer_norm_eps', 1e-12)
    if (heads, eps) != (size.num_heads, size.eps):
        raise InputError(
            f'{file.path} has num_heads={heads} and eps={eps:g}, the text transformer '
            f'num_heads={size.num_heads} and eps={size.eps:g}: change its size'
        )


def _load(opened: Any) -> Any:
    """The model with the image tower: a BLIP, a CLIP, or one tower."""
    from .checkpoint import from_file
    from .method import recognize

    try:
        model = from_file(opened.file) if recognize(opened.file.tensors) else load_any(opened)
    except CheckpointError as error:
        if 'cannot infer' not in str(error):
            raise
        raise CheckpointError(
            f'{error}, to `clipdense convert`, and start from the file that it writes'
        ) from error
    if not hasattr(model, 'image'):
        raise CheckpointError(f'{opened.file.path} has no image tower: it is the text tower of a CLIP')
    return model


def _check_alike(ours: Any, theirs: Any, source: str) -> None:
    """Refuse a tower that computes something else with the same tensors."""
    if type(ours.size) is not type(theirs.size):
        raise InputError(
            f'the image tower of {source} is a {_kind(theirs)}, that of the BLIP a {_kind(ours)}: set '
            f'image={theirs.size} in the size'
        )
    if not isinstance(ours.size, VitSize):
        return
    for name, where in (
        ('flavour', 'image'), ('activation', 'image'), ('num_heads', 'image'), ('patch_size', 'image'),
    ):  # fmt: skip
        mine, other = getattr(ours.size, name), getattr(theirs.size, name)
        if mine != other:
            raise InputError(
                f'the image tower of {source} has {name}={other!r}, that of the BLIP {mine!r}: set '
                f'{where}.{name} in the size'
            )
    mine, other = ours.norm_post.eps, theirs.norm_post.eps
    if mine != other:
        raise InputError(
            f'the normalizations of the image tower of {source} have eps={other:g}, those of the BLIP '
            f'{mine:g}: set image_eps={other:g} in the size'
        )


def _kind(tower: nn.Module) -> str:
    return type(getattr(tower, 'size', tower)).__name__.removesuffix('Size')


def _resized(tower: VisionTransformer, positions: Tensor, source: str) -> Tensor:
    side = tower.size.image_size // tower.size.patch_size
    try:
        return resize_positions(
            positions, (side, side), prefix=int(tower.flavour.class_token), antialias=False
        )
    except ValueError as error:
        raise CheckpointError(f'{source}: {error}') from error


@torch.no_grad()
def _copy(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], leftover: list[str], source: str, part: str
) -> None:
    if problems := mismatches(expected, found, leftover):
        raise CheckpointError(f'{source} does not match {part} of the BLIP: {problems}')
    check_values(found, source)
    for name, tensor in expected.items():
        tensor.copy_(found[name])
