"""``test WEIGHTS --data``: what was trained is scored without a config, as its config scores it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipdense.clip import self_describing
from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.sizes import TextSize, VitSize
from clipdense.config import load_config
from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.segmentation.pairs import SegmentationPairs
from clipdense.data.transforms import CenterCrop
from clipdense.evaluation.classification import ZeroShotClassification
from clipdense.evaluation.segmentation import SegmentationEvaluator
from clipdense.inference.load import load_clip, load_segmenter
from clipdense.methods import list_methods
from clipdense.methods.groupvit.checkpoint import save as save_groupvit
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.registry import MODELS

from .data_sets import captions, coco, folders, pairs, photo, run, voc

pytestmark = pytest.mark.usefixtures('apart')

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=32, patch_size=8, width=16, layers=4, num_heads=2, mlp_width=16, embed_dim=8)
NAMES = ['sky', 'road', 'car']
DENSECLIP = """
from clipdense.clip.model import build_clip
from clipdense.methods.denseclip.NAME import CLASS

model = dict(
    type=CLASS,
    clip=dict(type=build_clip, size=dict(
        image=dict(image_size=32, patch_size=8, width=16, layers=4, num_heads=2, mlp_width=16, embed_dim=8),
        text=dict(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8),
    )),
    width=8,
    decoder=dict(width=16, layers=1),
)
"""


def scores(capsys, *arguments: str) -> dict[str, float]:
    status, out, err = run(capsys, 'test', *arguments, '--json')
    assert status == 0, err
    return json.loads(out)


def groupvit() -> str:
    stages = (StageSize(1, 16, 2, 4, 4), StageSize(1, 16, 2))
    size = GroupVitSize(GroupVitImageSize(16, 4, stages, embed_dim=8, projector_width=12), TEXT)
    save_groupvit(build_group_vit(size), 'groupvit.safetensors')
    return 'groupvit.safetensors'


def denseclip(kind='open') -> str:
    name, model = {
        'open': ('open_vocabulary', 'OpenContextAwareSegmenter'),
        'fixed': ('segmenter', 'ContextAwareSegmenter'),
    }[kind]
    text = DENSECLIP.replace('NAME', name).replace('CLASS', model)
    if kind == 'fixed':
        text = text.replace('    clip=', f'    class_names={NAMES!r},\n    clip=')
    Path('own.py').write_text(text)
    cfg = load_config('own.py')
    self_describing.save(MODELS.build(cfg.model), 'denseclip.safetensors', cfg)
    return 'denseclip.safetensors'


# Segmenters: the scores of the evaluator that configs use


@pytest.mark.parametrize(
    'make', [groupvit, denseclip, lambda: denseclip('fixed'), None], ids=['groupvit', 'open', 'fixed', 'clip']
)
def test_a_segmenter_has_the_scores_of_the_evaluation(capsys, weights, make):
    file = weights if make is None else make()
    data = SegmentationPairs(pairs('mine'), part='all')
    model = load_segmenter(file, device='cpu')
    model.set_vocabulary(data.vocabulary, class_embedder(model).embed(data.vocabulary))
    expected = SegmentationEvaluator(data)(model).to_dict()
    assert scores(capsys, file, '--data', 'mine', '--part', 'all') == expected


def test_every_method_with_a_file_of_its_own_can_be_tested():
    made = [one for one in list_methods() if one.load and one.task in ('segmentation', 'detection')]
    assert [one.name for one in made if not one.tests] == []


@pytest.mark.parametrize(
    ('make', 'part', 'images'),
    [
        (lambda: pairs('set'), None, 1),
        (lambda: pairs('set'), 'all', 7),
        (lambda: pairs('set', suffix='_mask'), 'train', 6),
        (lambda: voc('set'), None, 2),
        (lambda: voc('set'), 'train', 5),
        (lambda: pairs('set', 'images/training', 'annotations/training'), None, 7),
        (lambda: pairs('set', 'train', 'trainannot'), None, 7),
    ],
)
def test_layouts_of_masks(capsys, weights, make, part, images):
    given = () if part is None else ('--part', part)
    status, _, err = run(capsys, 'test', weights, '--data', make(), *given)
    assert status == 0, err
    assert f'clipdense: {images} image' in err


def test_other_class_names_and_novel_classes(capsys, weights):
    own = scores(capsys, weights, '--data', pairs('mine'), '--part', 'all')
    renamed = scores(
        capsys, weights, '--data', 'mine', '--part', 'all', '-c', 'heaven, street, auto', '--novel', 'auto'
    )
    assert set(renamed) - set(own) == {'base/mIoU', 'novel/mIoU', 'harmonic_mIoU'}
    named = scores(capsys, weights, '--data', 'mine', '--part', 'all', '--novel', 'Car')
    assert named['mIoU'] == own['mIoU'] != renamed['mIoU']


# Classifiers


@pytest.mark.parametrize('part', ['test', 'all'])
def test_a_clip_on_class_folders(capsys, weights, part):
    clip = load_clip(weights)
    data = FewShotImages(folders('mine'), part, transform=CenterCrop.of(clip.preprocess))
    given = () if part == 'test' else ('--part', part)
    assert scores(capsys, weights, '--data', 'mine', *given) == ZeroShotClassification(data)(clip)


def test_base_and_novel_of_a_clip(capsys, weights):
    found = scores(capsys, weights, '--data', folders('mine'), '--novel', 'dog')
    assert {'zero_shot/base/top1', 'zero_shot/novel/top1'} <= set(found)


@pytest.mark.parametrize('method', ['coop', 'cocoop', 'maple'])
def test_learned_prompts_have_the_scores_of_their_config(capsys, weights, method):
    folders('mine')
    assert run(capsys, 'init', method, 'mine', '-w', weights)[0] == 0
    assert run(capsys, 'train', f'{method}_mine.py', '-o', 'epochs=1', '-o', 'shots=2')[0] == 0
    prompts = f'work_dirs/{method}_mine/prompts.safetensors'
    by_config = scores(capsys, f'{method}_mine.py', f'work_dirs/{method}_mine/{_newest(method)}')
    assert scores(capsys, weights, '--data', 'mine', '--prompts', prompts) == by_config
    halves = scores(capsys, weights, '--data', 'mine', '--prompts', prompts, '--novel', 'dog')
    assert {'test/base/top1', 'test/new/top1', 'test/harmonic_mean'} <= set(halves)
    status, _, err = run(capsys, 'test', prompts, '--data', 'mine')
    assert (status, '--prompts' in err) == (2, True), err


def _newest(method: str) -> str:
    return max(path.name for path in Path(f'work_dirs/{method}_mine').glob('step_*.pth'))


@pytest.mark.parametrize('method', ['tip', 'tip_f', 'clip_adapter'])
def test_adapters(capsys, weights, method):
    folders('mine')
    given = () if method == 'tip' else ('-o', 'epochs=1')
    status, _, err = run(
        capsys, 'adapt', 'mine', '-w', weights, '--method', method, '--out', 'a.safetensors', *given
    )
    assert status == 0, err
    found = scores(capsys, weights, '--data', 'mine', '--adapter', 'a.safetensors', '--part', 'all')
    assert found['test/test/count'] == 10
    status, _, err = run(capsys, 'test', 'a.safetensors', '--data', 'mine')
    assert (status, '--adapter' in err) == (2, True), err


def test_a_clip_on_captions(capsys, weights):
    found = scores(capsys, weights, '--data', captions('mine.csv'))
    assert any(name.startswith('retrieval/') for name in found)


# Refused


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('WEIGHTS', '--data', 'nowhere'), '--data nowhere does not exist'),
        (('WEIGHTS', '--data', 'empty'), 'empty has none of the layouts'),
        (('WEIGHTS', 'WEIGHTS', '--data', 'mine.csv'), 'with --data there is no config'),
        (('WEIGHTS', '--data', 'mine.csv', '--safe-config'), 'are for configs'),
        (('WEIGHTS', '--data', 'mine.csv', '-o', 'a=1'), "is a CLIP: remove 'a'"),
        (('WEIGHTS', '--data', 'masks', '-o', 'a=1'), "has no option 'a'"),
        (('WEIGHTS', '--data', 'mine.csv', '-c', 'cat, dog'), 'remove --classes'),
        (('WEIGHTS', '--data', 'mine.csv', '--part', 'val'), "has no part 'val'; it has all"),
        (('WEIGHTS', '--data', 'boxes/mine.json'), 'is tested on'),
        (('WEIGHTS', '--data', 'masks', '-c', 'sky, road'), '3 class names, --classes has 2'),
        (('WEIGHTS', '--data', 'masks', '--novel', 'tree'), "has no class 'tree'; it has sky, road, car"),
        (('WEIGHTS', '--data', 'masks', '--part', 'tset'), "has no part 'tset'; it has train, val, all"),
        (('WEIGHTS', '--data', 'kinds', '--novel', 'cat, dog'), 'there are no base classes'),
        (('WEIGHTS', '--data', 'kinds', '-c', 'cat'), 'class'),
        (('WEIGHTS',), 'test needs weights'),
        (('WEIGHTS', 'WEIGHTS', '-c', 'cat, dog'), 'need --data'),
        (('lost.safetensors', '--data', 'mine.csv'), 'lost.safetensors'),
        (('photo.jpg', '--data', 'masks'), 'photo.jpg'),
        (('other.pth', '--data', 'masks'), 'other.pth'),
        (
            ('GROUPVIT', '--data', 'mine.csv'),
            'captions (a table); groupvit.safetensors is tested on masks',
        ),
        (('GROUPVIT', '--data', 'boxes/mine.json'), 'is tested on masks'),
        (('runs', '--data', 'masks'), 'runs has no weights file'),
    ],
)
def test_what_test_refuses(capsys, weights, arguments, message):
    captions('mine.csv'), coco('boxes/mine.json'), pairs('masks'), folders('kinds'), photo('photo.jpg')
    Path('empty').mkdir(), Path('runs').mkdir()
    torch.save({'conv.weight': torch.zeros(3, 3)}, 'other.pth')
    made = {'WEIGHTS': lambda: weights, 'GROUPVIT': groupvit}
    given = [made[one]() if one in made else one for one in arguments]
    status, _, err = run(capsys, 'test', *given)
    assert (status, message in err) == (2, True), err
    assert len(err.strip().splitlines()) == 1
