"""The stand-in for compiled mmcv, operation by operation and as a whole detector."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.ops import box_iou, deform_conv2d, roi_align, sigmoid_focal_loss

from clipdense import mmcv_ops
from clipdense.utils.errors import InputError

mmcv_ops.install()

import mmcv.ops  # noqa: E402


def boxes_of(count: int, size: float = 60.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * size / 2], dim=1)


def kept_by_hand(boxes, scores, threshold, offset):
    """Greedy suppression as its definition has it."""
    boxes = boxes + torch.tensor([0, 0, offset, offset])
    order, kept = scores.argsort(descending=True).tolist(), []
    for index in order:
        if all(box_iou(boxes[[index]], boxes[[other]]).item() <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.5])
def test_nms(threshold, offset):
    boxes, scores = boxes_of(40), torch.rand(40)
    kept = mmcv.ops.nms(boxes, scores, threshold, offset)[1]
    assert kept.tolist() == kept_by_hand(boxes, scores, threshold, offset)


def test_batched_nms_keeps_classes_apart():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    assert mmcv.ops.batched_nms(boxes, scores, classes, {'iou_threshold': 0.5})[1].tolist() == [0, 1]


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align_and_its_gradient(aligned, ratio):
    features = torch.randn(2, 3, 16, 16, requires_grad=True)
    rois = torch.cat([torch.tensor([[0.0], [1], [1]]), boxes_of(3)], dim=1)
    upstream = torch.randn(3, 3, 7, 5)
    found = mmcv.ops.roi_align(features, rois, (7, 5), 0.25, ratio, 'avg', aligned)
    (found * upstream).sum().backward()
    gradient, features.grad = features.grad, None
    expected = roi_align(features, rois, (7, 5), 0.25, ratio or -1, aligned)
    (expected * upstream).sum().backward()
    assert_close(found, expected)
    assert_close(gradient, features.grad)


@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss_and_its_gradient(weighted):
    logits, target = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, 1])
    weight = torch.rand(4) if weighted else None
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'sum')
    loss.backward()
    gradient, logits.grad = logits.grad, None
    one_hot = torch.nn.functional.one_hot(target, 4).float()
    terms = sigmoid_focal_loss(logits, one_hot, 0.25, 2.0)
    expected = (terms * (weight[target][:, None] if weighted else 1)).sum()
    expected.backward()
    assert_close(loss, expected)
    assert_close(gradient, logits.grad)


def test_focal_loss_of_the_background():
    """Class K hits no column."""
    loss = mmcv.ops.sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([2]), 2.0, 0.25, None, 'sum')
    assert loss.item() == pytest.approx(2 * 0.75 * 0.25 * 0.6931472)


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution_and_its_gradients(modulated):
    features, weight = torch.randn(2, 4, 6, 6), torch.randn(6, 2, 3, 3)
    offset, mask, bias = torch.randn(2, 36, 6, 6), torch.rand(2, 18, 6, 6), torch.randn(6)
    inputs = [features, offset, weight] + ([mask, bias] if modulated else [])
    for tensor in inputs:
        tensor.requires_grad_()
    if modulated:
        found = mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, bias, 1, 1, 1, 2, 2)
        expected = deform_conv2d(features, offset, weight, bias, 1, 1, 1, mask)
    else:
        found = mmcv.ops.deform_conv2d(features, offset, weight, 1, 1, 1, 2, 2)
        expected = deform_conv2d(features, offset, weight, None, 1, 1, 1)
    upstream = torch.randn_like(expected)
    assert_close(found, expected)
    ours = torch.autograd.grad((found * upstream).sum(), inputs)
    assert_close(ours, torch.autograd.grad((expected * upstream).sum(), inputs))


def test_offsets_of_a_larger_map_are_read_in_memory_order():
    """mmdet's DyHead gives the offsets of a finer level: the compiled kernel reads their first numbers."""
    features, weight, bias = torch.randn(2, 4, 4, 4), torch.randn(6, 4, 3, 3), torch.randn(6)
    offset, mask = torch.randn(2, 18, 8, 8), torch.rand(2, 9, 8, 8)
    inputs = [features, offset, mask, weight, bias]
    for tensor in inputs:
        tensor.requires_grad_()
    found = mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, bias, 1, 1, 1, 1, 1)
    read = [
        one.flatten(1)[:, : count * 16].reshape(2, count, 4, 4) for one, count in ((offset, 18), (mask, 9))
    ]
    expected = deform_conv2d(features, read[0], weight, bias, 1, 1, 1, read[1])
    upstream = torch.randn_like(expected)
    assert_close(found, expected)
    ours = torch.autograd.grad((found * upstream).sum(), inputs)
    assert_close(ours, torch.autograd.grad((expected * upstream).sum(), inputs))
    assert not ours[1].flatten(1)[:, 18 * 16 :].any()


def test_the_default_optimizer_constructor_of_mmengine_works():
    """It looks for compiled operations."""
    from mmengine.optim import build_optim_wrapper

    wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=dict(bias_lr_mult=2.0)
    )
    made = build_optim_wrapper(torch.nn.Linear(2, 2), wrapper)
    assert sorted(group['lr'] for group in made.optimizer.param_groups) == [0.1, 0.2]


