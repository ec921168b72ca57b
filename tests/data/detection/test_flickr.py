"""Flickr30k Entities in the layout of its release."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.data.detection.flickr import FlickrEntities, read_entities, read_flickr, read_sentence
from clipdense.data.layouts import recognize
from clipdense.evaluation.detection.phrases import phrase_recall
from clipdense.utils.errors import InputError

GIRL = '[/EN#12/people A young girl] holds [/EN#13/other/clothing two hats] in [/EN#14/scene the street] .'
OTHERS = 'Nothing is marked .\n[/EN#12/people She] and [/EN#0/notvisual the day] and [/EN#15/other a cat]\n'


def an_object(*entities, box=None, more=''):
    names = ''.join(f'<name>{entity}</name>' for entity in entities)
    if box is not None:
        keys = ('xmin', 'ymin', 'xmax', 'ymax')
        inside = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, box, strict=True))
        more += f'<bndbox>{inside}</bndbox>'
    return f'<object>{names}{more}</object>'


OBJECTS = (
    an_object(12, box=(5, 5, 25, 45)),
    an_object(13, 16, box=(30, 5, 40, 15)),
    an_object(13, box=(42, 5, 52, 15)),
    an_object(14, more='<scene>1</scene><nobndbox>1</nobndbox>'),
)


def release(root, sentences=f'{GIRL}\n{OTHERS}', objects=OBJECTS, size=(64, 48), split='test'):
    for name in ('Annotations', 'Sentences', 'flickr30k-images'):
        (root / name).mkdir(exist_ok=True, parents=True)
    width, height = size
    about = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
    text = f'<annotation><filename>77.jpg</filename>{about}{"".join(objects)}</annotation>'
    (root / 'Annotations/77.xml').write_text(text)
    (root / 'Sentences/77.txt').write_text(sentences)
    (root / f'{split}.txt').write_text('77\n')
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / 'flickr30k-images/77.jpg')
    return root


def test_phrases_of_a_line():
    text, phrases = read_sentence(GIRL, 'here')
    assert text == 'A young girl holds two hats in the street .'
    assert [(text[slice(*one.span)], one.entity, one.kinds) for one in phrases] == [
        ('A young girl', '12', ('people',)),
        ('two hats', '13', ('other', 'clothing')),
        ('the street', '14', ('scene',)),
    ]


@pytest.mark.parametrize(
    ('line', 'text', 'phrase'),
    [
        ('[/EN#1/other a] .', 'a .', 'a'),
        ('  a   [/EN#1/other  big \t dog ]  ', 'a big dog', 'big dog'),  # blanks are one space
        ("the [/EN#1/other dog 's] tail", "the dog 's tail", "dog 's"),
    ],
)
def test_spaces_and_places(line, text, phrase):
    found, (one,) = read_sentence(line, 'here')
    assert (found, found[slice(*one.span)]) == (text, phrase)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('[/EN#1/other a dog', 'the phrase of entity 1 is not closed by ]'),
        ('[/EN#1/other a [/EN#2/other dog] ]', "'[/EN#2/other' begins inside of another phrase"),
        ('[a] dog', "'[a]' is not a mark such as [/EN#12/people"),
        ('[/EN#x/other a]', "'[/EN#x/other' is not a mark"),
        ('[/EN#1 a dog]', "'[/EN#1' is not a mark"),
        ('[/EN#1/other ]', 'the phrase of entity 1 has no words'),
        ('a dog] .', "a bracket in 'dog]' belongs to no phrase"),
        ('[/EN#1/other a do]g', "a bracket in 'do]g' belongs to no phrase"),
    ],
)
def test_wrong_brackets_are_named_with_their_line(tmp_path, line, message):
    release(tmp_path, f'{GIRL}\n{line}\n')
    with pytest.raises(InputError) as caught:
        read_flickr(tmp_path, 'test')
    assert f'77.txt, line 2: {message}' in str(caught.value)


def test_boxes_of_entities(tmp_path):
    size, boxes = read_entities(release(tmp_path) / 'Annotations/77.xml')
    assert size == (48, 64)
    assert boxes == {
        '12': [[5, 5, 20, 40]],
        '13': [[30, 5, 10, 10], [42, 5, 10, 10]],
        '16': [[30, 5, 10, 10]],
    }


@pytest.mark.parametrize(
    ('objects', 'message'),
    [
        ([an_object(12)], 'object 1 (12) has neither a bndbox nor nobndbox or scene'),
        ([OBJECTS[0], an_object(box=(1, 1, 2, 2))], 'object 2 has no name'),
        ([an_object(12, box=(9, 9, 2, 12))], 'xmax or ymax is below'),
        ([an_object(12, box=(9, 9, 'x', 12))], 'has no bndbox with four numbers'),
        (['<object>'], 'is not XML'),
    ],
)
def test_wrong_annotations_are_named(tmp_path, objects, message):
    with pytest.raises(InputError) as caught:
        read_flickr(release(tmp_path, objects=objects), 'test')
    assert '77.xml' in str(caught.value)
    assert message in str(caught.value)


def test_captions_are_those_of_grounding(tmp_path):
    data = FlickrEntities(release(tmp_path), 'test')
    assert [one.caption.words for one in data.images] == [('A young girl', 'two hats'), (), ('She',)]
    sample = data[0]['data_samples']
    assert sample.caption == 'A young girl holds two hats in the street .'
    assert sample.phrases == (((0, 12),), ((19, 27),))
    assert sample.gt_instances.labels.tolist() == [0, 1, 1]
    assert sample.gt_instances.bboxes.tolist() == [[5, 5, 25, 45], [30, 5, 40, 15], [42, 5, 52, 15]]
    assert len(FlickrEntities(tmp_path, 'test', training=True)) == 2  # without the caption of no box
    assert len(FlickrEntities(tmp_path, 'test', images=tmp_path / 'flickr30k-images')) == 3


def test_recall_of_kinds(tmp_path):
    """A phrase of two kinds counts for both; one of no box for none, as published."""
    data = FlickrEntities(release(tmp_path), 'test')
    girl, hats = torch.tensor([[5.0, 5, 25, 45]]), torch.tensor([[0.0, 0, 1, 1], [42, 5, 52, 15]])
    found = phrase_recall(data.ground_truth, {1: [girl, hats], 3: [girl[:0]]})
    assert (found['R@1'], found['R@5']) == (1 / 3, 2 / 3)
    kinds = {name: value for name, value in found.items() if name.endswith('R@5') and '/' in name}
    assert kinds == {'merged/R@5': 1 / 3, 'people/R@5': 0.5, 'other/R@5': 1.0, 'clothing/R@5': 1.0}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda root: (root / 'Sentences/77.txt').unlink(), 'named in test.txt'),
        (lambda root: (root / 'Annotations/77.xml').unlink(), 'named in test.txt'),
        (lambda root: (root / 'Sentences/77.txt').write_text('\n'), '77.txt has no sentences'),
        (lambda root: (root / 'flickr30k-images').rename(root / 'photos'), 'has no folder of images'),
        (lambda root: (root / 'flickr30k-images/77.jpg').unlink(), 'are missing in'),
        (lambda root: (root / 'test.txt').unlink(), "has no split 'test'"),
        (
            lambda root: (root / 'Sentences/77.txt').write_bytes(b'a \xff'),
            '77.txt is not UTF-8 text (line 1)',
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, change, message):
    change(release(tmp_path))
    with pytest.raises(InputError) as caught:
        FlickrEntities(tmp_path, 'test')
    assert message in str(caught.value)


def test_the_layout_is_recognized(tmp_path):
    release(tmp_path)
    found = recognize(tmp_path)
    assert (found.kind, found.layout, list(found.parts)) == ('phrases', 'Flickr30k Entities', ['test'])
    release(tmp_path, split='train')
    release(tmp_path, split='val')
    assert recognize(tmp_path).part()[0] == 'val'
    (tmp_path / 'train.txt').unlink()
    (tmp_path / 'val.txt').unlink()
    (tmp_path / 'test.txt').unlink()
    with pytest.raises(InputError, match='no list of images'):
        recognize(tmp_path)
