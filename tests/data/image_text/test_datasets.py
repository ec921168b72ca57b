"""Images with captions from tables and from COCO's files."""

from __future__ import annotations

import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.image_text.datasets import CocoCaptions, CsvPairs, PackedStrings
from clipdense.data.transforms import CenterCrop, TrainCrop
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.vocab.tokenizer import Tokenizer

CROP = CenterCrop(8)
COLORS = {'red': (250, 0, 0), 'green': (0, 250, 0), 'blue': (0, 0, 250), 'gray': (90, 90, 90)}


@pytest.fixture
def folder(tmp_path):
    """A folder with a PNG of each color, a broken image, and a table of the colors."""
    for name, color in COLORS.items():
        Image.new('RGB', (12, 10), color).save(tmp_path / f'{name}.png')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'red.png').read_bytes()[:40])
    write(
        tmp_path / 'pairs.tsv',
        [['filepath', 'title'], *([f'{name}.png', f'a {name} box'] for name in COLORS)],
    )
    return tmp_path


@pytest.fixture
def log(monkeypatch):
    """Lines that were logged."""
    lines = []
    monkeypatch.setattr('clipdense.data.faults.print_log', lambda line, logger, level: lines.append(line))
    return lines


def write(path, rows, separator='\t', encoding='utf-8'):
    path.write_text(''.join(separator.join(row) + '\n' for row in rows), encoding=encoding)
    return path


def color_of(item):
    """Name of the color that fills an image."""
    middle = item['images'][:, 4, 4].tolist()
    return next(name for name, color in COLORS.items() if np.allclose(middle, color, atol=2))


def caption_of(item):
    text = Tokenizer().decode(item['token_ids'].tolist())
    return text.replace('<|startoftext|>', '').partition('<|endoftext|>')[0].strip()


