"""Towers of timm give what open_clip gives on the same weights.  D = 8."""

from __future__ import annotations

import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.models import register_model
from torch.testing import assert_close

from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, TextSize, TimmSize
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.utils.errors import InputError
from clipdense.utils.modules import meta_device

TEXT = TextSize(16, 1, 2, 32, 8)


def tiny(name: str, **reduced):
    """Register a reduced architecture under the name 'tiny_...'; open_clip knows no other way to one."""

    def build(pretrained=False, **options):
        return timm.create_model(name, **{**reduced, **options})

    build.__name__ = f'tiny_{name}'
    build.__module__ = 'timm.models.convnext'  # of any module of timm
    if not timm.is_model(build.__name__):
        register_model(build)
    return build.__name__


CONVNEXT = tiny('convnext_atto', depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
EVA = tiny('eva_giant_patch14_224', depth=2, embed_dim=16, num_heads=2)
EVA02 = tiny('eva02_base_patch16_clip_224', depth=2, embed_dim=32, num_heads=2)
EVA02_POST = tiny('eva02_enormous_patch14_clip_224', depth=2, embed_dim=32, num_heads=2)
VITAMIN = tiny('vitamin_small_224', depth=2)
FASTVIT = tiny('fastvit_mci0', layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128))
PE = tiny('vit_pe_core_tiny_patch16_384', depth=2)
MCI = tiny('vit_base_mci_224', depth=2)
VIT = tiny('vit_large_patch14_clip_224', depth=2, embed_dim=32, num_heads=2)

# architecture, pool, projection, patch size; is the mean of the dense embeddings the image embedding
FAMILIES = [
    (CONVNEXT, '', 'linear', 32, False),
    (CONVNEXT, '', 'mlp', 32, False),
    (EVA, 'token', None, 14, False),
    (EVA02, 'token', None, 16, False),
    (EVA02_POST, 'token', None, 14, False),
    (VITAMIN, '', 'linear', 16, False),
    (FASTVIT, 'avg', None, 32, True),
    (PE, 'map', None, 16, False),
    (MCI, 'token', None, 16, False),
    (VIT, 'token', None, 14, False),
]


def towers(model: str, pool: str, projection: str | None) -> tuple[TimmModel, TimmImageTower]:
    """open_clip's tower with random weights, and ours with the same, built without memory as in ``load``."""
    torch.manual_seed(0)
    theirs = TimmModel(model, 8, 224, pool=pool, proj=projection).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # scales that start at zero would hide a difference
    with meta_device():
        ours = TimmImageTower(TimmSize(model, 224, 8, pool, projection))
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return theirs, ours.eval()


def side(tower: TimmImageTower) -> int:
    return tower.trunk.default_cfg['input_size'][-1]


