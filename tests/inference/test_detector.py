"""The detector as users meet it, from Python and from the command line."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from PIL import Image

from clipdense.cli.app import app
from clipdense.clip import self_describing as portable
from clipdense.clip.checkpoint import load as load_clip
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.config import load_config
from clipdense.data.detection.transforms import Resize
from clipdense.engine.checkpointing import write_checkpoint
from clipdense.engine.model_weights import model_meta
from clipdense.inference.detector import Detector
from clipdense.inference.load import load_segmenter
from clipdense.methods.vild.predictor import ViLDPredictor
from clipdense.registry import build_module
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.detection import DetectedObjects, DetectionRules
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import read_weights, write_weights

CONFIG = """
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.transforms import Resize
from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.parts import FCNMaskHead, FPN, DetDataPreprocessor
from clipdense.methods.vild.parts import ResNet, RPNHead, SingleRoIExtractor
from clipdense.methods.vild.roi_head import ViLDRoIHead

layer = dict(type='RoIAlign', output_size=4, sampling_ratio=2)
extractor = dict(type=SingleRoIExtractor, roi_layer=layer, out_channels=16, featmap_strides=[4, 8, 16])
nms = dict(type='nms', iou_threshold=0.7)
model = dict(
    type=ViLD,
    clip=dict(
        type=build_clip,
        size=dict(
            image=dict(
                image_size=32, patch_size=16, width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=8
            ),
            text=dict(width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=8),
        ),
    ),
    backbone=dict(
        type=ResNet, depth=18, base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
    ),
    neck=dict(type=FPN, in_channels=[8, 16, 32], out_channels=16, num_outs=3),
    rpn_head=dict(
        type=RPNHead,
        in_channels=16,
        feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16]),
    ),
    roi_head=dict(
        type=ViLDRoIHead,
        bbox_roi_extractor=extractor,
        bbox_head=dict(
            type=ViLDBBoxHead, variant='vild', embed_dim=8, in_channels=16, conv_out_channels=16,
            fc_out_channels=32, roi_feat_size=4,
        ),
        mask_roi_extractor=extractor,
        mask_head=dict(
            type=FCNMaskHead, in_channels=16, conv_out_channels=16, num_convs=1, num_classes=1,
            class_agnostic=True,
        ),
    ),
    train_cfg=None,
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=20, nms=nms, min_bbox_size=0),
        rcnn=dict(score_thr=0.0, nms=dict(iou_threshold=0.5), max_per_img=10, mask_thr_binary=0.5),
    ),
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=16),
)
test_dataloader = dict(
    dataset=dict(
        type=CocoDetection,
        annotations='',
        images='',
        transforms=[dict(type=Resize, scale=(64, 64), keep_ratio=True)],
    )
)
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A config, weights that fit it, and two images."""
    folder = tmp_path_factory.mktemp('detector')
    (folder / 'tiny_vild.py').write_text(CONFIG)
    torch.manual_seed(0)
    model = build_module(load_config(folder / 'tiny_vild.py').model)
    torch.save({'state_dict': model.state_dict()}, folder / 'weights.pth')
    rng = np.random.default_rng(0)
    for name, size in (('a', (90, 120)), ('b', (50, 40))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f'{name}.png')
    return folder


@pytest.fixture
def detector(files):
    torch.manual_seed(0)
    return Detector.from_config(files / 'tiny_vild.py', files / 'weights.pth', device='cpu', cache=False)


@pytest.fixture(scope='module')
def alone(files):
    """What training exports: the detector, the words of its teacher, and the config."""
    cfg = load_config(files / 'tiny_vild.py')
    model = build_module(cfg.model).eval()
    portable.save(model, files / 'vild.safetensors', cfg)
    return files / 'vild.safetensors', model, cfg.test_dataloader.dataset.transforms


@pytest.fixture(scope='module')
def left(alone, files):
    """A checkpoint of the run that exported ``alone``."""
    _, model, _ = alone
    meta = model_meta(model) | portable.meta(model, load_config(files / 'tiny_vild.py'))
    write_checkpoint(files / 'best.pth', {'state_dict': portable.weights(model), 'meta': meta})
    return files / 'best.pth'


@pytest.mark.parametrize('file', ['alone', 'left'])
def test_one_file_is_the_detector_and_its_words(request, file, alone, files):
    found = request.getfixturevalue(file)
    path, (_, model, transforms) = found[0] if isinstance(found, tuple) else found, alone
    teacher = model.clip
    model.apply_portable_config({'transforms': transforms})
    embedder = PromptEnsemble(teacher, 'vild', cache=None)
    expected = Detector(ViLDPredictor(model), embedder)(files / 'a.png', ['cat', 'dog'])
    opened = [Detector.from_pretrained(path, device='cpu', cache=False)]
    opened += [Detector.from_config(files / 'tiny_vild.py', path, clip=teacher, device='cpu', cache=False)]
    for detector in opened:
        found = detector(files / 'a.png', ['cat', 'dog'])
        assert len(found) > 0
        for name in ('xyxy', 'confidence', 'class_ids', 'masks'):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_detector_is_no_clip(left):
    """Its file tells of the teacher's words alone."""
    with pytest.raises(CheckpointError, match=r'not a known CLIP layout.*detector may need its config'):
        load_clip(left)


