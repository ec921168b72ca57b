"""Adapters in files: ours, the official ones, and damaged ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

import clipdense
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.adapters import read_adapter
from clipdense.inference.load import load_embedder
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.files import official_cache
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.methods.adapters.search import Grid, Validation, score_trained, search
from clipdense.tasks.adapters import Adapter, Origin
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights, write_weights

NAMES = ('cat', 'dog', 'a,b "c" é')
X = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)


@pytest.fixture
def cache():
    origin = Origin('abc', 'pixels', 'maskclip')
    return KeyValueCache(torch.randn(5, 8), [0, 0, 1, 2, 2], NAMES, 1.5, 2.5, False, origin)


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'adapter.safetensors'


class TestOurs:
    @pytest.mark.filterwarnings('ignore::UserWarning')
    def test_cache(self, cache, file):
        validation = Validation(X, torch.tensor([0, 1, 0, 1]), torch.randn(4, 3), Vocabulary(NAMES))
        search(cache, validation, Grid(2, 2, 2, 3))
        score_trained(cache, validation)
        cache.trainable().save(file)
        again = read_adapter(file)
        assert (again.class_names, again.balance, again.origin) == (NAMES, False, cache.origin)
        assert (again.alpha, again.beta, again.search) == (cache.alpha, cache.beta, cache.search)
        assert_close(again.scores(X, Vocabulary(NAMES)), cache.scores(X, Vocabulary(NAMES)), atol=0, rtol=0)
        assert file.stat().st_size < 4000

    def test_trained_keys_stay_as_they_are(self, cache, file):
        cache.keys.data.mul_(1.5)
        cache.save(file)
        assert_close(read_adapter(file).keys, cache.keys, atol=0, rtol=0)

    @pytest.mark.parametrize('sides', ['image', 'text', 'both'])
    def test_clip_adapter(self, sides, file):
        made = ClipAdapter(8, sides, 2, 0.3, False, Origin('abc'))
        made.save(file)
        again = read_adapter(file)
        assert_close(again.adapt_embeddings(X), made.adapt_embeddings(X), atol=0, rtol=0)
        assert_close(again.adapt_queries(X), made.adapt_queries(X), atol=0, rtol=0)
        assert again.origin == made.origin
        assert torch.equal(again.adapt_queries(X), X) == (sides == 'image')

    def test_only_these_are_saved(self, file):
        with pytest.raises(InputError, match='a Adapter cannot be saved'):
            Adapter().save(file)
        with pytest.raises(InputError, match=r'use adapter.safetensors'):
            ClipAdapter(8).save(file.with_suffix('.pt'))


def changed(file, change):
    """Rewrite a file with other tensors or settings."""
    found = read_weights(file)
    tensors, meta = dict(found.tensors), dict(found.metadata)
    settings = json.loads(meta['settings'])
    change(tensors, meta, settings)
    write_weights(
        file,
        tensors,
        {'settings': json.dumps(settings), **meta}
        | ({} if meta.get('keep') else {'settings': json.dumps(settings)}),
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t, m, s: m.pop('format'), 'has the tensors of an adapter, but does not describe it'),
        (lambda t, m, s: m.update(version='2'), "written by a newer clipdense (version '2')"),
        (lambda t, m, s: m.update(settings='{', keep='x'), 'the description of the adapter is damaged'),
        (lambda t, m, s: s.pop('origin'), 'the description of the adapter is damaged'),
        (lambda t, m, s: s.update(origin={'kind': 'words'}), 'kind must be one of images, pixels, regions'),
        (lambda t, m, s: s.update(alpha=-1), 'alpha must be at least 0'),
        (lambda t, m, s: s.update(secret=1), "unexpected keyword argument 'secret'"),
        (lambda t, m, s: s.update(class_names=['cat']), 'labels must be from 0 to 0'),
        (lambda t, m, s: t['cache.keys'].fill_(torch.nan), '5 of 5 keys are NaN'),
        (lambda t, m, s: s.update(search={'metric': 'x'}), 'betas'),
    ],
)
def test_damaged(cache, file, change, message):
    cache.save(file)
    changed(file, change)
    with pytest.raises(CheckpointError) as refusal:
        read_adapter(file)
    assert message in str(refusal.value)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize('name', ['image.fc.0.weight', 'image.fc.2.weight'])
def test_damaged_clip_adapter(file, name):
    made = ClipAdapter(8)
    made.state_dict()[name].fill_(torch.inf)
    made.save(file)
    with pytest.raises(CheckpointError, match='NaN or infinite'):
        read_adapter(file)


class TestOfficial:
    @pytest.mark.parametrize('prefix', ['', 'adapter.'])
    def test_clip_adapter(self, prefix, tmp_path):
        made = ClipAdapter(8, reduction=4)
        state = {f'{prefix}{name}': tensor for name, tensor in made.image.state_dict().items()}
        torch.save({'state_dict': state, 'epoch': 20, 'val_result': 74.4}, tmp_path / 'model.pth.tar-20')
        with pytest.warns(UserWarning, match='does not name its CLIP, ratio and templates'):
            again = read_adapter(tmp_path / 'model.pth.tar-20')
        assert_close(again.adapt_embeddings(X), made.adapt_embeddings(X))

    @pytest.fixture
    def files(self, tmp_path):
        keys = torch.randn(8, 6)
        tensors = {'keys': keys.half(), 'values': torch.eye(3)[[0, 0, 1, 1, 2, 2]].half()}
        tensors['best_F'] = torch.nn.Parameter(torch.randn(6, 8))
        paths = []
        for name, tensor in tensors.items():
            paths.append(tmp_path / f'{name}_2shots.pt')
            torch.save(tensor, paths[-1])
        return paths, tensors

    def test_cache(self, files):
        (keys, values, trained), tensors = files
        expected = KeyValueCache(tensors['keys'].float().mT, [0, 0, 1, 1, 2, 2], NAMES)
        words = Vocabulary(NAMES)
        assert_close(official_cache(keys, values, NAMES).scores(X, words), expected.scores(X, words))
        expected.keys.data = tensors['best_F'].detach()
        assert_close(official_cache(keys, values, NAMES, trained).scores(X, words), expected.scores(X, words))

    def test_refused(self, files):
        (keys, values, trained), _ = files
        with pytest.raises(InputError, match='has 3 classes, but 2 class names are given'):
            official_cache(keys, values, NAMES[:2])
        with pytest.raises(CheckpointError, match=r'must be keys \(D, N\) and .* values \(N, C\)'):
            official_cache(trained, values, NAMES)
        with pytest.raises(CheckpointError, match='must be one-hot'):
            official_cache(trained, keys, NAMES)
        with pytest.raises(CheckpointError, match=r'must be finite keys \(6, 8\)'):
            official_cache(keys, values, NAMES, keys)
        torch.save({'keys': torch.zeros(2)}, keys)
        with pytest.raises(CheckpointError, match='holds not one tensor, but tensors by name: keys'):
            official_cache(keys, values, NAMES)

    def test_a_training_checkpoint_is_not_an_adapter(self, tmp_path):
        torch.save(
            {'state_dict': {'adapter.keys': X, 'adapter.labels': torch.zeros(1)}}, tmp_path / 'step_1.pth'
        )
        with pytest.raises(InputError, match=r'use the adapter\.safetensors that training writes'):
            read_adapter(tmp_path / 'step_1.pth')

    def test_a_single_tensor_is_not_an_adapter(self, files):
        with pytest.raises(InputError, match=r'is one tensor \(8, 6\), .*`clipdense embed tip-cache'):
            read_adapter(files[0][0])


def test_an_adapter_is_not_a_model_and_a_model_not_an_adapter(cache, file, tmp_path):
    cache.save(file)
    with pytest.raises(CheckpointError, match=r'has Tip-Adapter \(a cache\), not a model'):
        clipdense.load(file)
    vit = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
    text = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
    save(build_clip(ClipSize(vit, text)), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match='contains weights of an unknown layout, not an adapter'):
        read_adapter(tmp_path / 'clip.safetensors')


def test_adapters_and_prompts_are_not_confused(cache, file, tmp_path):
    vit = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
    clip = build_clip(ClipSize(vit, TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)))
    cache.save(file)
    with pytest.raises(InputError, match=r'is a file of tip, not class embeddings: give it with --adapter'):
        load_embedder(clip, file)
    torch.save({'ctx': torch.zeros(2, 16)}, tmp_path / 'prompts.pth')
    with pytest.raises(InputError, match=r'not an adapter: give it with --prompts'):
        read_adapter(tmp_path / 'prompts.pth')
