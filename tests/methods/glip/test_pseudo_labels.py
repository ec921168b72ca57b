"""Pseudo-labels of a GLIP: what is written, what is kept, and that a training reads it."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main
from clipdense.data.detection.grounding import GroundingDetection
from clipdense.data.image_text.shard_copies import damaged_shards
from clipdense.inference.detector import Detector
from clipdense.inference.pseudo_labels import PseudoLabelRules, pseudo_label
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part
from clipdense.vocab.spans import words_of

CAPTIONS = {'a': 'a red star next to a blue square', 'b': 'of the and', 'c': 'two dogs', 'd': 'a cat ' * 40}


def write_shard(path, captions, broken=()):
    with tarfile.open(path, 'w') as tar:
        for number, (key, caption) in enumerate(captions.items()):
            file = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, 'PNG')
            data = b'no image' if key in broken else file.getvalue()
            for ending, content in (('png', data), ('txt', caption.encode())):
                member = tarfile.TarInfo(f'{key}.{ending}')
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two shards: one usable caption in each; one without nouns, a broken image, and one that is too long."""
    folder = tmp_path / 'shards'
    folder.mkdir()
    write_shard(folder / '0.tar', CAPTIONS)
    write_shard(folder / '1.tar', {'e': 'a red star', 'f': 'a dog'}, broken=('f',))
    return folder


@pytest.fixture
def teacher(glip):
    return Detector(GLIPPredictor(glip(candidates={'threshold': 0.0}).eval()))


ALL = PseudoLabelRules(score_threshold=0.0)


def test_what_is_written_trains(tmp_path, shards, teacher):
    report = pseudo_label(shards, tmp_path / 'out', teacher, ALL, batch_size=2)
    assert (report.samples, report.images) == (6, 3)
    expected = {'a caption that does not fit': 1, 'no noun phrase': 1, 'unreadable image': 1}
    assert report.dropped == expected
    data = GroundingDetection(tmp_path / 'out/annotations.json', tmp_path / 'out/images', training=True)
    assert len(data) == report.images
    sample = data[0]['data_samples']
    caption = sample.metainfo['caption']
    assert {words_of(spans, caption) for spans in sample.phrases} <= {'a red star', 'a blue square'}
    assert len(sample.gt_instances) > 0
    found = json.loads((tmp_path / 'out/annotations.json').read_text())
    assert len(found['annotations']) == report.boxes
    assert all(0 <= one['score'] <= 1 for one in found['annotations'])


def test_a_damaged_shard_ends_where_it_is_damaged(tmp_path, shards, teacher):
    (shards / '1.tar').write_bytes((shards / '1.tar').read_bytes()[:2048])
    report = pseudo_label(shards, tmp_path / 'out', teacher, ALL)
    assert (report.samples, report.images) == (4, 2)
    (told,) = damaged_shards(tmp_path / 'out')
    assert told.startswith(f'{shards}/1.tar: damaged at byte 2048')


def test_images_with_too_few_boxes_are_left_out(tmp_path, shards, teacher):
    with pytest.warns(UserWarning, match='no image of 6 got a box'):
        report = pseudo_label(shards, tmp_path / 'out', teacher, PseudoLabelRules(1.0))
    assert (report.images, report.boxes, report.dropped['too few boxes']) == (0, 0, 3)


def test_suppression_across_phrases_leaves_fewer(tmp_path, shards, teacher):
    apart = pseudo_label(shards, tmp_path / 'apart', teacher, ALL).boxes
    assert pseudo_label(shards, tmp_path / 'across', teacher, PseudoLabelRules(0.0, nms=0.3)).boxes < apart


def test_parts_and_repeated_calls_give_the_same(tmp_path, shards, teacher, monkeypatch):
    whole = pseudo_label(shards, tmp_path / 'whole', teacher, ALL)
    assert pseudo_label(shards, tmp_path / 'parts', teacher, ALL, part=Part(2, 2)) is None
    with pytest.raises(InputError, match='incomplete: run part 1/2 of `clipdense pseudo-label`'):
        GroundingDetection(tmp_path / 'parts/annotations.json', tmp_path / 'parts/images')
    assert pseudo_label(shards, tmp_path / 'parts', teacher, ALL, part=Part(1, 2)) == whole
    monkeypatch.setattr(Detector, 'ground', lambda *_, **__: pytest.fail('grounded again'))
    assert pseudo_label(shards, tmp_path / 'parts', teacher, ALL, part=Part(2, 2)) == whole
    files = [(tmp_path / name / 'annotations.json').read_text() for name in ('whole', 'parts')]
    assert files[0] == files[1]


def test_another_teacher_or_rule_is_refused(tmp_path, shards, teacher, glip):
    pseudo_label(shards, tmp_path / 'out', teacher, ALL)
    with pytest.raises(InputError, match='another score_threshold'):
        pseudo_label(shards, tmp_path / 'out', teacher)
    other = Detector(GLIPPredictor(glip(fused=False).eval()))
    with pytest.raises(InputError, match='another teacher'):
        pseudo_label(shards, tmp_path / 'out', other, ALL)


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ({'score_threshold': 2}, 'score_threshold'),
        ({'nms': -0.1}, 'iou_threshold'),
        ({'min_boxes': 0}, 'min_boxes'),
        ({'min_boxes': 1.5}, 'min_boxes'),
    ],
)
def test_wrong_rules_are_refused(rules, message):
    with pytest.raises(InputError, match=message):
        PseudoLabelRules(**rules)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('nowhere out --teacher a.pth', 'a.pth does not exist'),
        ('shards out --teacher shards/0.tar --score-threshold 2', 'less than or equal to 1'),
        ('shards out', "Missing option '--teacher'"),
        ('shards out --teacher shards/0.tar --min-boxes 0', 'min-boxes'),
    ],
)
def test_wrong_commands(tmp_path, shards, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(['pseudo-label', *arguments.split()])
    assert ended.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.replace('│', ' ').split())
    assert not (tmp_path / 'out').exists()
