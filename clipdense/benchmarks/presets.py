"""Published evaluation settings of each family of papers: class names, windows, scale, thresholds.

These settings change mIoU by several points, so scores are comparable under the same preset only.  Values are
those of the released configs; the note of a family says what is not available.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from clipdense.data.segmentation.published import BENCHMARKS
from clipdense.tasks.refine import PAMR
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError, nearest

_WITH_BACKGROUND = ('voc21', 'context60', 'coco_object')


@dataclass(frozen=True)
class Preset:
    """All settings of an evaluation on one dataset except method and weights.

    Args:
        name: of the family.
        words: name of the vocabulary; empty for the dataset's own class names.
        templates: name of the prompt templates.
        short_side: shorter side of the resized image in pixels; None for size and windows of the model (for a
            training-free method, in proportion to the image size of its tower).
        long_side: maximum of the longer side after that.
        window, stride: of the sliding window in pixels; None for whole images.
        logit_scale: of the softmax over classes; None for the model's own.
        background_threshold: probability below which a pixel is background; None for the model's own.
        area_threshold: fraction of the foreground up to which a class is removed.
        pamr: number of iterations of PAMR; 0 for none.
        pamr_dilations: dilations of PAMR.
        position_mode: how position embeddings are resized, see ``layers.pos_embed``; empty for the tower's
            own mode.
        options: of the method of the family.
    """

    name: str
    words: str = ''
    templates: str = 'imagenet'
    short_side: int | None = 336
    long_side: int = 2048
    window: int | None = 224
    stride: int | None = 112
    logit_scale: float | None = 40.0
    background_threshold: float | None = 0.0
    area_threshold: float = 0.0
    pamr: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    position_mode: str = 'dino'
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def slide(self) -> Slide | None:
        """Size and windows of the images; None for the model's own."""
        if self.short_side is None:
            return None
        return Slide(self.short_side, self.long_side, self.window, self.stride)

    def refiner(self) -> PAMR | None:
        """PAMR, or None."""
        return PAMR(self.pamr, self.pamr_dilations) if self.pamr else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for result files."""
        return asdict(self)

    def __str__(self) -> str:
        size = (
            f'short side {self.short_side}' if self.short_side else "in proportion to the tower's image size"
        )
        windows = f', windows {self.window} / {self.stride}' if self.window else ', whole images'
        parts = [
            f'class names {self.words or "of the dataset"}, templates {self.templates}',
            size + (windows if self.short_side else ''),
        ]
        parts += ['scale of the model' if self.logit_scale is None else f'scale {self.logit_scale:g}']
        if self.background_threshold is None:
            parts.append('background threshold of the model')
        if self.background_threshold:
            parts.append(f'background below {self.background_threshold:g}')
        if self.area_threshold:
            parts.append(f'no class up to {self.area_threshold:g} of the foreground')
        if self.pamr:
            parts.append(f'PAMR {self.pamr} at {self.pamr_dilations}')
        parts += [f'{name} {value}' for name, value in self.options.items()]
        return ', '.join(parts)


@dataclass(frozen=True)
class Family:
    """The settings of one paper for all datasets.

    Args:
        method: the method of the paper.
        files: suffix of the names of its class files in ``vocab.class_names``.
        source: of the values.
        common: differences from the defaults of ``Preset`` on every dataset.
        datasets: further differences by dataset.
        note: what could not be verified.
    """

    method: str
    files: str
    source: str
    common: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str = ''


def _thresholds(voc21: float, context60: float, coco_object: float) -> dict[str, dict[str, Any]]:
    values = dict(zip(_WITH_BACKGROUND, (voc21, context60, coco_object), strict=True))
    return {dataset: {'background_threshold': value} for dataset, value in values.items()}


def _merged(*tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge tables by dataset."""
    rows = {name: [table.get(name, {}) for table in tables] for name in BENCHMARKS}
    return {
        name: {key: value for part in parts for key, value in part.items()} for name, parts in rows.items()
    }


def _resclip(share: float, feedback_share: float, feedback_gain: float) -> dict[str, Any]:
    return {'options': {'cross': (share, 2.0), 'feedback': (feedback_share, feedback_gain)}}


_CITYSCAPES_560 = {'cityscapes': {'short_side': 560}}
_WHOLE = {name: {'window': None, 'stride': None} for name in ('voc21', 'voc20')}
_NACLIP_SETTINGS = _merged(_thresholds(0.1, 0.1, 0.1), _CITYSCAPES_560, _WHOLE)

