"""LSeg through the engine: learning rates, evaluation, and that training teaches something."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import PolyLR

from clipdense.clip.checkpoint import save as save_clip
from clipdense.data.scenes import SceneSegmentation
from clipdense.data.segmentation.crops import SegmentationCrops, ZeroShotSplit
from clipdense.engine.export import ExportHook
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.launch import train
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.inference.load import load
from clipdense.methods.lseg import backbones
from clipdense.methods.lseg.closed_set import ClosedSetDPT
from clipdense.methods.lseg.evaluation import SceneSplits, SegmenterEvaluationHook
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.methods.lseg.training import ScratchFaster
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


def wrapper(model, **options):
    paramwise = {key: options.pop(key) for key in ('scratch_lr', 'decay_all', 'wrong') if key in options}
    config = {'optimizer': {'type': torch.optim.SGD, 'lr': 0.1, 'weight_decay': 0.01}, **options}
    return ScratchFaster(config, paramwise)(model)


@pytest.mark.parametrize('decay_all', [False, True])
def test_what_is_new_learns_faster(make_lseg, make_clip, make_backbone, decay_all):
    """Four groups: backbone or new, decayed or not; the text tower is in none."""
    model = LSeg(make_backbone(), make_clip(), width=16)
    found = wrapper(model, scratch_lr=10.0, decay_all=decay_all)
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    seen = []
    for group in found.optimizer.param_groups:
        for parameter in group['params']:
            inside = id(parameter) in backbone
            assert group['lr'] == pytest.approx(0.1 if inside else 1.0)
            assert group['weight_decay'] == (0.01 if decay_all or parameter.ndim > 1 else 0.0) or inside
            seen.append(id(parameter))
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(seen) == sorted(trained)


def test_a_locked_backbone_has_no_group(make_lseg):
    model = make_lseg(lock_backbone=True)
    assert {group['lr'] for group in wrapper(model).optimizer.param_groups} == {1.0}


def test_unknown_options_of_the_groups_are_refused(make_lseg):
    with pytest.raises(InputError, match=r"unknown keys \['wrong'\] in paramwise_cfg"):
        wrapper(make_lseg(), wrong=1)


def scenes(split, **options):
    return dict(type=SceneSegmentation, split=split, num_images=16, difficulty='easy', **options)


def config(model, hook, tmp_path, **options):
    return Config(
        {
            'model': model,
            'train_dataloader': {
                'batch_size': 8,
                'dataset': dict(
                    type=SegmentationCrops,
                    dataset=scenes('base', unlabeled=('novel',), stream='train'),
                    size=32,
                    long_side=None,
                    scale=(1.0, 1.0),
                ),
            },
            'train_cfg': {'max_epochs': 2},
            'optim_wrapper': {
                'constructor': ScratchFaster,
                'precision': 'fp32',
                'optimizer': {'type': torch.optim.SGD, 'lr': 0.01, 'momentum': 0.9},
            },
            'param_scheduler': [dict(type=PolyLR, power=0.9, by_epoch=True, begin=0, end=2)],
            'custom_hooks': [
                hook,
                dict(
                    type=SegmenterEvaluationHook,
                    evaluations=[dict(type=SceneSplits, num_images=4, difficulty='easy')],
                ),
            ],
            'work_dir': str(tmp_path / 'run'),
            'randomness': {'seed': 0},
            **options,
        }
    )


def test_a_run_through_the_engine(tmp_path, make_backbone, make_clip):
    """Rates fall by epoch, words are those of the data, and each split is scored twice."""
    model = LSeg(make_backbone('clip resnet'), make_clip(), width=16, statistics='openai')
    val = dict(
        val_dataloader={
            'batch_size': 4,
            'dataset': dict(
                type=ZeroShotSplit, dataset=scenes('base'), unseen=['yellow solid circle'], pixels='keep'
            ),
        },
        val_cfg={},
        val_evaluator=dict(type=MeanIoU),
    )
    runner = train(config(model, dict(type=VocabularyHook, templates='name'), tmp_path, **val))
    assert runner.model.vocabulary.class_names[0] == 'background'
    assert runner.model.vocabulary.digest == runner.train_dataloader.dataset.vocabulary.digest
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    rates = [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]
    assert max(rates) == pytest.approx(0.1 * (1 - 1 / 2) ** 0.9 if min(rates) else 0)
    found = next(line for line in lines if 'scenes/all/harmonic' in line)
    assert {
        f'scenes/{offered}/{part}'
        for offered in ('own', 'all')
        for part in ('base', 'novel', 'unseen', 'harmonic')
    } <= found.keys()
    validated = next(line for line in lines if line.get('stage') == 'val')
    assert {'base/mIoU', 'novel/mIoU', 'harmonic_mIoU'} <= validated.keys()


@pytest.mark.parametrize('image', ['resnet', 'efficientnet', 'convnext'])
def test_training_leaves_one_file_that_is_enough(tmp_path, make_clip, image):
    """The exported file and the last checkpoint are opened without config or CLIP, and are the same model."""
    save_clip(make_clip(image), tmp_path / 'clip.safetensors')
    model = dict(type=LSeg, clip=str(tmp_path / 'clip.safetensors'), width=16, statistics='openai')
    cfg = config(model, dict(type=VocabularyHook, templates='name'), tmp_path)
    cfg.default_hooks = dict(export=dict(type=ExportHook))
    runner = train(cfg)
    (tmp_path / 'clip.safetensors').unlink()
    trained = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    for name in ('lseg.safetensors', 'step_4.pth'):
        found = load(tmp_path / 'run' / name).state_dict()
        assert all(torch.equal(tensor, found[key]) for key, tensor in trained.items()), name


def test_a_closed_head_through_the_engine(tmp_path, make_backbone):
    names = SceneSegmentation('base', 1, 'easy').vocabulary.class_names
    model = ClosedSetDPT(names, make_backbone('clip resnet'), width=16)
    runner = train(config(model, dict(type=VocabularyHook), tmp_path))
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    found = next(line for line in lines if 'scenes/own/novel' in line)
    assert found['scenes/own/novel'] == found['scenes/all/novel'] == 0
    assert runner.iter == 4


def test_pretrained_weights_are_fetched_when_training_starts(make_lseg):
    model = make_lseg()
    before = model.decoder.reduce[0].weight.clone()
    donor = backbones.timm_network('vit_tiny_patch16_224', img_size=32, embed_dim=32, depth=4, num_heads=2)
    model.backbone.vit.pretrained = lambda: donor
    model.init_weights()
    assert torch.equal(model.backbone.vit.blocks[2].mlp.fc1.weight, donor.blocks[2].mlp.fc1.weight)
    assert torch.equal(model.decoder.reduce[0].weight, before)


def test_weights_that_cannot_be_fetched_are_an_error_of_one_line(make_lseg):
    def fetch():
        raise OSError('no route to host\nat all')

    model = make_lseg()
    model.backbone.vit.pretrained = fetch
    with pytest.raises(InputError, match=r'cannot be downloaded \(no route to host\): check the network'):
        model.init_weights()


@pytest.mark.parametrize('embed_dim', [16, 64], ids=['plain', 'compact'])
def test_a_step_in_bf16(make_backbone, embed_dim):
    """The same loss as in fp32, to the precision of bf16, and finite gradients everywhere."""
    model = LSeg(make_backbone(), embed_dim=embed_dim, width=16).train()
    vocabulary = Vocabulary(('a', 'b', 'c'))
    queries = torch.nn.functional.normalize(torch.randn(3, embed_dim), dim=-1)
    model.set_vocabulary(vocabulary, ClassEmbeddings(queries, torch.arange(3), 3))
    images, mask = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (64, 64))
    samples = [SegmentationSample('', (64, 64), mask)] * 2
    losses = []
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            losses.append(model.loss(images, samples)['loss'])
    losses[1].backward()
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