class TestCsvPairs:
    def test_items(self, folder):
        dataset = CsvPairs(folder / 'pairs.tsv', transform=CROP)
        assert len(dataset) == 4
        for index, name in enumerate(COLORS):
            item = dataset[index]
            assert (item['images'].shape, item['images'].dtype) == ((3, 8, 8), torch.uint8)
            assert (item['token_ids'].shape, item['token_ids'].dtype) == ((77,), torch.int64)
            assert (color_of(item), caption_of(item)) == (name, f'a {name} box')

    def test_without_a_transform_images_keep_their_size(self, folder):
        assert CsvPairs(folder / 'pairs.tsv')[0]['images'].shape == (3, 10, 12)

    def test_from_a_config_with_another_tokenizer(self, folder):
        dataset = DATASETS.build(
            {
                'type': 'CsvPairs',
                'path': folder / 'pairs.tsv',
                'transform': {'type': 'TrainCrop', 'size': 6},
                'tokenizer': {'type': Tokenizer, 'context_length': 9},
            }
        )
        assert dataset[1]['images'].shape == (3, 6, 6)
        assert dataset[1]['token_ids'].shape == (9,)

    @pytest.mark.parametrize(
        ('text', 'settings', 'captions'),
        [
            ('image,caption\nred.png,"a, b"\n', {'separator': ','}, ['a, b']),
            ('\ufeffimage\tcaption\r\nred.png\tone\r\n\r\nblue.png\ttwo\r\n', {}, ['one', 'two']),
            ('image\tcaption\nred.png\t"two\nlines"\n', {}, ['two\nlines']),
            ('image\tcaption\nred.png\tgrün 😀 ×\n', {}, ['grün 😀 ×']),
            ('image\tother\tcaption\textra\nred.png\tx\t y \tz\n', {}, ['y']),
        ],
        ids=['commas', 'windows', 'line break', 'unicode', 'more columns'],
    )
    def test_tables(self, folder, text, settings, captions):
        (folder / 'x.csv').write_bytes(text.encode())
        dataset = CsvPairs(folder / 'x.csv', 'image', 'caption', **settings)
        assert [dataset.captions_of(index)[0] for index in range(len(dataset))] == captions

    def test_several_caption_columns_take_turns(self, folder):
        rows = [['f', 'title', 'text'], ['red.png', 'one', 'two'], ['blue.png', 'three', '']]
        dataset = CsvPairs(write(folder / 'x', rows), 'f', ['title', 'text'], transform=CROP)
        assert [dataset.captions_of(index) for index in range(2)] == [['one', 'two'], ['three']]
        seen = [set(), set()]
        for epoch in range(20):
            dataset.set_epoch(epoch)
            for index in range(2):
                seen[index].add(caption_of(dataset[index]))
        assert seen == [{'one', 'two'}, {'three'}]

    def test_rows_of_one_image_are_grouped_on_demand(self, folder):
        rows = [['f', 't'], ['red.png', 'one'], ['blue.png', 'two'], ['red.png', 'three']]
        path = write(folder / 'x', rows)
        assert len(CsvPairs(path, 'f', 't')) == 3
        grouped = CsvPairs(path, 'f', 't', group=True)
        assert [grouped.captions_of(index) for index in range(len(grouped))] == [['one', 'three'], ['two']]

    def test_bad_rows_are_counted_and_left_out(self, folder, log):
        path = folder / 'x'
        path.write_bytes(
            b'f\tt\nred.png\tgood\nblue.png\t\n\tlost\nblue.png\ncaf\xe9\tcaf\xe9\ngray.png\tgood too\n'
        )
        dataset = CsvPairs(path, 'f', 't')
        assert [dataset.captions_of(index) for index in range(len(dataset))] == [['good'], ['good too']]
        assert [int(line.rpartition('line ')[2]) for line in log[:-1]] == [3, 4, 5, 6]
        assert log[-1] == f'4 of 6 rows could not be used in {path}'
        assert dataset.rows == (6, 4)

    def test_file_names_that_are_no_text(self, folder):
        name = os.fsdecode(b'caf\xe9.png')
        try:
            os.rename(folder / 'red.png', folder / name)
        except OSError:
            pytest.skip('this file system takes only UTF-8')
        (folder / 'x').write_bytes(b'f\tt\ncaf\xe9.png\tred\n')
        assert color_of(CsvPairs(folder / 'x', 'f', 't', transform=CROP)[0]) == 'red'

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('filepath,title\nred.png,x\n', "no column 'filepath'.*change the separator"),
            ('filepath\tcaption\tTitle\nred.png\tx\ty\n', "no column 'title'.*Did you mean 'Title'"),
            ('', "no column 'filepath'"),
            ('filepath\ttitle\n', 'no row with both an image and a caption'),
            ('filepath\ttitle\n' + 'red.png\t\n' * 12, '11 of 11 rows could not be used'),
            ('filepath\ttitle\n' + 'x' * 200_000 + '\ty\n', r'line 2.*image is not the name of a file'),
        ],
        ids=['separator', 'column', 'empty', 'no rows', 'too many bad', 'path too long'],
    )
    def test_refuses(self, folder, text, message):
        (folder / 'x').write_text(text)
        with pytest.raises(InputError, match=message):
            CsvPairs(folder / 'x')

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'image_key': 0, 'caption_key': 1}, 'must be names of columns, got 0 and 1'),
            ({'caption_key': []}, 'must be names of columns'),
            ({'seperator': ','}, "CsvPairs has no option 'seperator'.*Did you mean 'separator'"),
            ({'max_bad_fraction': '1 %'}, "must be between 0 and 1, got '1 %'"),
            ({'max_bad_fraction': None}, 'must be between 0 and 1, got None'),
        ],
    )
    def test_refuses_settings(self, folder, settings, message):
        with pytest.raises(InputError, match=message):
            DATASETS.build({'type': 'CsvPairs', 'path': folder / 'pairs.tsv', **settings})

    def test_images_that_are_no_files_are_counted(self, folder):
        os.mkfifo(folder / 'pipe.png')
        (folder / 'zero.png').symlink_to('/dev/zero')
        (folder / 'loop.png').symlink_to('loop.png')
        (folder / 'folder.png').mkdir()
        names = ['pipe', 'zero', 'loop', 'folder', 'red.png/x', 'n' * 300]
        rows = [['filepath', 'title'], ['red.png', 'x'], *([f'{name}.png', 'x'] for name in names)]
        dataset = CsvPairs(write(folder / 'x', rows), transform=CROP, max_bad_fraction=1).unreplaced()
        assert [dataset[index]['index'] for index in range(7)] == [0, *[-1] * 6]
        assert dataset.faults.causes == {'image': 6}

    def test_refuses_a_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r'absent\.csv does not exist'):
            CsvPairs(tmp_path / 'absent.csv')


