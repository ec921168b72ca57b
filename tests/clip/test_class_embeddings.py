"""Class embeddings: the official average, the cache and what may go wrong with it."""

from __future__ import annotations

import re
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip import class_embeddings
from clipdense.clip.class_embeddings import (
    PromptEnsemble,
    class_embedder,
    embed_texts,
    module_digest,
)
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import TEMPLATES as TEMPLATE_SETS
from clipdense.vocab.tokenizer import Tokenizer
from clipdense.vocab.vocabulary import Vocabulary

IMAGE = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=1, mlp_width=16, embed_dim=8)
TEXT = TextSize(width=16, layers=2, num_heads=2, mlp_width=32, embed_dim=8)
WORDS = Vocabulary(
    ('background', 'cat', 'a very long name of a thing', 'bed'),
    {'background': ('sky', 'tree'), 'cat': ('kitten', 'tabby')},
    background='background',
)
TEMPLATES = ('a photo of a {}.', '{}', 'the {} in a long sentence of many words')


@pytest.fixture(scope='module')
def clip() -> CLIP:
    torch.manual_seed(0)
    return build_clip(ClipSize(IMAGE, TEXT))


class Counting:
    """Counts the prompts that are encoded."""

    def __init__(self, clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts, encode = 0, clip.encode_text

        def counted(token_ids, normalize=False):
            self.prompts += len(token_ids)
            return encode(token_ids, normalize)

        monkeypatch.setattr(clip, 'encode_text', counted)


@pytest.fixture
def counting(clip, monkeypatch):
    return Counting(clip, monkeypatch)


def embed(clip, vocabulary, templates='imagenet', **options):
    return PromptEnsemble(clip, templates, **{'cache': None, **options}).embed(vocabulary)


@torch.no_grad()
def one_by_one(clip: CLIP, word: str, templates: tuple[str, ...]) -> torch.Tensor:
    """The official order of things: encode, normalize, mean, normalize."""
    clip.eval()
    prompts = [template.replace('{}', word) for template in templates]
    rows = [F.normalize(clip.encode_text(clip.tokenizer(p))[0], dim=0) for p in prompts]
    return F.normalize(torch.stack(rows).mean(0), dim=0)


@pytest.mark.parametrize('batch_size', [1, 4, 256])
def test_official_average(clip, batch_size):
    embeddings = embed(clip, WORDS, TEMPLATES, batch_size=batch_size)
    expected = torch.stack([one_by_one(clip, word, TEMPLATES) for word, _ in WORDS.queries])
    assert_close(embeddings.queries, expected, atol=1e-6, rtol=0)
    assert embeddings.query_class.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert (embeddings.num_classes, embeddings.has_synonyms) == (4, True)


def test_sorting_over_several_chunks(clip, monkeypatch):
    monkeypatch.setattr(class_embeddings, '_SORTED_BATCHES', 1)
    words = [f'{"very " * (index % 5)}thing {index}' for index in range(11)]
    expected = torch.stack([one_by_one(clip, word, TEMPLATES) for word in words])
    assert_close(embed_texts(clip, words, TEMPLATES, batch_size=7), expected, atol=1e-6, rtol=0)


def test_named_templates_and_texts(clip):
    rows = embed_texts(clip, ['a cat', 'a dog'])
    assert_close(rows[1], one_by_one(clip, 'a dog', ('{}',)), atol=1e-6, rtol=0)
    vocabulary = Vocabulary(('cat',))
    assert_close(
        embed(clip, vocabulary, 'simple').queries,
        embed(clip, vocabulary, ['a photo of a {}.']).queries,
    )


@pytest.mark.filterwarnings('ignore:.*asked for several classes')
def test_shared_words_are_encoded_once(clip, counting):
    vocabulary = Vocabulary(('background', 'bed'), {'background': ('sky', 'bed')}, 'background')
    embeddings = embed(clip, vocabulary, TEMPLATES)
    assert counting.prompts == 2 * 3
    assert torch.equal(embeddings.queries[1], embeddings.queries[2])


def test_half_precision_weights_give_fp32(clip):
    half = build_clip(ClipSize(IMAGE, TEXT)).bfloat16()
    half.load_state_dict(clip.state_dict())
    rows = embed_texts(half, ['a cat'])
    assert rows.dtype == torch.float32
    assert_close(rows.norm(dim=-1), torch.ones(1))
    assert_close(rows, embed_texts(clip, ['a cat']), atol=0.05, rtol=0)


def test_autocast_does_not_reach_in(clip):
    expected = one_by_one(clip, 'a cat', ('{}',))
    with torch.autocast('cpu', torch.bfloat16):
        assert_close(embed_texts(clip, ['a cat'])[0], expected, atol=1e-6, rtol=0)


def test_encodes_in_evaluation_mode(clip, monkeypatch):
    modes = []
    project = clip.text.project
    monkeypatch.setattr(clip.text, 'project', lambda x: modes.append(clip.text.training) or project(x))
    embed_texts(clip.train(), ['a cat'])
    assert modes == [False]
    assert clip.text.training


def test_modes_are_left_as_found(clip):
    clip.train()
    clip.text.eval()
    clip.image.norm_post.eval()
    before = [part.training for part in clip.modules()]
    rows = embed_texts(clip, ['a cat'])
    assert [part.training for part in clip.modules()] == before
    assert not rows.requires_grad
    clip.eval()


@pytest.mark.parametrize(
    ('texts', 'templates', 'message'),
    [
        ([], 'name', 'no texts'),
        (['cat'], 'imagnet', "mean 'imagenet'"),
        (['cat'], 'no place {x}', 'exactly once'),
    ],
)
def test_refused(clip, texts, templates, message):
    with pytest.raises(InputError, match=message):
        embed_texts(clip, texts, templates)


def test_weights_that_are_not_finite(tmp_path):
    broken = build_clip(ClipSize(IMAGE, TEXT))
    torch.nn.init.constant_(broken.text.proj, torch.nan)
    with pytest.raises(InputError, match='values that are not finite'):
        embed(broken, WORDS, 'name', cache=tmp_path)
    assert not list(tmp_path.iterdir())


# The cache


def test_second_time_comes_from_disk(clip, counting, tmp_path):
    first = embed(clip, WORDS, TEMPLATES, cache=tmp_path)
    assert counting.prompts == 7 * 3
    second = embed(clip, WORDS, TEMPLATES, cache=tmp_path)
    assert counting.prompts == 7 * 3
    assert torch.equal(first.queries, second.queries)
    assert torch.equal(first.query_class, second.query_class)
    assert len(list(tmp_path.iterdir())) == 1


def test_default_folder(clip, tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path))
    embed(clip, WORDS, 'name', cache='default')
    assert [file.suffix for file in (tmp_path / 'text_embeddings').iterdir()] == ['.safetensors']


