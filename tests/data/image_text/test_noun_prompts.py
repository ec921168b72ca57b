"""Prompts made of nouns, drawn from captions and kept in shards."""

from __future__ import annotations

import io
import json
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.image_text.datasets import ImageTextPairs
from clipdense.data.image_text.noun_prompts import NounPrompts, add_nouns, phrase_number
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.transforms import CenterCrop
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part
from clipdense.vocab.noun_phrases import NounExtractor


class Spelling:
    """A tokenizer that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[len(text), 49] for text in texts])


def prompts(**options):
    return NounPrompts(
        **{'templates': ['a {}', 'the {}'], 'kind': 'phrase', 'tokenizer': Spelling(), **options}
    )


@pytest.mark.parametrize(
    ('caption', 'expected'),
    [
        ('a red star and a dog', {'red star', 'dog'}),
        ('a dog, a cat, a bird, a horse', {'dog', 'cat', 'bird', 'horse'}),
        ('quietly', set()),
    ],
)
def test_prompts_are_drawn_and_gaps_filled_with_the_caption(caption, expected):
    maker = prompts()
    items = maker.caption_items(caption, random.Random(0))
    assert items['prompt_ids'].shape == (3, 2)
    assert items['phrases'].shape == (3,)
    asked = maker.tokenizer.asked
    drawn = [text for text in asked if text != caption]
    assert len(drawn) == min(3, len(expected))
    assert {text.partition(' ')[2] for text in drawn} <= expected
    assert asked.count(caption) == 3 - len(drawn)


def test_a_phrase_has_one_number_whatever_its_template():
    maker = prompts(count=2)
    first = maker.caption_items('a dog', random.Random(0))['phrases']
    second = maker.caption_items('the dog', random.Random(5))['phrases']
    assert first[0] == second[0] == phrase_number('dog')
    assert first[1] != second[1], 'the captions differ'


def test_it_depends_on_the_generator_alone():
    def draw(seed):
        maker = prompts(count=1)
        maker.caption_items('a dog, a cat, a bird, a horse', random.Random(seed))
        return maker.tokenizer.asked

    assert draw(3) == draw(3)
    assert len({tuple(draw(seed)) for seed in range(20)}) > 3


def test_pairs_carry_prompts(tmp_path):
    path = str(tmp_path / 'a.png')
    Image.new('RGB', (6, 6)).save(path)
    data = ImageTextPairs([(path, ['a dog and a cat'])] * 4, CenterCrop(4), NounPrompts(count=2))
    batch = next(iter(DataLoader(data, 4, collate_fn=collate)))
    assert batch['prompt_ids'].shape == (4, 2, 77)
    assert batch['phrases'].dtype == torch.int64
    assert set(batch['phrases'].flatten().tolist()) == {phrase_number('dog'), phrase_number('cat')}


@pytest.fixture
def shard(tmp_path):
    folder = tmp_path / 'raw'
    folder.mkdir()
    image = io.BytesIO()
    Image.new('RGB', (6, 6)).save(image, 'PNG')
    with tarfile.open(folder / '000.tar', 'w') as tar:
        for number, caption in enumerate(['a red star', 'a dog', 'quietly', '']):
            members = {
                'png': image.getvalue(),
                'txt': caption.encode(),
                'json': json.dumps({'alt': [caption, 'a cat']}).encode(),
            }
            for kind, content in members.items():
                info = tarfile.TarInfo(f'{number:03d}.{kind}')
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def stream(urls, maker):
    return ImageTextShards(str(urls), 1, CenterCrop(4), maker, shuffle=0, max_bad_fraction=0.5)


def test_shards_keep_the_nouns(shard, tmp_path, monkeypatch):
    kept = add_nouns(str(shard), tmp_path / 'nouns', NounExtractor('phrase'), max_bad_fraction=0.5)
    plain = list(stream(shard, prompts()))
    maker = prompts()
    monkeypatch.setattr(maker, 'extract', RulesOnly())
    cached = list(stream(kept[0].parent, maker))
    assert len(plain) == len(cached) == 3, 'the blank caption is left out, as without nouns'
    for first, second in zip(plain, cached, strict=True):
        assert torch.equal(first['phrases'], second['phrases'])
        assert torch.equal(first['prompt_ids'], second['prompt_ids'])
    again = add_nouns(str(kept[0].parent), tmp_path / 'twice', NounExtractor('phrase'), max_bad_fraction=0.5)
    with tarfile.open(again[0]) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)), 'nouns that were there are replaced'


def three_shards(folder, shard):
    for name in ('000', '001', '002'):
        (folder / f'{name}.tar').write_bytes((shard / '000.tar').read_bytes())
    return str(folder)


def test_parts_give_the_same_bytes(shard, tmp_path):
    urls, settings = three_shards(shard, shard), {'max_bad_fraction': 0.5}
    whole = add_nouns(urls, tmp_path / 'whole', NounExtractor(), **settings)
    for number in (2, 1):
        add_nouns(urls, tmp_path / 'parts', NounExtractor(), part=Part(number, 2), **settings)
        if number == 2:
            with pytest.raises(InputError, match=r'is incomplete: run part 1/2 of `clipdense nouns`'):
                stream(tmp_path / 'parts', prompts())
    for path in whole:
        assert (tmp_path / 'parts' / path.name).read_bytes() == path.read_bytes()
    assert len(list(stream(tmp_path / 'parts', prompts()))) == 9


def test_an_interrupted_call_goes_on(shard, tmp_path, monkeypatch):
    urls, settings, asked = three_shards(shard, shard), {'max_bad_fraction': 0.5}, []

    class Stops(NounExtractor):
        def __call__(self, caption):
            asked.append(caption)
            if len(asked) == 4:
                raise KeyboardInterrupt
            return super().__call__(caption)

    with pytest.raises(KeyboardInterrupt):
        add_nouns(urls, tmp_path / 'out', Stops(), **settings)
    with pytest.raises(InputError, match='is incomplete'):
        stream(tmp_path / 'out', prompts())
    add_nouns(urls, tmp_path / 'out', Stops(), **settings)
    assert len(asked) == 4 + 6, 'the first shard is not read again'
    add_nouns(urls, tmp_path / 'out', Stops(), **settings)
    assert len(asked) == 4 + 6, 'all is done'
    with pytest.raises(InputError, match='another rules'):
        add_nouns(urls, tmp_path / 'out', NounExtractor('word'), **settings)


class RulesOnly:
    """An extractor that must not be asked."""

    kind, tagger, ignore = 'phrase', 'lemminflect', NounExtractor().ignore

    def __call__(self, caption):
        raise AssertionError(f'{caption} was looked up again')


def test_nouns_by_other_rules_are_not_used(shard, tmp_path, monkeypatch):
    kept = add_nouns(
        str(shard), tmp_path / 'nouns', NounExtractor('phrase'), 'json:alt', max_bad_fraction=0.5
    )
    told = []
    monkeypatch.setattr(
        'clipdense.data.image_text.noun_prompts.print_log', lambda text, **_: told.append(text)
    )
    words = [item['phrases'][0].item() for item in stream(kept[0].parent, prompts(kind='noun', count=1))]
    assert words[0] == phrase_number('star')
    (line,) = told
    assert '`clipdense nouns --kind noun`' in line


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda shard: NounPrompts(count=0), 'must be at least 1, got 0'),
        (lambda shard: add_nouns(str(shard), shard, NounExtractor()), 'would overwrite the source'),
        (
            lambda shard: add_nouns([str(shard), str(shard)], shard / 'x', NounExtractor()),
            'the same file name',
        ),
        (lambda shard: add_nouns(str(shard / 'none.tar'), shard / 'x', NounExtractor()), 'does not exist'),
        (lambda shard: add_nouns(str(shard), shard / '000.tar' / 'x', NounExtractor()), 'cannot write'),
    ],
)
def test_refusals(shard, call, message):
    with pytest.raises(InputError, match=message):
        call(shard)


def test_links_are_copied_and_sparse_files_refused(shard, tmp_path):
    path = shard / '000.tar'
    end = path.read_bytes().rstrip(b'\0')
    end += bytes(-len(end) % 512)
    link = tarfile.TarInfo('zzz.cls')
    link.type, link.linkname = tarfile.SYMTYPE, '000.png'
    path.write_bytes(end + link.tobuf() + bytes(1024))
    (copied,) = add_nouns(str(shard), tmp_path / 'nouns', NounExtractor(), max_bad_fraction=0.9)
    with tarfile.open(copied) as tar:
        assert tar.getmember('zzz.cls').linkname == '000.png'
    sparse = tarfile.TarInfo('zzz.png')
    sparse.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b'\x80' + (20 << 30).to_bytes(11, 'big')
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    path.write_bytes(end + bytes(block) + bytes(1024))
    with pytest.raises(InputError, match=r'zzz\.png is a sparse file of 21475 MB'):
        add_nouns(str(shard), tmp_path / 'sparse', NounExtractor(), max_bad_fraction=0.9)