@pytest.mark.parametrize(('model', 'pool', 'projection', 'patch', 'mean'), FAMILIES)
@torch.no_grad()
def test_open_clip_gives_the_same(model, pool, projection, patch, mean):
    theirs, ours = towers(model, pool, projection)
    images = torch.randn(2, 3, side(ours), side(ours))
    expected = theirs(images)
    features = ours(images)
    assert_close(ours.project(features.pooled), expected, atol=1e-5, rtol=1e-5)
    assert_close(ours.project(ours.pooled(images)), expected, atol=1e-5, rtol=1e-5)
    assert ours.patch_size == patch
    assert features.grid == (side(ours) // patch,) * 2
    assert features.patch_tokens.shape[1] == (side(ours) // patch) ** 2
    if mean:
        assert_close(ours.encode_dense(images).mean(dim=(2, 3)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('model', 'pool', 'projection', 'patch', 'mean'), FAMILIES)
@torch.no_grad()
def test_images_of_any_size(model, pool, projection, patch, mean):
    _, ours = towers(model, pool, projection)
    dense = ours.encode_dense(torch.randn(1, 3, 4 * patch, 6 * patch))
    assert dense.shape == (1, 8, 4, 6)
    assert dense.isfinite().all()
    assert ours(torch.randn(1, 3, 4 * patch, 6 * patch)).pooled.shape[0] == 1


@torch.no_grad()
def test_a_single_location_is_the_image():
    """ConvNeXt and FastViT: where the feature map is 1 x 1, pooling does nothing."""
    for model, pool, projection in ((CONVNEXT, '', 'linear'), (CONVNEXT, '', 'mlp'), (FASTVIT, 'avg', None)):
        _, ours = towers(model, pool, projection)
        images = torch.randn(2, 3, 32, 32)
        expected = ours.project(ours.pooled(images))
        assert_close(ours.encode_dense(images)[..., 0, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('model', 'pool'),
    [(EVA, 'token'), (EVA02, 'token'), (EVA02_POST, 'token'), (MCI, 'token'), (VIT, 'token')],
)
@torch.no_grad()
def test_value_path_is_attention_to_oneself(model, pool):
    """The last block with a mask that leaves each token itself gives the same attention branch."""
    _, ours = towers(model, pool, None)
    images = torch.randn(1, 3, 4 * ours.patch_size, 5 * ours.patch_size)
    seen = {}
    block = ours.trunk.blocks[-1]
    branch = block.norm1 if model == EVA02_POST else block.attn

    def mask_others(attention, args, kwargs):
        n = args[0].shape[1]
        return args, {**kwargs, 'attn_mask': torch.eye(n, dtype=torch.bool)[None, None]}

    handles = [
        block.attn.register_forward_pre_hook(mask_others, with_kwargs=True),
        branch.register_forward_hook(lambda module, args, output: seen.update(values=output)),
    ]
    ours.trunk.forward_features(images)
    for handle in handles:
        handle.remove()
    values = seen['values'][:, ours.prefix :]  # (1, N, C)
    scale = getattr(block, 'gamma_1', None)
    values = values if scale is None else values * scale
    expected = ours.project(ours.trunk.fc_norm(ours.trunk.norm(values)))  # (1, N, D)
    assert_close(ours.encode_dense(images).flatten(2).mT, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_pool_of_one_patch():
    _, ours = towers(PE, 'map', None)
    images = torch.randn(1, 3, 32, 48)
    tokens = ours(images).patch_tokens
    pool = ours.trunk.attn_pool
    value = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    value = value + pool.mlp(pool.norm(value))
    expected = ours.project(ours.trunk.fc_norm(value))
    assert_close(ours.encode_dense(images).flatten(2).mT, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_in_a_clip():
    size = ClipSize(TimmSize(CONVNEXT, 64, 8, '', 'linear'), TEXT)
    assert ClipSize.from_dict(size.to_dict()) == size
    clip = build_clip(size).eval()
    images = torch.randn(2, 3, 64, 96)
    assert clip.encode_image(images).shape == (2, 8)
    assert clip.encode_dense(images).shape == (2, 8, 2, 3)
    again = CLIP(clip.image.config, clip.text.config)
    again.load_state_dict(clip.state_dict())
    assert_close(again.eval().encode_image(images), clip.encode_image(images))


def test_gradient_checkpointing_changes_nothing():
    _, ours = towers(EVA02, 'token', None)
    images = torch.randn(1, 3, 32, 32)
    gradients = []
    for on in (False, True):
        ours.gradient_checkpointing = on
        ours.zero_grad()
        ours.project(ours.pooled(images)).square().sum().backward()
        gradients.append(ours.trunk.patch_embed.proj.weight.grad.clone())
    assert_close(*gradients)


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        (TimmSize('convnext_bse', 64, 8, '', 'linear'), r"no model 'convnext_bse'.*convnext_base"),
        (TimmSize(CONVNEXT, 64, 8, '', 'none'), 'has width 16 and no projection, but embed_dim is 8'),
    ],
)
def test_refused(size, message):
    with pytest.raises(InputError, match=message):
        TimmImageTower(size)


def test_images_below_one_patch():
    _, ours = towers(EVA02, 'token', None)
    with pytest.raises(InputError, match='20 x 8 pixels are smaller than one patch'):
        ours(torch.randn(1, 3, 8, 20))


STAGED = {
    CONVNEXT: (CONVNEXT, 'linear', {}),
    FASTVIT: (FASTVIT, None, {}),
    'efficientnet': ('test_efficientnet', None, {}),
    'dilated': ('test_efficientnet', None, {'output_stride': 16}),
}


@pytest.mark.parametrize('name', STAGED)
def test_maps_of_stages_and_dense_embeddings_come_together(name):
    """In one pass; dilated stages at their full stride first."""
    model, projection, options = STAGED[name]
    tower = TimmImageTower(TimmSize(model, 64, 8, projection=projection, options=options)).eval()
    full, images = tower.at_full_stride(), torch.randn(1, 3, 64, 96)
    assert (full is tower) == (not options)
    stages = full.stages((4, 8, 16, 32))
    with torch.no_grad():
        features, maps = full.encode_stages(images, [index for index, _ in stages])
        assert_close(full.project_locations(features), full.encode_dense(images))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 64 // stride, 96 // stride)
        for (_, channels), stride in zip(stages, (4, 8, 16, 32), strict=True)
    ]
    for key, tensor in tower.state_dict().items():
        assert torch.equal(full.state_dict()[key], tensor), key


def test_layers_after_the_stages_do_not_change_them():
    tower, images = (
        TimmImageTower(TimmSize(CONVNEXT, 64, 8, projection='linear')).eval(),
        torch.randn(1, 3, 64, 64),
    )
    before = tower.encode_stages(images, [0, 3])[1]
    for layer in tower.layers_after_stages:
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    assert not tower.encode_dense(images).any()
    for first, second in zip(before, tower.encode_stages(images, [0, 3])[1], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(('model', 'strides'), [(VIT, r'\[14\]'), (VITAMIN, r'\[16\]')])
def test_towers_without_stages_are_refused(model, strides):
    tower = TimmImageTower(TimmSize(model, 56, 8, projection='linear'))
    with pytest.raises(InputError, match=f'no stages at strides of .* pixels, only at {strides}: use a conv'):
        tower.stages((4, 8, 16, 32))
