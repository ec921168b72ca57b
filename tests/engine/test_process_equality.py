"""Several processes train as one process on the joined batch: the same losses and the same final weights.

``MODELS`` is the table.  To add a method, add a function that returns a model and the batch of all processes
together; samples of a batch are told apart by the first axis of tensors and by the items of lists.  The
processes of a layout are started once and train all models of the table.
"""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.engine import DecayGroupsConstructor, DistributedModel, Parallel
from clipdense.engine.sharding import whole
from clipdense.layers.batch_norm import synchronize
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.methods.lseg.backbones import ResNetPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr
from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.parts import (
    FPN,
    DetDataPreprocessor,
    MaxIoUAssigner,
    RandomSampler,
    ResNet,
    RPNHead,
    SingleRoIExtractor,
)
from clipdense.methods.vild.roi_head import ViLDRoIHead
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.vocab.vocabulary import Vocabulary

SAMPLES = 8  # of the batch of all processes
TEXT = TextSize(16, 2, 2, 32, 8, vocab_size=50, context_length=8)
VIT = VitSize(image_size=16, patch_size=8, width=16, layers=2, num_heads=2, mlp_width=32, embed_dim=8)
RESNET = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=8)
NAMES = ('sky', 'car', 'tree')


def pairs(side: int, prompts: int = 0):
    data = {'images': torch.randint(0, 256, (SAMPLES, 3, side, side), dtype=torch.uint8)}
    ids = torch.randint(1, 48, (SAMPLES, 1 + prompts, 8))
    ids[..., 5:] = 0
    ids[..., 5] = 49
    return data | {'token_ids': ids[:, 0]} | ({'prompt_ids': ids[:, 1:]} if prompts else {})


def clip(image=VIT, **options):
    model = build_clip(ClipSize(image, TEXT))
    if options.get('loss') == 'sigmoid':
        model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    return ContrastivePretrainer(model, **options), pairs(image.image_size)


def group_vit():
    stages = tuple(StageSize(1, 16, 2, tokens, groups) for tokens, groups in ((4, 4), (2, 2), (0, 0)))
    image = GroupVitImageSize(16, 4, stages, embed_dim=8, projector_width=12, mlp_ratio=2)
    model = build_group_vit(GroupVitSize(image, TEXT, True), assign='soft')
    return GroupVitPretrainer(model), pairs(16, prompts=2)


def slip():
    model = build_clip(ClipSize(VIT, TEXT))
    data = pairs(16)
    data['images'] = torch.randint(0, 256, (SAMPLES, 3, 3, 16, 16), dtype=torch.uint8)  # a view and two more
    return SlipPretrainer(model, {'type': SimClr, 'hidden': 24, 'output': 8}), data


def words(width: int):
    queries = normalize(torch.randn(len(NAMES), width), dim=-1).double()
    return Vocabulary(NAMES), ClassEmbeddings(queries, torch.arange(len(NAMES)), len(NAMES))


def lseg():
    """Every image has the same number of labeled pixels, as the loss is a mean over those of a process."""
    model = LSeg(ResNetPyramid(timm_network('resnet10t')), embed_dim=16, width=16)
    model.set_vocabulary(*words(16))
    masks = torch.randint(0, 3, (SAMPLES, 32, 32))
    masks[:, :4] = 255
    samples = [SegmentationSample(f'{index}.jpg', (32, 32), mask) for index, mask in enumerate(masks)]
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8)
    return model, {'images': images, 'samples': samples}


def vild():
    """All anchors and proposals are sampled, and as many in each image, as losses are means over them."""
    extractor = dict(
        type=SingleRoIExtractor,
        roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=2),
        out_channels=8,
        featmap_strides=[8, 16],
    )
    head = dict(in_channels=8, conv_out_channels=8, fc_out_channels=16, roi_feat_size=4, embed_dim=8)
    assigner = dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
    every = dict(type=RandomSampler, num=100_000, pos_fraction=0.5)
    rpn = dict(assigner=assigner, sampler={**every, 'add_gt_as_proposals': False})
    resnet = dict(depth=18, base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1))
    anchors = dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16])
    proposals = dict(nms_pre=100, max_per_img=4, nms=dict(type='nms', iou_threshold=0.9), min_bbox_size=0)
    model = ViLD(
        backbone=dict(type=ResNet, **resnet, out_indices=(0, 1)),
        neck=dict(type=FPN, in_channels=[4, 8], out_channels=8, num_outs=2),
        rpn_head=dict(type=RPNHead, in_channels=8, feat_channels=8, anchor_generator=anchors),
        roi_head=dict(
            type=ViLDRoIHead,
            bbox_roi_extractor=extractor,
            bbox_head=dict(type=ViLDBBoxHead, variant='vild', **head),
        ),
        train_cfg=dict(
            rpn=dict(**rpn, allowed_border=-1, pos_weight=-1),
            rpn_proposal=proposals,
            rcnn=dict(assigner=assigner, sampler=every, mask_size=16, pos_weight=-1),
        ),
        test_cfg=dict(rpn=proposals, rcnn=dict(score_thr=0.0, nms=dict(iou_threshold=0.5), max_per_img=4)),
        data_preprocessor=dict(
            type=DetDataPreprocessor, mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=16
        ),
    )
    model.set_vocabulary(*words(8))
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 48), dtype=torch.uint8)
    return model, {'inputs': list(images), 'data_samples': [boxes_of(index) for index in range(SAMPLES)]}