FAMILIES: dict[str, Family] = {
    'sclip': Family(
        'sclip',
        'sclip',
        'wangf3014/SCLIP configs at 57fa9aa',
        datasets=_merged(
            _thresholds(0.1, 0.1, 0.1),
            _CITYSCAPES_560,
            {
                'voc21': {'logit_scale': 65.0, 'area_threshold': 0.1},
                'context60': {'logit_scale': 50.0},
                'coco_object': {'logit_scale': 50.0},
                'coco_stuff': {'short_side': 448},
            },
        ),
    ),
    'clearclip': Family(
        'clearclip',
        'clearclip',
        'mc-lan/ClearCLIP configs at fd05ce4, clearclip_segmentor.py at afe06b8',
        common={'short_side': 448, 'window': 448, 'stride': 224, 'logit_scale': 50.0},
        datasets=_merged(_thresholds(0.5, 0.15, 0.4), {'cityscapes': {'window': 224}}),
        note='the class files of VOC20 and COCO-Object and the configs of COCO-Stuff and ADE20K are not '
        'available: VOC20 has the class names of VOC21, COCO-Object plain names and "background"',
    ),
    'naclip': Family(
        'naclip',
        'sclip',
        "sinahmr/NACLIP configs at 0cac3a6, without PAMR as in the paper's main table",
        datasets=_NACLIP_SETTINGS,
    ),
    'naclip_pamr': Family(
        'naclip',
        'sclip',
        'sinahmr/NACLIP at 0cac3a6 with the PAMR of its defaults, as in its README',
        common={'pamr': 10},
        datasets=_NACLIP_SETTINGS,
    ),
    'proxyclip': Family(
        'proxyclip',
        'proxyclip',
        'mc-lan/ProxyCLIP configs at 05c3c18',
        common={'window': 336, 'stride': 112},
        datasets=_merged(
            _thresholds(0.2, 0.15, 0.25),
            {
                'cityscapes': {'short_side': 448, 'window': 224},
                'ade20k': {'short_side': 448},
                'ade20k_full': {'short_side': 448},
            },
        ),
        note='the released code pads windows to multiples of 56 pixels, here the proxy resizes them; class '
        "files of Context, COCO-Stuff, Cityscapes and ADE20K-150 are assumed to be SCLIP's",
    ),
    'sc_clip': Family(
        'sc_clip',
        'sclip',
        'SuleBai/SC-CLIP configs at 0417ba9 and 74471da',
        datasets=_merged(
            _thresholds(0.15, 0.15, 0.35),
            _CITYSCAPES_560,
            {
                'voc21': {'logit_scale': 50.0, 'area_threshold': 0.1},
                'coco_object': {'logit_scale': 55.0},
            },
        ),
        note="its class files are not available and are assumed to be SCLIP's, which its README follows",
    ),
    'resclip': Family(
        'resclip',
        'sclip',
        'yvhangyang/ResCLIP configs at 6b082d9',
        datasets=_merged(
            _NACLIP_SETTINGS,
            {
                'voc21': _resclip(0.3, 0.7, 2.2),
                'voc20': _resclip(0.6, 0.6, 2.1),
                'context60': _resclip(0.3, 0.7, 1.8),
                'context59': _resclip(0.4, 0.7, 1.8),
                'coco_object': _resclip(0.4, 0.7, 1.8),
                'coco_stuff': _resclip(0.4, 0.7, 1.8),
                'cityscapes': _resclip(0.2, 0.6, 2.1),
                'ade20k': _resclip(0.3, 0.7, 2.1),
            },
        ),
        note='the threshold of its first prediction (temp_thd) has no counterpart here; its class files are '
        "not available and are assumed to be SCLIP's",
    ),
    'maskclip_paper': Family(
        'maskclip',
        'maskclip',
        'chongzhou96/MaskCLIP: whole images, 85 prompts',
        common={
            'templates': 'imagenet_scene',
            'short_side': 512,
            'window': None,
            'stride': None,
            'logit_scale': 100.0,
            'position_mode': 'bicubic',
        },
        datasets={'context59': {'short_side': 520, 'long_side': 520}},
        note="the released code uses ImageNet's mean and std, exact GELU and another epsilon for CLIP, "
        'which is not done here; its numbers are for Context59 and COCO-Stuff',
    ),
    'gem': Family(
        'gem',
        'clearclip',
        "GEM's package, as bundled with mc-lan/ClearCLIP: 448 pixels, one prompt, no windows",
        common={
            'templates': 'simple',
            'short_side': 448,
            'window': None,
            'stride': None,
            'logit_scale': 100.0,
            'position_mode': 'bicubic',
        },
        note='its class names and rule for the background are not available: no threshold, plain names',
    ),
    'clip_surgery': Family(
        'clip_surgery',
        'clearclip',
        'xmed-lab/CLIP_Surgery: whole images of 512 pixels',
        common={
            'templates': 'imagenet_scene',
            'short_side': 512,
            'window': None,
            'stride': None,
            'position_mode': 'bicubic',
        },
        note='the released code resizes images to squares; its class names, scale and rule for the '
        'background are not available: no threshold, plain names',
    ),
    'groupvit': Family(
        'groupvit',
        'groupvit',
        'NVlabs/GroupViT segmentation configs',
        common={
            'templates': 'simple',
            'short_side': 448,
            'window': 448,
            'stride': 224,
            'logit_scale': None,
            'background_threshold': None,
            'position_mode': '',
        },
        datasets=_thresholds(0.95, 0.35, 0.95),
        note='the released code has VOC, Context and COCO-Object only; its class names for COCO-Object are '
        'not available: plain names',
    ),
    'lseg': Family(
        'lseg',
        '',
        "clipdense: the dataset's own class names, and the size, windows and scale of the weights",
        common={
            'templates': 'name',
            'short_side': None,
            'window': None,
            'stride': None,
            'logit_scale': None,
            'background_threshold': None,
            'position_mode': '',
        },
    ),
    'native': Family(
        '',
        '',
        "clipdense: the dataset's own class names, images and windows in proportion to the tower's size",
        common={'short_side': None, 'window': None, 'stride': None, 'position_mode': ''},
    ),
}
# Methods without a family use that of SCLIP; trained models use their own settings.
_FAMILY_OF = {'maskclip_denoised': 'maskclip_paper'}
_OTHER_METHODS = 'sclip'


