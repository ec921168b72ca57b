"""LSeg as a model: sizes, vocabularies, what learns and what does not, and bad input."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.sizes import TimmSize
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.methods.lseg.backbones import (
    ResNetPyramid,
    StagePyramid,
    TransformerPyramid,
    default_hooks,
    timm_network,
)
from clipdense.methods.lseg.closed_set import ClosedSetDPT
from clipdense.methods.lseg.episodes import EpisodeLSeg
from clipdense.methods.lseg.head import CosineHead
from clipdense.methods.lseg.regularize import BottleneckBlock, DepthwiseBlock
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

KINDS = ['timm vit', 'clip vit', 'timm resnet', 'clip resnet', 'efficientnet', 'convnext']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(32, 32), (1, 1), (33, 70)])
def test_logits_have_the_size_of_the_image(make_lseg, kind, size):
    model = make_lseg(kind)
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    labels = model.segment(torch.randn(3, *size))
    assert labels.classes.shape == size


def test_padding_lies_to_the_right_and_below(make_lseg):
    """An image padded by hand gives the same logits, cut."""
    model, image = make_lseg(), torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        whole = model(F.pad(image, (0, 96 - 70, 0, 64 - 40)))
        assert_close(model(image), whole[..., :40, :70])


@pytest.mark.parametrize(
    'block', [None, DepthwiseBlock(2), BottleneckBlock(2)], ids=['none', 'depthwise', 'bottleneck']
)
def test_chunks_of_classes_change_nothing(make_lseg, block):
    """The bottleneck sees the maximum over all classes, however small the budget is."""
    names = [f'class {index}' for index in range(40)]
    model, image = make_lseg(words=names, block=block), torch.randn(3, 48, 64)
    whole = model.segment(image)
    model.memory_budget = 1
    assert torch.equal(model.segment(image).classes, whole.classes)
    assert model.joint_over_classes == isinstance(block, BottleneckBlock)


def test_the_order_of_the_words_is_the_order_of_the_logits(make_lseg):
    model, image = make_lseg(words='abcde', block=BottleneckBlock(3)), torch.randn(1, 3, 32, 32)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        features = model.encode_pixels(image)
        logits = model.classify_pixels(features, model.queries)
        assert_close(model.classify_pixels(features, model.queries[order]), logits[:, order])


@pytest.mark.parametrize('zero_bias', [False, True])
def test_keeping_less_changes_nothing(zero_bias):
    """Where embeddings are wider than features, the compact way gives the same logits and gradients."""
    head = CosineHead(6, 40)
    assert head.compact
    if zero_bias:
        torch.nn.init.zeros_(head.bias)
    found = []
    for compact in (True, False):
        head.compact = compact
        head.zero_grad()
        torch.manual_seed(1)
        features = torch.randn(2, 6, 5, 4, requires_grad=True)
        text = F.normalize(torch.randn(3, 40), dim=-1)
        kept = head.keep(features)
        logits = head.logits(kept, text)
        (logits * torch.randn_like(logits)).sum().backward()
        found.append(
            (logits, head.embeddings(kept), features.grad, head.weight.grad.clone(), head.bias.grad.clone())
        )
        assert kept.shape[1] == (7 if compact else 40)
    for ours, expected in zip(*found, strict=True):
        assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_synonyms_learn_as_one_class(make_lseg):
    model = make_lseg(words=None)
    queries = F.normalize(torch.randn(3, 16), dim=-1)
    model.set_vocabulary(Vocabulary(('a', 'b')), ClassEmbeddings(queries, torch.tensor([0, 1, 1]), 2))
    logits = torch.randn(2, 3, 4, 4)
    expected = torch.stack([logits[:, 0], logits[:, 1:].amax(1)], 1)
    assert torch.equal(model.merge_queries(logits), expected)


def sample(mask):
    mask = torch.as_tensor(mask)
    return SegmentationSample('a.jpg', tuple(mask.shape), mask)


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('block', [None, BottleneckBlock(2)], ids=['plain', 'bottleneck'])
def test_an_image_without_labels_teaches_nothing(make_lseg, balance, block):
    model = make_lseg(block=block, loss={'balance': balance}).train()
    loss = model.loss(torch.randn(1, 3, 64, 64), [sample(torch.full((64, 64), 255))])['loss']
    loss.backward()
    assert loss.item() == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (
            torch.full((32, 32), 3),
            r'a\.jpg has labels \[3\], which are not classes: .* from 0 to 2, or 255',
        ),
        (torch.full((32, 32), -1), r'a\.jpg has labels \[-1\]'),
    ],
    ids=['too high', 'negative'],
)
def test_labels_must_be_classes(make_lseg, mask, message):
    with pytest.raises(InputError, match=message):
        make_lseg().loss(torch.randn(1, 3, 32, 32), [sample(mask)])


def test_training_wants_masks_and_one_size(make_lseg):
    model = make_lseg()
    with pytest.raises(InputError, match='has no mask: use a dataset'):
        model.loss(torch.randn(1, 3, 8, 8), [SegmentationSample('a.jpg', (8, 8))])
    with pytest.raises(InputError, match='SegmentationCrops'):
        model.loss([torch.randn(3, 8, 8), torch.randn(3, 9, 8)], [])


def test_nothing_is_segmented_without_words(make_lseg):
    with pytest.raises(InputError, match='no vocabulary is set'):
        make_lseg(words=None).segment(torch.randn(3, 32, 32))


def test_text_is_frozen_and_travels_along(make_lseg, make_clip, make_backbone):
    clip = make_clip()
    model = LSeg(make_backbone(), clip, width=16).train()
    assert not model.clip.text.training
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())
    vocabulary = Vocabulary(('sky', 'car'))
    model.set_vocabulary(vocabulary, class_embedder(model, templates=['a {}']).embed(vocabulary))
    labels = torch.ones(64, 64, dtype=torch.int64)
    model.loss(torch.randn(1, 3, 64, 64), [sample(labels)])['loss'].backward()
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    kept = {key for key in model.state_dict() if key.startswith('clip.')}
    assert kept == {f'clip.{key}' for key in clip.state_dict() if key.startswith('text.')}
    expected = clip.encode_text(clip.tokenizer(['a car']), normalize=True)[0]
    assert_close(model.queries[1], expected)


def test_every_trained_parameter_is_used(make_lseg):
    """None is left without a gradient, as the unit of the coarsest fusion is in the release."""
    for kind in KINDS:
        model = make_lseg(kind, block=DepthwiseBlock()).train()
        labels = torch.randint(0, 3, (2, 64, 64))
        model.loss(torch.randn(2, 3, 64, 64), [sample(mask) for mask in labels])['loss'].backward()
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == [], kind


def test_init_weights_keeps_pretrained_weights(make_lseg):
    """MMEngine calls it before training, and timm's networks have a method of that name."""
    model = make_lseg()
    assert hasattr(model.backbone.vit, 'init_weights')
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('kind', ['timm vit', 'timm resnet', 'efficientnet'])
def test_a_locked_backbone_stays(make_lseg, kind):
    model = make_lseg(kind, lock_backbone=True).train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.loss(torch.randn(2, 3, 32, 32), [sample(torch.ones(32, 32, dtype=torch.int64))] * 2)[
        'loss'
    ].backward()
    optimizer.step()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(('depth', 'hooks'), [(24, (5, 11, 17, 23)), (12, (2, 5, 8, 11)), (4, (0, 1, 2, 3))])
