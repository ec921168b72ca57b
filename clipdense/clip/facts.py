"""Facts that tensors do not tell: heads, activations, the size of pictures, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from clipdense.utils.errors import CheckpointError, InputError, nearest
from clipdense.weights.configs import Recorded

from .preprocess import STATISTICS, Preprocess
from .sizes import PUBLISHED, Activation, ClipSize


@dataclass(frozen=True)
class Overrides:
    """What weights may leave open; an answer that contradicts what they record is refused.

    Args:
        activation: of both towers: 'quick_gelu', 'gelu' or 'gelu_tanh'.
        text_activation: of the text tower, where it differs.
        num_heads, text_heads: attention heads of the image tower and of the text tower.
        preprocess: how the weights want their pictures, or a name of ``Preprocess.named``; this one wins.
    """

    activation: Activation | None = None
    text_activation: Activation | None = None
    num_heads: int | None = None
    text_heads: int | None = None
    preprocess: Preprocess | str | None = None

    def __post_init__(self) -> None:
        for name in (self.activation, self.text_activation):
            if name is not None and name not in get_args(Activation):
                known = get_args(Activation)
                raise InputError(f'unknown activation {name!r}: choose from {known}.{nearest(name, known)}')


def check_overrides(recorded: Recorded, overrides: Overrides) -> None:
    """A file of our own is complete: overrides may only repeat it.

    Raises:
        CheckpointError: one that contradicts it.
    """
    text_activation = overrides.text_activation or overrides.activation
    if recorded.image.activation:
        _choose('activation', recorded.image.activation, overrides.activation, recorded)
    _choose('text_activation', recorded.text.activation, text_activation, recorded)
    _choose('num_heads', recorded.image.heads, overrides.num_heads, recorded)
    _choose('text_heads', recorded.text.heads, overrides.text_heads, recorded)


def complete(sizes: dict[str, Any], recorded: Recorded, overrides: Overrides) -> ClipSize:
    """Sizes from the tensors, with heads, activations and picture size from elsewhere.

    Raises:
        CheckpointError: the record is of other weights, contradicts an override, or nothing tells.
    """
    image, text = dict(sizes['image']), dict(sizes['text'])
    for tower, facts in ((image, recorded.image), (text, recorded.text)):
        for key in ('width', 'layers'):
            told = getattr(facts, key)
            if told is not None and told != tower[key]:
                raise CheckpointError(
                    f'{recorded.source} describes {key}={told}, the tensors have {tower[key]}'
                )
    cell = image.get('patch_size', 32)
    told = recorded.image.image_size
    if told is not None:
        if told // cell != image['image_size'] // cell:
            side = image['image_size']
            raise CheckpointError(
                f'{recorded.source} describes pictures of {told} pixels, the tensors {side}'
            )
        image['image_size'] = told
    known = _published(image, text)
    if 'patch_size' in image:
        heads = _choose('num_heads', recorded.image.heads, overrides.num_heads, recorded)
        image['heads'] = heads or _usual_heads(image, 'num_heads')
        activation = _choose('activation', recorded.image.activation, overrides.activation, recorded)
        image['activation'] = (
            activation or getattr(known and known.image, 'activation', None) or _ask(recorded, image)
        )
    else:
        image['heads'] = image['width'] // 2  # 64 channels each (openai/CLIP build_model)
    heads = _choose('text_heads', recorded.text.heads, overrides.text_heads, recorded)
    text['heads'] = heads or _usual_heads(text, 'text_heads')
    asked = overrides.text_activation or overrides.activation
    activation = _choose('text_activation', recorded.text.activation, asked, recorded)
    text['activation'] = activation or (known and known.text.activation) or _ask(recorded, text)
    return ClipSize.from_dict({**sizes, 'image': image, 'text': text})


def _choose(name: str, told: Any, asked: Any, recorded: Recorded) -> Any:
    if told is not None and asked is not None and told != asked:
        raise CheckpointError(
            f'{recorded.source} records {name}={told!r}, but {asked!r} was asked for: leave it out'
        )
    return told if asked is None else asked


def _usual_heads(tower: Mapping[str, Any], option: str) -> int:
    """As a published tower of this width has, or 64 channels each."""
    for size in PUBLISHED.values():
        for known in (size.image, size.text):
            keys = ('width', 'layers', 'mlp_width', 'flavour')
            if all(getattr(known, key, None) == tower[key] for key in keys):
                return known.heads
    if tower['width'] % 64:
        raise CheckpointError(
            f'a tower of width {tower["width"]} is unknown: say how many heads with {option}='
        )
    return tower['width'] // 64


def _published(image: Mapping[str, Any], text: Mapping[str, Any]) -> ClipSize | None:
    """The published SigLIP of these sizes; other flavours were published with several activations."""
    for size in PUBLISHED.values():
        towers = (
            (size.image, image, ('flavour', 'width', 'layers', 'patch_size')),
            (size.text, text, ('flavour', 'width', 'layers', 'vocab_size')),
        )
        same = all(
            getattr(known, key, None) == tower.get(key) for known, tower, keys in towers for key in keys
        )
        if same and text['flavour'] == 'siglip':
            return size
    return None


def _ask(recorded: Recorded, tower: Mapping[str, Any]) -> str:
    choices = (
        "activation='gelu' (open_clip) or 'gelu_tanh' (Hugging Face)"
        if tower['flavour'] == 'siglip'
        else "activation='quick_gelu' (OpenAI, MetaCLIP, DFN) or activation='gelu' (LAION, DataComp)"
    )
    raise CheckpointError(f'nothing tells the activation ({recorded.source}): say {choices}')


def default_preprocess(size: ClipSize) -> Preprocess:
    """How weights of a flavour want their pictures where nothing says otherwise."""
    flavour = getattr(size.image, 'flavour', 'openai')
    if flavour == 'slip':  # torchvision's defaults (facebookresearch/SLIP main.py)
        return Preprocess(size.image.image_size, *STATISTICS['imagenet'], interpolation='bilinear')
    return Preprocess.named(flavour, size.image.image_size)
