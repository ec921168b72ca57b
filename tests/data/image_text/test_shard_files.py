"""Which files are the shards."""

from __future__ import annotations

import os

import pytest

from clipdense.data.image_text.shard_files import caption_members, list_shards
from clipdense.utils.errors import InputError


class TestListing:
    @pytest.mark.parametrize(
        ('urls', 'expected'),
        [
            ('{}/s-{{00..02}}.tar', [0, 1, 2]),
            ('{}/s-{{00,05}}.tar', [0, 5]),
            ('{}/s-0[13].tar', [1, 3]),
            ('{}', range(6)),
            ('{}/s-04.tar', [4]),
            ('{0}/s-04.tar::{0}/s-00.tar', [4, 0]),
            (['{}/s-05.tar', '{}/s-{{01..02}}.tar'], [5, 1, 2]),
        ],
        ids=['range', 'list in braces', 'wildcard', 'folder', 'file', 'two', 'list'],
    )
    def test_local(self, folder, urls, expected):
        urls = urls.format(folder) if isinstance(urls, str) else [url.format(folder) for url in urls]
        assert list_shards(urls) == [f'{folder}/s-{shard:02d}.tar' for shard in expected]

    @pytest.mark.parametrize(
        'url', ['memory://x.org/{0..1}.tar', 'pipe:cat x{0..1}.tar', 's3.x/a:b/{0..1}.tar']
    )
    def test_urls_are_left_alone(self, url):
        if url.startswith('s3'):
            with pytest.raises(InputError, match='does not exist'):
                list_shards(url)
        else:
            assert list_shards(url) == [url.replace('{0..1}', '0'), url.replace('{0..1}', '1')]

    def test_a_file_whose_name_looks_like_a_pattern(self, folder):
        os.rename(folder / 's-00.tar', folder / 's-[1]{a,b}.tar')
        assert list_shards(folder / 's-[1]{a,b}.tar') == [str(folder / 's-[1]{a,b}.tar')]

    @pytest.mark.parametrize(
        ('urls', 'message'),
        [
            ('{}/s-{{04..07}}.tar', r'shard .*s-06\.tar and 1 more of 4 does not exist'),
            ('{}/t-00.tar', "Did you mean 's-00.tar'"),
            ('{}/*.tgz', 'no shards in'),
            ('{}/s-{{00..01.tar', 'cannot be expanded|not there'),
            ('zzz://bucket/0.tar', 'unsupported URL scheme zzz; use file, pipe, https'),
            ([], 'no shards given'),
        ],
    )
    def test_refuses(self, folder, urls, message):
        urls = urls.format(folder) if isinstance(urls, str) else urls
        with pytest.raises(InputError, match=message):
            list_shards(urls)

    def test_refuses_a_folder_without_shards(self, tmp_path):
        with pytest.raises(InputError, match='no shards in'):
            list_shards(tmp_path)


@pytest.mark.parametrize(
    ('given', 'members'),
    [
        ('txt', ['txt']),
        (['json:text', 'txt'], ['json:text', 'txt']),
        ('en.json:text', ['en.json:text']),
        ('caption', ['caption']),
    ],
)
def test_sources_of_captions(given, members):
    assert caption_members(given) == members


@pytest.mark.parametrize('given', ['json', 'json:', 'txt:en', ':text', '', [], ['txt', None]])
def test_refuses_other_sources_of_captions(given):
    with pytest.raises(InputError, match='source of captions'):
        caption_members(given)