def test_hooks_are_the_ends_of_the_quarters(depth, hooks):
    assert default_hooks(depth) == hooks


@pytest.mark.parametrize('hooks', [(0, 1, 2), (0, 1, 2, 4), (1, 0, 2, 3), (0, 0, 1, 2), (-1, 0, 1, 2)])
def test_hooks_must_be_blocks(make_clip, hooks):
    with pytest.raises(InputError, match='hooks must be four ascending block indices from 0 to 3'):
        TransformerPyramid(make_clip().image, hooks, (8,) * 4, (4, 2, 1, 0.5))


def test_blocks_behind_the_last_hook_are_cut_off():
    options = {'img_size': 32, 'embed_dim': 32, 'depth': 6, 'num_heads': 2}
    pyramid = TransformerPyramid(timm_network('vit_tiny_patch16_224', **options), (0, 1, 2, 3), (8,) * 4)
    assert len(pyramid.vit.blocks) == 4


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: timm_network('vit_huge_patch99'),
            "timm has no model 'vit_huge_patch99': similar names are vit_",
        ),
        (lambda: TransformerPyramid(timm_network('resnet10t')), 'vit must be an image tower of CLIP'),
        (lambda: LSeg({'channels': (8,) * 4}), 'the backbone has no network'),
        (
            lambda: LSeg('ResNetPyramid', embed_dim=8),
            "a config such as dict.type=StagePyramid., got 'ResNetP",
        ),
        (lambda: StagePyramid(timm_network('resnet10t')), 'tower must be an image tower of timm, got ResNet'),
        (
            lambda: StagePyramid(TimmImageTower(TimmSize('test_vit', 160, 16, projection='linear'))),
            r'test_vit has no stages at strides of \[4, 8, 16, 32\] pixels, only at \[16\]: use a convolut',
        ),
    ],
    ids=['unknown', 'no ViT', 'nothing', 'a text', 'no tower', 'no stages'],
)
def test_wrong_networks_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize('image', ['vit', 'resnet', 'efficientnet', 'convnext'])
def test_the_backbone_may_be_the_image_tower_of_the_clip(make_clip, image):
    clip = make_clip(image)
    weight = next(clip.image.parameters()).clone()
    kind = {
        'vit': {'type': TransformerPyramid, 'channels': (8,) * 4, 'scales': (4, 2, 1, 0.5)},
        'resnet': {'type': 'ResNetPyramid'},
    }.get(image, {'type': StagePyramid})
    model = LSeg(kind, clip, width=16)
    network = getattr(model.backbone, {'vit': 'vit', 'resnet': 'resnet'}.get(image, 'tower'))
    assert torch.equal(next(network.parameters()), weight)
    assert type(LSeg(clip=make_clip(image), width=16).backbone) is type(model.backbone)
    other = ResNetPyramid if image == 'vit' else TransformerPyramid
    with pytest.raises(InputError, match=f'use the backbone {type(model.backbone).__name__}'):
        LSeg({'type': other}, make_clip(image))


