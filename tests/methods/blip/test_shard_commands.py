"""``clipdense caption SHARDS OUT`` and ``clipdense filter SHARDS OUT --by itm``, as a user calls them."""

from __future__ import annotations

import json
import tarfile

import pytest

from clipdense.cli.app import main
from clipdense.data.scenes import write_scenes
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.tokenizer import BlipTokenizer

from .conftest import lively_blip, vocabulary_file


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, num_train=6, num_val=1)
    return folder / 'shards' / 'train'


@pytest.fixture
def matching_file(tmp_path):
    folder = tmp_path / 'matching'
    folder.mkdir()
    model = lively_blip(decoder=False)
    model.tokenizer = BlipTokenizer(model.text_size, vocabulary_file(folder))
    save(model, folder / 'matching.safetensors')
    return folder / 'matching.safetensors'


def records(folder, ending):
    found = []
    for path in sorted(folder.glob('*.tar')):
        with tarfile.open(path) as archive:
            found += [json.load(archive.extractfile(one)) for one in archive if one.name.endswith(ending)]
    return found


def test_caption_and_filter(capsys, shards, captioning_file, matching_file, tmp_path):
    out, best = tmp_path / 'out', tmp_path / 'best'
    arguments = ('caption', shards, out, '-w', captioning_file, '--search', 'nucleus', '--device', 'cpu')
    status, printed, err = run(capsys, *arguments)
    assert status == 0, err
    assert printed.startswith(f'{out}: 6 of 6 images have a synthetic caption\n')
    assert run(capsys, *arguments)[:2] == (0, printed)
    assert len(records(out, 'synthetic.json')) == 6
    given = ('filter', out, best, '-w', matching_file, '--captions', 'txt, synthetic.json:caption')
    status, printed, err = run(capsys, *given, '--by', 'itm', '--min-score', '0')
    assert status == 0, err
    assert '6 of 6 samples kept' in printed
    assert '6 of 6 web captions kept' in printed
    for record in records(best, 'filter.json'):
        assert [pair['source'] for pair in record['pairs']] == ['web', 'synthetic']
        assert all(len(pair['logits']) == 2 for pair in record['pairs'])
    status, printed, err = run(
        capsys, *given[:2], tmp_path / 'itc', *given[3:], '--by', 'itc', '--min-score', '2'
    )
    assert (status, 'min_score=2 drops all pairs' in err) == (2, True)
    scores = sorted(record['score'] for record in records(out, 'synthetic.json'))
    given = ('filter', out, tmp_path / 'sure', '--captions', 'txt, synthetic.json:caption')
    status, printed, err = run(capsys, *given, f'--min-caption-score={scores[3]}')
    assert status == 0, err
    assert '6 of 6 web captions kept' in printed
    assert '3 of 6 synthetic captions kept' in printed
    assert sum(map(len, (record['synthetic'] for record in records(tmp_path / 'sure', 'filter.json')))) == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('SHARDS',), 'shards are captioned into one output folder; add it: clipdense caption SHARDS OUT'),
        (('SHARDS', 'a', 'b'), 'shards are captioned into one output folder; got 2'),
        (('SHARDS', 'SHARDS'), 'contains the input'),
        (
            ('SHARDS', 'OUT', '--out', 'a.csv'),
            '--out is for captions of images; the output folder of shards is',
        ),
        (('IMAGES', '--part', '1/2'), '--part is for shards: clipdense caption SHARDS OUT --part I/N'),
        (('SHARDS', 'OUT', '--part', '3/2'), 'a part is I/N'),
        (('no.tar', 'OUT'), 'shard no.tar does not exist'),
        (('SHARDS', 'OUT', '--min-length', '20', '--max-length', '5'), 'min_length=20 is more than'),
    ],
)
def test_wrong_calls(capsys, shards, captioning_file, tmp_path, arguments, message):
    places = {'SHARDS': shards, 'OUT': tmp_path / 'out', 'IMAGES': shards.parent.parent / 'voc/JPEGImages'}
    given = [places.get(one, one) for one in arguments]
    status, printed, err = run(capsys, 'caption', *given, '-w', captioning_file, '--device', 'cpu')
    assert (status, printed) == (2, '')
    assert message in err
    assert not (tmp_path / 'out').exists()


def test_weights_that_do_not_fit(capsys, shards, captioning_file, matching_file, tmp_path):
    out = tmp_path / 'out'
    status, _, err = run(capsys, 'filter', shards, out, '--by', 'itm', '-w', captioning_file)
    assert (status, 'no matching head: use weights for retrieval' in err) == (2, True), err
    status, _, err = run(capsys, 'filter', shards, out, '--by', 'itm', '-w', 'embedded')
    assert (status, '--by itm needs the weights of a BLIP, got CLIP' in err) == (2, True), err
    status, _, err = run(capsys, 'filter', shards, out, '--by', 'clip', '-w', matching_file)
    assert (status, '--by clip needs the weights of a CLIP, got Blip' in err) == (2, True), err
    status, _, err = run(capsys, 'caption', shards, out, '-w', matching_file)
    assert (status, 'cannot generate text' in err) == (2, True), err
    assert not out.exists()
