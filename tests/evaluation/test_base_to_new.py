"""Base and new accuracy, harmonic mean, spread over seeds, and the evaluation of a trained classifier."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from clipdense.clip.preprocess import Preprocess
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine import EvaluationHook
from clipdense.evaluation.base_to_new import BaseToNew, ClassifierAccuracy, FewShotRow, FewShotTable, Spread
from clipdense.utils.errors import InputError

COLORS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}


class ColorModel(torch.nn.Module):
    """Answers with the class whose name is the strongest color, and never with green."""

    def __init__(self, names=('red', 'blue')):
        super().__init__()
        self.clip = SimpleNamespace(preprocess=Preprocess.named('openai', 8))
        self.data_preprocessor = ImagePreprocessor()
        self.class_names = tuple(names)

    def set_classes(self, names):
        if 'purple' in names:
            raise InputError('the context of purple was not learned')
        self.class_names = tuple(names)

    def forward(self, images):
        assert not self.training
        means = dict(zip(('red', 'green', 'blue'), images.mean(dim=(2, 3)).T, strict=True))
        means['green'] = torch.full_like(means['red'], -9)
        return torch.stack([means[name] for name in self.class_names], 1)


@pytest.fixture
def folder(tmp_path):
    for name, color in COLORS.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new('RGB', (9, 12), color).save(tmp_path / name / f'{number}.png')
    return tmp_path


class TestBaseToNew:
    @pytest.mark.parametrize(
        ('base', 'new', 'mean'),
        [(0.8269, 0.6322, 0.7166), (0.8228, 0.7514, 0.7855), (1, 0, 0), (0, 0, 0), (0.5, 0.5, 0.5)],
    )
    def test_harmonic_mean(self, base, new, mean):
        """The first two are the published averages of CoOp and MaPLe."""
        assert BaseToNew(base, new).harmonic_mean == pytest.approx(mean, abs=5e-5)

    @pytest.mark.parametrize('value', [82.69, -0.1, float('nan'), '0.5', None, True])
    def test_refuses(self, value):
        with pytest.raises(InputError, match='base must be an accuracy of 0 to 1'):
            BaseToNew(value, 0.5)


class TestTable:
    rows = (
        FewShotRow('zero-shot', 0, (BaseToNew(0.5, 0.25),)),
        FewShotRow('CoOp', 16, (BaseToNew(0.9, 0.1), BaseToNew(0.7, 0.3))),
    )

    def test_markdown(self):
        assert FewShotTable(self.rows).markdown().splitlines()[2:] == [
            '| zero-shot | - | 50.0 | 25.0 | 33.3 | 1 |',
            '| CoOp | 16 | 80.0 ± 14.1 | 20.0 ± 14.1 | 32.0 ± 17.0 | 2 |',
        ]

    def test_the_harmonic_mean_is_that_of_the_means(self):
        row = self.rows[1]
        assert row.harmonic_mean == pytest.approx(0.32)
        assert row.harmonic_means.mean == pytest.approx((0.18 + 0.42) / 2)

    def test_json_and_back(self):
        table = FewShotTable(self.rows)
        assert FewShotTable.from_json(table.to_json()) == table

    @pytest.mark.parametrize(
        ('make', 'message'),
        [
            (lambda: FewShotTable(TestTable.rows[:1] * 2), "'zero-shot' with 0 shots twice"),
            (lambda: FewShotRow('CoOp', 1, ()), 'one result|a result for each seed'),
            (lambda: FewShotRow('CoOp', -1, (BaseToNew(0, 0),)), 'shots of at least 0'),
            (lambda: FewShotTable.from_json('[{"method": "x"}]'), 'not a table'),
            (lambda: FewShotTable.from_json('no'), 'not a table'),
            (lambda: Spread(()), 'one finite number for each seed'),
            (lambda: Spread((float('nan'),)), 'one finite number'),
        ],
    )
    def test_refuses(self, make, message):
        with pytest.raises(InputError, match=message):
            make()


class TestClassifierAccuracy:
    def test_base_and_new(self, folder):
        data = LabeledFolder(folder)
        model = ColorModel().train()
        report = ClassifierAccuracy({'base': data, 'new': LabeledFolder(folder)}, 'own', batch_size=4)(model)
        assert report['own/base/top1'] == pytest.approx(4 / 6)
        assert report['own/base/chance'] == pytest.approx(1 / 3)
        assert report['own/base/count'] == 6
        assert report['own/harmonic_mean'] == pytest.approx(4 / 6)
        assert (model.class_names, model.training) == (('red', 'blue'), True)

    def test_folders_and_their_mean(self, folder):
        report = ClassifierAccuracy({'a': str(folder), 'b': folder, 'c': None})(ColorModel())
        assert report['test/a/count'] == report['test/b/count'] == 6
        assert report['test/mean'] == report['test/a/top1']
        assert 'test/c/top1' not in report

    def test_unreadable_images_do_not_count(self, folder):
        (folder / 'red/0.png').write_bytes(b'')
        assert ClassifierAccuracy({'a': LabeledFolder(folder)})(ColorModel())['test/a/count'] == 5

    def test_the_hook_gives_it_the_model(self, folder):
        hook = EvaluationHook({'a': ClassifierAccuracy({'a': LabeledFolder(folder)})})
        assert hook.evaluate(ColorModel())['test/a/top1'] == pytest.approx(4 / 6)

    @pytest.mark.parametrize(
        ('change', 'options', 'message'),
        [
            (
                lambda folder: None,
                {'same_classes': True},
                "a has 1 classes .* such as 'green'",
            ),
            (lambda folder: (folder / 'green').rename(folder / 'purple'), {}, 'purple was not learned'),
        ],
    )
    def test_refuses(self, folder, change, options, message):
        change(folder)
        model = ColorModel()
        with pytest.raises(InputError, match=message):
            ClassifierAccuracy({'a': LabeledFolder(folder)}, **options)(model)
        assert model.class_names == ('red', 'blue')

    def test_no_images(self, folder):
        for path in folder.rglob('*.png'):
            path.write_bytes(b'')
        with pytest.raises(InputError, match='test/a: the dataset has no images that can be read'):
            ClassifierAccuracy({'a': LabeledFolder(folder)})(ColorModel())

    def test_no_parts(self):
        with pytest.raises(InputError, match='needs parts'):
            ClassifierAccuracy({})
