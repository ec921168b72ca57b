"""Which classes are base and which are novel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipdense.utils.errors import InputError, nearest

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
# These name the protocol of Zareian et al. (arXiv 2011.10678): images that show none of the classes are
# left out, of 5,000 to test on 4,836 stay, of 118,287 to train on 107,761.  The others would only add false
# alarms to the one, and novel objects that are seen if not named to the other.
OV_COCO_WORDS = ('ov_coco', 'ov_coco/base')
_WORDS = ('base', *OV_COCO_WORDS)


def choose(
    categories: Sequence[Mapping[str, Any]], classes: str | Sequence[str] | None
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The classes that were asked for, and which of them are novel.

    Args:
        categories: of a COCO or LVIS file.
        classes: names, none of them novel; 'base' for the categories that the file itself calls base
            (``split``, or LVIS's ``frequency``), or any other value of ``split``; 'ov_coco' and
            'ov_coco/base' for OV-COCO's 65 and 48; None for all.

    Raises:
        InputError: a class or a word that the file does not know.
    """
    names = tuple(one['name'] for one in categories)
    split_of = {one['name']: _split(one) for one in categories}
    novel = frozenset(name for name, split in split_of.items() if split not in (None, 'base'))
    if classes is None:
        return names, novel
    if isinstance(classes, str):
        if classes in OV_COCO_WORDS:
            groups = ('base',) if classes == 'ov_coco/base' else ('base', 'novel')
            wanted = {name for group in groups for name in OV_COCO[group]}
            _check(wanted, names)
            return tuple(name for name in names if name in wanted), frozenset(OV_COCO['novel']) & wanted
        chosen = tuple(name for name in names if split_of[name] == classes)
        if not chosen:
            known = sorted({*_WORDS, *(split for split in split_of.values() if split)})
            raise InputError(f'classes={classes!r} names no classes of the file.{nearest(classes, known)}')
        return chosen, novel & frozenset(chosen)
    _check(classes, names)
    return tuple(classes), frozenset()  # whoever names classes says which are novel


def _split(category: Mapping[str, Any]) -> str | None:
    if category.get('split'):
        return str(category['split'])
    frequency = category.get('frequency')
    return None if frequency is None else 'base' if frequency in _BASE_FREQUENCIES else 'novel'


def _check(wanted: Sequence[str] | set[str], names: Sequence[str]) -> None:
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise InputError(f'no such classes in the annotations: {unknown[:5]}.{nearest(unknown[0], names)}')
