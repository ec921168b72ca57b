"""Vocabularies: what is refused, what is asked, and how they are read and written."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.utils.errors import InputError
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary


@pytest.fixture
def street():
    return Vocabulary(
        ('background', 'car', 'Traffic Light', 'tree'),
        synonyms={'car': ('automobile', 'motor car'), 'background': ('sky', 'road')},
        background='background',
        novel=frozenset({'tree'}),
    )


def test_classes_in_order(street):
    assert len(street) == 4
    assert street.class_names == ('background', 'car', 'Traffic Light', 'tree')
    assert street.base == ('car', 'Traffic Light')


def test_queries(street):
    """The background is asked by its words alone; other classes by name and synonyms."""
    assert street.queries == (
        ('sky', 0), ('road', 0),
        ('car', 1), ('automobile', 1), ('motor car', 1),
        ('Traffic Light', 2),
        ('tree', 3),
    )  # fmt: skip


def test_background_without_words_is_asked_by_name():
    assert Vocabulary(('background', 'car'), background='background').queries == (
        ('background', 0),
        ('car', 1),
    )


def test_values_are_brought_into_form():
    vocabulary = Vocabulary([' car ', 'tree'], {'CAR': ['auto'], 'tree': []}, 'Tree', ['CAR'])
    assert vocabulary.class_names == ('car', 'tree')
    assert vocabulary.synonyms == {'car': ('auto',)}
    assert (vocabulary.background, vocabulary.novel) == ('tree', frozenset({'car'}))


def test_commas_belong_to_names():
    assert Vocabulary(('salt, pepper', 'a/b', '猫', 'שלום', '👍')).queries[0] == ('salt, pepper', 0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((),), 'vocabulary is empty'),
        (('car,tree',), 'must be a list.*Vocabulary.parse'),
        ((None,), 'must be a list'),
        ((('car', ' '),), 'class name is blank'),
        ((('car', 3),), 'must be a string, got int 3'),
        ((('a\nb',),), 'line break'),
        ((('a\ud800',),), 'control character'),
        ((('car', 'tree', ' CAR'),), "'CAR' is listed twice"),
        ((('traffic light', 'Traffic  light'),), 'listed twice'),
        ((('caf\u00e9', 'cafe\u0301'),), 'listed twice'),
        ((('car',), {'cat': ('kitty',)}), "'cat' is not in the vocabulary. Did you mean 'car'"),
        ((('car',), {'car': 'auto'}), 'must be a list'),
        ((('car',), {'car': ('',)}), "synonym of 'car' is blank"),
        ((('car',), {'car': ('Car',)}), "'Car' occurs twice among the names of class 'car'"),
        ((('car',), {'car': ('a',), 'Car': ('b',)}), 'lists a class twice'),
        ((('car',), ['car']), 'synonyms must be a dict'),
        ((('car',), {}, 'sky'), "background 'sky' is not in"),
        ((('car',), {}, None, {'tree'}), "novel class 'tree' is not in"),
        ((('car',), {}, None, 'car'), 'novel must be a list'),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:25],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(*arguments)


def test_word_for_two_classes_is_told_of():
    """Published class files have such words (SCLIP's COCO-Object: "bed")."""
    with pytest.warns(UserWarning, match=r"'bed' belongs to several classes \(\['background', 'bed'\]\)"):
        Vocabulary(('background', 'bed'), {'background': ('sky', 'bed')}, 'background')


@pytest.mark.parametrize('name', ['traffic light', 'Traffic Light', ' TRAFFIC  LIGHT '])
def test_index(street, name):
    assert street.index(name) == 2


@pytest.mark.parametrize(
    ('name', 'hint'), [('trafic light', "mean 'Traffic Light'"), (3, 'not in'), ('', 'not in')]
)
def test_index_of_unknown(street, name, hint):
    with pytest.raises(InputError, match=hint):
        street.index(name)


def test_subset(street):
    part = street.subset(['tree', 'car'])
    assert part == Vocabulary(
        ('tree', 'car'), {'car': ('automobile', 'motor car')}, novel=frozenset({'tree'})
    )
    assert street.subset(['BACKGROUND', 'car']).background == 'background'


@pytest.mark.parametrize(
    ('names', 'message'), [([], 'empty'), (['bus'], 'not in'), (['car', 'Car'], 'twice')]
)
def test_subset_refused(street, names, message):
    with pytest.raises(InputError, match=message):
        street.subset(names)


def test_with_background():
    vocabulary = Vocabulary(('car', 'bed'), {'bed': ('Couch',)}, novel=frozenset({'bed'}))
    framed = vocabulary.with_background(('sky', 'Bed', 'couch'))
    assert framed.class_names == ('background', 'car', 'bed')
    assert framed.queries == (('sky', 0), ('car', 1), ('bed', 2), ('Couch', 2))
    assert (framed.background, framed.novel) == ('background', frozenset({'bed'}))
    assert vocabulary.with_background(name='rest').queries[0] == ('rest', 0)


def test_with_background_takes_one_word():
    assert Vocabulary(('car',)).with_background('sky').queries == (('sky', 0), ('car', 1))


def test_with_background_twice(street):
    with pytest.raises(InputError, match='already has a background class'):
        street.with_background()


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('car', ('car',)),
        ('car, traffic light,tree', ('car', 'traffic light', 'tree')),
        (r'salt\, pepper, tree', ('salt, pepper', 'tree')),
        ('a;b, c', ('a;b', 'c')),
        ('St. Bernard', ('St. Bernard',)),
        ('back\\slash', ('back\\slash',)),
    ],
)
def test_parse(text, names):
    assert Vocabulary.parse(text).class_names == names