def test_a_closed_head_never_names_what_it_did_not_learn(make_backbone):
    model = ClosedSetDPT(('sky', 'car'), make_backbone(), width=16).eval()
    words = Vocabulary(('tree', 'Car', 'sky'))
    model.set_vocabulary(words, class_embedder(model).embed(words))
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 32))
    assert model.project.weight.shape[0] == 2
    assert (logits[:, 0] < -1e3).all()
    assert (logits[:, 1:] > -1e3).all()


def test_episodes_ask_for_one_class(make_lseg):
    """Prediction and loss see 'others' and the class of each image, by hand."""
    from clipdense.data.segmentation.few_shot import EpisodeSample

    model = make_lseg(words=('others', 'cat', 'dog'), cls=EpisodeLSeg)
    images, mask = torch.randn(2, 3, 32, 32), torch.randint(0, 2, (32, 32))
    samples = [EpisodeSample('', (32, 32), mask, class_id=class_id) for class_id in (1, 0)]
    with torch.no_grad():
        logits = torch.cat([model(image[None])[:, [0, at]] for image, at in zip(images, (2, 1), strict=True)])
        found = model(images, samples, mode='predict')
        loss = model(images, samples, mode='loss')['loss']
    assert_close(loss, F.cross_entropy(logits, torch.stack([mask, mask])))
    assert torch.equal(torch.stack([one.prediction for one in found]), logits.argmax(1))
    with pytest.raises(InputError, match='has no class_id: use a dataset of episodes'):
        model(images[:1], [sample(mask)], mode='predict')


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: DepthwiseBlock(0), 'depth must be at least 1'),
        (lambda: BottleneckBlock(1, 'lrulu'), "mean 'lrelu'"),
    ],
    ids=['depth', 'activation'],
)
def test_wrong_blocks_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
