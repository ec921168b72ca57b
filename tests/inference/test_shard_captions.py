"""Captions by a model for the images of shards: members, parts, damaged images, shards with captions."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from PIL import Image

from clipdense.data.image_text.filtering import filter_shards
from clipdense.data.image_text.filters import FilterRules, PairScore
from clipdense.data.image_text.shard_copies import damaged_shards
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.inference.shard_captions import caption_shards
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part


class Colors:
    """Describes an image by the level of its red; one of 77 has an empty caption."""

    def __init__(self, digest='colors'):
        self.digest, self.rules, self.calls = digest, CaptionRules(), 0

    def stream(self, images, *, batch_size='auto', on_error='raise'):
        for index, image in enumerate(images):
            self.calls += 1
            level = image.getpixel((0, 0))[0]
            if level == 99:
                on_error(index, InputError('too red'))
            else:
                yield index, Caption('' if level == 77 else f'red of {level}', -level / 100)


class Even:
    """Keeps captions of images with an even red that name it, and web captions of 'good'."""

    digest, min_score, max_score = 'even', 0.5, 1.0

    def __call__(self, images, captions):
        found = []
        for image, some in zip(images, captions, strict=True):
            level = image.getpixel((0, 0))[0]
            right = [text == 'good' or (level % 2 == 0 and text.endswith(f' {level}')) for text in some]
            found.append([PairScore(float(one), (-1.0, 1.0) if one else (1.0, -1.0)) for one in right])
        return found


def png(level):
    file = io.BytesIO()
    Image.new('RGB', (8, 8), (level, 0, 0)).save(file, 'PNG')
    return file.getvalue()


def write(path, samples):
    with tarfile.open(path, 'w') as archive:
        for key, members in samples.items():
            for ending, data in members.items():
                entry = tarfile.TarInfo(f'{key}.{ending}')
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


def members(folder):
    """Members of all shards, JSON read."""
    found = {}
    for path in sorted(folder.glob('*.tar')):
        with tarfile.open(path) as archive:
            for member in archive:
                data = archive.extractfile(member).read()
                found[f'{path.name}/{member.name}'] = (
                    json.loads(data) if member.name.endswith('json') else data
                )
    return found


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / 'shards'
    folder.mkdir()
    for shard in range(3):
        samples = {f'{shard}{at}': {'png': png(10 * shard + at), 'txt': b'good'} for at in range(4)}
        samples[f'{shard}1']['txt'] = b'bad'
        samples[f'{shard}2'] = {'png': samples[f'{shard}2']['png']}  # no caption yet
        write(folder / f'{shard}.tar', samples)
    return folder


def test_each_image_gets_a_caption_beside_its_own(shards, tmp_path):
    report = caption_shards(shards, tmp_path / 'out', Colors())
    assert (report.images, report.captions, report.empty) == (12, 12, 0)
    assert report.lines()[0] == '12 of 12 images have a synthetic caption'
    found = members(tmp_path / 'out')
    assert found['1.tar/13.synthetic.json'] == {'caption': 'red of 13', 'score': -0.13, 'source': 'synthetic'}
    assert found['1.tar/12.synthetic.json']['caption'] == 'red of 12'
    before = members(shards)
    assert {name: found[name] for name in before} == before


@pytest.mark.parametrize(
    ('caption', 'expected'),
    [
        ('txt', {'good', 'bad'}),
        (
            'synthetic.json:caption',
            {f'red of {level}' for shard in range(3) for level in range(10 * shard, 10 * shard + 4)},
        ),
        (['txt', 'synthetic.json:caption'], None),
    ],
)
def test_trainings_read_them(shards, tmp_path, caption, expected):
    caption_shards(shards, tmp_path / 'out', Colors())
    seen = []

    def tokenizer(texts):
        seen.extend(texts)
        return [[0]]

    list(ImageTextShards(tmp_path / 'out', 1, tokenizer=tokenizer, caption=caption))
    if expected is None:
        assert any(text.startswith('red') for text in seen)
        assert 'good' in seen
    else:
        assert set(seen) == expected


@pytest.mark.parametrize('order', [(1, 2), (2, 1)])
def test_parts_give_the_same_bytes(shards, tmp_path, order):
    whole = caption_shards(shards, tmp_path / 'whole', Colors())
    reports = [caption_shards(shards, tmp_path / 'parts', Colors(), Part(number, 2)) for number in order]
    assert reports == [None, whole]
    for path in sorted((tmp_path / 'whole').glob('*.tar')):
        assert path.read_bytes() == (tmp_path / 'parts' / path.name).read_bytes()


def test_it_goes_on_where_it_stopped(shards, tmp_path):
    class Stops(Colors):
        def stream(self, images, **options):
            if self.calls >= 4:
                raise KeyboardInterrupt
            yield from super().stream(images, **options)

    with pytest.raises(KeyboardInterrupt):
        caption_shards(shards, tmp_path / 'out', Stops())
    second = Colors()
    assert caption_shards(shards, tmp_path / 'out', second).captions == 12
    assert second.calls == 8
    third = Colors()
    assert caption_shards(shards, tmp_path / 'out', third).captions == 12
    assert third.calls == 0
    with pytest.raises(InputError, match='was started with another captioner'):
        caption_shards(shards, tmp_path / 'out', Colors('other'))


def test_shards_that_were_captioned_are_refused(shards, tmp_path):
    caption_shards(shards, tmp_path / 'out', Colors())
    with pytest.raises(
        InputError, match=r'0.tar/00 has a synthetic caption .*: the shards were captioned already'
    ):
        caption_shards(tmp_path / 'out', tmp_path / 'again', Colors())


def test_images_that_cannot_be_read_or_described(tmp_path):
    folder = tmp_path / 'shards'
    folder.mkdir()
    levels = {'a': png(77), 'b': b'no image', 'c': png(99), 'd': png(5)}
    write(folder / '0.tar', {key: {'png': data, 'txt': b'good'} for key, data in levels.items()})
    report = caption_shards(folder, tmp_path / 'out', Colors())
    assert report.lines()[:3] == [
        '1 of 4 images have a synthetic caption',
        '  1 caption without words',
        '  2 images that could not be read',
    ]
    found = members(tmp_path / 'out')
    assert found['0.tar/a.synthetic.json']['caption'] == ''
    assert '0.tar/b.synthetic.json' not in found
    assert found['0.tar/b.txt'] == b'good'
    with pytest.raises(InputError, match='samples'):
        caption_shards(folder, tmp_path / 'strict', Colors(), max_bad_fraction=0.0)


def test_web_and_synthetic_captions_are_filtered_apart(shards, tmp_path):
    """CapFilt: a record keeps source and both logits, and trainings read what passes."""
    caption_shards(shards, tmp_path / 'captioned', Colors())
    sources = ['txt', 'synthetic.json:caption']
    report = filter_shards(tmp_path / 'captioned', tmp_path / 'out', FilterRules(), Even(), sources)
    assert (report.samples, report.kept, report.dropped) == (12, 9, {'low score': 3})
    assert report.captions == {'web': [6, 9], 'synthetic': [6, 12]}
    assert report.lines()[-2:] == ['  6 of 9 web captions kept', '  6 of 12 synthetic captions kept']
    record = members(tmp_path / 'out')['1.tar/10.filter.json']
    assert (record['web'], record['synthetic'], record['score']) == (['good'], ['red of 10'], 1.0)
    assert record['pairs'][1] == {
        'caption': 'red of 10',
        'source': 'synthetic',
        'score': 1.0,
        'kept': True,
        'logits': [-1.0, 1.0],
    }
    seen = []

    def tokenizer(texts):
        seen.extend(texts)
        return [[0]]

    list(
        ImageTextShards(
            tmp_path / 'out', 1, tokenizer=tokenizer, caption='filter.json:synthetic', max_bad_fraction=1.0
        )
    )
    assert sorted(seen) == sorted(f'red of {level}' for level in (0, 2, 10, 12, 20, 22))
    lower = FilterRules(min_score=-1.0)
    assert filter_shards(tmp_path / 'captioned', tmp_path / 'all', lower, Even(), sources).kept == 12


def test_a_damaged_shard_ends_where_it_is_damaged(shards, tmp_path):
    data = (shards / '1.tar').read_bytes()
    (shards / '1.tar').write_bytes(data[: len(data) // 3])
    report = caption_shards(shards, tmp_path / 'out', Colors())
    (told,) = damaged_shards(tmp_path / 'out')
    assert told.startswith(f'{shards}/1.tar: damaged at byte ')
    found = [name for name in members(tmp_path / 'out') if name.endswith('synthetic.json')]
    assert 8 <= report.images == len(found) < 12
