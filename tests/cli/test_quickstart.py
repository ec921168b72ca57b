"""The tour, in small: every stage runs, the table has a number in each row, nothing is overwritten."""

from __future__ import annotations

import json

import pytest

from clipdense.cli.app import main
from clipdense.cli.quickstart import SPLITS, table


@pytest.fixture(scope='module')
def tour(tmp_path_factory):
    out = tmp_path_factory.mktemp('tour') / 'quickstart'
    with pytest.MonkeyPatch.context() as patch:
        # Twelve images of each split instead of hundreds: what is looked at is that everything runs.
        patch.setattr('clipdense.engine.launch.load_config', _small(patch))
        with pytest.raises(SystemExit) as left:
            main(['quickstart', '--out', str(out), '--steps', '2', '--images', '128'])
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
    for name in ('gallery.png', 'results.json', *weights, 'scenes/voc/classes.txt'):
        assert (out / name).is_file(), name


def test_every_row_has_its_number(tour):
    metrics = json.loads((tour[0] / 'results.json').read_text())
    rows = table(metrics).splitlines()
    assert len(rows) == 1 + 2 + 2 * len(SPLITS) + 3 * len(SPLITS)
    assert all(row.split()[-1].replace('.', '').isdigit() for row in rows[1:])


def test_nothing_is_overwritten(tour, capsys):
    with pytest.raises(SystemExit) as left:
        main(['quickstart', '--out', str(tour[0])])
    assert left.value.code == 2
    assert 'results.json exists: choose another --out' in capsys.readouterr().err
