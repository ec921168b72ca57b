"""Extraction of nouns, nouns and verbs, or noun phrases from captions.

Nothing is downloaded.  The default tagger looks words up in the dictionary of ``lemminflect`` and
disambiguates them by their neighbors; it takes tens of microseconds per caption.  HanTa, spaCy and nltk need
to be installed with their data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, get_args

from clipdense.utils.errors import InputError, nearest

Kind = Literal['word', 'noun', 'phrase']
Tagged = list[tuple[str, str]]  # words with 'NOUN', 'VERB', 'ADJ' or '' (others, and punctuation)

_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]|[\w]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words(
    'a an the this that these those my your his her its our their some any no every each another both all '
    'several many few two three four five six seven eight nine ten'
)
_BE = _words('is are was were be been being am')
_CLOSED = (
    _DETERMINERS
    | _BE
    | _words(
        'of in on at by with without from to into onto over under above below between behind beside besides '
        'near next along across around through during against toward towards upon inside outside off out up '
        'down for about after before until while as than like per via and or but nor so yet if because '
        'though although since when where which who whom whose what why how i you he she it we they me him '
        'us them myself himself herself itself themselves there here not very too also just only even still '
        'more most less least much other such own same one ones has have had having do does did can could '
        'will would shall should may might must'
    )
)
# They refer to the image, a position or an amount, not to a visible object.
_EMPTY = _words(
    'photo photos photograph picture pictures image images drawing view views shot closeup close-up left '
    'right top bottom front side sides middle center center lot lots couple bunch kind type part piece way '
    'thing things'
)
_PENN = {'NN': 'NOUN', 'VB': 'VERB', 'JJ': 'ADJ'}  # by the first two letters


class NounExtractor:
    """Caption -> words or phrases, in lower case, in order, with repetitions.

    Args:
        kind: 'word' (single nouns and verbs, as in GroupViT's code), 'noun', or 'phrase' (adjectives and
            nouns up to the last noun: "red striped star").
        tagger: 'lemminflect', 'hanta', 'spacy' or 'nltk'; all but the first need their package and data.
        ignore: additional words to drop; a phrase that ends in one is dropped.

    Raises:
        InputError: an unknown kind or tagger, or one that is not installed.
    """

    def __init__(
        self, kind: Kind = 'phrase', tagger: str = 'lemminflect', ignore: Sequence[str] = ()
    ) -> None:
        if kind not in get_args(Kind):
            raise InputError(f'unknown kind {kind!r}; use {", ".join(get_args(Kind))}')
        if tagger not in _TAGGERS:
            raise InputError(
                f'unknown tagger {tagger!r}; use {", ".join(_TAGGERS)}.{nearest(tagger, _TAGGERS)}'
            )
        self.kind, self.tagger = kind, tagger
        self.ignore = _EMPTY | {word.lower() for word in ignore}
        self._tag = _TAGGERS[tagger]
        self._tag('a dog')  # fail early, not in a data-loading process

    def __call__(self, caption: str) -> list[str]:
        """Words or phrases of a caption."""
        tagged = self._tag(caption)
        if self.kind == 'phrase':
            return self._phrases(tagged)
        wanted = ('NOUN', 'VERB') if self.kind == 'word' else ('NOUN',)
        return [word for word, tag in tagged if tag in wanted and word not in self.ignore]

    def spans(self, caption: str) -> list[tuple[int, int]]:
        """The noun phrases of a caption as characters [start, end), with a determiner before them.

        Ignored words at the end of a phrase are left out: "the red star" of "the red star left of a square".
        """
        tagged = self._tag(caption)
        places: list[tuple[int, int] | None] = []
        after = 0
        for word, _ in tagged:
            match = re.compile(re.escape(word), re.IGNORECASE).search(caption, after)
            places.append(match.span() if match else None)
            after = match.end() if match else after
        found = []
        for first, end in self._runs(tagged, frozenset()):
            while end > first and (tagged[end - 1][0] in self.ignore or tagged[end - 1][1] != 'NOUN'):
                end -= 1
            if end == first:
                continue
            if first and tagged[first - 1][0] in _DETERMINERS:
                first -= 1
            start, last = places[first], places[end - 1]
            if start is not None and last is not None:
                found.append((start[0], last[1]))
        return found

    def _phrases(self, tagged: Tagged) -> list[str]:
        runs = self._runs(tagged, self.ignore)
        return [' '.join(word for word, _ in tagged[first:end]) for first, end in runs]

    @staticmethod
    def _runs(tagged: Tagged, ignore: frozenset[str]) -> list[tuple[int, int]]:
        """First word and the one after the last of each phrase: adjectives and nouns up to a last noun."""
        found = []
        first = None  # word of the phrase that is read
        before = ''
        for place, (_, tag) in enumerate([*tagged, ('', '')]):
            if tag in ('NOUN', 'ADJ') and not (first is not None and before == 'NOUN' and tag == 'ADJ'):
                first = place if first is None else first
            else:
                if first is not None and before == 'NOUN' and tagged[place - 1][0] not in ignore:
                    found.append((first, place))
                first = place if tag == 'ADJ' else None
            before = tag
        return found


def tag_by_dictionary(caption: str) -> Tagged:
    """Parts of speech from the dictionary and the neighboring words."""
    words = [match.lower() for match in _TOKEN.findall(caption)]
    tags: list[str] = []
    for index, word in enumerate(words):
        before = words[index - 1] if index else ''
        after = words[index + 1] if index + 1 < len(words) else ''
        tags.append(_tag(word, before, tags[-1] if tags else '', after))
    return list(zip(words, tags, strict=True))


def _tag(word: str, before: str, tag_before: str, after: str) -> str:
    can = _possible(word)
    next_can = _possible(after)
    followed = bool(next_can & {'NOUN', 'ADJ'} or (next_can and after.endswith('ed')))  # the phrase continues
    if not can:
        return ''
    if before in _BE and word.endswith(('ing', 'ed')):
        return 'VERB'
    follows_noun = 'VERB' in can and tag_before == 'NOUN'
    if follows_noun and (word.endswith('ing') or after in _DETERMINERS or 'NOUN' not in can):
        return 'VERB'
    if 'VERB' in can and before == 'to' and not followed:
        return 'VERB'
    if followed and (can & {'ADJ'} or word.endswith(('ed', 'ing'))):
        return 'ADJ'
    if 'NOUN' in can:
        return 'NOUN'
    return 'ADJ' if 'ADJ' in can else 'VERB' if 'VERB' in can else ''


@lru_cache(maxsize=1 << 16)
def _possible(word: str) -> frozenset[str]:
    """Possible parts of speech 'NOUN', 'VERB', 'ADJ' of a word; unknown words are nouns."""
    if not word or not word[0].isalpha() or word in _CLOSED:
        return frozenset()
    listed = set(_lemminflect()(word))
    if not listed:
        return frozenset({'VERB', 'ADJ'} if word.endswith(('ed', 'ing')) else {'NOUN'})
    if 'PROPN' in listed:
        listed.add('NOUN')
    return frozenset(listed & {'NOUN', 'VERB', 'ADJ'})


@cache
def _lemminflect() -> Callable[[str], Any]:
    from lemminflect import getAllLemmas  # loading its dictionary takes half a second

    return getAllLemmas


def _penn(pairs: Sequence[tuple[str, str]]) -> Tagged:
    return [(word.lower(), _PENN.get(tag[:2], '')) for word, tag in pairs]


@cache
def _hanta() -> Any:
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError as error:
        raise InputError("the tagger 'hanta' is not installed; run pip install HanTa") from error
    return HanoverTagger('morphmodel_en.pgz')


def _tag_hanta(caption: str) -> Tagged:
    tagged = _hanta().tag_sent(_TOKEN.findall(caption))
    return _penn([(word, tag) for word, _, tag in tagged])


@cache
def _spacy() -> Any:
    try:
        import spacy

        return spacy.load('en_core_web_sm', disable=['ner', 'parser'])
    except (ImportError, OSError) as error:
        raise InputError("the tagger 'spacy' needs the package spacy and its model en_core_web_sm") from error


def _tag_spacy(caption: str) -> Tagged:
    return _penn([(token.text, token.tag_) for token in _spacy()(caption)])


def _tag_nltk(caption: str) -> Tagged:
    try:
        import nltk

        return _penn(nltk.pos_tag(nltk.word_tokenize(caption)))
    except (ImportError, LookupError) as error:
        raise InputError(
            "the tagger 'nltk' needs the package nltk and its data 'punkt' and 'averaged_perceptron_tagger'"
        ) from error


_TAGGERS: dict[str, Callable[[str], Tagged]] = {
    'lemminflect': tag_by_dictionary,
    'hanta': _tag_hanta,
    'spacy': _tag_spacy,
    'nltk': _tag_nltk,
}
