"""Base and novel classes of detection datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.names import check_name, normalize, places

# Bansal et al., Zero-Shot Object Detection, ECCV 2018: 48 and 17 of COCO's 80 classes, in COCO's order.
OV_COCO = {
    'base': tuple(
        """person|bicycle|car|motorcycle|train|truck|boat|bench|bird|horse|sheep|bear|zebra|giraffe|backpack
        |handbag|suitcase|frisbee|skis|kite|surfboard|bottle|fork|spoon|bowl|banana|apple|sandwich|orange
        |broccoli|carrot|pizza|donut|chair|bed|toilet|tv|laptop|mouse|remote|microwave|oven|toaster
        |refrigerator|book|clock|vase|toothbrush""".replace('\n', '')
        .replace(' ', '')
        .split('|')
    ),
    'novel': tuple(
        """airplane|bus|cat|dog|cow|elephant|umbrella|tie|snowboard|skateboard|cup|knife|cake|couch|keyboard
        |sink|scissors""".replace('\n', '')
        .replace(' ', '')
        .split('|')
    ),
}
_BASE_FREQUENCIES = ('c', 'f')  # OV-LVIS: common and frequent classes are base, rare ones novel
# These use the protocol of Zareian et al. (arXiv 2011.10678): images without any of the classes are
# dropped; 4,836 of 5,000 validation and 107,761 of 118,287 training images remain.  The others would add
# false positives to evaluation, and unlabeled novel objects to training.
OV_COCO_WORDS = ('ov_coco', 'ov_coco/base')
SPLITS = ('base', *OV_COCO_WORDS)


def choose(
    categories: Sequence[Mapping[str, Any]], classes: str | Sequence[str] | None
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The chosen classes, and the novel ones among them.

    Args:
        categories: of a COCO or LVIS file.
        classes: names, none of them novel; 'base' for the categories that the file itself calls base
            (``split``, or LVIS's ``frequency``), or any other value of ``split``; 'ov_coco' and
            'ov_coco/base' for OV-COCO's 65 and 48; None for all.

    Raises:
        InputError: a class or split that is not in the file.
    """
    names = tuple(one['name'] for one in categories)
    place = places(names)
    split_of = {one['name']: _split(one) for one in categories}
    novel = frozenset(name for name, split in split_of.items() if split not in (None, 'base'))
    if classes is None:
        return names, novel
    if isinstance(classes, str):
        if classes in OV_COCO_WORDS:
            groups = ('base',) if classes == 'ov_coco/base' else ('base', 'novel')
            wanted = [name for group in groups for name in OV_COCO[group]]
            _check(wanted, names)
            unseen = set(places(OV_COCO['novel']))
            chosen = tuple(names[at] for at in sorted(place[normalize(name)] for name in wanted))
            return chosen, frozenset(name for name in chosen if normalize(name) in unseen)
        chosen = tuple(name for name in names if split_of[name] == classes)
        if not chosen:
            known = sorted({*SPLITS, *(split for split in split_of.values() if split)})
            raise InputError(
                f'classes={classes!r} is not a split of the annotations.{nearest(classes, known)}'
            )
        return chosen, novel & frozenset(chosen)
    if not isinstance(classes, Iterable):
        raise InputError(f'classes must be a list of names or the name of a split, got {classes!r:.40}')
    _check(classes, names)
    return tuple(classes), frozenset()  # given names: the caller passes the novel ones


def _split(category: Mapping[str, Any]) -> str | None:
    if category.get('split'):
        return str(category['split'])
    frequency = category.get('frequency')
    return None if frequency is None else 'base' if frequency in _BASE_FREQUENCIES else 'novel'


def _check(wanted: Sequence[str], names: Sequence[str]) -> None:
    known = places(names)
    unknown = [name for name in wanted if normalize(check_name(name, 'class name')) not in known]
    if unknown:
        raise InputError(f'class names not in the annotations: {unknown[:5]}.{nearest(unknown[0], names)}')
