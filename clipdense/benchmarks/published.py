"""Published mIoU of open-vocabulary segmentation without training on the masks of the datasets, with sources.

In percent.  OpenAI's ViT-B/16 unless the row specifies other weights, and without refinement unless named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal['R', 'V', 'M']
STATUSES: dict[str, str] = {
    'R': "read in the official repository's README",
    'V': 'quoted by another paper or document',
    'M': 'recalled from the paper, not verified',
}
# Maximum difference from a published score that counts as reproduced, in points of mIoU.  Chosen here:
# released code uses half precision and no antialias, and papers differ from their code by more.
TOLERANCE: dict[str, float] = {'R': 0.5, 'V': 1.0, 'M': 1.0}
OPENAI_B16 = 'ViT-B-16/openai'
# Released weights that are not in the zoo.
ELSEWHERE = ('GroupViT CC3M + CC12M + YFCC14M', 'GroupViT CC3M + CC12M + RedCaps12M')

_DATASETS = (
    'voc21',
    'context60',
    'coco_object',
    'voc20',
    'context59',
    'coco_stuff',
    'cityscapes',
    'ade20k',
)


@dataclass(frozen=True)
class Published:
    """One published score.

    Args:
        method: its name; for a method that is not implemented, its name in the paper.
        dataset: name in ``BENCHMARKS``.
        miou: in percent.
        status: how it was verified, see ``STATUSES``.
        source: paper or page.
        preset: the family of its settings; empty if there is none.
        weights: name in the zoo, or in ``ELSEWHERE``.
    """

    method: str
    dataset: str
    miou: float
    status: Status
    source: str
    preset: str = ''
    weights: str = OPENAI_B16

    @property
    def tolerance(self) -> float:
        """In points of mIoU."""
        return TOLERANCE[self.status]

    def __str__(self) -> str:
        return f'{self.miou:g} [{self.status}]'


def _row(
    method: str, preset: str, source: str, values: str, weights: str = OPENAI_B16, status: Status = 'V'
) -> list[Published]:
    """Scores in the order of ``_DATASETS``, "-" for none; a letter after a score is its own status."""
    numbers = []
    for dataset, value in zip(_DATASETS, values.split(), strict=True):
        if value == '-':
            continue
        own: Status = 'M' if value.endswith('M') else 'V' if value.endswith('V') else status
        numbers.append(Published(method, dataset, float(value.rstrip('MV')), own, source, preset, weights))
    return numbers


#                     voc21 c60  object voc20 c59  stuff city ade
_TABLE = [
    _row('vanilla', 'sclip', 'CLIP, run by SCLIP', '18.8M 9.9M 8.1M 49.4M 11.1 5.7M 6.5M 3.1'),
    _row('maskclip', 'sclip', 'MaskCLIP, run by SCLIP', '43.4 23.2 20.6 74.9 26.4 16.7 24.9 11.9'),
    _row('maskclip', 'maskclip_paper', 'MaskCLIP, paper', '- - - - 21.7 12.5 - -'),
    _row('maskclip_denoised', 'maskclip_paper', 'MaskCLIP with KS and PD, paper', '- - - - 25.5 14.6 - -'),
    _row('clip_surgery', 'clip_surgery', 'CLIPSurgery, paper; VOC21 from GEM', '41.2 - - - 29.3 21.9 31.4 -'),
    _row('gem', 'gem', 'GEM, paper', '46.2 - - - 32.6 - - 15.7'),
    _row('gem', '', 'GEM, run by FreeCP', '56.9 32.6 31.1 79.9 35.9 23.7 30.8 -'),
    _row(
        'sclip',
        'sclip',
        'SCLIP, README',
        '59.63 31.74 33.52 81.54 34.46 22.77 32.34 16.45',
        status='R',
    ),
    _row('sclip', 'sclip', 'SCLIP, paper', '59.1 30.4 30.5 80.4 34.2 22.4 32.2 16.1'),
    _row('clearclip', 'clearclip', 'ClearCLIP, paper', '51.8 32.6 33.0 80.9 35.9 23.9 30.0 16.7'),
    _row('naclip', 'naclip', 'NACLIP, paper', '58.9 32.2 33.2 79.7 35.2 23.3 35.5 17.4'),
    _row(
        'naclip',
        'naclip_pamr',
        'NACLIP with PAMR, README',
        '64.07 34.99 36.19 83.03 38.35 25.69 38.27 19.05',
        status='R',
    ),
    _row('resclip', 'resclip', 'ResCLIP on NACLIP, paper', '61.1 33.5 35.0 86.0 36.8 24.7 35.9 18.0'),
    _row(
        'proxyclip',
        'proxyclip',
        'ProxyCLIP with DINO ViT-B/8, paper',
        '61.3 35.3 37.5 80.3M 39.1M 26.5M 38.1 20.2',
    ),
    # Most of this row is verified; which part is not recorded.
    _row(
        'proxyclip',
        'proxyclip',
        'ProxyCLIP with ViT-H/14 and DINO ViT-B/8, paper',
        '65.0 35.4 38.6 83.3 39.6 26.8 42.0 24.2',
        'ViT-H-14/laion2b_s32b_b79k',
        'M',
    ),
    _row('sc_clip', 'sc_clip', 'SC-CLIP, paper', '64.6 36.8 37.7 84.3 40.1 26.6 41.0 20.1'),
    _row('groupvit', 'groupvit', 'GroupViT, README', '52.3 22.4 24.3 - - - - -', ELSEWHERE[0], 'R'),
    _row('groupvit', 'groupvit', 'GroupViT, README', '50.8 23.7 27.5 - - - - -', ELSEWHERE[1], 'R'),
    # Methods that are not implemented, for comparison.
    _row('LaVG', '', 'LaVG, README', '62.1 31.6 34.2 82.5 34.7 23.2 26.2 15.8', status='R'),
    _row(
        'CLIP-DINOiser',
        '',
        'CLIP-DINOiser, two trained convolutions',
        '62.1 32.4 34.8 80.9 35.9 24.6 31.7V 20.0V',
        'ViT-B-16/laion2b_s34b_b88k',
        'M',
    ),
    _row('CASS', '', 'CASS with DINO ViT-B/8 and PAMR', '65.8 36.7 37.8 87.8 40.2 26.7 39.4 20.4'),
    _row('RF-CLIP', '', 'RF-CLIP', '64.8 36.4 37.9 87.0 39.8 26.3 41.3 20.4'),
    _row('RF-CLIP with PAMR', '', 'RF-CLIP', '67.2 37.9 39.1 87.0 41.4 27.5 43.0 21.0'),
    _row('Trident', '', 'Trident with DINO and SAM-B', '67.1 38.6 41.1 84.5M 42.2M 28.3M 42.9 21.9'),
]
PUBLISHED: tuple[Published, ...] = tuple(number for row in _TABLE for number in row)


def published(method: str, dataset: str, preset: str | None = None) -> tuple[Published, ...]:
    """The published scores of a method on a dataset, the best verified first.

    Args:
        method: name of a training-free method.
        dataset: a name in ``BENCHMARKS``.
        preset: only scores under the settings of this family.
    """
    numbers = [
        number
        for number in PUBLISHED
        if (number.method, number.dataset) == (method, dataset) and preset in (None, number.preset)
    ]
    return tuple(
        sorted(numbers, key=lambda number: (number.weights != OPENAI_B16, 'RVM'.index(number.status)))
    )