def test_offsets_of_a_smaller_map_are_refused():
    features, weight = torch.randn(2, 4, 4, 4), torch.randn(6, 4, 3, 3)
    with pytest.raises(RuntimeError):
        mmcv.ops.modulated_deform_conv2d(
            features, torch.randn(2, 18, 2, 2), torch.rand(2, 9, 2, 2), weight, None, 1, 1, 1, 1, 1
        )


@pytest.mark.parametrize(
    ('call', 'name'),
    [
        (lambda: mmcv.ops.soft_nms(boxes_of(3), torch.rand(3)), 'softnms'),
        (lambda: mmcv.ops.RoIPool(7)(torch.randn(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]])), 'roi_pool'),
        (lambda: mmcv.ops.roi_align(torch.randn(1, 1, 8, 8), torch.zeros(1, 5), 7, 1.0, 0, 'max'), 'max'),
    ],
    ids=['soft nms', 'roi pool', 'maximum in roi align'],
)
def test_what_torchvision_cannot_do_is_refused_by_name(call, name):
    with pytest.raises(NotImplementedError, match=name):
        call()


def test_compiled_mmcv_is_left_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(mmcv_ops.PathFinder, 'find_spec', lambda *_: ModuleSpec('mmcv._ext', None))
    assert mmcv_ops.install() is False
    assert 'mmcv._ext' not in sys.modules


def test_installing_twice_changes_nothing():
    module = sys.modules['mmcv._ext']
    assert mmcv_ops.install() is True
    assert sys.modules['mmcv._ext'] is module


