"""The tour, in small: every stage runs, the table has a number in each row, nothing is overwritten."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from clipdense.cli.app import main
from clipdense.cli.photographs import installed_photographs
from clipdense.cli.quickstart import SPLITS, table


@pytest.fixture(scope='module')
def photo(tmp_path_factory, embedded_cache):
    """A photograph of a cat, small."""
    path = tmp_path_factory.mktemp('photo') / 'cat.jpg'
    image = Image.open(installed_photographs()[0].file).convert('RGB')
    image.resize((120, 80)).save(path)
    return path


@pytest.fixture(scope='module')
def tour(tmp_path_factory, embedded_cache, photo):
    out = tmp_path_factory.mktemp('tour') / 'quickstart'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CLIPDENSE_CACHE', str(embedded_cache))
        # Twelve images of each split instead of hundreds: what is looked at is that everything runs.
        patch.setattr('clipdense.engine.launch.load_config', _small(patch))
        own = ['--photo', str(photo), '--classes', 'cat, sofa']
        with pytest.raises(SystemExit) as left:
            main(['quickstart', '--out', str(out), '--steps', '2', '--images', '128', *own])
    return out, left.value.code


def _small(patch):
    from clipdense.engine import launch

    load = launch.load_config

    def load_small(config, *how):
        cfg = load(config, *how)
        if 'num_val' in cfg:
            cfg.num_val = 12
            for hook in cfg.custom_hooks.values():
                for evaluation in hook.get('evaluations', {}).values():
                    part = evaluation.get('dataset', evaluation)
                    part['num_images'] = 12
        return cfg

    return load_small


def test_it_ends_well_and_leaves_everything(tour):
    out, status = tour
    assert not status
    weights = ('train/clip.safetensors', 'lseg/lseg.safetensors')
    for name in ('photographs.jpg', 'gallery.png', 'results.json', *weights, 'scenes/voc/classes.txt'):
        assert (out / name).is_file(), name


def test_every_row_has_its_number(tour):
    metrics = json.loads((tour[0] / 'results.json').read_text())
    rows = table(metrics).splitlines()
    assert len(rows) == 1 + 2 + 2 * len(SPLITS) + 3 * len(SPLITS)
    assert all(row.split()[-1].replace('.', '').isdigit() for row in rows[1:])


def test_photographs_only(photo, embedded_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(embedded_cache))
    run = ['quickstart', '--photo', str(photo), '-c', 'cat, rocket', '--tour', 'none', '--out', str(tmp_path)]
    with pytest.raises(SystemExit) as left:
        main(run)
    assert not left.value.code
    assert [path.name for path in tmp_path.iterdir()] == ['photographs.jpg']
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith('cat.jpg')
    assert line.split()[1] == 'cat'  # the first of the top three names
    with pytest.raises(SystemExit) as left:
        main(run)
    assert 'photographs.jpg exists' in capsys.readouterr().err


def test_four_photographs_are_installed(embedded_cache):
    photographs = installed_photographs()
    assert [one.file.stem for one in photographs] == ['chelsea', 'coffee', 'astronaut', 'rocket']
    assert all(len(set(one.names)) == len(one.names) > 1 for one in photographs)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--photo', 'cat.jpg'], 'give a photograph and its class names'),
        (['--classes', 'cat, dog'], 'give a photograph and its class names'),
        (['--photo', 'no_such.jpg', '--classes', 'cat, dog'], 'no_such.jpg'),
        (['--tour', 'long'], "'long' is not one of"),
    ],
)
def test_wrong_options(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(['quickstart', '--out', str(tmp_path / 'out'), *options])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_nothing_is_overwritten(tour, capsys):
    with pytest.raises(SystemExit) as left:
        main(['quickstart', '--out', str(tour[0])])
    assert left.value.code == 2
    assert 'photographs.jpg exists' in capsys.readouterr().err
