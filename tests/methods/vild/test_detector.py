"""The whole detector on small random images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch.testing import assert_close
from torchvision.ops import box_iou

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.functional import distillation_loss
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

SIZE, EMBED = (48, 64), 8
VARIANTS = ['text', 'image', 'vild', 'ensemble']


def sample(objects=2, regions=3, masks=False, scale=1.0):
    """An image and what is on it; ``scale`` is how much the network sees it enlarged."""
    original = (round(SIZE[0] / scale), round(SIZE[1] / scale))
    meta = {'img_shape': SIZE, 'ori_shape': original, 'scale_factor': (scale, scale)}
    one = DetDataSample(metainfo=meta)
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 44]])[:objects]
    truth = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1])[:objects])
    if masks:
        drawn = np.zeros((objects, *SIZE), np.uint8)
        for row, box in zip(drawn, boxes.int().tolist(), strict=True):
            row[box[1] : box[3], box[0] : box[2]] = 1
        truth.masks = BitmapMasks(drawn, *SIZE)
    one.gt_instances, one.ignored_instances = truth, InstanceData(bboxes=boxes[:0], labels=truth.labels[:0])
    corner = torch.rand(regions, 2) * 20
    region_boxes = torch.cat([corner, corner + 20], dim=1)
    one.regions = InstanceData(bboxes=region_boxes, embeddings=torch.randn(regions, EMBED))
    return one


def batch(*samples):
    images = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8) for _ in samples]
    return {'inputs': images, 'data_samples': list(samples)}


def losses_of(model, *samples):
    data = model.data_preprocessor(batch(*samples), training=True)
    return model.train().loss(data['inputs'], data['data_samples'])


def train_with(tiny, names, novel):
    return losses_of(tiny.build(vocabulary=tiny.words(names, novel)), sample())


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'masks'])
def test_losses_and_gradients(tiny, variant, masks):
    model = tiny.build(variant, masks)
    losses = losses_of(model, sample(masks=masks), sample(masks=masks))
    assert ('loss_cls' in losses) == (variant != 'image')
    assert ('loss_distill' in losses) == (variant != 'text')
    assert ('loss_mask' in losses) == masks
    total, _ = model.parse_losses(losses)
    total.backward()
    head = model.roi_head.bbox_head
    learned = head.image_projection if variant == 'ensemble' else head.projection
    assert learned.weight.grad.isfinite().all()
    assert learned.weight.grad.abs().sum() > 0
    assert (head.background.grad is not None) == (variant != 'image')


@pytest.mark.parametrize('variant', VARIANTS)
def test_detections(tiny, variant):
    model = tiny.build(variant, masks=True).eval()
    found = model.test_step(batch(sample(scale=2.0), sample(scale=2.0)))
    for one in found:
        result = one.pred_instances
        assert 0 < len(result) <= 10
        assert result.masks.shape == (len(result), 24, 32)
        assert (result.bboxes[:, 2:] <= torch.tensor([32.0, 24])).all()
        assert ((result.scores > 0) & (result.scores <= 1)).all()
        assert (result.scores[:-1] >= result.scores[1:]).all()
        assert set(result.labels.tolist()) <= {0, 1, 2}


def test_regions_are_distilled_where_they_are(tiny):
    """The loss is that of the stored boxes' own embeddings, over the valid ones of the whole batch."""
    model, samples = tiny.build('vild'), [sample(), sample(regions=2)]
    samples[1].regions.bboxes[1] = 0  # cropped away
    data = model.data_preprocessor(batch(*samples), training=True)
    model.roi_head.distill_weight = 1.0
    losses = model.train().loss(data['inputs'], data['data_samples'])
    head = model.roi_head
    features = model.extract_feat(data['inputs'])
    embeddings, teacher = [], []
    for index, one in enumerate(samples):
        rois = torch.cat([torch.full((len(one.regions), 1), float(index)), one.regions.bboxes], dim=1)
        valid = torch.arange(len(rois)) != (1 if index == 1 else -1)
        pooled = head.bbox_roi_extractor(features[:3], rois[valid])
        embeddings.append(head.bbox_head.distilled(pooled))
        teacher.append(one.regions.embeddings[valid])
    expected = distillation_loss(torch.cat(embeddings), torch.cat(teacher))
    assert_close(losses['loss_distill'], expected)