@pytest.mark.parametrize('text', ['car; road', 'a . b .', '车\uff0c路', '車\u3001道', 'a\uff1bb'])
def test_parse_tells_of_other_separators(text):
    with pytest.warns(UserWarning, match='is read as one class name; separate names with commas'):
        assert Vocabulary.parse(text).class_names == (text,)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('text', ['car', 'a;b, c', r'a\;b', 'St. Bernard'])
def test_parse_is_silent(text):
    Vocabulary.parse(text)


@pytest.mark.parametrize(
    ('text', 'message'), [('', 'empty'), (' ', 'empty'), ('a,,b', 'blank'), ('a,a', 'twice')]
)
def test_parse_refused(text, message):
    with pytest.raises(InputError, match=message):
        Vocabulary.parse(text)


SCLIP = 'sky, wall\naeroplane\nperson, person in shirt'


@pytest.mark.parametrize(
    ('text', 'names', 'synonyms'),
    [
        ('car\ntree\n', ('car', 'tree'), {}),
        ('\ufeffcar\r\ntree\r\n\r\n', ('car', 'tree'), {}),
        ('# streets\n\ncar\n  # more\ntree', ('car', 'tree'), {}),
        (r'\#1 fan', ('#1 fan',), {}),
        (SCLIP, ('sky', 'aeroplane', 'person'), {'sky': ('wall',), 'person': ('person in shirt',)}),
        ('sky; wall, white\ncar', ('sky', 'car'), {'sky': ('wall, white',)}),
        ('shark, great white;\ncar,', ('shark, great white', 'car'), {}),
        (r'a\;b, c', ('a;b',), {'a;b': ('c',)}),
    ],
    ids=['lines', 'windows', 'comments', 'hash', 'commas', 'semicolons', 'closed', 'escaped'],
)
def test_from_text_file(tmp_path, text, names, synonyms):
    (tmp_path / 'classes.txt').write_bytes(text.encode())
    vocabulary = Vocabulary.from_file(tmp_path / 'classes.txt')
    assert (vocabulary.class_names, vocabulary.synonyms) == (names, synonyms)


