"""A CLIP from the image tower of one model and the text tower of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .checkpoint.loading import load
from .checkpoint.settings import default_preprocess
from .model import CLIP, Tower, build_image_tower, build_text_tower
from .preprocess import Preprocess
from .sizes import TimmSize, image_size_of, text_size_of
from .timm_tower import TimmImageTower


@MODELS.register_module()
def pair_towers(
    image: CLIP | str | Path | dict, text: CLIP | str | Path | dict, logit_bias: float | None = None
) -> CLIP:
    """A CLIP whose towers come from two places, for training with one of them locked (LiT).

    Each tower is a trained one (a CLIP, or weights as ``clipdense.load`` takes them), or the size of a new
    one: a dict with the fields of ``VitSize``, ``ResNetSize``, ``TimmSize`` or of ``TextSize``,
    ``HFTextSize``.  A size of timm may also have ``pretrained``: True for timm's own weights, or a file with
    weights of this architecture; its projection is new.

    Args:
        image: the image tower; the preprocessing goes with it.
        text: the text tower; the tokenizer goes with it, OpenAI's for a new one.
        logit_bias: initial value for the sigmoid loss; None for no bias.

    Raises:
        InputError: towers with joint spaces of different widths, or as ``clipdense.load``.
        CheckpointError: as ``clipdense.load``.

    Source: LiT (arXiv 2111.07991).
    """
    tower, preprocess = _image(image)
    source = text if isinstance(text, dict) else _clip(text)
    other = build_text_tower(_size(text_size_of, source)) if isinstance(source, dict) else source.text
    if tower.size.embed_dim != other.size.embed_dim:
        raise InputError(
            f'the image tower has a joint space of width {tower.size.embed_dim}, the text tower of '
            f'{other.size.embed_dim}; give the new one embed_dim={tower.size.embed_dim}'
        )
    tokenizer = None if isinstance(source, dict) else source.tokenizer
    return CLIP(tower, other, logit_bias=logit_bias, preprocess=preprocess, tokenizer=tokenizer)


def _size(kind: Callable[[dict[str, Any]], Any], fields: dict[str, Any]) -> Any:
    try:
        return kind(fields)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f'{fields} is not the size of a tower: {error}') from error


def _clip(weights: CLIP | str | Path) -> CLIP:
    return load(weights) if isinstance(weights, str | Path) else weights


def _image(source: CLIP | str | Path | dict) -> tuple[Tower, Preprocess]:
    if not isinstance(source, dict):
        clip = _clip(source)
        return clip.image, clip.preprocess
    fields = dict(source)
    pretrained = fields.pop('pretrained', None)
    size = _size(image_size_of, fields)
    tower = build_image_tower(size)
    if pretrained is None or pretrained is False:
        return tower, default_preprocess(size)
    if not isinstance(tower, TimmImageTower) or not isinstance(size, TimmSize):
        raise InputError('pretrained is for towers of timm; give the weights of a CLIP in place of the size')
    return tower, _load_timm(tower, size, pretrained)


def _load_timm(tower: TimmImageTower, size: TimmSize, pretrained: bool | str | Path) -> Preprocess:
    """Fill the trunk with timm's weights, and return the preprocessing they were trained with."""
    import timm

    overlay = {} if pretrained is True else {'pretrained_cfg_overlay': {'file': str(pretrained)}}
    if overlay and not Path(str(pretrained)).is_file():
        raise InputError(f'no file {pretrained} with weights for {size.model}')
    options: dict[str, Any] = {**size.options, **overlay}
    if size.pool:
        options['global_pool'] = size.pool
    try:  # with its classifier: timm is not strict without
        trained: Any = timm.create_model(size.model, pretrained=True, **options)
    except RuntimeError as error:  # other shapes, no pretrained weights, no network
        raise InputError(f'no weights for {size.model} from timm: {_first_line(error)}') from error
    except OSError as error:
        raise InputError(f'cannot read weights for {size.model}: {_first_line(error)}') from error
    trained.reset_classifier(0, size.pool or None)
    classified = size.projection is None  # the projection is the classifier, which stays as it is
    tower.trunk.load_state_dict(trained.state_dict(), strict=not classified)
    data = timm.data.resolve_model_data_config(trained)
    kind: Literal['bilinear', 'bicubic'] = 'bilinear' if data['interpolation'] == 'bilinear' else 'bicubic'
    return Preprocess(size.image_size, tuple(data['mean']), tuple(data['std']), interpolation=kind)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition('\n')[0]