@pytest.mark.parametrize('frozen', [(), ('backbone', 'neck', 'rpn_head')], ids=['whole', 'frozen'])
def test_boxes_are_not_rounded_under_autocast(tiny, frozen):
    """bf16 knows 8 bits: near 1,000 every fourth pixel."""
    model, seen = tiny.build('vild', masks=True, frozen=frozen).train(), []
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        for layer in extractor.roi_layers:
            layer.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model, sample(masks=True))
    assert {rois.dtype for rois in seen} == {torch.float32}
    proposed = torch.cat(seen)[:, 1:]
    assert (proposed != proposed.bfloat16()).any(dim=1).float().mean() > 0.5
    total, _ = model.parse_losses(losses)
    assert total.isfinite()


def test_branches_of_the_ensemble_learn_apart(tiny):
    model = tiny.build('ensemble')
    losses = losses_of(model, sample())
    head = model.roi_head.bbox_head
    apart = torch.autograd.grad(
        losses['loss_distill'],
        [head.projection.weight, head.image_projection.weight],
        allow_unused=True,
        retain_graph=True,
    )
    assert apart[0] is None
    assert apart[1].abs().sum() > 0
    assert torch.autograd.grad(losses['loss_cls'], head.image_projection.weight, allow_unused=True)[0] is None


def test_novel_classes_take_no_part_in_training(tiny):
    """Their words change nothing."""
    vocabulary, embeddings = tiny.words()
    other = embeddings.queries.clone()
    other[2] = -other[2]
    found = []
    for queries in (embeddings.queries, other):
        model = tiny.build(vocabulary=(vocabulary, ClassEmbeddings(queries, embeddings.query_class, 3)))
        torch.manual_seed(1)
        found.append(losses_of(model, sample())['loss_cls'])
    assert_close(found[0], found[1])


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(('objects', 'regions'), [(0, 3), (2, 0), (0, 0)])
def test_images_without_objects_or_regions(tiny, variant, objects, regions):
    model = tiny.build(variant, masks=True)
    losses = losses_of(model, sample(objects, regions, masks=True))
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    if 'loss_distill' in losses:
        assert (losses['loss_distill'] > 0) == bool(regions)


def test_a_single_region_is_too_few_for_the_batch_norm_of_the_ensemble(tiny):
    model = tiny.build('ensemble', norm_cfg=dict(type='BN'), fc_norm=True)
    losses = losses_of(model, sample(regions=1))
    assert losses['loss_distill'] == 0
    assert losses_of(model, sample(regions=2))['loss_distill'] > 0


def test_regions_stay_with_their_image(tiny):
    """Also where another image of the batch has none at all."""
    model, samples = tiny.build('vild').eval(), [sample(), sample(regions=2)]
    rois = torch.zeros(1, 5)
    both = model.roi_head._stored(samples, rois)
    del samples[0].regions
    alone = model.roi_head._stored(samples, rois)
    assert_close(alone[0], both[0][-2:])
    assert alone[0][:, 0].tolist() == [1, 1]
    assert_close(alone[1], both[1][-2:])


def test_no_proposals_no_detections(tiny):
    model = tiny.build(masks=True).eval()
    model.test_cfg.rpn.min_bbox_size = model.rpn_head.test_cfg.min_bbox_size = 1000
    result = model.test_step(batch(sample()))[0].pred_instances
    assert len(result) == 0
    assert result.masks.shape == (0, *SIZE)


def test_words_may_be_exchanged(tiny):
    model = tiny.build('ensemble').eval()
    before = set(model.state_dict())
    data = batch(sample())
    model.set_vocabulary(*tiny.words(('a', 'b', 'c', 'd', 'e'), ()))
    labels = model.test_step(data)[0].pred_instances.labels
    assert model.num_classes == 5
    assert labels.max() < 5
    assert set(model.state_dict()) == before
    assert model.dataset_meta['classes'] == ('a', 'b', 'c', 'd', 'e')


def test_synonyms_speak_for_their_class(tiny):
    vocabulary, embeddings = tiny.words(('cat', 'dog', 'hound'), ())
    apart = tiny.build(vocabulary=(vocabulary, embeddings)).eval()
    merged = ClassEmbeddings(embeddings.queries, torch.tensor([0, 1, 1]), 2)
    together = tiny.build(vocabulary=(Vocabulary(('cat', 'dog'), {'dog': ('hound',)}), merged)).eval()
    features = torch.randn(5, 16, 4, 4)
    trunk = apart.roi_head.bbox_head.trunk(features)
    three = apart.roi_head.bbox_head.logits(trunk, 0.01)
    two = together.roi_head.bbox_head.logits(trunk, 0.01)
    assert_close(two, torch.stack([three[:, 0], three[:, 1:3].amax(1), three[:, 3]], dim=1))


