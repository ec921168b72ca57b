"""The text of each image of a training batch, and the phrase of each of its boxes.

Source: microsoft/GLIP data/datasets/od_to_grounding.py.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .prompts import Prompt, PromptRules, chunks, class_prompt
from .text import GroundingText

_ALL = 0.5  # share of prompts with as many negatives as allowed
LEFT_OUT = -1


def training_prompts(
    samples: Sequence[Any], vocabulary: Vocabulary | None, rules: PromptRules, text: GroundingText
) -> tuple[list[Prompt], list[Tensor]]:
    """A prompt for each image, and for each of its boxes the number of the phrase, -1 without one.

    All class names, or those of the objects of the image and some others.  If they do not fit, names without
    an object are left out first.

    Args:
        samples: with ``gt_instances``.
        vocabulary: of the labels.
        rules: how names become prompts.
        text: the text tower.

    Raises:
        InputError: no vocabulary, or objects of classes that are novel or outside of it.
    """
    if vocabulary is None:
        raise InputError('no vocabulary is set: add the hook VocabularyHook, or call set_vocabulary')
    check_labels(samples, vocabulary)
    names = vocabulary.class_names
    known = [index for index, name in enumerate(names) if name not in vocabulary.novel]
    prompts, rows = [], []
    for sample in samples:
        labels = sample.gt_instances.labels
        order = _order(sorted(set(labels.tolist())), known, rules)
        fits = chunks([names[index] for index in order], text.locate, text.room, _unlimited(rules))[0]
        kept = [order[place] for place in fits]
        if lost := [index for index in set(labels.tolist()) if index not in kept]:
            warnings.warn(
                f'{len(lost)} classes of an image do not fit into its text, and their boxes are left out: '
                f'{names[lost[0]]!r:.40}, ...; {text.room} tokens fit'
            )
        kept = random.sample(kept, len(kept)) if rules.shuffle else sorted(kept)
        place = torch.full((len(names),), LEFT_OUT, device=labels.device)
        place[torch.tensor(kept, device=labels.device)] = torch.arange(len(kept), device=labels.device)
        prompts.append(class_prompt([names[index] for index in kept], rules))
        rows.append(place[labels])
    return prompts, rows


def check_labels(samples: Sequence[Any], vocabulary: Vocabulary) -> None:
    """Refuse objects of novel classes, which would be trained as background.

    Raises:
        InputError: there are some, or all classes are novel.
    """
    novel = torch.tensor([name in vocabulary.novel for name in vocabulary.class_names])
    if novel.all():
        raise InputError('all classes of the vocabulary are novel: training requires base classes')
    labels = torch.cat([one.gt_instances.labels for one in samples]).cpu()
    if len(labels) and (int(labels.max()) >= len(novel) or novel[labels].any()):
        raise InputError(
            'the training data has objects of novel classes, or of classes outside the vocabulary: '
            "use a dataset of base classes (classes='base')"
        )


def _order(present: list[int], known: list[int], rules: PromptRules) -> list[int]:
    """Classes with an object first, then as many others as the prompt gets."""
    others = [index for index in known if index not in present]
    if rules.negatives is not None:
        most = min(rules.negatives, len(others))
        count = most if most < 2 or random.random() < _ALL else random.randint(1, most)
        others = random.sample(others, count)
    else:
        others = random.sample(others, len(others))  # not always the same ones if they do not all fit
    return [*present, *others] or known[:1]


def _unlimited(rules: PromptRules) -> PromptRules:
    """The rules without a limit of names, which is for detection."""
    return PromptRules(separator=rules.separator, wording=rules.wording)