@pytest.mark.parametrize(
    'name', ['../red.png', '/etc/red.png', 'a/../../red.png', '..\\red.png', 'C:\\red.png', '']
)
@pytest.mark.parametrize('kind', ['csv', 'coco'])
def test_no_path_leaves_the_root(folder, kind, name):
    (folder / 'root').mkdir()
    if kind == 'csv':
        table = write(folder / 'x', [['f', 't'], [name, 'x']])
        open_it = partial(CsvPairs, table, 'f', 't', root=folder / 'root')
    else:
        open_it = partial(CocoCaptions, coco(folder, {1: name}, [(1, 'x')]), folder / 'root')
    with pytest.raises(InputError, match='no row' if kind == 'csv' and not name else 'is outside'):
        open_it()


@pytest.mark.parametrize('name', ['below/red.png', 'below\\red.png', './below/red.png'])
def test_paths_below_the_root(folder, name):
    (folder / 'below').mkdir()
    os.rename(folder / 'red.png', folder / 'below' / 'red.png')
    dataset = CsvPairs(write(folder / 'x', [['f', 't'], [name, 'x']]), 'f', 't', root=folder, transform=CROP)
    assert color_of(dataset[0]) == 'red'


def test_without_a_root_paths_may_be_absolute(folder, tmp_path_factory):
    table = write(tmp_path_factory.mktemp('other') / 'x', [['f', 't'], [str(folder / 'blue.png'), 'x']])
    assert color_of(CsvPairs(table, 'f', 't', transform=CROP)[0]) == 'blue'


class TestBrokenImages:
    def table(self, folder, names):
        return write(folder / 'x', [['f', 't'], *([name, name] for name in names)])

    def test_the_next_good_one_takes_the_place(self, folder, log):
        names = ['red.png', 'broken.png', 'absent.png', 'blue.png', 'broken.png']
        dataset = CsvPairs(self.table(folder, names), 'f', 't', transform=CROP)
        items = [dataset[index] for index in range(5)]
        assert [color_of(item) for item in items] == ['red', 'blue', 'blue', 'blue', 'red']
        assert caption_of(items[1]) == 'blue . png'
        assert (dataset.faults.seen, dataset.faults.lost) == (9, 4)
        assert [line.rpartition('/')[2].split()[0].rstrip(':') for line in log] == [
            *('broken.png', 'absent.png', 'absent.png', 'broken.png')
        ]

    def test_too_many_end_the_run(self, folder):
        dataset = CsvPairs(self.table(folder, ['red.png'] + ['broken.png'] * 20), 'f', 't', transform=CROP)
        with pytest.raises(InputError, match=r'images could not be used.*broken\.png'):
            dataset[1]

    def test_none_is_good(self, folder):
        dataset = CsvPairs(self.table(folder, ['broken.png'] * 3), 'f', 't', transform=CROP)
        with pytest.raises(InputError, match='none of the 3 images'):
            dataset[0]

    def test_a_new_epoch_has_a_new_budget(self, folder):
        dataset = CsvPairs(self.table(folder, ['red.png', 'broken.png']), 'f', 't', transform=CROP)
        for epoch in range(30):
            dataset.set_epoch(epoch)
            assert color_of(dataset[1]) == 'red'