def test_one_file_serves_a_test_by_its_config(alone):
    """The words are no part of the detector's own weights."""
    path, model, _ = alone
    assert portable.own_tensors(model, read_weights(path).tensors).keys() == model.state_dict().keys()


def test_a_file_cannot_name_code(alone, tmp_path):
    """mmcv evaluates the name of a suppression."""
    file = read_weights(alone[0])
    metadata = dict(file.metadata)
    metadata['config'] = metadata['config'].replace("'type': 'nms'", "'type': 'print'")
    write_weights(tmp_path / 'bad.safetensors', file.tensors, metadata)
    with pytest.raises(CheckpointError, match="type 'print' is not registered"):
        Detector.from_pretrained(tmp_path / 'bad.safetensors')


def test_boxes_and_masks_lie_in_the_image(detector, files):
    found = detector(files / 'a.png', ['cat', 'dog', 'red car'])
    assert 0 < len(found) <= 10
    assert found.masks.shape == (len(found), 90, 120)
    assert (found.xyxy >= 0).all()
    assert (found.xyxy[:, 2:] <= [120, 90]).all()
    assert found.xyxy[:, 2].max() > 64  # the detector saw the image smaller
    assert set(found.class_names) <= {'cat', 'dog', 'red car'}


def test_masks_that_are_too_large_are_left_out_with_a_warning(detector, files, monkeypatch):
    """12000 x 9000 pixels times 100 detections are 10.8 GB; here the limit is lowered instead."""
    with_masks = detector(files / 'a.png', ['cat', 'dog'], score_threshold=0.0)
    assert len(with_masks)
    monkeypatch.setattr('clipdense.data.detection.masks.LARGEST', 90 * 120 * len(with_masks) - 1)
    with pytest.warns(UserWarning, match=r'detections without masks: \d+ masks of 120 x 90 pixels'):
        without = detector(files / 'a.png', ['cat', 'dog'], score_threshold=0.0)
    assert without.masks is None
    np.testing.assert_allclose(without.xyxy, with_masks.xyxy, atol=1e-4)
    np.testing.assert_array_equal(without.class_ids, with_masks.class_ids)
    assert without.draw().size


def test_the_config_that_a_run_has_left(detector, files, tmp_path):
    """It names classes as text."""
    load_config(files / 'tiny_vild.py').dump(tmp_path / 'left.py')
    again = Detector.from_config(
        tmp_path / 'left.py', files / 'weights.pth', clip=detector.model.clip, device='cpu', cache=False
    )
    one, other = (model(files / 'a.png', ['cat', 'dog']) for model in (detector, again))
    np.testing.assert_array_equal(one.xyxy, other.xyxy)


def test_a_batch_is_its_images(detector, files):
    detector.set_vocabulary('cat, dog')
    paths = [files / 'a.png', files / 'b.png', files / 'a.png']
    apart = [detector(path) for path in paths]
    for batch_size in (2, 3):
        together = dict(detector.stream(paths, batch_size=batch_size))
        assert sorted(together) == [0, 1, 2]
        for index, one in enumerate(apart):
            np.testing.assert_allclose(together[index].confidence, one.confidence, atol=1e-5)
            np.testing.assert_allclose(together[index].xyxy, one.xyxy, atol=1e-3)


def test_other_words_other_answers(detector, files):
    assert detector(files / 'a.png', ['cat']).vocabulary.class_names == ('cat',)
    assert detector(files / 'a.png', ['bird', 'sky', 'sea']).vocabulary.class_names == ('bird', 'sky', 'sea')