def find_preset(name: str, dataset: str = '') -> Preset:
    """The settings of a family on a dataset.

    Args:
        name: a key of ``FAMILIES``.
        dataset: a name in ``BENCHMARKS``; empty for other folders, which use their own class names and the
            common settings of the family.

    Raises:
        InputError: an unknown family; the message suggests the nearest.
    """
    if name not in FAMILIES:
        raise InputError(f'unknown preset {name!r}.{nearest(name, FAMILIES)} Known: {", ".join(FAMILIES)}')
    family = FAMILIES[name]
    words = _class_file(family.files, dataset) if dataset else ''
    return Preset(name, words, **{**family.common, **family.datasets.get(dataset, {})})


def default_preset(method: str, dataset: str = '', trained: bool = False) -> str:
    """The family that a method was published with; 'native' for folders that are not published datasets.

    Args:
        method: its name.
        dataset: a name in ``BENCHMARKS``; empty for other folders.
        trained: whether the model is a trained segmentation model.
    """
    if trained:
        return method if method in FAMILIES else 'native'
    if not dataset:
        return 'native'
    return _FAMILY_OF.get(method, method if method in FAMILIES else _OTHER_METHODS)


def _class_file(files: str, dataset: str) -> str:
    """The vocabulary of a class file of a family; families share most of them."""
    if not files or dataset == 'ade20k_full':
        return ''
    own = {
        'clearclip': ('voc20', 'voc21', 'coco_object'),
        'proxyclip': ('voc21', 'coco_object'),
        'maskclip': ('context59', 'coco_stuff'),
        'groupvit': ('voc21', 'context60'),
    }
    if dataset in own.get(files, ()):
        return f'{dataset}_{files}'
    shared = {('proxyclip', 'voc20'), ('groupvit', 'coco_object')}
    return f'{dataset}_clearclip' if (files, dataset) in shared else f'{dataset}_sclip'


@contextmanager
def resizing_positions(model: nn.Module, mode: str) -> Iterator[None]:
    """Set the position mode of all image towers meanwhile; an empty mode changes nothing."""
    towers: list[Any] = [part for part in model.modules() if hasattr(part, 'position_mode')] if mode else []
    before = [tower.position_mode for tower in towers]
    for tower in towers:
        tower.position_mode = mode
    try:
        yield
    finally:
        for tower, own in zip(towers, before, strict=True):
            tower.position_mode = own