@pytest.mark.parametrize(
    ('text', 'queries'),
    [
        (SCLIP, ['sky', 'wall', 'aeroplane', 'person', 'person in shirt']),
        ('car\nBackground, rest', ['car', 'rest']),
    ],
    ids=['first line', 'named line'],
)
def test_background_of_a_file(tmp_path, text, queries):
    (tmp_path / 'classes.txt').write_text(text)
    vocabulary = Vocabulary.from_file(tmp_path / 'classes.txt', background='background')
    assert vocabulary.background.lower() == 'background'
    assert 'sky' not in vocabulary.class_names
    assert [word for word, _ in vocabulary.queries] == queries


@pytest.mark.parametrize(
    ('value', 'names', 'synonyms'),
    [
        (['car', 'a, b'], ('car', 'a, b'), {}),
        ([['car', 'auto'], ['tree'], 'sky'], ('car', 'tree', 'sky'), {'car': ('auto',)}),
        ({'class_names': ['car'], 'synonyms': {'car': ['auto']}}, ('car',), {'car': ('auto',)}),
    ],
    ids=['names', 'lists', 'object'],
)
def test_from_json(tmp_path, value, names, synonyms):
    (tmp_path / 'classes.JSON').write_text(json.dumps(value))
    vocabulary = Vocabulary.from_file(tmp_path / 'classes.JSON')
    assert (vocabulary.class_names, vocabulary.synonyms) == (names, synonyms)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('absent.txt', None, 'absent.txt does not exist'),
        ('.', None, 'is a folder, not a regular file'),
        ('a.txt', b'', 'a.txt: the vocabulary is empty'),
        ('a.txt', b'# only a comment\n', 'empty'),
        ('a.txt', 'Käse'.encode('latin-1'), 'not UTF-8'),
        ('a.txt', b'car\ntree,, bush', 'a.txt: line 2: an empty name'),
        ('a.txt', b'car\n,', 'line 2'),
        (
            'a.txt',
            b'car\n\nCar',
            r"a.txt: line 3: class 'Car' is listed twice \(first in line 1\)$",
        ),
        (
            'a.txt',
            b'screen, crt screen\ndoor\nscreen, silver screen',
            r"line 3: class 'screen'.*first in line 1\); commas separate synonyms; .* by '; '",
        ),
        ('a.txt', b'PK\x03\x04\x00', 'control character'),
        ('a.json', b'car', 'is not valid JSON'),
        ('a.json', b'3', 'a JSON list of class names, or an object'),
        ('a.json', b'[]', 'empty'),
        ('a.json', b'[["car"], []]', 'got \\[\\]'),
        ('a.json', b'["car", 3]', 'got 3'),
        ('a.json', b'[[["car"]]]', 'must be a string'),
        ('a.json', b'{"classnames": ["car"]}', "unknown key 'classnames'.*'class_names'"),
        ('a.json', b'{"novel": []}', "has no 'class_names'"),
        ('a.json', b'{"class_names": "car"}', 'must be a list'),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Vocabulary.from_file(tmp_path / name)


def test_save_and_read_again(street, tmp_path):
    vocabulary = Vocabulary(
        (*street.class_names, '猫, "x"\\'), street.synonyms, street.background, street.novel
    )
    vocabulary.save(tmp_path / 'street.json')
    assert Vocabulary.from_file(tmp_path / 'street.json') == vocabulary
    assert '猫' in (tmp_path / 'street.json').read_text('utf-8')


def test_save_refused(street, tmp_path):
    with pytest.raises(InputError, match=r'saved as JSON'):
        street.save(tmp_path / 'street.txt')


def test_to_dict_is_plain(street):
    values = street.to_dict()
    assert values['novel'] == ['tree']
    assert Vocabulary.from_dict(json.loads(json.dumps(values))) == street