def test_rules(detector, files):
    detector.set_vocabulary('cat, dog')
    every = detector(files / 'a.png')
    middle = float(np.median(every.confidence))
    assert (detector(files / 'a.png', score_threshold=middle).confidence > middle).all()
    assert set(detector(files / 'a.png', class_thresholds={0: 1.0}).class_names) == {'dog'}
    assert set(detector(files / 'a.png', class_thresholds={'dog': 1.0}).class_names) == {'cat'}
    assert len(detector(files / 'a.png', max_detections=2)) == 2
    boxes = torch.from_numpy(detector(files / 'a.png', class_agnostic=True).xyxy)
    from torchvision.ops import box_iou

    assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.5
    np.testing.assert_array_equal(detector(files / 'a.png').xyxy, every.xyxy)  # rules hold for one call


def test_rules_of_the_detector_hold_for_every_call(detector, files):
    assert detector.rules == detector.model.rules == DetectionRules(0.0, max_detections=10)
    detector.rules = DetectionRules(0.0, max_detections=2)
    assert len(detector(files / 'a.png', 'cat, dog')) == 2
    assert len(detector(files / 'a.png', rules=DetectionRules(0.0, max_detections=4))) == 4
    assert len(detector(files / 'a.png', max_detections=3)) == 3


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'threshold': 0.5}, "unknown detection rule 'threshold'. Did you mean '.*threshold'"),
        ({'score_threshold': 2}, 'score_threshold must be'),
        ({'class_thresholds': {'cow': 0.5}}, "'cow' is not in"),
        ({'class_thresholds': {2: 0.5}}, 'names class 2, but the vocabulary has 2'),
        ({'class_thresholds': {-1: 0.5}}, 'class -1'),
    ],
    ids=['unknown', 'range', 'name', 'index', 'negative'],
)
def test_rules_that_are_refused(detector, files, changes, message):
    with pytest.raises(InputError, match=message):
        detector(files / 'a.png', 'cat, dog', **changes)


def test_rules_are_put_back_after_an_error(detector, files):
    before = copy.deepcopy(detector.model.model.roi_head.test_cfg)
    with pytest.raises(InputError):
        detector(files / 'a.png', 'cat, dog', class_thresholds={5: 0.5})
    assert detector.model.model.roi_head.test_cfg == before


def test_what_embeds_class_names_can_be_replaced(alone, files):
    class Fixed:
        def embed(self, vocabulary):
            return ClassEmbeddings(torch.eye(2, 8), torch.arange(2), 2)

    detector = Detector.from_pretrained(alone[0], embedder=Fixed(), device='cpu')
    detector(files / 'a.png', ['cat', 'dog'])
    assert torch.equal(detector.model.model.roi_head.bbox_head.queries, torch.eye(2, 8))


# Images of other sizes than those of the training


@pytest.fixture
def unresized(files, tmp_path):
    """What a training on images of 30 pixels exports, whose config has no resize; and its checkpoint."""
    cfg = load_config(files / 'tiny_vild.py')
    cfg.test_dataloader.dataset.transforms = []
    model = build_module(cfg.model).eval()
    model.trained_sizes.note([DetDataSample(metainfo={'ori_shape': (20, 30)})])
    portable.save(model, tmp_path / 'vild.safetensors', cfg)
    meta = portable.meta(model, cfg)
    write_checkpoint(tmp_path / 'step.pth', {'state_dict': portable.weights(model), 'meta': meta})
    cfg.dump(tmp_path / 'config.py')
    return tmp_path


def test_the_sizes_of_the_training_come_with_the_weights(unresized, files):
    image, told = (
        files / 'a.png',
        'side of 120 pixels after .* trained on 30: .* -o image_size=30 ',
    )
    options = {'device': 'cpu', 'cache': False}
    clip = build_module(load_config(unresized / 'config.py').model.clip)
    opened = [
        Detector.from_pretrained(unresized / name, **options) for name in ('vild.safetensors', 'step.pth')
    ]
    opened += [Detector.from_config(unresized / 'config.py', unresized / 'step.pth', clip=clip, **options)]
    for detector in opened:
        with pytest.warns(UserWarning, match=told) as warned:
            detector([image, image], ['cat', 'dog'])
        assert len(warned) == 1


