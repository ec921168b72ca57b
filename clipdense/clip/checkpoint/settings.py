"""Settings that tensors do not specify (heads, activations, image size), their sources and precedence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from clipdense.utils.errors import CheckpointError, InputError, nearest, refuse_unknown
from clipdense.vocab.byte_pairs import VOCAB_SIZE

from ..flavours import TEXT_FLAVOURS
from ..preprocess import STATISTICS, Preprocess
from ..sizes import (
    PUBLISHED,
    Activation,
    ClipSize,
    ImageSize,
    ResNetSize,
    TextSize,
    VitSize,
    image_size_of,
    text_size_of,
)
from ..tokenizers import TokenizerRules

EndOfText = int | Literal['largest']
_COMPARED = ('width', 'layers', 'mlp_width', 'embed_dim', 'patch_size', 'vocab_size', 'context_length')


@dataclass(frozen=True)
class TowerFacts:
    """Settings of one tower; None where nothing is recorded.

    Args:
        activation: 'quick_gelu', 'gelu' or 'gelu_tanh'.
        num_heads: attention heads.
        image_size: side of the images in pixels, of the image tower only.
        eos_token_id: of end-of-text, or 'largest' for the largest id of a text; of the text tower only.
        width, layers, mlp_width, embed_dim, patch_size, vocab_size, context_length: compared with the
            tensors, to refuse a config of other weights.
    """

    activation: str | None = None
    num_heads: int | None = None
    image_size: int | None = None
    eos_token_id: EndOfText | None = None
    width: int | None = None
    layers: int | None = None
    mlp_width: int | None = None
    embed_dim: int | None = None
    patch_size: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Recorded:
    """Recorded settings, and their source.

    Args:
        source: named in errors, such as 'config.json'.
        image, text: settings of the towers.
        preprocess: the fields of ``clip.preprocess.Preprocess``.
        tokenizer: what the source says about the tokenizer.
        complete: whether everything that is not recorded is known from the source, such as OpenAI's archives.
        size: both towers, for kinds of towers that tensors do not tell.
    """

    source: str
    image: TowerFacts = TowerFacts()
    text: TowerFacts = TowerFacts()
    preprocess: dict[str, Any] | None = None
    tokenizer: TokenizerRules | None = None
    complete: bool = False
    size: ClipSize | None = None


@dataclass(frozen=True)
class Overrides:
    """Settings for what weights do not record; a value that contradicts what they record is refused.

    Args:
        activation: of both towers: 'quick_gelu', 'gelu' or 'gelu_tanh'.
        text_activation: of the text tower, where it differs.
        num_heads, text_num_heads: attention heads of the image tower and of the text tower.
        preprocess: preprocessing of the images, or a name of ``Preprocess.named``; replaces the recorded one.
        eos_token_id: of the end-of-text token, whose features are those of the text; or 'largest' for the
            largest id of a text.
        model: name of the architecture in open_clip, such as 'convnext_base_w', for files without a config.
        language: of the texts, such as 'deu_Latn', for tokenizers that mark it (NLLB); may be changed by
            ``clip.tokenizer.set_language``.
    """

    activation: Activation | None = None
    text_activation: Activation | None = None
    num_heads: int | None = None
    text_num_heads: int | None = None
    preprocess: Preprocess | str | None = None
    eos_token_id: EndOfText | None = None
    model: str | None = None
    language: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Overrides:
        """From keyword arguments.

        Raises:
            InputError: an unknown option, with the nearest known one, or an unknown activation.
        """
        refuse_unknown(options, [field.name for field in fields(cls)], 'CLIP weights have no override')
        return cls(**options)

    def __post_init__(self) -> None:
        for name in (self.activation, self.text_activation):
            if name is not None and name not in get_args(Activation):
                known = get_args(Activation)
                raise InputError(
                    f'unknown activation {name!r}: choose from {known}.{nearest(str(name), known)}'
                )
        for option in ('num_heads', 'text_num_heads'):
            heads = getattr(self, option)
            if heads is not None and (not isinstance(heads, int) or isinstance(heads, bool) or heads < 1):
                raise InputError(f'{option} must be a positive integer, got {heads!r}')
        if not isinstance(self.preprocess, Preprocess | str | None):
            raise InputError(
                f"preprocess must be 'openai', 'imagenet', 'half', 'siglip' or a Preprocess, "
                f'got {self.preprocess!r}'
            )


def check_overrides(recorded: Recorded, overrides: Overrides) -> None:
    """Check overrides against a file in the format of clipdense, which records everything.

    Raises:
        CheckpointError: an override that contradicts the file.
    """
    text_activation = overrides.text_activation or overrides.activation
    if recorded.image.activation:
        _choose('activation', recorded.image.activation, overrides.activation, recorded.source)
    _choose('text_activation', recorded.text.activation, text_activation, recorded.source)
    _choose('num_heads', recorded.image.num_heads, overrides.num_heads, recorded.source)
    _choose('text_num_heads', recorded.text.num_heads, overrides.text_num_heads, recorded.source)
    _choose('eos_token_id', recorded.text.eos_token_id, overrides.eos_token_id, recorded.source)


def complete(sizes: Mapping[str, Any], recorded: Recorded, overrides: Overrides) -> dict[str, Any]:
    """Complete the sizes from the tensors with heads, activations and image size.

    Args:
        sizes: from ``infer_size``, of both towers or of one.
        recorded: what is known besides the tensors.
        overrides: what the user says.

    Returns:
        Arguments of ``ClipSize``, without the tower that ``sizes`` lacks.

    Raises:
        CheckpointError: the recorded settings are of other weights or contradict an override, or a setting
            cannot be inferred.
    """
    towers = {name: dict(sizes[name]) for name in ('image', 'text') if name in sizes}
    if recorded.size is not None:
        _check_whole(recorded.size, towers, recorded.source, overrides)
        return {name: getattr(recorded.size, name) for name in (*towers, 'logit_bias')}
    for name, tower in towers.items():
        if not tower:
            raise CheckpointError(
                f'cannot infer the architecture of the {name} tower ({recorded.source}); '
                "pass model=, its name in open_clip such as 'convnext_base_w'"
            )
        _compare(tower, getattr(recorded, name), recorded.source)
    known = _published(towers)
    if image := towers.get('image'):
        _finish_image(image, recorded, overrides, getattr(known, 'image', None))
    if text := towers.get('text'):
        activation = overrides.text_activation or overrides.activation
        asked = {'text_num_heads': overrides.text_num_heads, 'text_activation': activation}
        _finish(text, recorded.text, asked, getattr(known, 'text', None), recorded.source)
        if TEXT_FLAVOURS[text['flavour']].pool == 'end_of_text':
            text['eos_token_id'] = end_of_text_id(text['vocab_size'], recorded, overrides.eos_token_id)
    build: dict[str, Any] = {'image': image_size_of, 'text': text_size_of}
    built = {name: build[name](tower) for name, tower in towers.items()}
    return {**built, 'logit_bias': sizes['logit_bias']}


def _finish_image(image: dict[str, Any], recorded: Recorded, overrides: Overrides, known: Any) -> None:
    """Add image size, heads and activation to an image tower."""
    image['image_size'] = recorded.image.image_size or image['image_size']
    if 'patch_size' in image:
        asked = {'num_heads': overrides.num_heads, 'activation': overrides.activation}
        _finish(image, recorded.image, asked, known, recorded.source)
    else:
        image['num_heads'] = image['width'] // 2  # 64 channels each (openai/CLIP build_model)


def _check_whole(
    size: ClipSize, towers: Mapping[str, Mapping[str, Any]], source: str, overrides: Overrides
) -> None:
    """Compare a recorded size with the tensors and the overrides."""
    for name, found in towers.items():
        tower = getattr(size, name)
        foreign = getattr(tower, 'model', None) or getattr(tower, 'model_type', None)
        if bool(foreign) == bool(found):
            kind = repr(foreign) if foreign else 'of CLIP'
            raise CheckpointError(
                f'{source} records the {name} tower {kind}, but the tensors are of another kind'
            )
        recorded = {key: getattr(tower, key, None) for key in _COMPARED}
        _compare(found, TowerFacts(**recorded), source)
    text_activation = overrides.text_activation or overrides.activation
    for option, known, asked in (
        ('activation', getattr(size.image, 'activation', overrides.activation), overrides.activation),
        ('num_heads', getattr(size.image, 'num_heads', None), overrides.num_heads),
        ('text_activation', getattr(size.text, 'activation', text_activation), text_activation),
        ('text_num_heads', getattr(size.text, 'num_heads', None), overrides.text_num_heads),
        ('eos_token_id', getattr(size.text, 'eos_token_id', None), overrides.eos_token_id),
    ):
        if asked is not None and asked != known:
            raise CheckpointError(
                f'{source} records {option}={known!r}; remove the override {option}={asked!r}'
            )


def end_of_text_id(vocab_size: int, recorded: Recorded, asked: EndOfText | None = None) -> int | None:
    """The ``eos_token_id`` of ``TextSize``: None if it is the largest id of each text.

    Raises:
        CheckpointError: it is not in the vocabulary, contradicts the override, or cannot be inferred.
    """
    known, source = recorded.text.eos_token_id, recorded.source
    if asked is None and isinstance(known, int) and known >= vocab_size:
        raise CheckpointError(
            f'{source} records eos_token_id={known}, but the vocabulary has {vocab_size} tokens; '
            "pass eos_token_id= or eos_token_id='largest'"
        )
    known = None if isinstance(known, int) and known >= vocab_size else known
    chosen = _choose('eos_token_id', known, asked, source)
    if chosen is None and vocab_size > VOCAB_SIZE and not recorded.complete:
        raise CheckpointError(
            f'cannot infer the end-of-text token of a vocabulary of {vocab_size} ({source}); pass '
            f"eos_token_id={VOCAB_SIZE - 1} (OpenAI's vocabulary with added tokens), another id, or "
            "eos_token_id='largest'"
        )
    if chosen in (None, 'largest', vocab_size - 1):
        return None
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < vocab_size:
        raise InputError(f"eos_token_id must be 'largest' or an id below {vocab_size}, got {chosen!r}")
    return chosen


def _compare(tower: Mapping[str, Any], facts: TowerFacts, source: str) -> None:
    """Refuse a config of another tower."""
    for key in _COMPARED:
        recorded = getattr(facts, key)
        if recorded is not None and recorded != tower.get(key, recorded):
            raise CheckpointError(
                f'{source} records {key}={recorded}, but the tensors have {key}={tower[key]}'
            )
    if facts.image_size is not None and tower:
        cell, side = tower.get('patch_size', 32), tower['image_size']
        if facts.image_size // cell != side // cell:
            raise CheckpointError(
                f'{source} records images of {facts.image_size} pixels, but the tensors are for {side}'
            )


def _finish(
    tower: dict[str, Any],
    facts: TowerFacts,
    asked: Mapping[str, Any],
    known: VitSize | ResNetSize | TextSize | None,
    source: str,
) -> None:
    """Add heads and activation to a tower; ``asked`` has both, by the names of their overrides."""
    (heads_option, heads), (activation_option, activation) = asked.items()
    heads = _choose(heads_option, facts.num_heads, heads, source)
    activation = _choose(activation_option, facts.activation, activation, source)
    tower['num_heads'] = heads or _usual_heads(tower, heads_option)
    tower['activation'] = (
        activation or getattr(known, 'activation', None) or _refuse_unknown_activation(tower, source)
    )


def _choose(name: str, recorded: Any, asked: Any, source: str) -> Any:
    if recorded is not None and asked is not None and recorded != asked:
        raise CheckpointError(f'{source} records {name}={recorded!r}; remove the override {name}={asked!r}')
    return recorded if asked is None else asked


def _usual_heads(tower: Mapping[str, Any], option: str) -> int:
    """The heads of the published tower of this width, else one head per 64 channels."""
    for size in PUBLISHED.values():
        for known in (size.image, size.text):
            keys = ('width', 'layers', 'mlp_width', 'flavour')
            if all(getattr(known, key, None) == tower[key] for key in keys):
                return known.num_heads  # type: ignore[union-attr]  # it has the keys
    if tower['width'] % 64:
        raise CheckpointError(
            f'cannot infer the number of attention heads of a tower of width {tower["width"]}; pass {option}='
        )
    return tower['width'] // 64


def _published(towers: Mapping[str, Mapping[str, Any]]) -> ClipSize | None:
    """The published SigLIP of these sizes; other flavours are published with several activations."""
    if any(tower.get('flavour') != 'siglip' for tower in towers.values()):
        return None
    keys = {
        'image': ('flavour', 'width', 'layers', 'patch_size'),
        'text': ('flavour', 'width', 'layers', 'vocab_size'),
    }
    for size in PUBLISHED.values():
        if all(
            getattr(getattr(size, name), key, None) == tower.get(key)
            for name, tower in towers.items()
            for key in keys[name]
        ):
            return size
    return None


def _refuse_unknown_activation(tower: Mapping[str, Any], source: str) -> str:
    choices = (
        "activation='gelu' (open_clip) or 'gelu_tanh' (Hugging Face)"
        if tower['flavour'] == 'siglip'
        else "activation='quick_gelu' (OpenAI, MetaCLIP, DFN) or activation='gelu' (LAION, DataComp)"
    )
    raise CheckpointError(f'cannot infer the activation ({source}); pass {choices}')


def default_preprocess(image: ImageSize) -> Preprocess:
    """The preprocessing of a flavour of image tower, for weights that do not record their own."""
    flavour = getattr(image, 'flavour', 'openai')
    if flavour == 'slip':  # torchvision's defaults (facebookresearch/SLIP main.py)
        return Preprocess(image.image_size, *STATISTICS['imagenet'], interpolation='bilinear')
    return Preprocess.named('siglip' if flavour == 'siglip' else 'openai', image.image_size)


def recorded_preprocess(fields: Mapping[str, Any], side: int, cell: int, source: object) -> Preprocess:
    """Recorded preprocessing, for a model of images of ``side`` pixels with patches of ``cell``.

    Raises:
        CheckpointError: it is for images of another size.
    """
    found = Preprocess.from_dict(dict(fields))
    if found.image_size // cell != side // cell:
        raise CheckpointError(
            f'images are preprocessed to {found.image_size} pixels, but the model is for {side} ({source}); '
            "pass preprocess='openai', 'imagenet', 'half', 'siglip' or a Preprocess"
        )
    return found


def warn_of_default(preprocess: Preprocess, source: object) -> None:
    """Say which preprocessing is assumed for weights that record none."""
    mean = ', '.join(f'{value:.3g}' for value in preprocess.mean)
    warnings.warn(
        f'{source} records no preprocessing of images; assumed: {preprocess.image_size} pixels, '
        f'{preprocess.interpolation}, resize {preprocess.resize!r}, mean {mean}; pass preprocess= otherwise'
    )
