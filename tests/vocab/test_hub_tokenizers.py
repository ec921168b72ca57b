"""Token ids of each family of tokenizers are those of open_clip's ``HFTokenizer``."""

from __future__ import annotations

import pickle
from itertools import product

import pytest
from open_clip.tokenizer import HFTokenizer

from clipdense.utils.errors import InputError
from clipdense.vocab.huggingface import HuggingFaceTokenizer

from .hub_tokenizers import FAMILIES, LANGUAGES, SQUARES, bert

pytestmark = pytest.mark.filterwarnings('ignore:.*longer than')

TEXTS = {
    'a caption': 'a photo of a cat.',
    'no text': '',
    'a space': ' ',
    'capitals and spaces': 'A  Photo   of a CAT! ',
    'several lines': 'line one\nline two\r\n\ttab',
    'emoji': 'cat 🐈 dog 👩\u200d👩',
    'Chinese': '一张猫的照片 cat 龘',
    'accents': 'cafe\u0301 café Straße naïve élève',
    'Cyrillic and Greek': 'фото кота, ξ Ω',
    'special tokens': 'a </s> and [SEP] <pad> [CLS] <eos> <mask> [MASK] <s> <bos> <unk>',
    'punctuation': 'snake_case under_scores-dash (12%), "quoted"',
    'longer than the context': 'word ' * 60,
    'one long word': 'x' * 150,
    'compatible characters': 'ﬁne ﬀ １２３ ² …',
    'HTML': 'don&#39;t &amp; &lt;b&gt;',
    'apostrophes': "don't can’t 'quoted'",
    'invisible characters': '\u200bzero\u200bwidth\xa0space',
    'languages': 'eng_Latn deu_Latn cat',
    'wrongly decoded': 'â€™ Ã©',
    'marks of spaces': '▁under ▁',
}
CLEANINGS = {'whitespace': 'whitespace', 'canonicalize': 'canonicalize', 'lower': 'whitespace_lower'}


# transformers' processor of SigLIP 2 makes its texts lower case, which open_clip leaves to the cleaning
CASES = [case for case in product(FAMILIES, CLEANINGS) if case != ('siglip2', 'whitespace')]


@pytest.mark.parametrize(('family', 'clean'), CASES)
def test_ids(hub_tokenizers, family, clean):
    folder = hub_tokenizers(family)
    for length in (5, 20):
        theirs = HFTokenizer(str(folder), context_length=length, clean=clean)
        ours = HuggingFaceTokenizer(folder, length, CLEANINGS[clean])  # type: ignore[arg-type]
        for name, text in TEXTS.items():
            assert ours(text).tolist() == theirs(text).tolist(), (name, length)
        together = list(TEXTS.values())[:4]
        assert ours(together).tolist() == theirs(together).tolist()


@pytest.mark.parametrize('family', ['nllb', 'nllb before 2023'])
def test_languages(hub_tokenizers, family):
    folder = hub_tokenizers(family)
    theirs = HFTokenizer(str(folder), context_length=12)
    rows = {}
    for language in LANGUAGES:
        # transformers 5 undoes open_clip's ``set_language`` at each call
        theirs.tokenizer.src_lang = language  # type: ignore[attr-defined]
        ours = HuggingFaceTokenizer(folder, 12, 'whitespace', language=language)
        rows[language] = ours('eine Katze').tolist()
        assert rows[language] == theirs('eine Katze').tolist()
        copy = pickle.loads(pickle.dumps(ours))
        assert copy.identity == ours.identity
        assert copy('eine Katze').tolist() == rows[language]
    assert len({str(row) for row in rows.values()}) == len(LANGUAGES)


@pytest.mark.parametrize(
    ('family', 'language', 'message'),
    [
        ('nllb', 'deu_Lat', r"no language 'deu_Lat': it has 4, such as .* Did you mean 'deu_Latn'\?"),
        ('nllb', 'German', "no language 'German'"),
        ('nllb', '<pad>', "no language '<pad>'"),
        ('xlm-roberta', 'deu_Latn', 'has no languages'),
    ],
)
def test_unknown_languages(hub_tokenizers, family, language, message):
    with pytest.raises(InputError, match=message):
        HuggingFaceTokenizer(hub_tokenizers(family), 12, language=language)


def test_clips_mode(tmp_path):
    ends = {'bos_token': '[UNK]', 'eos_token': '[SEP]'}
    folder = bert(tmp_path, tokenizer_class='BertTokenizer', **SQUARES, **ends)
    theirs = HFTokenizer(str(folder), context_length=12, tokenizer_mode='clips')
    ours = HuggingFaceTokenizer(folder, 12, 'whitespace', mode='clips')
    for name, text in TEXTS.items():
        assert ours(text).tolist() == theirs(text).tolist(), name
    assert ours.identity != HuggingFaceTokenizer(folder, 12, 'whitespace').identity


UNKNOWN = [  # family, whether the tokenizer has no token for 龘
    ('bert', True),
    ('roberta', False),
    ('xlm-roberta', True),
    ('nllb', True),
    ('mt5', True),
    ('siglip2', False),
]


@pytest.mark.parametrize(('family', 'has_unknown'), UNKNOWN)
def test_unknown_characters(hub_tokenizers, family, has_unknown):
    tokenizer = HuggingFaceTokenizer(hub_tokenizers(family), 12)
    assert (tokenizer.unknown in tokenizer.encode('龘')) is has_unknown
    assert tokenizer.unknown not in tokenizer.encode('cat')


@pytest.mark.parametrize('clean', ['lower', 'none'])
def test_tokens_are_located_in_the_text(hub_tokenizers, clean):
    tokenizer = HuggingFaceTokenizer(hub_tokenizers('bert'), 20, clean)
    text = 'Two dogs,  one café'
    ids, places = tokenizer.locate(text)
    assert ids == tokenizer.encode(text)
    assert ''.join(text[start:end] for start, end in places) == text.replace(' ', '')


def test_a_tokenizer_that_changes_the_text_is_refused(hub_tokenizers):
    tokenizer = HuggingFaceTokenizer(hub_tokenizers('bert'), 20, 'canonicalize')
    with pytest.raises(InputError, match='does not say where its tokens are in the text'):
        tokenizer.locate('a cat.')
