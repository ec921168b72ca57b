"""DetPro: learning from regions, sums of class embeddings, its files and commands."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.cli import main
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.class_embeddings import StoredEmbeddings, image_tower_digest
from clipdense.data.detection.region_features import LabeledRegions, RegionFeatures
from clipdense.engine.export import ExportHook
from clipdense.engine.launch import train
from clipdense.methods.prompt_learning.checkpoint import load_prompts, save_prompts
from clipdense.methods.prompt_learning.detpro import DetPro, RegionsHook
from clipdense.methods.prompt_learning.detpro_files import class_embeddings
from clipdense.methods.prompt_learning.detpro_losses import background_loss, frequency_weights
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.methods.prompt_learning.prompt_sets import PromptSets, plain_name
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import learned

NAMES = ('bow_(weapon)', 'car', 'tree')


def regions(teacher='', dim=32, names=NAMES):
    """Regions of each class and of background, in several ranges of IoU."""
    labels = torch.tensor([0, 1, 2, 1, 0, -1, 1, 2, 0, 1])
    ious = torch.tensor([0.55, 0.5, 0.59, 0.6, 1.0, 0.0, 0.3, 0.1, 0.05, 0.45])
    return RegionFeatures(torch.randn(10, dim), labels, ious, names, teacher)


def test_objects_and_background_by_iou():
    """By hand: [0.5, 0.6) holds regions 0, 1 and 2; [0.1, 0.5) holds 6, 7 and 9, whatever their label."""
    given = regions()
    found = LabeledRegions(given, background_fraction=1.0)
    assert found.labels.tolist() == [0, 1, 2, 3, 3, 3]
    assert_close(found.features[:3], given.features[:3])
    assert {tuple(row) for row in found.features[3:].tolist()} == {
        tuple(given.features[place].tolist()) for place in (6, 7, 9)
    }
    assert LabeledRegions(given, iou=(0.9, 1.1), background_fraction=0.0).labels.tolist() == [0]
    fewer = [LabeledRegions(given, background_fraction=0.4, seed=seed).features[3:] for seed in (0, 0)]
    assert len(fewer[0]) == 1
    assert torch.equal(*fewer)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'iou': (0.6, 0.5)}, 'iou must be a range from a lower to a higher IoU, got 0.6 to 0.5'),
        ({'iou': (0.4, 0.6)}, r'background ends at 0\.5, above the lowest IoU of objects \(0\.4\)'),
        ({'background': (-1, 0.5)}, 'background must be a range'),
        ({'background_fraction': 2}, 'background_fraction must be from 0 to 1, got 2'),
        ({'iou': (0.7, 0.8)}, r'no region has an IoU from 0\.7 to 0\.8 with an object'),
    ],
)
def test_bad_ranges(options, message):
    with pytest.raises(InputError, match=message):
        LabeledRegions(regions(), **options)


def test_the_loss_of_a_batch(clip):
    """Cosines over 0.01, and the loss with inverse frequencies; only the context learns."""
    model = DetPro(clip).train()
    data = LabeledRegions(regions(), background_fraction=1.0)
    model.set_regions(data)
    assert model.learner.class_names == ('bow weapon', 'car', 'tree')
    assert not model.clip.training
    found = model(data.features, data.labels, 'loss')
    logits = F.normalize(data.features, dim=-1) @ model.learner().mT / 0.01
    expected = background_loss(logits, data.labels, 'soft', frequency_weights(data.labels, 3))
    assert_close(found['loss'], expected)
    right = (logits[:3].argmax(1) == data.labels[:3]).float().mean()
    assert_close(found['accuracy'], right)
    found['loss'].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {'learner.ctx'}
    assert set(model.state_dict()) == {'learner.ctx'}


def test_a_learned_background(clip):
    """The mode 'learn' has a text of its own, whose tokens learn; it is not among the logits."""
    model = DetPro(clip, CoOp(clip, n_ctx=2), 'learn', background_ctx=4).train()
    data = LabeledRegions(regions(), background_fraction=1.0)
    model.set_regions(data)
    loss = model(data.features, data.labels, 'loss')['loss']
    rows = torch.cat([model.learner(), model.background()])
    logits = F.normalize(data.features, dim=-1) @ rows.mT / 0.01
    assert_close(loss, background_loss(logits, data.labels, 'learn', model.class_weight))
    loss.backward()
    assert model.background.ctx.grad.abs().sum() > 0
    assert model(data.features).shape == (6, 3)


@pytest.mark.parametrize(
    ('count', 'message'),
    [
        (0, 'n_ctx of a background must be a whole number of at least 1, got 0'),
        (75, "the prompt of 'background' has 78 tokens, 75 of them context; the text tower takes 77"),
    ],
)
def test_a_background_of_another_length_is_refused(clip, count, message):
    with pytest.raises(InputError, match=message):
        DetPro(clip, CoOp(clip, n_ctx=2), 'learn', background_ctx=count)


def test_what_does_not_belong_together(clip, resnet_clip):
    model = DetPro(clip)
    with pytest.raises(InputError, match='embedded by another CLIP: 8 values, the text tower has 32'):
        model.set_regions(LabeledRegions(regions(dim=8)))
    model.set_regions(LabeledRegions(regions(image_tower_digest(clip))))
    with pytest.raises(InputError, match='embedded by another CLIP: digest'):
        model.set_regions(LabeledRegions(regions(image_tower_digest(resnet_clip))))
    with pytest.raises(InputError, match='the learner was built for another CLIP'):
        DetPro(clip, CoOp(resnet_clip, n_ctx=2))
    with pytest.raises(InputError, match='a MaPLe changes with the image: use CoOp'):
        DetPro(clip, MaPLe(clip, 2, 2))
    with pytest.raises(InputError, match='temperature must be positive'):
        DetPro(clip, temperature=0)
    with pytest.raises(InputError, match='training needs labels'):
        model(torch.randn(2, 32), mode='loss')


def test_a_run_through_the_engine(tmp_path, clip):
    save_clip(clip, tmp_path / 'clip.safetensors')
    given = regions(image_tower_digest(clip))
    given.save(tmp_path / 'regions.safetensors')
    cfg = Config(
        {
            'model': dict(
                type=DetPro, clip=str(tmp_path / 'clip.safetensors'), learner=dict(type=CoOp, n_ctx=2)
            ),
            'train_dataloader': {
                'batch_size': 3,
                'dataset': dict(
                    type=LabeledRegions, file=str(tmp_path / 'regions.safetensors'), background_fraction=1.0
                ),
            },
            'train_cfg': {'max_epochs': 2},
            'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': 0.01}},
            'default_hooks': dict(export=dict(type=ExportHook)),
            'custom_hooks': [dict(type=RegionsHook)],
            'work_dir': str(tmp_path / 'run'),
            'randomness': {'seed': 0},
        }
    )
    runner = train(cfg)
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert {'loss', 'accuracy'} <= lines[0].keys()
    found = load_prompts(tmp_path / 'run' / 'prompts.safetensors', runner.model.clip)
    assert torch.equal(found.ctx, runner.model.learner.ctx)
    assert found.class_names == ('bow weapon', 'car', 'tree')


def test_the_sum_of_several_contexts(tmp_path, clip):
    """By hand: unit embeddings of each context, added and normalized; files and learners alike."""
    learners = [learned(CoOp(clip, n_ctx=3), seed) for seed in range(3)]
    vocabulary = Vocabulary(('bow_(weapon)', 'car'))
    rows = []
    for number, learner in enumerate(learners):
        learner.set_classes(['bow weapon', 'car'])
        rows.append(learner().detach())
        save_prompts(learner, tmp_path / f'{number}.safetensors')
    expected = F.normalize(rows[0] + rows[1] + rows[2], dim=-1)
    assert_close(PromptSets(learners).embed(vocabulary).queries, expected)
    files = [tmp_path / f'{number}.safetensors' for number in range(3)]
    assert_close(PromptSets(files, clip).embed(vocabulary).queries, expected)


def test_official_files_of_detpro(tmp_path, clip):
    """A context (n, C), and what was computed from it: (1, K, D), not normalized, or (K, D)."""
    learner = learned(CoOp(clip, n_ctx=8))
    learner.set_classes(['car', 'tree'])
    rows = learner().detach()
    torch.save(learner.ctx.data.half(), tmp_path / 'one_prompt.pth')
    torch.save(7 * rows[None], tmp_path / 'one.pth')
    torch.save(rows[[1, 0]].flip(0), tmp_path / 'two.npy.pth')
    save_clip(clip, tmp_path / 'clip.safetensors')
    vocabulary = Vocabulary(('car', 'tree'))
    stored = StoredEmbeddings(tmp_path / 'one.pth', ['car', 'tree']).embed(Vocabulary(('tree',)))
    assert_close(stored.queries, rows[1:])
    weights = str(tmp_path / 'clip.safetensors')
    assert_close(
        class_embeddings([tmp_path / 'one_prompt.pth'], vocabulary, weights).queries, rows, atol=2e-3, rtol=0
    )
    assert_close(class_embeddings([tmp_path / 'one.pth'] * 2, vocabulary).queries, rows)
    with pytest.raises(InputError, match=r'has a context and .* class embeddings: give files of one kind'):
        class_embeddings([tmp_path / 'one_prompt.pth', tmp_path / 'one.pth'], vocabulary)
    with pytest.raises(InputError, match='does not record the class names'):
        StoredEmbeddings(tmp_path / 'one.pth')
    with pytest.raises(InputError, match=r'has an array of shape \(2, 32\), but the vocabulary needs 3 rows'):
        StoredEmbeddings(tmp_path / 'one.pth', ['a', 'b', 'c'])
    with pytest.raises(InputError, match=r'has embeddings of 2 classes \(DetPro\), not prompts'):
        load_prompts(tmp_path / 'one.pth', clip)


@pytest.mark.parametrize('learners', [[], 'prompts.safetensors'])
def test_no_contexts(learners, clip):
    with pytest.raises(InputError, match='give a list of at least one file'):
        PromptSets(learners, clip)
    with pytest.raises(InputError, match='give at least one file'):
        class_embeddings([], Vocabulary(('a',)))


@pytest.mark.parametrize(
    ('name', 'plain'), [('bow_(weapon)', 'bow weapon'), ('hot_dog', 'hot dog'), (' a  (b) ', 'a b')]
)
def test_names_of_lvis(name, plain):
    assert plain_name(name) == plain


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in arguments])
    said = capsys.readouterr()
    return left.value.code or 0, said.out + said.err


def test_the_command_writes_class_embeddings(tmp_path, clip, capsys):
    save_clip(clip, tmp_path / 'clip.safetensors')
    learner = learned(CoOp(clip, n_ctx=2))
    learner.set_classes(['car', 'tree'])
    save_prompts(learner, tmp_path / 'one.safetensors')
    given = ['embed', 'detpro', tmp_path / 'one.safetensors', '-w', tmp_path / 'clip.safetensors']
    out = ['--out', tmp_path / 'e.safetensors']
    assert run(capsys, *given, '-c', 'car, tree', *out) == (
        0,
        f'{tmp_path}/e.safetensors: 2 classes from 1 file\n',
    )
    found = StoredEmbeddings(tmp_path / 'e.safetensors').embed(Vocabulary(('tree', 'car')))
    assert_close(found.queries, learner().detach().flip(0))
    for extra, message in [
        ([*out, '-c', 'car'], 'exists: choose another --out'),
        (out, 'either with --classes or with --vocab'),
        (['--out', tmp_path / 'e.pth', '-c', 'car'], 'use e.safetensors'),
    ]:
        code, said = run(capsys, *given, *extra)
        assert code == 2
        assert message in ' '.join(said.split())
