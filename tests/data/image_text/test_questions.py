"""Questions about images from files of VQA v2 and from lists."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.image_text.question_files import QuestionList, VqaQuestions
from clipdense.data.image_text.questions import Question, common_answers
from clipdense.data.scenes import Scenes
from clipdense.data.scenes.questions import SceneQuestions, write_question
from clipdense.data.scenes.rng import RandomStream
from clipdense.data.transforms import SquareCrop
from clipdense.methods.blip.sizes import MedSize
from clipdense.methods.blip.tokenizer import UNKNOWN, QuestionIds
from clipdense.utils.errors import InputError

NAME = 'COCO_val2014_{:012d}.jpg'
SIZE = MedSize(words=['what', 'is', 'this', '?', 'a', 'dog', 'cat', 'yes', 'no'])


def write_vqa(folder, questions=None, annotations=None, images=(1, 2)):
    """Two questions about two images; entries may be changed."""
    asked = [{'question_id': 10 * at, 'image_id': at, 'question': f'what is {at}?'} for at in (1, 2)]
    given = [
        {
            'question_id': 10 * at,
            'image_id': at,
            'answer_type': ('yes/no', 'other')[at - 1],
            'answers': [
                {'answer': answer, 'answer_id': n} for n, answer in enumerate(['a dog'] * 6 + ['dog'] * 4)
            ],
        }
        for at in (1, 2)
    ]
    (folder / 'val2014').mkdir(exist_ok=True)
    for at in images:
        Image.new('RGB', (40, 30), (at, 0, 0)).save(folder / 'val2014' / NAME.format(at))
    change = questions or (lambda entries: entries)
    (folder / 'q.json').write_text(json.dumps({'data_subtype': 'val2014', 'questions': change(asked)}))
    change = annotations or (lambda entries: entries)
    (folder / 'a.json').write_text(json.dumps({'annotations': change(given)}))
    return folder / 'q.json', folder / 'a.json', folder


def write_list(folder, entries, images=('a.png', 'b/c.png')):
    (folder / 'b').mkdir(exist_ok=True)
    for name in images:
        Image.new('RGB', (40, 30)).save(folder / name)
    (folder / 'list.json').write_text(json.dumps(entries))
    return folder / 'list.json'


ENTRY = {'image': 'a.png', 'question': 'What is this?', 'answer': ['a dog', 'a dog', 'a cat', 'dog']}


def changed(**values):
    """The entry with other values; None leaves one out."""
    return {name: value for name, value in {**ENTRY, **values}.items() if value is not None}


def test_files_of_vqa(tmp_path):
    data = VqaQuestions(*write_vqa(tmp_path))
    assert len(data) == 2
    assert data.question(0) == Question('what is 1?', ('a dog',) * 6 + ('dog',) * 4, kind='yes/no')
    assert data.question(1).targets == pytest.approx({'a dog': 0.6, 'dog': 0.4})
    assert data.paths[1].endswith(NAME.format(2))
    assert set(data[0]) == {'images', 'names'}  # without a tokenizer
    assert common_answers(data, 1) == ['a dog']


def test_several_files_of_vqa(tmp_path):
    write_vqa(tmp_path)
    files = [tmp_path / 'q.json'] * 2, [tmp_path / 'a.json'] * 2
    assert len(VqaQuestions(*files, tmp_path, 'val2014/COCO_val2014_{id:012d}.jpg')) == 4
    with pytest.raises(InputError, match='2 files of questions need as many of annotations, got 1'):
        VqaQuestions(files[0], files[1][:1], tmp_path)


def test_lists(tmp_path):
    entries = [
        ENTRY,
        changed(image='b/c.png', answer='a cat', dataset='vg', answer_type='other'),
        changed(answer=None, answers=['yes', ' no '], weights=[2, 0.5]),
        changed(answer=['', 'yes', ' ']),
    ]
    data = QuestionList(write_list(tmp_path, entries))
    assert [data.question(at).targets for at in range(4)] == [
        pytest.approx({'a dog': 0.5, 'a cat': 0.25, 'dog': 0.25}),
        pytest.approx({'a cat': 0.2}),
        pytest.approx({'yes': 2, 'no': 0.5}),
        pytest.approx({'yes': 1}),
    ]
    assert data.question(1).kind == 'other'
    twice = QuestionList([tmp_path / 'list.json'] * 2, tmp_path, dataset_weights={})
    assert len(twice) == 8
    assert twice.question(5).targets == {'a cat': 1}


def test_ids_of_a_batch(tmp_path):
    """The answers with the largest weights; padding is negative, and weights without an answer are 0."""
    file = write_list(tmp_path, [ENTRY, changed(answer='no')])
    ids = QuestionIds(SIZE, longest=7, longest_answer=4, most_answers=2)
    data = QuestionList(file, transform=SquareCrop(32), tokenizer=ids)
    batch = next(iter(DataLoader(data, 2, collate_fn=collate)))
    assert batch['images'].shape == (2, 3, 32, 32)
    assert batch['token_ids'].tolist() == [[1, 6, 7, 8, 9, 2, -1]] * 2
    assert batch['answer_ids'][0].tolist() == [[1, 10, 11, 2], [1, 10, 12, 2]]
    assert batch['answer_ids'][1].tolist() == [[1, 14, 2, -1], [-1] * 4]
    assert batch['answer_weights'].tolist() == [[0.5, 0.25], [1.0, 0.0]]


def test_an_unreadable_image(tmp_path):
    file = write_list(tmp_path, [ENTRY, changed(image='b/c.png', question='another?')])
    (tmp_path / 'a.png').write_text('no image')
    data = QuestionList(file, tokenizer=QuestionIds(SIZE))
    assert data[0]['names'].endswith('c.png')
    assert data.unreplaced()[0]['index'] == -1


@pytest.mark.parametrize(
    ('questions', 'annotations', 'message'),
    [
        (lambda e: [*e, e[0]], None, r'questions\[2\]: question_id 10 occurs twice'),
        (None, lambda e: [*e, e[0]], r'annotations\[2\]: question_id 10 occurs twice'),
        (None, lambda e: [{'answers': []}], r'annotations\[0\] has no question_id'),
        (lambda e: 3, None, "'questions' is missing, or not a list"),
        (None, lambda e: {}, "'annotations' is missing, or not a list"),
        (None, lambda e: [], 'no question with an answer and an image .*no annotation'),
        (lambda e: [{**one, 'image_id': 7} for one in e], None, 'annotation of another image'),
        (lambda e: [{**one, 'image_id': 'x'} for one in e], None, 'annotation of an unknown question'),
        (lambda e: [{**one, 'question': ' '} for one in e], None, 'no question'),
        (None, lambda e: [{**one, 'answers': [{'answer': 3}]} for one in e], 'answers are not texts'),
        (None, lambda e: [{**one, 'answers': [{'answer': ''}]} for one in e], 'no answer'),
        (None, lambda e: [{**one, 'answers': 'dog'} for one in e], 'answers are not texts'),
    ],
)
def test_files_of_vqa_that_are_refused(tmp_path, questions, annotations, message):
    with pytest.raises(InputError, match=message):
        VqaQuestions(*write_vqa(tmp_path, questions, annotations))


def test_names_of_images(tmp_path):
    files = write_vqa(tmp_path)
    with pytest.raises(InputError, match='missing image'):
        VqaQuestions(*files[:2], tmp_path, '{id}.jpg')
    for template in ('{number}.jpg', '{id:x'):
        with pytest.raises(InputError, match=r'image_name must have \{id\}'):
            VqaQuestions(*files[:2], tmp_path, template)


def test_what_is_skipped_is_counted(tmp_path):
    entries = [ENTRY] * 30 + [changed(image='gone.png'), changed(question=None), 3, changed(weights=[1])]
    data = QuestionList(write_list(tmp_path, entries))
    assert len(data) == 30
    with pytest.raises(InputError, match='max_bad_fraction'):
        QuestionList(write_list(tmp_path, [*entries, *[changed(answer=[]) for _ in range(20)]]))


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'questions': []}, 'is not a JSON list of questions'),
        ([], 'has no question with an answer'),
        ([{**ENTRY, 'question_id': 1}] * 2, 'entry 2: question_id 1 occurs twice'),
        ([changed(image='../a.png')], 'outside'),
        ([changed(image=None)], 'no image'),
        ([changed(image='gone.png')], 'missing image'),
        ([changed(answer=[1])], 'answers are not texts'),
        ([changed(answer=None)], 'answers are not texts'),
        ([changed(weights=[1, 2])], 'weights are not one number above 0 for each answer'),
        ([changed(weights=[1, 2, 3, 0])], 'weights are not'),
        ([changed(weights=[1, 2, 3, float('nan')])], 'weights are not|NaN'),
        ([changed(weights=[1, 2, 3, True])], 'weights are not'),
        ([changed(weights=4)], 'weights are not'),
    ],
)
def test_lists_that_are_refused(tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        QuestionList(write_list(tmp_path, entries))


@pytest.mark.parametrize('difficulty', ['easy', 'standard', 'hard'])
def test_questions_about_scenes(difficulty):
    """Each answer is true, yes and no are as frequent, and an epoch asks something else."""
    data = SceneQuestions(400, difficulty)
    names, kinds, said = Scenes(difficulty).class_names, set(), []
    for index in range(len(data)):
        scene, question = data.scenes.draw(index), data.question(index)
        objects = [names[at].split(' ') for at in scene.class_ids]
        words, (answer,) = question.text.strip('?').split(' '), question.answers
        kinds.add(question.kind)
        match question.kind:
            case 'number':
                assert answer == ('zero', 'one', 'two', 'three', 'four', 'five')[len(objects)]
            case 'ground':
                assert answer == scene.ground
            case 'yes/no':
                assert answer == (
                    'yes' if [words[-2], words[-1]] in [[c, s] for c, _, s in objects] else 'no'
                )
                said.append(answer)
            case 'shape':
                assert [answer] == [s for c, _, s in objects if c == words[-2]]
            case kind:
                place = ('color', 'texture').index(kind)
                assert [answer] == [one[place] for one in objects if one[2] == words[-1]]
    assert kinds == {'number', 'ground', 'yes/no', 'shape', 'color', 'texture'}
    assert 0.3 < said.count('no') / len(said) < 0.7
    first = [data.question(at).text for at in range(50)]
    data.set_epoch(1)
    assert first != [data.question(at).text for at in range(50)]
    with pytest.raises(IndexError):
        data[400]


@pytest.mark.parametrize('balanced', [False, True])
def test_balanced_questions_are_not_answered_by_the_other_attributes(balanced):
    """Each answer occurs with the same other attributes; yes is as frequent for rare pairs as for others."""
    scenes = Scenes()
    known = scenes.splits['base'] + scenes.splits['novel']
    values = (scenes.difficulty.colors, scenes.difficulty.textures, scenes.difficulty.shapes)
    places, fixed, said = {'color': 0, 'texture': 1, 'shape': 2}, [], {True: [], False: []}
    for index in range(6000):
        rng = RandomStream(0, 'questions', index)
        names = [rng.choice(known) for _ in range(1 + index % 3)]
        question = write_question(names, 'plain', scenes.difficulty, rng, known if balanced else ())
        words = question.text.strip('?').split(' ')
        if question.kind == 'yes/no':
            rare = values[0].index(words[-2]) % 2 == values[2].index(words[-1]) % 2  # with half the textures
            said[rare].append(question.answers[0] == 'yes')
        elif question.kind in places:
            place, word = places[question.kind], words[-2 if question.kind == 'shape' else -1]
            (one,) = (name.split(' ') for name in names if word in name)
            others = {' '.join((*one[:place], value, *one[place + 1 :])) for value in values[place]}
            fixed.append(not others <= set(known))
    shares = [sum(answers) / len(answers) for answers in said.values()]
    assert any(fixed) != balanced
    assert (abs(shares[0] - shares[1]) < 0.1) == balanced, shares


def test_words_of_the_config_are_those_of_the_questions():
    from clipdense.config import load_config

    dataset = load_config('blip/blip_scenes_vqa').train_dataloader.dataset
    data = SceneQuestions(200, tokenizer=dataset.tokenizer)
    for index in range(200):
        item = data[index]
        assert UNKNOWN not in item['token_ids'], data.question(index)
        assert UNKNOWN not in item['answer_ids'], data.question(index)
        assert item['token_ids'][-1] == -1  # not truncated