class TestRandomness:
    @pytest.fixture
    def dataset(self, folder):
        noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(noise).save(folder / 'noise.png')
        rows = [['f', 't'], *(['noise.png', f'caption {index}'] for index in range(8))]
        return CsvPairs(write(folder / 'x', rows), 'f', 't', transform=TrainCrop(8, scale=(0.2, 1)), seed=3)

    def epoch(self, dataset, number, workers=0, **settings):
        dataset.set_epoch(number)
        loader = DataLoader(dataset, 3, num_workers=workers, collate_fn=collate, **settings)
        return torch.cat([batch['images'] for batch in loader])

    @pytest.mark.parametrize('workers', [1, 2, 3])
    def test_does_not_depend_on_workers(self, dataset, workers):
        assert torch.equal(self.epoch(dataset, 5), self.epoch(dataset, 5, workers))

    def test_depends_on_epoch_index_and_seed(self, dataset, folder):
        first, other = self.epoch(dataset, 0), self.epoch(dataset, 1)
        assert torch.equal(first, self.epoch(dataset, 0))
        assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert len({crop.numpy().tobytes() for crop in first}) == 8
        dataset.seed = 4
        assert not torch.equal(first, self.epoch(dataset, 0))

    def test_workers_that_persist_follow_the_epoch(self, dataset):
        loader = DataLoader(dataset, 8, num_workers=1, persistent_workers=True, collate_fn=collate)
        found = []
        for epoch in (0, 1, 0):
            dataset.set_epoch(epoch)
            found.append(next(iter(loader))['images'])
        assert not torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


def coco(folder, images, captions):
    """A COCO file of {id: file name} and [(image id, caption)]."""
    content = {
        'info': {},
        'images': [{'id': key, 'file_name': name, 'width': 12, 'height': 10} for key, name in images.items()],
        'annotations': [
            {'id': i, 'image_id': key, 'caption': text} for i, (key, text) in enumerate(captions)
        ],
    }
    (folder / 'captions.json').write_text(json.dumps(content))
    return folder / 'captions.json'


class TestCocoCaptions:
    IMAGES = {7: 'red.png', 3: 'blue.png'}  # noqa: RUF012

    def test_each_epoch_shows_one_caption(self, folder):
        captions = [(7, 'one'), (3, 'four'), (7, 'two'), (7, ' three\n')]
        dataset = CocoCaptions(coco(folder, self.IMAGES, captions), folder, CROP)
        assert [dataset.captions_of(index) for index in range(2)] == [['one', 'two', 'three'], ['four']]
        seen = []
        for epoch in range(60):
            dataset.set_epoch(epoch)
            assert color_of(dataset[0]) == 'red'
            seen.append(caption_of(dataset[0]))
            assert caption_of(dataset[1]) == 'four'
        assert {name: seen.count(name) > 8 for name in seen} == {'one': True, 'two': True, 'three': True}
        dataset.set_epoch(11)
        assert caption_of(dataset[0]) == seen[11]

    def test_what_does_not_fit_together_is_counted(self, folder, log):
        images = {**self.IMAGES, 5: 'absent.png', 6: 'green.png'}
        captions = [(7, 'one'), (3, ''), (3, None), (5, 'lost'), (6, 'two'), (99, 'nobody')]
        dataset = CocoCaptions(coco(folder, images, captions), folder, CROP)
        assert [color_of(dataset[index]) for index in range(len(dataset))] == ['red', 'green']
        output = '\n'.join(log)
        assert 'absent.png' in output
        assert 'image 3' in output
        assert 'image_id 99' in output

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('{"images": [', 'not valid JSON'),
            ('[]', 'not JSON in COCO format'),
            ('{"images": []}', "'annotations' is missing"),
            ('{"images": [{"id": 1}], "annotations": []}', "'file_name' is missing"),
            ('{"images": [], "annotations": []}', 'no image of'),
            (
                json.dumps({'images': [{'id': 1, 'file_name': 'red.png'}] * 2, 'annotations': []}),
                'duplicate id',
            ),
        ],
    )
    def test_refuses(self, folder, content, message):
        (folder / 'x.json').write_text(content)
        with pytest.raises(InputError, match=message):
            CocoCaptions(folder / 'x.json', folder)

    def test_too_many_missing_images_end_it_before_training(self, folder):
        images = {key: f'{key}.png' for key in range(20)}
        path = coco(folder, images, [(key, 'x') for key in images])
        with pytest.raises(InputError, match='missing image'):
            CocoCaptions(path, folder)


def test_packed_strings_keep_everything():
    strings = ['', 'a', 'ß😀', 'tab\tline\n', os.fsdecode(b'caf\xe9'), '']
    packed = PackedStrings()
    for string in strings:
        packed.append(string)
    assert [packed[index] for index in range(len(packed))] == strings
