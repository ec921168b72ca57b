"""OpenAI's byte-pair encoding: cleaning a text, splitting it into words, and merging the bytes of each word.

The merge table is a file of the ``open_clip_torch`` package; it is located without importing the
package, which takes seconds. Ids equal those of openai/CLIP ``clip/simple_tokenizer.py``.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import html
import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from clipdense.utils.errors import InputError

MERGES_FILE = 'bpe_simple_vocab_16e6.txt.gz'
MERGES_SHA256 = '924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a'
VOCAB_SIZE = 49408
START_OF_TEXT, END_OF_TEXT = '<|startoftext|>', '<|endoftext|>'

_CACHE_SIZE = 1 << 17  # cached words; web captions always contain new ones
_LONG_WORD = 64  # characters; longer words are not cached
_SPECIALS = '|'.join(map(re.escape, (START_OF_TEXT, END_OF_TEXT)))
_ENDINGS = "'s|'t|'re|'ve|'m|'ll|'d"
_WORDS = rf'{_SPECIALS}|{_ENDINGS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+'  # for the regex package
# ftfy and html.unescape do not change printable ASCII without '&', and re splits it much faster.
_PLAIN = re.compile(r"[\t\n\r -%'-~]*")
_PLAIN_WORDS = re.compile(rf'[a-z]+|{_SPECIALS}|{_ENDINGS}|[0-9]|[^\sa-z0-9]+')


class BytePairs(dict[str, tuple[int, ...]]):
    """Word -> ids, computed at first use.

    Ids 0 to 255 are bytes and 256 to 511 bytes that end a word. Then come the merges in order of priority: of
    two possible merges the one with the lower id goes first. The two special tokens are last.

    Args:
        merges: pairs of symbols in the printable alphabet of the merges file.

    Attributes:
        pieces: the bytes of each id, with a space at the end of a word.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        # The file encodes the 68 bytes without a visible character as the characters from 256 on, after the
        # visible ones.
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = sorted(set(range(256)) - set(visible))
        alphabet = [*map(chr, visible), *map(chr, range(256, 256 + len(hidden)))]
        order = [bytes([byte]) for byte in visible + hidden]
        self._symbol_of_byte = dict(zip(visible + hidden, alphabet, strict=True))
        ids = {symbol: index for index, symbol in enumerate([*alphabet, *(s + '</w>' for s in alphabet)])}
        self.pieces = [*order, *(byte + b' ' for byte in order)]
        self._id_of_byte = {byte[0]: index for index, byte in enumerate(order)}
        self._merged: dict[tuple[int, int], int] = {}
        for left, right in merges:
            pair = ids[left], ids[right]
            self._merged[pair] = ids[left + right] = len(self.pieces)
            self.pieces.append(self.pieces[pair[0]] + self.pieces[pair[1]])
        self._specials = {START_OF_TEXT: len(self.pieces), END_OF_TEXT: len(self.pieces) + 1}
        self.pieces.extend(special.encode() for special in self._specials)

    def vocabulary(self) -> dict[str, int]:
        """Token -> id, in the printable alphabet of the merges file, as ``vocab.json`` has it."""
        found = {}
        for index, piece in enumerate(self.pieces):
            ends = index > 255 and piece.endswith(b' ')
            symbols = ''.join(self._symbol_of_byte[byte] for byte in (piece[:-1] if ends else piece))
            found[symbols + '</w>' if ends else symbols] = index
        return found

    def __missing__(self, word: str) -> tuple[int, ...]:
        special = self._specials.get(word)
        ids = self._merge(word) if special is None else (special,)
        if len(self) >= _CACHE_SIZE:
            self.clear()
        if len(word) <= _LONG_WORD:
            self[word] = ids
        return ids

    def _merge(self, word: str) -> tuple[int, ...]:
        """Merge the best pair until none is left; O(n log n) in the bytes, for captions of one long word."""
        merged = self._merged
        ids = [self._id_of_byte[byte] for byte in word.encode()]
        ids[-1] += 256
        size = len(ids)
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        heap = [(merged[pair], place) for place, pair in enumerate(pairwise(ids)) if pair in merged]
        heapq.heapify(heap)
        while heap:
            new, place = heapq.heappop(heap)
            right = after[place]
            if right == size or merged.get((ids[place], ids[right])) != new:
                continue  # one of the two has been merged with its other neighbor
            ids[place], ids[right] = new, -1
            after[place] = beyond = after[right]
            if beyond < size:
                before[beyond] = place
                if (joined := merged.get((new, ids[beyond]))) is not None:
                    heapq.heappush(heap, (joined, place))
            if (left := before[place]) >= 0 and (joined := merged.get((ids[left], new))) is not None:
                heapq.heappush(heap, (joined, left))
        return tuple(index for index in ids if index >= 0)


def split_words(text: str) -> list[str]:
    """Words as in OpenAI's tokenizer: cleaned, lower case, each digit separate."""
    if _PLAIN.fullmatch(text):
        return _PLAIN_WORDS.findall(text.lower())
    import regex

    text = regex.sub(r'\s+', ' ', mend(text)).strip().lower()
    return regex.findall(_WORDS, text, regex.IGNORECASE)


def locate_words(text: str) -> Iterator[tuple[str, list[int]]]:
    """The words of a text as it is, in lower case, each with the place of its characters in the text."""
    lower, places = text.lower(), list(range(len(text)))
    if len(lower) != len(text):  # a capital letter that is two characters in lower case
        places = [place for place, char in enumerate(text) for _ in char.lower()]
        lower = ''.join(char.lower() for char in text)
    if _PLAIN.fullmatch(lower):
        found = _PLAIN_WORDS.finditer(lower)
    else:
        import regex

        found = regex.finditer(_WORDS, lower, regex.IGNORECASE)
    for match in found:
        yield match.group(), places[match.start() : match.end()]


def mend(text: str) -> str:
    """Fix broken encodings and (doubled) HTML entities, which are frequent in web captions."""
    if _PLAIN.fullmatch(text):
        return text.strip()
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


@lru_cache(maxsize=1)
def openai_byte_pairs() -> BytePairs:
    """OpenAI's merge table, located, checked and read once per process.

    Raises:
        InputError: the table is not installed, or is not OpenAI's.
    """
    spec = importlib.util.find_spec('open_clip')
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [file for folder in folders if (file := Path(folder) / MERGES_FILE).is_file()]
    if not files:
        raise InputError(
            f'the tokenizer needs the file {MERGES_FILE} of open_clip; run pip install open_clip_torch'
        )
    packed = files[0].read_bytes()
    if hashlib.sha256(packed).hexdigest() != MERGES_SHA256:
        raise InputError(
            f"{files[0]} is not OpenAI's table; run pip install --force-reinstall open_clip_torch"
        )
    lines = gzip.decompress(packed).decode().split('\n')[1 : VOCAB_SIZE - 2 * 256 - 2 + 1]
    return BytePairs([(left, right) for left, right in map(str.split, lines)])