def test_without_mmdet_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(mmcv_ops, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install mmdet'):
        mmcv_ops.install()


WITHOUT = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmdet', 'mmcv', 'pycocotools', 'faster_coco_eval'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import clipdense
rooms = ('mmcv_ops', 'methods.vild', 'methods.glip', 'data.detection', 'evaluation.detection')
rooms += ('methods.prompt_learning.detpro',)
rooms += ('inference.detector', 'inference.pseudo_labels', 'configs')
for module in pkgutil.walk_packages(clipdense.__path__, 'clipdense.', onerror=lambda name: None):
    if not module.name.startswith(tuple(f'clipdense.{room}' for room in rooms)):
        importlib.import_module(module.name)
"""


def test_everything_but_detection_imports_without_mmdet():
    done = subprocess.run([sys.executable, '-c', WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# Mask R-CNN of both libraries with the same weights


def mmdet_maskrcnn(classes: int):
    import mmdet.models
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    assert mmdet.models is not None
    coder = {'type': 'DeltaXYWHBBoxCoder', 'target_means': [0.0] * 4}
    extractor = {
        'type': 'SingleRoIExtractor',
        'roi_layer': {'type': 'RoIAlign', 'output_size': 7, 'sampling_ratio': 2, 'aligned': False},
        'out_channels': 256,
        'featmap_strides': [4, 8, 16, 32],
    }
    mask_layer = {**extractor['roi_layer'], 'output_size': 14}
    assigner = {'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.5, 'neg_iou_thr': 0.5, 'min_pos_iou': 0.5}
    sampler = {'type': 'RandomSampler', 'num': 16, 'pos_fraction': 0.5}
    config = ConfigDict(
        type='MaskRCNN',
        backbone={'type': 'ResNet', 'depth': 18, 'norm_eval': True, 'style': 'pytorch'},
        neck={'type': 'FPN', 'in_channels': [64, 128, 256, 512], 'out_channels': 256, 'num_outs': 5},
        rpn_head={
            'type': 'RPNHead',
            'in_channels': 256,
            'anchor_generator': {
                'type': 'AnchorGenerator',
                'scales': [8],
                'ratios': [0.5, 1.0, 2.0],
                'strides': [4, 8, 16, 32, 64],
            },
            'bbox_coder': {**coder, 'target_stds': [1.0] * 4},
        },
        roi_head={
            'type': 'StandardRoIHead',
            'bbox_roi_extractor': extractor,
            'bbox_head': {
                'type': 'Shared2FCBBoxHead',
                'num_classes': classes,
                'bbox_coder': {**coder, 'target_stds': [0.1, 0.1, 0.2, 0.2]},
            },
            'mask_roi_extractor': {**extractor, 'roi_layer': mask_layer},
            'mask_head': {'type': 'FCNMaskHead', 'num_classes': classes},
        },
        train_cfg={
            'rpn': {'assigner': assigner, 'sampler': sampler, 'allowed_border': -1, 'pos_weight': -1},
            'rpn_proposal': {'nms_pre': 50, 'max_per_img': 50, 'nms': {'type': 'nms', 'iou_threshold': 0.7}},
            'rcnn': {'assigner': assigner, 'sampler': sampler, 'mask_size': 28, 'pos_weight': -1},
        },
        test_cfg={
            'rpn': {'nms_pre': 1000, 'max_per_img': 1000, 'nms': {'type': 'nms', 'iou_threshold': 0.7}},
            'rcnn': {
                'score_thr': 0.05,
                'nms': {'type': 'nms', 'iou_threshold': 0.5},
                'max_per_img': 100,
                'mask_thr_binary': 0.5,
            },
        },
    )
    return MODELS.build(config)


def torchvision_maskrcnn(classes: int):
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(backbone_name='resnet18', weights=None)
    return MaskRCNN(backbone, classes + 1)


def to_mmdet(state: dict, classes: int) -> dict:
    """torchvision's weights under mmdet's names: background last, and no box for it."""
    names = {
        'backbone.body.': 'backbone.',
        'backbone.fpn.inner_blocks.': 'neck.lateral_convs.',
        'backbone.fpn.layer_blocks.': 'neck.fpn_convs.',
        'rpn.head.conv.0.0.': 'rpn_head.rpn_conv.',
        'rpn.head.cls_logits.': 'rpn_head.rpn_cls.',
        'rpn.head.bbox_pred.': 'rpn_head.rpn_reg.',
        'roi_heads.box_head.fc6.': 'roi_head.bbox_head.shared_fcs.0.',
        'roi_heads.box_head.fc7.': 'roi_head.bbox_head.shared_fcs.1.',
        'roi_heads.box_predictor.cls_score.': 'roi_head.bbox_head.fc_cls.',
        'roi_heads.box_predictor.bbox_pred.': 'roi_head.bbox_head.fc_reg.',
        'roi_heads.mask_predictor.conv5_mask.': 'roi_head.mask_head.upsample.',
        'roi_heads.mask_predictor.mask_fcn_logits.': 'roi_head.mask_head.conv_logits.',
    }
    names |= {f'roi_heads.mask_head.{i}.0.': f'roi_head.mask_head.convs.{i}.conv.' for i in range(4)}
    converted = {}
    for name, tensor in state.items():
        old, new = next((old, new) for old, new in names.items() if name.startswith(old))
        if 'fpn' in name:
            name = name.replace('.0.weight', '.conv.weight').replace('.0.bias', '.conv.bias')
        if 'cls_score' in name:
            tensor = torch.cat([tensor[1:], tensor[:1]])
        if 'box_predictor.bbox_pred' in name:
            tensor = tensor[4:]
        if 'mask_fcn_logits' in name:
            tensor = tensor[1:]
        converted[name.replace(old, new)] = tensor
    return converted


@pytest.fixture
def pair():
    """Both models with the same weights, spread so that classes and boxes differ, yet without ties."""
    torchvision.disable_beta_transforms_warning()
    theirs = torchvision_maskrcnn(3)
    with torch.no_grad():
        theirs.rpn.head.cls_logits.weight.mul_(20)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(8)
        theirs.roi_heads.box_predictor.bbox_pred.weight.mul_(3)
    ours = mmdet_maskrcnn(3)
    left = ours.load_state_dict(to_mmdet(theirs.state_dict(), 3), strict=False)
    assert not left.unexpected_keys
    assert all(name.endswith('num_batches_tracked') for name in left.missing_keys)
    for level, anchors in enumerate(theirs.rpn.anchor_generator.cell_anchors):
        ours.rpn_head.prior_generator.base_anchors[level] = anchors  # torchvision rounds them
    return ours.eval(), theirs.eval()


def samples(count: int, size: tuple[int, int]):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    found = []
    for _ in range(count):
        shape = {'img_shape': size, 'ori_shape': size, 'scale_factor': (1.0, 1.0)}
        one = DetDataSample(metainfo={**shape, 'pad_shape': size, 'batch_input_shape': size})
        boxes = torch.tensor([[8.0, 8, 60, 70], [40, 20, 110, 90]])
        masks = torch.zeros(2, *size, dtype=torch.uint8).numpy()
        masks[0, 8:70, 8:60] = masks[1, 20:90, 40:110] = 1
        one.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 2]), masks=BitmapMasks(masks, *size)
        )
        one.ignored_instances = InstanceData(bboxes=boxes[:0])
        found.append(one)
    return found


def test_boxes_and_masks_equal_those_of_torchvision(pair):
    ours, theirs = pair
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        found = ours.predict(image, samples(1, (96, 128)))[0].pred_instances
        features = theirs.backbone(image)
        listed = torchvision.models.detection.image_list.ImageList(image, [(96, 128)])
        proposals, _ = theirs.rpn(listed, features)
        expected = theirs.roi_heads(features, proposals, [(96, 128)])[0][0]
    assert len(expected['boxes']) > 5
    assert_close(found.scores, expected['scores'], atol=1e-6, rtol=1e-5)
    assert_close(found.bboxes, expected['boxes'], atol=1e-4, rtol=1e-5)
    assert torch.equal(found.labels + 1, expected['labels'])
    assert found.masks.shape == (len(found.bboxes), 96, 128)


def test_a_training_step(pair):
    model = pair[0].train()
    losses = model.loss(torch.randn(2, 3, 96, 128), samples(2, (96, 128)))
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert model.roi_head.bbox_head.fc_reg.weight.grad.abs().sum() > 0