def test_images_are_resized_as_asked(unresized, files, tmp_path, recwarn):
    """A detector with this resize in its config answers the same."""
    cfg = load_config(unresized / 'config.py')
    cfg.test_dataloader.dataset.transforms = [dict(type=Resize, scale=(30, 30), keep_ratio=True)]
    detector = Detector.from_pretrained(
        unresized / 'vild.safetensors', method_options={'image_size': 30}, device='cpu', cache=False
    )
    clip = detector.model.clip
    same = Detector.from_config(cfg, unresized / 'vild.safetensors', clip=clip, device='cpu', cache=False)
    for found in (detector, same):
        found.set_vocabulary('cat, dog')
    asked, expected = detector(files / 'a.png'), same(files / 'a.png')
    np.testing.assert_array_equal(asked.xyxy, expected.xyxy)
    np.testing.assert_array_equal(detector(detector.encode(files / 'a.png')).xyxy, expected.xyxy)
    assert not recwarn.list


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'image_size': 0}, 'image_size must be a number of pixels, 1 to 10000, got 0'),
        ({'image_size': 99999999}, 'got 99999999'),
        ({'image_size': 'large'}, "got 'large'"),
        ({'image_size': True}, 'got True'),
        ({'imagesize': 30}, "has no option 'imagesize'.*Did you mean 'image_size'"),
    ],
)
def test_sizes_that_are_refused(unresized, options, message):
    with pytest.raises(InputError, match=message):
        Detector.from_pretrained(unresized / 'vild.safetensors', method_options=options, device='cpu')


def test_sizes_that_no_training_has(unresized):
    file = read_weights(unresized / 'vild.safetensors')
    metadata = {**file.metadata, 'config': file.metadata['config'].replace('(30, 30)', '(30, 3)')}
    write_weights(unresized / 'bad.safetensors', file.tensors, metadata)
    with pytest.raises(CheckpointError, match=r'bad\.safetensors: image_sides must be the shortest and the'):
        Detector.from_pretrained(unresized / 'bad.safetensors', device='cpu')


class CornerDetector(torch.nn.Module):
    """As little as a detector of another package needs: a box in the first corner, for the first class."""

    clip, templates = None, 'name'

    def __init__(self):
        super().__init__()
        self.vocabulary, self.rules = None, DetectionRules()

    def set_vocabulary(self, vocabulary, embeddings):
        self.vocabulary, self.embeddings = vocabulary, embeddings

    def predict(self, images, rules):
        box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        confidence, class_ids = torch.tensor([0.5]), torch.tensor([0])
        keep = confidence > rules.score_threshold
        return [DetectedObjects(box[keep], confidence[keep], class_ids[keep]) for _ in images]


def test_any_detection_model_will_do(files):
    class Fixed:
        def embed(self, vocabulary):
            return ClassEmbeddings(torch.eye(len(vocabulary)), torch.arange(len(vocabulary)), len(vocabulary))

    detector = Detector(CornerDetector(), Fixed())
    assert detector(files / 'a.png', ['cat', 'dog']).summary() == '1 cat'
    assert len(detector(files / 'a.png', score_threshold=0.6)) == 0
    with pytest.raises(InputError, match='no text tower'):
        Detector(CornerDetector())


def test_weights_that_are_not_finite(files, tmp_path):
    state = torch.load(files / 'weights.pth', weights_only=True)
    tensors = state.get('state_dict', state)
    tensors['roi_head.bbox_head.projection.bias'][0] = float('nan')
    torch.save(state, tmp_path / 'broken.pth')
    with pytest.raises(InputError, match='not finite'):
        Detector.from_config(files / 'tiny_vild.py', tmp_path / 'broken.pth', device='cpu')


MODES = {
    'one pixel': ('RGB', (1, 1)),
    'one pixel high': ('RGB', (300, 1)),
    'grey': ('L', (40, 30)),
    'transparent': ('RGBA', (40, 30)),
    '16 bit': ('I;16', (40, 30)),
    'palette': ('P', (40, 30)),
}


@pytest.mark.parametrize('name', MODES)
def test_images_of_any_kind(detector, tmp_path, name):
    mode, size = MODES[name]
    Image.new(mode, size).save(tmp_path / 'a.png')
    found = detector(tmp_path / 'a.png', ['cat'])
    assert found.masks.shape[1:] == size[::-1]
    assert (found.xyxy <= [*size, *size]).all()


def test_unreadable_images(detector, files, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'no image')
    detector.set_vocabulary('cat')
    with pytest.raises(InputError, match=r'bad\.png'):
        detector(tmp_path / 'bad.png')
    told = []
    mixed = [tmp_path / 'bad.png', files / 'a.png']
    found = dict(detector.stream(mixed, on_error=lambda index, _: told.append(index)))
    assert list(found) == [1]
    assert told == [0]


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (
            lambda files: Detector.from_config('contrastive/clip_scenes', files / 'weights.pth'),
            'is not the config of a detector',
        ),
        (lambda files: Detector.from_config(files / 'tiny_vild.py', files / 'none.pth'), 'none.pth'),
        (
            lambda files: Detector.from_pretrained(files / 'weights.pth'),
            'is a training checkpoint that needs its config',
        ),
        (
            lambda files: Detector.from_pretrained(files / 'other.pth'),
            'layout',
        ),
        (
            lambda files: Detector.from_config(files / 'tiny_vild.py', files / 'other.pth'),
            'does not match ViLD: none of its tensors match',
        ),
        (
            lambda files: Detector.from_pretrained(files),
            'several weights files: .*; give the path of the weights file',
        ),
        (lambda files: load_segmenter(files / 'vild.safetensors'), 'ViLD. cannot segment: use weights'),
    ],
    ids=['not a detector', 'no weights', 'no config', 'a CLIP', 'a CLIP by a config', 'a folder', 'segment'],
)
def test_refusals(files, alone, act, message):
    torch.save({'state_dict': {'image.proj': torch.ones(2)}}, files / 'other.pth')
    with pytest.raises(InputError, match=message):
        act(files)