def test_digest_is_of_the_content(street):
    same = Vocabulary(street.class_names, dict(reversed(street.synonyms.items())), 'background', {'tree'})
    assert same.digest == street.digest
    assert same == street
    assert hash(same) == hash(street)
    # worked out once; a change would disown every cache and checkpoint
    assert Vocabulary(('car', 'tree')).digest.startswith('2d6bfeff4d40')


@pytest.mark.parametrize(
    'other',
    [
        Vocabulary(('tree', 'car')),
        Vocabulary(('car', 'Tree')),
        Vocabulary(('car', 'tree'), {'car': ('auto',)}),
        Vocabulary(('car', 'tree'), background='tree'),
        Vocabulary(('car', 'tree'), novel=frozenset({'tree'})),
    ],
    ids=['order', 'spelling', 'synonyms', 'background', 'novel'],
)
def test_digest_tells_apart(other):
    assert other.digest != Vocabulary(('car', 'tree')).digest


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies(street, copied):
    assert copied(street) == street
    assert copied(street).queries == street.queries


@pytest.mark.parametrize(
    ('names', 'background', 'asked'),
    [
        (['sky', 'background'], 'background', 'background'),
        (['Background', 'sky'], 'Background', 'Background'),
        (['_background_', 'sky'], '_background_', 'background'),
        (['__background__', 'sky'], '__background__', 'background'),
        (['BG', 'sky'], 'BG', 'background'),
        (['background wall', 'sky'], None, None),
        (['bgr', 'sky'], None, None),
    ],
)
def test_spellings_of_the_background(tmp_path, names, background, asked):
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    for found in (Vocabulary.from_file(tmp_path / 'classes.txt'), Vocabulary.parse(', '.join(names))):
        assert found.background == background
        if background is not None:
            index = found.index(background)
            assert [word for word, at in found.queries if at == index] == [asked]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_is_classes_or_an_error(text):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            found = Vocabulary.parse(text)
        except InputError:
            return
    assert len(found) == 1 + len(re.findall(r'(?<!\\),', text))


NAMES = st.lists(
    st.text(st.characters(exclude_categories=['Cc', 'Cs']), min_size=1, max_size=8).filter(
        lambda name: normalize(name).strip()
    ),
    min_size=1,
    max_size=6,
    unique_by=normalize,
)


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp('vocabularies')


@settings(deadline=None, max_examples=100)
@given(NAMES)
def test_written_and_read_again(scratch, names):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            vocabulary = Vocabulary(names).marking_background()
        except InputError:  # blank but for characters that are not shown
            return
        vocabulary.save(scratch / 'a.json')
        assert Vocabulary.from_file(scratch / 'a.json') == vocabulary
        if not any('\\' in name for name in names):
            text = ', '.join(name.replace(',', '\\,') for name in vocabulary.class_names)
            assert Vocabulary.parse(text).class_names == vocabulary.class_names


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(['cat', 'dog', ' CAT', '# note', '', 'a, b', 'x; y', ',', '1. one', '\ufeffz']))
)
def test_lines_are_classes_or_an_error(scratch, lines):
    (scratch / 'a.txt').write_text('\n'.join(lines), 'utf-8')
    classes = [line for line in lines if line.strip() and not line.startswith('#')]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            found = Vocabulary.from_file(scratch / 'a.txt')
        except InputError:
            return
    assert len(found) == len(classes)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.sampled_from(['a.txt', 'a.json', 'a']))
def test_any_bytes_are_a_vocabulary_or_an_error(scratch, content, name):
    (scratch / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with contextlib.suppress(InputError):
            assert len(Vocabulary.from_file(scratch / name)) >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(['class_names', 'names', 'id', 'name', 'categories', '0', '1']),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_any_json_is_a_vocabulary_or_an_error(scratch, value):
    (scratch / 'b.json').write_text(json.dumps(value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with contextlib.suppress(InputError):
            assert len(Vocabulary.from_file(scratch / 'b.json')) >= 1
