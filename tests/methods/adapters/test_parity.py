"""The official outputs of Tip-Adapter and CLIP-Adapter on tiny random models."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.checkpoint import load
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.residual import ClipAdapter, ResidualAdapter
from clipdense.methods.adapters.search import Grid, Validation, search
from clipdense.vocab.vocabulary import Vocabulary

NAMES = ('cat', 'hot_dog', 'traffic light', 'aeroplane', 'potted plant')
WORDS = Vocabulary(NAMES)
CLOSE = {'atol': 1e-5, 'rtol': 1e-5}
LOGITS = {'atol': 1e-3, 'rtol': 0}  # of scale 100


@pytest.fixture
def clip(golden, golden_path):
    """The CLIP of an official run, and the tensors and settings of the run."""

    def read(name):
        weights = golden_path('prompt_clip_tiny.safetensors')
        settings = {'activation': 'quick_gelu', 'num_heads': 1, 'text_num_heads': 1, 'preprocess': 'openai'}
        return load(weights, **settings), *golden(name)

    return read


@pytest.fixture
def tip(golden):
    """The official cache, with the alpha and beta that the run began with."""
    tensors, _ = golden('tip_adapter_tiny')
    labels = tensors['output.cache_values'].argmax(1)
    return KeyValueCache(tensors['output.cache_keys'].mT, labels, NAMES, alpha=1.17, beta=1.0), tensors


def unit_images(clip, images):
    with torch.no_grad():
        return clip.encode_image(images, normalize=True)


class TestTip:
    def test_features_and_keys(self, clip):
        model, tensors, _ = clip('tip_adapter_tiny')
        assert_close(
            unit_images(model, tensors['input.test_images']), tensors['output.test_features'], **CLOSE
        )
        views = [tensors['input.train_images'], tensors['input.train_images_aug']]
        with torch.no_grad():
            mean = torch.stack([model.encode_image(view) for view in views]).mean(0)
        assert_close(F.normalize(mean, dim=1), tensors['output.cache_keys'].mT, **CLOSE)

    def test_logits(self, tip):
        cache, tensors = tip
        added = cache.scores(tensors['output.test_features'], WORDS)
        assert_close(added, 1.17 * tensors['output.cache_logits'], **CLOSE)
        assert_close(tensors['output.clip_logits'] + added, tensors['output.tip_logits'], **LOGITS)

    @pytest.mark.filterwarnings('ignore:the best alpha')
    def test_search(self, tip):
        cache, tensors = tip
        scale, steps = (7, 3), (20, 5)
        validation = Validation(
            tensors['output.test_features'],
            tensors['input.test_labels'],
            tensors['output.clip_logits'],
            WORDS,
        )
        found = search(cache, validation, Grid(*scale, *steps))
        assert_close(torch.tensor([found.beta, found.alpha]), tensors['output.search_best'], **CLOSE)
        assert (cache.alpha, cache.beta, cache.search) == (found.alpha, found.beta, found)

    def test_training_the_keys(self, tip, clip):
        """Tip-Adapter-F: AdamW with eps 1e-4, cosine per step, three steps of one batch."""
        cache, tensors = tip
        cache.trainable()
        model, _, _ = clip('tip_adapter_tiny')
        images = unit_images(model, tensors['input.train_images'])
        zero_shot = 100 * images @ tensors['output.clip_weights']
        optimizer = torch.optim.AdamW([cache.keys], lr=1e-3, eps=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        for expected in tensors['output.F_losses']:
            loss = F.cross_entropy(zero_shot + cache.scores(images, WORDS), tensors['input.train_labels'])
            assert_close(loss, expected, **CLOSE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class TestClipAdapter:
    @pytest.fixture
    def adapter(self, golden):
        tensors, meta = golden('clip_adapter_tiny')
        adapter = ClipAdapter(32, reduction=meta['reduction'], ratio=meta['ratio'])
        prefix = 'state.adapter.'
        state = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        adapter.image.load_state_dict(state)
        return adapter

    def test_features_logits_and_gradients(self, adapter, clip):
        model, tensors, _ = clip('clip_adapter_tiny')
        images = model.encode_image(tensors['input.image']).detach()
        assert_close(images, tensors['output.image_features'], **CLOSE)
        text = F.normalize(tensors['output.text_features'], dim=1)
        logits = model.logit_scale.exp() * adapter.adapt_embeddings(images) @ text.mT
        assert_close(logits, tensors['output.logits'], **LOGITS)
        loss = F.cross_entropy(logits, tensors['input.label'])
        assert_close(loss, tensors['output.loss'], **CLOSE)
        loss.backward()
        for name in ('fc.0.weight', 'fc.2.weight'):
            gradient = dict(adapter.image.named_parameters())[name].grad
            assert_close(gradient, tensors[f'output.grad.adapter.{name}'], atol=1e-4, rtol=1e-4)

    def test_unit_embeddings_give_the_same(self, adapter, golden):
        """The bottleneck is homogeneous, so it may act after normalization."""
        images = golden('clip_adapter_tiny')[0]['output.image_features']
        assert_close(
            adapter.adapt_embeddings(F.normalize(images, dim=-1)), adapter.adapt_embeddings(images), **CLOSE
        )

    def test_maps_are_adapted_pixel_by_pixel(self, adapter):
        pixels = torch.randn(2, 3, 4, 32)
        expected = torch.stack([adapter.adapt_embeddings(row) for row in pixels.flatten(0, 2)])
        assert_close(adapter.adapt_embeddings(pixels), expected.view(2, 3, 4, 32), **CLOSE)


def test_a_part_of_each_ratio():
    x = torch.randn(5, 8)
    nothing, everything = ResidualAdapter(8, ratio=0.0), ResidualAdapter(8, ratio=1.0)
    assert_close(nothing(x), x)
    assert_close(everything(x), everything.fc(x))