def test_no_cache_unless_asked_for(clip, tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path))
    embed(clip, WORDS, 'name')
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fresh() -> CLIP:
    torch.manual_seed(1)
    return build_clip(ClipSize(IMAGE, TEXT))


def other_activation(clip: CLIP) -> CLIP:
    other = build_clip(ClipSize(IMAGE, TEXT).with_activation('gelu'))
    other.load_state_dict(clip.state_dict())
    return other


def change_in_place(clip: CLIP) -> CLIP:
    clip.text.blocks[1].norm1.bias.data[3] += 1e-3  # past autograd, as moving averages do
    return clip


def shorter_context(clip: CLIP) -> CLIP:
    clip.tokenizer = Tokenizer(16)
    return clip


@pytest.mark.parametrize(
    ('change', 'vocabulary', 'templates', 'made_again'),
    [
        (lambda clip: clip, WORDS, ('{}',), False),
        (lambda clip: clip, replace(WORDS, novel=frozenset({'cat'})), ('{}',), False),
        (lambda clip: clip, WORDS, 'name', False),
        (lambda clip: clip, WORDS, ('a {}',), True),
        (lambda clip: clip, WORDS.subset(['cat', 'bed']), ('{}',), True),
        (lambda clip: clip, WORDS.subset(['bed', 'cat', 'background']), ('{}',), True),
        (change_in_place, WORDS, ('{}',), True),
        (other_activation, WORDS, ('{}',), True),
        (lambda clip: clip.double(), WORDS, ('{}',), True),
        (shorter_context, WORDS, ('{}',), True),
    ],
    ids=[
        'nothing', 'novel', 'template by name', 'template', 'fewer words', 'order', 'weight', 'activation',
        'dtype', 'tokenizer',
    ],
)  # fmt: skip
def test_what_the_key_is_made_of(fresh, tmp_path, change, vocabulary, templates, made_again):
    embed(fresh, WORDS, ('{}',), cache=tmp_path)
    embed(change(fresh), vocabulary, templates, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + made_again


def test_image_tower_is_not_in_the_key(fresh, tmp_path):
    embed(fresh, WORDS, 'name', cache=tmp_path)
    torch.nn.init.zeros_(fresh.image.proj)
    embed(fresh, WORDS, 'name', cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda file: file.write_bytes(b''),
        lambda file: file.write_bytes(b'<!DOCTYPE html>'),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        flip_last_byte,
        lambda file: save_file({'queries': torch.zeros(7, 8)}, file),
    ],
    ids=['empty', 'html', 'truncated', 'flipped bit', 'another file'],
)
def test_damaged_cache_is_made_again(clip, tmp_path, spoil):
    first = embed(clip, WORDS, 'name', cache=tmp_path)
    (file,) = tmp_path.iterdir()
    spoil(file)
    with pytest.warns(UserWarning, match='cannot be read from the cache and are computed again'):
        second = embed(clip, WORDS, 'name', cache=tmp_path)
    assert torch.equal(first.queries, second.queries)
    assert torch.equal(embed(clip, WORDS, 'name', cache=tmp_path).queries, first.queries)