def boxes_of(index: int):
    sample = DetDataSample(metainfo=dict(img_shape=(32, 48), ori_shape=(32, 48), scale_factor=(1.0, 1.0)))
    boxes = torch.tensor([[4.0, 4, 30, 30], [20, 6, 44, 28]]).double()
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([index % 3, (index + 1) % 3]))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.int64))
    sample.regions = InstanceData(bboxes=boxes + 1, embeddings=normalize(torch.randn(2, 8), dim=-1).double())
    return sample


MODELS = {
    'CLIP': clip,
    'CLIP, cached': functools.partial(clip, micro_batch=1),
    'CLIP, batch norm': functools.partial(clip, RESNET),
    'CLIP, activations recomputed': functools.partial(clip, gradient_checkpointing=True),
    'SigLIP': functools.partial(clip, loss='sigmoid'),
    'SigLIP, cached': functools.partial(clip, loss='sigmoid', micro_batch=1),
    'LiT': functools.partial(clip, lock_image=True),
    'SLIP': slip,
    'GroupViT': group_vit,
    'LSeg': lseg,
    'ViLD': vild,
}


class Doubled(nn.Module):
    """The preprocessor of a model, with fp64 images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, data, training=False):
        data = self.inner(data, training)
        name = 'images' if 'images' in data else 'inputs'
        return {**data, name: data[name].double()}


def share(data, process: int, processes: int):
    size = SAMPLES // processes
    return {name: values[process * size : (process + 1) * size] for name, values in data.items()}


def trained(name: str, process: int, processes: int, steps: int, settings: Parallel | None = None):
    """Losses of each step, and the weights after the last one, of one model of the table."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    model, data = MODELS[name]()
    if processes == 1:
        model.micro_batch = None
    model = model.double().train()
    model.data_preprocessor = Doubled(model.data_preprocessor)
    synchronize(model, every=True)
    wrapped = DistributedModel(model, settings)
    optimizer = {'type': torch.optim.AdamW, 'lr': 1e-3, 'eps': 1e-6, 'weight_decay': 0.1}
    settings_of_step = {'precision': 'fp32', 'clip_grad': {'max_norm': 1.0}}
    optim_wrapper = DecayGroupsConstructor({'optimizer': optimizer, **settings_of_step})(wrapped)
    own = share(data, process, processes)
    losses = [float(wrapped.train_step(own, optim_wrapper)['loss'].detach()) for _ in range(steps)]
    return losses, {key: value.numpy() for key, value in whole(dict(model.state_dict())).items()}


@functools.cache
def results(processes: int, steps: int, settings: Parallel | None = None):
    """``trained`` for all models of the table, in each process of one group."""
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, steps, settings, Path(folder) / 'store', queue)
        workers = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(processes)]
        for worker in workers:
            worker.start()
        found = dict(queue.get(timeout=300) for _ in workers)
        for worker in workers:
            worker.join()
    return [found[rank] for rank in range(processes)]


def _process(rank, processes, steps, settings, store, queue):
    torch.set_num_threads(1)  # thread pools do not survive a fork
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=processes)
    found = {}
    for name in MODELS:
        try:
            found[name] = trained(name, rank, processes, steps, settings)
        except Exception as error:
            traceback.print_exc()
            found[name] = error
    queue.put((rank, found))
    dist.destroy_process_group()


@functools.cache
def alone(name: str, steps: int):
    return trained(name, 0, 1, steps)


def check(name: str, processes: int, steps: int, settings: Parallel | None = None) -> None:
    losses, weights = alone(name, steps)
    found = [one[name] for one in results(processes, steps, settings)]
    assert not [one for one in found if isinstance(one, Exception)], found
    assert losses[-1] < losses[0], 'it learns'
    mean = np.mean([one[0] for one in found], axis=0)
    np.testing.assert_allclose(mean, losses, rtol=0, atol=1e-6)
    for key, value in weights.items():
        assert_close(found[0][1][key], value, rtol=0, atol=1e-6, msg=key)
        assert_close(found[-1][1][key], found[0][1][key], rtol=0, atol=0, msg=key)


SHARDED = Parallel(type='fsdp')
SHARDED_AGAIN = Parallel(type='fsdp', activation_checkpointing=True)


@pytest.mark.parametrize('name', MODELS)
def test_two_processes_equal_one(name):
    check(name, 2, steps=4)


@pytest.mark.parametrize('name', MODELS)
def test_two_processes_with_parts_of_the_model_equal_one(name):
    check(name, 2, steps=4, settings=SHARDED_AGAIN)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize(
    'settings', [Parallel(), Parallel(static_graph=True), SHARDED], ids=['ddp', 'static graph', 'fsdp']
)
@pytest.mark.parametrize('processes', [2, 4])
def test_twenty_steps(name, processes, settings):
    if settings.static_graph and 'cached' in name:
        said = {str(one[name]) for one in results(processes, 20, settings)}
        assert len(said) == 1
        assert 'parallel.static_graph is for steps of one backward pass' in said.pop()
        return
    check(name, processes, 20, settings)