@pytest.mark.parametrize('frozen', [('backbone', 'neck', 'rpn_head'), ('backbone',)])
def test_frozen_parts_stay(tiny, frozen):
    model = tiny.build(frozen=frozen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = losses_of(model, sample(), sample())
    assert any(name.startswith('loss_rpn') for name in losses) == ('rpn_head' not in frozen)
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or not name.startswith(frozen), name
    for name, tensor in model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
def test_norms(tiny, norm):
    model = tiny.build('ensemble', norm_cfg={'type': norm, 'eps': 1e-4}, fc_norm=True)
    layers = [*model.roi_head.bbox_head.shared_fcs, *model.roi_head.bbox_head.image_fcs]
    assert all(layer[1].eps == 1e-4 for layer in layers)
    model.parse_losses(losses_of(model, sample()))[0].backward()


def test_the_teacher_is_no_part_of_the_weights(tiny):
    size = ClipSize(VitSize(32, 16, 32, 1, 1, 32, EMBED), TextSize(32, 1, 1, 32, EMBED))
    model = ViLD(**tiny.config(), clip=build_clip(size))
    assert model.clip is not None
    assert not any(name.startswith('clip') for name in model.state_dict())
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (lambda tiny: ViLD(**tiny.config(variant='vlid')), "variant must be .* got 'vlid'"),
        (lambda tiny: ViLD(**tiny.config(), frozen=('spine',)), r'frozen contains unknown parts \[.spine.\]'),
        (lambda tiny: ViLD(**tiny.config()).eval().test_step(batch(sample())), 'no vocabulary is set'),
        (lambda tiny: train_with(tiny, ('cow',), ('cow',)), 'training requires base classes'),
        (lambda tiny: train_with(tiny, ('cat', 'dog'), ('dog',)), 'has objects of novel classes'),
        (lambda tiny: train_with(tiny, ('cat',), ()), 'outside the vocabulary'),
    ],
    ids=['variant', 'frozen', 'no words', 'all novel', 'novel object', 'class without a word'],
)
def test_refusals(tiny, act, message):
    with pytest.raises(InputError, match=message):
        act(tiny)


def test_words_of_another_width(tiny):
    vocabulary = Vocabulary(('cat',))
    with pytest.raises(InputError, match='class embeddings have dimension 5, region embeddings 8'):
        tiny.build(vocabulary=(vocabulary, ClassEmbeddings(torch.randn(1, 5), torch.arange(1), 1)))


@pytest.mark.parametrize('variant', VARIANTS)
def test_detections_in_bf16(tiny, variant):
    """As in fp32 to the precision of bf16: boxes, scores and masks are computed in fp32 from its features."""
    model = tiny.build(variant, masks=True).eval()
    seen = []
    model.roi_head.mask_roi_extractor.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    images = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    one, other = ({'inputs': [images], 'data_samples': [sample(scale=2.0)]} for _ in range(2))
    exact = model.test_step(one)[0].pred_instances
    with torch.autocast('cpu', torch.bfloat16):
        rounded = model.test_step(other)[0].pred_instances
    assert rounded.bboxes.dtype == rounded.scores.dtype == torch.float32
    assert {rois.dtype for rois in seen} == {torch.float32}
    assert (rounded.bboxes != rounded.bboxes.bfloat16()).any()
    overlap = box_iou(exact.bboxes, rounded.bboxes).amax(dim=1)
    assert (overlap > 0.9).float().mean() >= 0.8  # random boxes overlap much: suppression may choose another
    assert_close(exact.scores[0], rounded.scores[0], atol=0.02, rtol=0)


def test_the_sizes_of_training_images_are_kept(tiny):
    model = tiny.build()
    assert 'image_sides' not in model.portable_config({'model': {}})
    losses_of(model, sample(), sample(scale=2.0))
    assert model.portable_config({'model': {}})['image_sides'] == (64, 64)
    assert model.portable_config({'model': {}})['transforms'] == []