def test_no_vocabulary(detector, files):
    with pytest.raises(InputError, match='no class names: '):
        detector(files / 'a.png')
    with pytest.raises(InputError, match='no vocabulary is set'):
        detector.model.predict([np.zeros((8, 8, 3), np.uint8)], DetectionRules())


# Command line


def run(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_command_line(files, tmp_path):
    common = ['--config', files / 'tiny_vild.py', '--weights', files / 'weights.pth', '--device', 'cpu']
    out = tmp_path / 'out'
    images = [files / 'a.png', files / 'b.png']
    call = [
        'detect',
        *images,
        '--classes',
        'cat, dog',
        '--score-threshold',
        0.0,
        '--no-cache',
        '--out',
        out,
        *common,
    ]
    done = run(*call, '--class-threshold', 'dog=1.0', '--batch-size', 2)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        'a_boxes.png',
        'b_boxes.png',
        'detections.json',
        'names.json',
    ]
    rows = json.loads((out / 'detections.json').read_text())
    assert {row['image_id'] for row in rows} == {1, 2}
    assert {row['category_id'] for row in rows} == {1}
    assert all(len(row['bbox']) == 4 and 'segmentation' in row for row in rows)
    assert isinstance(run(*call).exception, InputError)  # already there
    for text in ('dog', 'dog=x', 'dog=7', 'dog=-0.1', '=0.5'):
        bad = run(*call, '--overwrite', '--class-threshold', text)
        assert 'such as cat=0.5' in str(bad.exception)
    (tmp_path / 'bad.png').write_bytes(b'no image')
    some = run(*call, tmp_path / 'bad.png', '--overwrite', '--class-threshold', 'dog=1e-3')
    assert some.exit_code == 1
    assert '1 of 3 images were skipped' in some.output
    bad = run(*call, '--overwrite', '--class-threshold', 'cow=0.3')
    assert "'cow' is not in the vocabulary" in str(bad.exception)


def test_command_line_without_a_config(alone, files, tmp_path):
    done = run('detect', files / 'a.png', '-c', 'cat', '--weights', alone[0], '--no-cache', '--out', tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / 'a_boxes.png').is_file()


def test_an_encoded_image_gives_what_the_image_gives(detector, files):
    images = [files / 'a.png', files / 'b.png']
    encoded = detector.encode(images)
    for names in (['cat', 'dog'], ['car', 'road', 'tree']):
        for one, image in zip(encoded, images, strict=True):
            found, expected = detector(one, names), detector(image, names)
            for field in ('xyxy', 'confidence', 'class_ids', 'masks'):
                np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert encoded[0].nbytes > 3 * 90 * 120


def test_a_detector_that_reads_names_with_the_image(files):
    class Fused(torch.nn.Module):
        rules, vocabulary, embedder = DetectionRules(), None, None

        def predict(self, images, rules):
            return []

        def set_vocabulary(self, vocabulary, embeddings):
            pass

    class Names:
        def embed(self, vocabulary):
            return ClassEmbeddings(torch.eye(len(vocabulary)), torch.arange(len(vocabulary)), len(vocabulary))

    with pytest.raises(InputError, match='a Fused reads class names together with the image'):
        Detector(Fused(), Names()).encode(files / 'a.png')


def test_a_detector_of_class_names_grounds_phrases_as_names(detector, files):
    images = [files / 'a.png', files / 'b.png']
    found = detector.ground(images, ['a cat on the road', 'two dogs'])
    assert [one.vocabulary.class_names for one in found] == [('a cat', 'the road'), ('two dogs',)]
    for one, image in zip(found, images, strict=True):
        expected = detector(image, list(one.vocabulary.class_names))
        np.testing.assert_array_equal(one.xyxy, expected.xyxy)
        np.testing.assert_array_equal(one.confidence, expected.confidence)
