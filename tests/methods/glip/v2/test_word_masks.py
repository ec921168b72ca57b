"""GLIPv2's masks: boxes and words -> masks, what they are learned from, and detections with masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.inference.detector import Detector
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.methods.glip.v2.detector import GLIPv2
from clipdense.methods.glip.v2.word_masks import WordMasks, mask_loss, mask_targets
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from ..conftest import config

STRIDES = (4, 8, 16, 32, 64)
LEFT_RIGHT = [[8, 8, 40, 40], [8, 8, 40, 40]]  # two objects with the same box
EVERYTHING = {'score_threshold': 0.0, 'max_detections': 5}


def made(**settings):
    torch.manual_seed(0)
    model = GLIPv2(objectives={'masks': {'size': 7, **settings}}, **config(prompts={'per_phrase': True}))
    with torch.no_grad():
        model.head.bias.fill_(-1.0)
        model.head.words.weight.normal_(std=2.0)
    return model


def two_halves(batch):
    """An image whose left half is red and right half blue, and its two objects in one box."""
    data = batch((LEFT_RIGHT, [0, 1]))
    data['inputs'][0][:, :, :24] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    data['inputs'][0][:, :, 24:] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 8:40, 8:24] = masks[1, 8:40, 24:40] = 1
    data['data_samples'][0].gt_instances.masks = BitmapMasks(masks, 64, 64)
    return data


def losses_of(model, data):
    found = model.data_preprocessor({key: list(value) for key, value in data.items()}, True)
    return model(found['inputs'], found['data_samples'], mode='loss')


class TestWordMasks:
    @pytest.fixture
    def head(self):
        torch.manual_seed(0)
        return WordMasks(3, 5, (8, 16), width=4, depth=1, size=2).double()

    @pytest.fixture
    def levels(self):
        torch.manual_seed(1)
        return [torch.randn(2, 3, side, side, dtype=torch.float64) for side in (8, 4)]

    def test_product_of_places_and_words(self, head, levels):
        text, tokens = torch.randn(2, 4, 5, dtype=torch.float64), torch.tensor([[0.0, 1, 1, 0]]).double()
        with torch.no_grad():
            head.log_scale.fill_(0.5)
            head.text_bias.normal_()
        box = torch.tensor([[8.0, 8, 24, 24]]).double()
        found = head(levels, text, [box[:0], box], [tokens[:0], tokens])
        assert found.shape == (1, 4, 4)
        crop = head.crop(levels, [box[:0], box])
        places = F.relu(head.enlarge(F.relu(head.convs[0](crop))))[0].flatten(1)
        expected = torch.zeros(16).double()
        for token in (1, 2):
            word = text[1, token] / text[1, token].norm()
            query = (head.words.weight @ (word / 2) + head.words.bias) / np.exp(0.5)
            expected += (query @ places + word @ head.text_bias) / 2
        assert_close(found.flatten(), expected, atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize(
        ('side', 'level'), [(4, 0), (31, 0), (32, 1), (60, 1)]
    )  # 16 and more places of the finest are twice the crop
    def test_larger_boxes_are_cropped_from_coarser_levels(self, head, side, level):
        levels = [torch.full((1, 3, size, size), float(number)) for number, size in enumerate((8, 4))]
        crop = head.crop(levels, [torch.tensor([[0.0, 0, side, side]])])
        assert crop.unique().tolist() == [level]

    def test_the_crop_is_the_features_of_the_box(self, head):
        ramp = torch.arange(8.0).expand(1, 3, 8, 8)  # the feature of a place is its column
        crop = head.crop([ramp, ramp[..., :4, :4]], [torch.tensor([[16.0, 16, 32, 32]])])
        assert_close(crop[0, 0], torch.tensor([[2.0, 3.0], [2.0, 3.0]]))  # columns 2 and 3, by their centers

    def test_no_boxes(self, head, levels):
        nothing = [torch.zeros(0, 4)] * 2
        found = head(levels, torch.randn(2, 4, 5).double(), nothing, [torch.zeros(0, 4).double()] * 2)
        assert found.shape == (0, 4, 4)
        mask_loss(found, found).backward()
        assert all(one.grad is not None for one in head.parameters())

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'size': 0}, 'size of the masks must be a whole number, at least 1, got 0'),
            ({'depth': -1}, 'depth of the masks must be a whole number, at least 0'),
            ({'width': 1.5}, 'width of the masks must be a whole number'),
            ({'max_regions': True}, 'max_regions of the masks must be a whole number'),
            ({'regions': 3}, 'WordMasks: .*regions'),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, message):
        with pytest.raises(InputError, match=message):
            made(**settings)


def test_targets_are_the_masks_inside_of_the_boxes():
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[1, 2:4, 2:6] = 1
    boxes = torch.tensor([[2.0, 2, 6, 6], [0, 0, 8, 8], [0, 0, 4, 4]])
    found = mask_targets(masks, torch.tensor([1, 1, 0]), boxes, 4)
    upper, inner = [[1, 1, 1, 1], [1, 1, 1, 1], [0] * 4, [0] * 4], [[0] * 4, [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert found.tolist() == [upper, inner, [[0] * 4] * 4]


def test_loss_is_the_mean_over_places():
    logits, targets = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[1.0, 1.0]]])
    expected = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    assert float(mask_loss(logits, targets)) == pytest.approx(expected, rel=1e-6)
    assert float(mask_loss(logits[:0], targets[:0])) == 0


class TestTraining:
    def test_words_select_the_mask_of_a_box(self, batch, vocabulary):
        """Two objects share a box, so that nothing but the words distinguishes their masks."""
        model, data = made(max_regions=2).train(), two_halves(batch)  # the true boxes
        model.set_vocabulary(vocabulary)
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        for _ in range(60):
            loss = sum(losses_of(model, data).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        inputs = model.data_preprocessor(data, False)['inputs']
        chunk = model.class_text.encoded()[0]
        with torch.no_grad():
            output = model.head(model.extract_feat(inputs), chunk.features)
            box = torch.tensor(LEFT_RIGHT, dtype=torch.float32)
            red, blue = model.masks(output.levels, output.text, [box], [chunk.positive[:2]]) > 0
        left = torch.arange(14) < 7
        assert (red == left).float().mean() > 0.9
        assert (blue == ~left).float().mean() > 0.9

    def test_images_without_masks_contribute_nothing(self, batch, vocabulary):
        both, alone = two_halves(batch), two_halves(batch)
        other = batch(([[4, 4, 30, 30]], [2]))
        for key, value in other.items():
            both[key] = [*both[key], *value]
        model = made(max_regions=2).eval()  # the true boxes
        model.set_vocabulary(vocabulary)
        found = [losses_of(model, data)['loss_masks'] for data in (both, alone)]
        assert_close(*found, atol=1e-5, rtol=1e-4)
        nothing = losses_of(model, other)
        assert nothing['loss_masks'] == 0
        sum(nothing.values()).backward()
        assert all(one.grad is not None for one in model.masks.parameters())  # as DDP needs

    @pytest.mark.parametrize('objects', [[([], [])], [([], []), ([[4, 4, 30, 30]], [0])]])
    def test_images_without_objects(self, batch, vocabulary, objects):
        data = batch(*objects)
        for sample in data['data_samples']:
            count = len(sample.gt_instances)
            sample.gt_instances.masks = BitmapMasks(np.ones((count, 64, 64), np.uint8), 64, 64)
        model = made().train()
        model.set_vocabulary(vocabulary)
        assert torch.isfinite(sum(losses_of(model, data).values()))

    def test_predicted_boxes_near_an_object_are_trained_on_too(self, batch, vocabulary):
        model, counts = made().eval(), []
        model.set_vocabulary(vocabulary)
        with torch.no_grad():  # boxes as large as the anchors
            model.head.box.weight.zero_()
            model.head.box.bias.zero_()
        model.masks.register_forward_pre_hook(lambda _, given: counts.append([len(one) for one in given[2]]))
        losses_of(model, two_halves(batch))
        model.masks.max_regions = 3
        losses_of(model, two_halves(batch))
        assert counts[0][0] > 2
        assert counts[1] == [3]

    def test_no_masks_at_all_is_told(self, batch, vocabulary, monkeypatch):
        monkeypatch.setattr('clipdense.methods.glip.v2.detector._BATCHES', 2)
        data = batch(([[4, 4, 30, 30]], [0]))
        model = made().train()
        model.set_vocabulary(vocabulary)
        losses_of(model, data)
        with pytest.warns(UserWarning, match='the first 2 batches have no masks, .* set masks=True'):
            losses_of(model, data)


class TestDetections:
    IMAGE = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)

    @pytest.fixture
    def detector(self):
        return Detector(GLIPPredictor(made().eval()))

    @staticmethod
    def inside(found):
        """Pixels of the masks that are more than a pixel outside of their boxes."""
        rows, columns = np.mgrid[:50, :70]
        x1, y1, x2, y2 = (one[:, None, None] for one in found.xyxy.T)
        out = (columns < x1 - 1) | (columns > x2 + 1) | (rows < y1 - 1) | (rows > y2 + 1)
        return not (found.masks & out).any()

    def test_masks_have_the_size_of_the_image(self, detector):
        found = detector(self.IMAGE, ['red star', 'blue square'], **EVERYTHING)
        assert found.masks.shape == (5, 50, 70)
        assert found.masks.dtype == bool
        assert found.masks.any()
        assert self.inside(found)

    def test_none_found(self, detector):
        found = detector(self.IMAGE, ['red star'], score_threshold=1.0)
        assert found.masks.shape == (0, 50, 70)

    def test_boxes_are_those_without_masks(self, detector):
        plain = GLIPv2(objectives={}, **config(prompts={'per_phrase': True}))
        model = detector.model.model
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('masks.')})
        without = Detector(GLIPPredictor(plain.eval()))(self.IMAGE, ['red star', 'cat'], **EVERYTHING)
        found = detector(self.IMAGE, ['red star', 'cat'], **EVERYTHING)
        assert without.masks is None
        assert np.array_equal(found.xyxy, without.xyxy)

    def test_several_texts(self):
        """Each name in a text of its own gives the same masks as asked for alone."""
        torch.manual_seed(0)
        rules = {'per_phrase': True, 'max_names': 1}
        model = GLIPv2(objectives={'masks': {'size': 7}}, **config(prompts=rules))
        with torch.no_grad():
            model.head.bias.fill_(-1.0)
            model.head.words.weight.normal_(std=2.0)
        detector = Detector(GLIPPredictor(model.eval()))
        names = ['red star', 'blue square']
        both = detector(self.IMAGE, names, score_threshold=0.0, max_detections=1000)
        for label, name in enumerate(names):
            alone = detector(self.IMAGE, [name], score_threshold=0.0, max_detections=1000)
            own = both.class_ids == label
            count = int(own.sum())
            assert count > 2
            assert_close(both.xyxy[own], alone.xyxy[:count], atol=1e-4, rtol=1e-4)
            assert (both.masks[own] == alone.masks[:count]).mean() > 0.999

    def test_phrases_of_sentences(self, detector):
        texts = ['a red star', 'a blue square and a cat']
        found = detector.ground([self.IMAGE, self.IMAGE], texts, **EVERYTHING)
        apart = [detector.ground(self.IMAGE, text, **EVERYTHING) for text in texts]
        for one, alone in zip(found, apart, strict=True):
            assert one.masks.shape == (5, 50, 70)
            assert_close(one.xyxy, alone.xyxy, atol=1e-3, rtol=1e-4)
            assert (one.masks == alone.masks).mean() > 0.99

    def test_an_encoded_image(self, detector):
        detector.set_vocabulary(Vocabulary(('red star', 'cat')))
        found = detector(detector.encode(self.IMAGE), **EVERYTHING)
        assert np.array_equal(found.masks, detector(self.IMAGE, **EVERYTHING).masks)

    def test_masks_that_are_too_large_are_left_out(self, detector, monkeypatch):
        monkeypatch.setattr('clipdense.data.detection.masks.LARGEST', 5 * 50 * 70 - 1)
        with pytest.warns(UserWarning, match='detections without masks: 5 masks of 70 x 50 pixels'):
            found = detector(self.IMAGE, ['red star'], **EVERYTHING)
        assert found.masks is None
        assert len(found) == 5
