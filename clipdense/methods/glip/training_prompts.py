"""The text of each image of a training batch, and the phrase of each of its boxes.

Source: microsoft/GLIP data/datasets/od_to_grounding.py, data/datasets/caption.py.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.spans import Span, words_of
from clipdense.vocab.vocabulary import Vocabulary

from .class_text import named_prompts
from .prompts import Prompt, PromptRules, chunks, class_prompt, phrases_prompt, rules_for
from .text import GroundingText

_ALL = 0.5  # share of prompts with as many negatives as allowed
LEFT_OUT = -1


class TrainingText(NamedTuple):
    """The text of an image."""

    prompt: Prompt
    rows: Tensor  # (M,) the phrase of each box, ``LEFT_OUT`` without one
    classes: tuple[int, ...] | None  # of each phrase; None for a caption
    boxed: bool = True  # whether objects have boxes; those of a question or a description have none


def training_prompts(
    samples: Sequence[Any], vocabulary: Vocabulary | None, rules: PromptRules, text: GroundingText
) -> list[TrainingText]:
    """The text of each image, with the phrase of each of its boxes.

    An image with a caption has its caption, between captions of other images if it has some.  Others have all
    class names, or those of the objects of the image and some others; if they do not fit, names without an
    object are left out first.

    Args:
        samples: with ``gt_instances``, and with a ``caption`` if it was given (``GroundingDetection``).
        vocabulary: of the labels of images without a caption.
        rules: how names become prompts.
        text: the text tower.

    Raises:
        InputError: no vocabulary, objects of classes that are novel or outside of it, or a question or a
            caption without boxes.
    """
    if any('question' in one.metainfo for one in samples):
        raise InputError(
            'the training data has questions: use type=GLIPv2 with '
            'objectives=dict(answers=dict(answers=[...]))'
        )
    if any('description' in one.metainfo for one in samples):
        raise InputError(
            'the training data has captions without boxes: use type=GLIPv2 with '
            'objectives=dict(captions=dict())'
        )
    named = [one for one in samples if 'caption' not in one.metainfo]
    if named and vocabulary is None:
        raise InputError('no vocabulary is set: add the hook VocabularyHook, or call set_vocabulary')
    if named and vocabulary is not None:
        check_labels(named, vocabulary)
    found = []
    for one in samples:
        if 'caption' in one.metainfo:
            found.append(TrainingText(*caption_prompt(one, rules, text), None))
        else:
            assert vocabulary is not None
            found.append(_names_prompt(one, vocabulary, rules, text))
    return found


def _names_prompt(
    sample: Any, vocabulary: Vocabulary, rules: PromptRules, text: GroundingText
) -> TrainingText:
    names, labels = vocabulary.class_names, sample.gt_instances.labels
    if isinstance(vocabulary, Sentence):
        return _sentence_prompt(vocabulary, labels, rules, text)
    rules = rules_for(vocabulary, rules)
    known = [index for index, name in enumerate(names) if name not in vocabulary.novel]
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
    prompt = class_prompt([names[index] for index in kept], rules)
    return TrainingText(prompt, place[labels], tuple(kept))


def _sentence_prompt(
    sentence: Sentence, labels: Tensor, rules: PromptRules, text: GroundingText
) -> TrainingText:
    """The sentence, whose phrases are the classes."""
    prompts = named_prompts(sentence, text, rules)
    if len(prompts) > 1:
        raise InputError(f'the phrases of {sentence.text!r:.60} do not fit into one text: shorten them')
    return TrainingText(prompts[0].prompt, labels, prompts[0].classes)


def caption_prompt(sample: Any, rules: PromptRules, text: GroundingText) -> tuple[Prompt, Tensor]:
    """The caption of an image between those of other images, as many as fit, in a random order.

    With ``rules.per_phrase`` its phrases take the place of the caption, since each is encoded by itself.

    Args:
        sample: see ``data.detection.grounding.GroundingDetection``.
        rules: how texts are joined.
        text: the text tower.

    Returns:
        The prompt, whose first phrases are those of the caption, and the phrase of each box.

    Warns:
        UserWarning: the caption does not fit; boxes of phrases at its end are left out.
    """
    about, labels = sample.metainfo, sample.gt_instances.labels
    if rules.per_phrase:
        return _phrases_prompt(about, labels, rules, text)
    caption, kept = _cut(about['caption'], about['phrases'], text)
    texts = [caption, *_fitting(about.get('other_captions', ()), [caption], rules, text)]
    order = random.sample(range(len(texts)), len(texts))
    start, own = 0, 0
    for place in order:
        own = start if place == 0 else own
        start += len(_closed(texts[place], rules))
    joined = ''.join(_closed(texts[place], rules) for place in order).strip()
    spans = [[(own + first, own + last) for first, last in about['phrases'][one]] for one in kept]
    rows = torch.full((len(about['phrases']) + 1,), LEFT_OUT, device=labels.device)
    rows[torch.tensor(kept, dtype=torch.int64, device=labels.device)] = torch.arange(len(kept)).to(labels)
    return Prompt(joined, tuple(tuple(one) for one in spans)), rows[labels]


def _phrases_prompt(
    about: Mapping[str, Any], labels: Tensor, rules: PromptRules, text: GroundingText
) -> tuple[Prompt, Tensor]:
    """Each phrase of the caption, and of captions of other images, as a text of its own."""
    phrases = [words_of(spans, about['caption']) for spans in about['phrases']] or [about['caption']]
    own = chunks(phrases, text.locate, text.room, _unlimited(replace(rules, wording={})))[0]
    others = _fitting(about.get('other_phrases', ()), [phrases[one] for one in own], rules, text)
    prompt = phrases_prompt([*(phrases[one] for one in own), *others], rules)
    rows = torch.where(labels < len(own), labels, LEFT_OUT)  # the first ones fit
    return prompt, rows


def _cut(caption: str, phrases: Sequence[Sequence[Span]], text: GroundingText) -> tuple[str, list[int]]:
    """The part of a caption that fits, and the phrases inside of it."""
    places = text.locate(caption)[1]
    if len(places) <= text.room:
        return caption, list(range(len(phrases)))
    end = places[text.room - 1][1]
    kept = [index for index, spans in enumerate(phrases) if all(last <= end for _, last in spans)]
    warnings.warn(
        f'the caption {caption!r:.40} has {len(places)} tokens, and {text.room} fit: its end is left out, '
        f'with {len(phrases) - len(kept)} of {len(phrases)} phrases and their boxes'
    )
    return caption[:end], kept


def _fitting(others: Sequence[str], own: Sequence[str], rules: PromptRules, text: GroundingText) -> list[str]:
    """Those of the other texts that fit next to the own ones."""
    left = text.room - sum(_count(one, rules, text) for one in own)
    found = []
    for one in others:
        count = _count(one, rules, text)
        if count <= left:
            found.append(one)
            left -= count
    return found


def _count(one: str, rules: PromptRules, text: GroundingText) -> int:
    """The room that a text takes."""
    return 1 if rules.last_token else len(text.locate(_closed(one, rules))[0])


def _closed(text: str, rules: PromptRules) -> str:
    return text + rules.separator


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
    return replace(rules, max_names=None)