def test_folder_that_cannot_be_written(clip, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.warns(UserWarning, match='cannot be written to the cache: cannot write'):
        embeddings = embed(clip, WORDS, 'name', cache=tmp_path / 'file')
    assert embeddings.queries.shape == (7, 8)


def test_nobodys_home(clip, monkeypatch):
    def nowhere():
        raise RuntimeError('could not determine home directory')

    monkeypatch.setattr(class_embeddings, 'cache_folder', nowhere)
    assert embed(clip, WORDS, 'name', cache='default').queries.shape == (7, 8)


def test_tokenizer_without_identity_is_not_cached(fresh, tmp_path):
    table = Tokenizer()
    fresh.tokenizer = lambda texts: table(texts).tolist()
    assert embed(fresh, WORDS, 'name', cache=tmp_path).queries.shape == (7, 8)
    assert not list(tmp_path.iterdir())


def test_writers_at_once(clip, tmp_path):
    expected = embed(clip, WORDS, 'name').queries
    results = []
    writers = [
        threading.Thread(target=lambda: results.append(embed(clip, WORDS, 'name', cache=tmp_path)))
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all(torch.allclose(result.queries, expected, atol=1e-6) for result in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_module_digest_of_content():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    assert module_digest(first) == module_digest(second)
    second.bias.data[0] += 1
    assert module_digest(first) != module_digest(second)
    assert module_digest(first) == module_digest(first.train(False))


# Parts that can be replaced


def test_prompts_are_kept_apart_on_demand(clip, counting, tmp_path):
    """And on disk, where they are not taken for those without."""
    plain = embed(clip, WORDS, TEMPLATES, cache=tmp_path)
    for _ in 'ab':
        kept = embed(clip, WORDS, TEMPLATES, cache=tmp_path, keep_templates=True)
        assert torch.equal(kept.queries, plain.queries)
        assert kept.templates.shape == (7, 3, 8)
        assert_close(F.normalize(kept.templates.mean(1), dim=-1), kept.queries)
        for row, (name, _) in enumerate(WORDS.queries):
            for column, template in enumerate(TEMPLATES):
                expected = one_by_one(clip, name, (template,))
                assert_close(kept.templates[row, column], expected, atol=1e-6, rtol=0)
    assert plain.templates is None
    assert counting.prompts == 2 * 7 * 3 + 2 * 7 * 3  # each prompt once alone, and what was encoded here


@pytest.mark.parametrize('shape', [(7, 8), (6, 3, 8), (7, 3, 9)], ids=str)
def test_kept_prompts_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r'templates must be \(Q, T, D\)'):
        ClassEmbeddings(torch.zeros(7, 8), torch.arange(7), 7, torch.zeros(shape))


def test_templates_may_be_a_function(clip, tmp_path):
    def plural(name):
        return [f'many {name}s', f'a {name}']

    found = embed(clip, WORDS, plural, cache=tmp_path)
    assert_close(found.queries[2], one_by_one(clip, 'cat', ('many {}s', 'a {}')), atol=1e-6, rtol=0)
    other = embed(clip, WORDS, lambda name: [f'few {name}s', f'a {name}'], cache=tmp_path)
    assert not torch.equal(found.queries, other.queries)
    with pytest.raises(InputError, match=r"1 prompts for 'tree' but 2 for 'sky'"):
        embed(clip, WORDS, lambda name: ['a'] if name == 'tree' else ['a', 'b'])


class OneHot:
    def __init__(self, size=9):
        self.size = size

    def embed(self, vocabulary):
        return ClassEmbeddings(torch.eye(len(vocabulary), self.size), torch.arange(len(vocabulary)), 2)


class Model:
    def __init__(self, clip=None, embedder=None):
        self.clip, self.embedder, self.templates = clip, embedder, 'vild'


def test_the_embedder_of_a_model(clip):
    given, own = OneHot(), OneHot()
    assert class_embedder(Model(clip, own), given) is given
    assert class_embedder(Model(clip, own), templates='name') is own
    assert class_embedder(Model(clip)).templates is TEMPLATE_SETS['vild']
    assert class_embedder(Model(clip), templates='name').templates is TEMPLATE_SETS['name']
    assert class_embedder(clip).templates is TEMPLATE_SETS['imagenet']
    assert class_embedder(Model(), {'type': OneHot, 'size': 5}).size == 5
    built = class_embedder(Model(clip), {'type': 'PromptEnsemble', 'templates': 'name', 'cache': None})
    assert (built.clip, built.cache) == (clip, None)


@pytest.mark.parametrize('embedder', [None, {'type': PromptEnsemble}], ids=['none', 'config'])
def test_a_model_without_text_tower_needs_an_embedder(embedder):
    with pytest.raises(InputError, match='no text tower to embed class names'):
        class_embedder(Model(), embedder)


def test_an_object_without_embed_is_refused(clip):
    with pytest.raises(InputError, match=r'must have a method embed\(vocabulary\); str does not'):
        class_embedder(clip, 'vild')


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        (('a ' * 90 + 'cat', 'a ' * 90 + 'dog'), 'are one text for the text tower'),
        (('cat', 'cats'), None),
    ],
    ids=['cut', 'two names'],
)
def test_names_that_the_text_tower_cannot_tell_apart(clip, names, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        embed(clip, Vocabulary(names), 'name')
    texts = [str(one.message) for one in caught if 'one text' in str(one.message)]
    assert len(texts) == (said is not None)


FOREIGN = [  # names, and the beginning of the warning
    (
        ('кот', 'cat', '猫'),
        "2 of 3 class names are not in Latin script, but .* English texts: 'кот', '猫'; write them",
    ),
    (('кот and a dog and a cat', 'café', '🔴', '123'), None),
    (tuple(f'слово {index}' for index in range(7)), r"7 of 7 class names .*'слово 4', \.\.\.;"),
]


@pytest.mark.parametrize(('names', 'said'), FOREIGN)
def test_names_that_an_english_tokenizer_does_not_know(clip, names, said, tmp_path):
    """Once a call, also where the embeddings come from the cache."""
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            embed(clip, Vocabulary(names), 'name', cache=tmp_path)
        texts = [str(one.message) for one in caught]
        assert len(texts) == (said is not None)
        assert not said or re.match(said, texts[0])
