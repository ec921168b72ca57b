"""GLIPv2's further objectives: contrast of regions and words, and masked words."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torch.testing import assert_close

import clipdense
from clipdense.clip import self_describing
from clipdense.methods.glip.assignment import assign
from clipdense.methods.glip.boxes import grid_anchors
from clipdense.methods.glip.structures import Targets, TextFeatures
from clipdense.methods.glip.v2.contrast import OF_CAPTION, RegionWordContrast, token_classes
from clipdense.methods.glip.v2.detector import GLIPv2
from clipdense.methods.glip.v2.masked_words import NOT_ASKED, MaskedWords, TokenMasker
from clipdense.utils.errors import InputError

from ..conftest import config

STRIDES = (8, 16, 32, 64, 128)
BOTH = {'contrast': {}, 'masked_words': {'share': 1.0}}


@pytest.fixture(scope='module')
def released(golden):
    """Arguments of the contrast of the golden, its weights and its loss."""
    tensors, meta = golden('glip_region_word_tiny')
    sizes = [tuple(size) for size in meta['level_sizes']]
    levels = [tensors[f'input.visual{i}'].mT.unflatten(2, size) for i, size in enumerate(sizes)]
    mask = tensors['input.text_masks'].bool()
    text = TextFeatures(tensors['input.text'], tensors['input.text'], mask)
    anchors = grid_anchors(sizes, STRIDES)
    maps = tensors['input.positive_map'].bool().float().split([3, 2])
    targets = [Targets(tensors[f'input.boxes{index}'], maps[index]) for index in range(2)]
    owner = torch.stack([assign(anchors, one.boxes) for one in targets])
    of_token = torch.full((2, 256), -1)
    for index in range(2):
        known = tensors[f'input.od_label_of_token{index}'].long()
        of_token[index, : len(known)] = known
    labels = [tensors[f'input.od_labels{index}'] for index in range(2)]
    side = 'state.shallow_contrastive_projection'
    state = {
        f'{part}.{name}': tensors[f'{side}_{part}.{name}']
        for part in ('image', 'text')
        for name in ('weight', 'bias')
    }
    state['log_scale'] = tensors['state.shallow_log_scale']
    arguments = levels, text, owner, targets, labels, of_token
    return arguments, state, tensors['output.loss_shallow_contrastive']


def contrast(state, **options):
    made = RegionWordContrast(8, 10, width=6, **options)
    made.load_state_dict(state)
    return made


def test_contrast_with_the_released_fault(released):
    arguments, state, loss = released
    assert_close(contrast(state, without_first_boxes=True)(*arguments), loss, atol=1e-6, rtol=1e-5)


def test_contrast_of_all_boxes(released):
    """Each region and each token by itself, in plain numbers."""
    (levels, text, owner, targets, labels, of_token), state, _ = released
    linear = {name: value.double().numpy() for name, value in state.items()}

    def joint(part, row):
        found = linear[f'{part}.weight'] @ row.double().numpy() + linear[f'{part}.bias']
        return found / np.sqrt((found**2).sum())

    words = [joint('text', row) for row in text.hidden.flatten(0, 1)]
    real = text.mask.flatten().tolist()
    rows, found = [], []
    for image in range(2):
        places = torch.cat([level[image].flatten(1).mT for level in levels])
        for anchor in (owner[image] >= 0).nonzero()[:, 0].tolist():
            box = int(owner[image, anchor])
            one = joint('image', places[anchor])
            rows.append([float(one @ word) / math.exp(linear['log_scale'][0]) for word in words])
            found.append(
                [
                    bool(targets[image].positive[box, token])
                    if other == image
                    else int(of_token[other, token]) == int(labels[image][box])
                    for other in range(2)
                    for token in range(256)
                ]
            )
    similarity = np.array(rows)[:, real]
    found = np.array(found, float)[:, real]
    total = 0.0
    for table, hits in ((similarity, found), (similarity.T, found.T)):
        for row, hit in zip(table, hits, strict=True):
            if hit.any():
                total -= (row[hit > 0] - np.log(np.exp(row).sum())).mean() / 2
    expected = total / int((owner >= 0).sum())
    loss = contrast(state)(levels, text, owner, targets, labels, of_token)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_at_most_so_many_regions_of_an_image(released):
    (levels, text, owner, targets, labels, of_token), state, _ = released
    image, _ = contrast(state, max_regions=4)._regions(owner)
    assert image.tolist() == [0] * 4 + [1] * 4
    assert torch.isfinite(contrast(state, max_regions=4)(levels, text, owner, targets, labels, of_token))


def test_captions_match_their_own_text_only(released):
    (levels, text, owner, targets, labels, of_token), state, _ = released
    captions = [torch.full_like(one, OF_CAPTION) for one in labels]
    made = contrast(state)
    alone = made(levels, text, owner, targets, captions, of_token)
    assert_close(alone, made(levels, text, owner, targets, captions, torch.full_like(of_token, -1)))
    assert not torch.isclose(alone, made(levels, text, owner, targets, labels, of_token))


def test_classes_of_tokens():
    found = token_classes([[[1, 2], [4]], [[1]]], [(7, 3), None], 6)
    assert found.tolist() == [[-1, 7, 7, -1, 3, -1], [-1] * 6]


class TestMaskedWords:
    def test_only_tokens_of_phrases_with_a_box(self):
        masker = TokenMasker([[1], []], share=1.0, mask=9, vocab_size=10)
        for number in (0, 1):
            changed = masker(number, [5, 6, 7, 8], [[0], [2, 3]])
            assert changed[:2] == [5, 6]
        assert masker.targets(5).tolist() == [[NOT_ASKED, NOT_ASKED, 7, 8, NOT_ASKED], [NOT_ASKED] * 5]

    def test_shares(self):
        random.seed(0)
        masker = TokenMasker([[0]], share=0.15, mask=-1, vocab_size=1000)
        ids = [2000] * 20_000
        changed = masker(0, ids, [range(len(ids))])
        chosen = len(masker.chosen[0])
        assert chosen / len(ids) == pytest.approx(0.15, abs=0.01)
        assert changed.count(-1) / chosen == pytest.approx(0.8, abs=0.03)
        assert sum(0 <= one < 1000 for one in changed) / chosen == pytest.approx(0.1, abs=0.02)

    def test_loss(self):
        torch.manual_seed(0)
        head = MaskedWords(4, 5).double()
        text = torch.randn(2, 3, 4, dtype=torch.float64)
        targets = torch.tensor([[NOT_ASKED, 2, NOT_ASKED], [4, NOT_ASKED, NOT_ASKED]])
        losses = []
        for (row, place), word in {(0, 1): 2, (1, 0): 4}.items():
            hidden = [
                0.5 * x * (1 + math.erf(x / math.sqrt(2)))
                for x in (head.fc.weight @ text[row, place] + head.fc.bias).tolist()
            ]
            mean = sum(hidden) / 4
            spread = math.sqrt(sum((x - mean) ** 2 for x in hidden) / 4 + 1e-12)
            logits = (
                head.out.weight @ torch.tensor([(x - mean) / spread for x in hidden]).double() + head.out.bias
            )
            losses.append(math.log(sum(math.exp(x) for x in logits.tolist())) - float(logits[word]))
        assert float(head(text, targets)) == pytest.approx(sum(losses) / 2, rel=1e-5)

    def test_without_a_chosen_token(self):
        loss = MaskedWords(4, 5)(torch.randn(1, 3, 4), torch.full((1, 3), NOT_ASKED))
        assert loss == 0
        loss.backward()


def losses_of(model, data):
    found = model.data_preprocessor(data, True)
    return model(found['inputs'], found['data_samples'], mode='loss')


def glipv2(objectives=BOTH, **options):
    torch.manual_seed(0)
    weights = options.pop('weights', None)
    return GLIPv2(objectives=objectives, weights=weights, **config(**options))


def test_training(vocabulary, batch):
    random.seed(0)
    model = glipv2().train()
    model.set_vocabulary(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    data, totals = batch(([[4, 4, 30, 30], [30, 30, 60, 62]], [0, 1]), ([[4, 4, 40, 40]], [1])), []
    for _ in range(12):
        losses = losses_of(model, data)
        assert {'loss_contrast', 'loss_masked_words', 'loss_token'} <= losses.keys()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
        assert without == []
        optimizer.step()
        totals.append([float(losses[f'loss_{name}'].detach()) for name in BOTH])
    assert np.all(np.array(totals[-1]) < 0.9 * np.array(totals[0]))


@pytest.mark.parametrize('objects', [[([], []), ([], [])], [([[4, 4, 30, 30]], [0]), ([], [])]])
def test_images_without_boxes(vocabulary, batch, objects):
    model = glipv2().train()
    model.set_vocabulary(vocabulary)
    total = sum(losses_of(model, batch(*objects)).values())
    assert torch.isfinite(total)
    total.backward()


def test_weights_of_the_losses(vocabulary, batch):
    data, found = batch(([[4, 4, 30, 30]], [0])), []
    for weights in ({}, {'contrast': 0.5}):
        model = glipv2({'contrast': {}}, weights=weights).train()
        model.set_vocabulary(vocabulary)
        found.append(losses_of(model, data)['loss_contrast'])
    assert_close(found[1], found[0] / 2)


def test_detection_is_that_of_a_glip(glip, vocabulary, batch):
    ours, plain = glipv2().eval(), glip().eval()
    plain.load_state_dict(
        {name: one for name, one in ours.state_dict().items() if name in plain.state_dict()}
    )
    found = []
    for model in (ours, plain):
        model.set_vocabulary(vocabulary)
        data = model.data_preprocessor(batch(([], [])), False)
        found.append(model.predict(data['inputs'], data['data_samples'])[0].pred_instances.scores)
    assert torch.equal(*found)


def test_it_starts_from_a_glip(glip, tmp_path):
    before = glip()
    save_file(before.state_dict(), tmp_path / 'glip.safetensors')
    model = glipv2(start=tmp_path / 'glip.safetensors')
    own = model.contrast.image.weight.clone()
    model.init_weights()
    assert_close(model.head.words.weight, before.head.words.weight)
    assert torch.equal(model.contrast.image.weight, own)


def test_the_exported_file_describes_itself(tmp_path):
    model = glipv2().eval()
    cfg = Config({'model': {'type': GLIPv2, 'objectives': BOTH, **config()}})
    self_describing.save(model, tmp_path / 'glip.safetensors', cfg)
    loaded = clipdense.load(tmp_path / 'glip.safetensors')
    assert isinstance(loaded, GLIPv2)
    assert_close(loaded.contrast.image.weight, model.contrast.image.weight)


@pytest.mark.parametrize(
    ('objectives', 'options', 'message'),
    [
        ({'contrasts': {}}, {}, "unknown objective 'contrasts'. Did you mean 'contrast'"),
        ({'contrast': {'width': 0}}, {}, 'width of the contrast must be a whole number'),
        ({'contrast': {'size': 3}}, {}, 'RegionWordContrast: .*size'),
        ({'masked_words': {'share': 0}}, {}, 'share of masked words must be above 0'),
        ({'masked_words': {}}, {'prompts': {'per_phrase': True}}, 'needs the names in one text'),
        ({'masked_words': {}}, {'fused': False}, 'masked_words are predicted from the fused text'),
        ({'contrast': {}}, {'weights': {'words': 1}}, "unknown objective 'words'"),
    ],
)
def test_wrong_settings_are_refused(objectives, options, message):
    with pytest.raises(InputError, match=message):
        glipv2(objectives, **options)


class TestProcesses:
    @staticmethod
    def of_images(arguments, rows):
        """The arguments of the contrast for some of the images; texts are cut to their own length."""
        levels, text, owner, targets, labels, of_token = arguments
        length = int(text.mask[rows].sum(dim=1).max())
        part = TextFeatures(*(one[rows, :length] for one in text))
        cut = [Targets(targets[row].boxes, targets[row].positive[:, :length]) for row in rows]
        own = [labels[row] for row in rows]
        return [level[rows] for level in levels], part, owner[rows], cut, own, of_token[rows, :length]

    @staticmethod
    def loss(rank, arguments, state, parts):
        made = contrast(state)
        loss = made(*TestProcesses.of_images(arguments, parts[rank]))
        loss.backward()
        return loss.item(), {name: one.grad.numpy() for name, one in made.named_parameters()}

    @pytest.mark.parametrize('empty', [False, True])
    def test_the_mean_is_the_loss_of_the_joined_batch(self, released, run_processes, empty):
        """Two processes with an image each, of which the second may have no box."""
        arguments, state, _ = released
        levels, text, owner, targets, labels, of_token = arguments
        if empty:
            owner, targets = owner.clone(), list(targets)
            owner[1], labels = -1, [labels[0], labels[1][:0]]
            targets[1] = Targets(targets[1].boxes[:0], targets[1].positive[:0])
        arguments = levels, text, owner, targets, labels, of_token
        found = run_processes(self.loss, arguments, state, ([0], [1]))
        loss, gradients = self.loss(0, arguments, state, ([0, 1],))
        assert sum(one for one, _ in found) / 2 == pytest.approx(loss, rel=1e-5)
        for name, expected in gradients.items():
            mean = (found[0][1][name] + found[1][1][name]) / 2
            np.testing.assert_allclose(mean, expected, atol=1e-6, rtol=1e-4)
