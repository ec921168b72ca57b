"""Depth of the parameters of each kind of tower, and freezing by depth."""

from __future__ import annotations

import pytest

from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import HFTextSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.clip.text import TextTransformer
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.depth import keep_locked, lock_layers
from clipdense.utils.errors import InputError

VIT = VitSize(image_size=16, patch_size=8, width=16, layers=3, num_heads=2, mlp_width=32, embed_dim=8)
TEXT = TextSize(width=16, layers=2, num_heads=2, mlp_width=32, embed_dim=8, vocab_size=50, context_length=7)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 2, 1, 1), num_heads=2, embed_dim=8)
TIMM = TimmSize('test_convnext', 64, embed_dim=8, pool='avg', projection='linear')
BERT = HFTextSize(
    'bert',
    16,
    'cls_pooler',
    'linear',
    40,
    dict(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=50,
    ),
)

# tower, depth of parameters
ROWS = [
    (
        VisionTransformer(VIT),
        {
            'patch_embed.weight': 0,
            'class_token': 0,
            'pos_embed': 0,
            'norm_pre.bias': 0,
            'blocks.0.norm1.weight': 1,
            'blocks.2.mlp.fc1.weight': 3,
            'norm_post.weight': 4,
            'proj': 4,
        },
    ),
    (
        ModifiedResNet(RESNET),
        {
            'conv1.weight': 0,
            'bn3.bias': 0,
            'layer1.0.conv1.weight': 1,
            'layer2.0.bn2.weight': 2,
            'layer2.1.bn2.weight': 3,
            'layer4.0.bn1.weight': 5,
            'attn_pool.pos_embed': 6,
            'attn_pool.proj.weight': 6,
        },
    ),
    (
        TextTransformer(TEXT),
        {
            'token_embed.weight': 0,
            'pos_embed': 0,
            'blocks.1.attn.qkv.bias': 2,
            'norm_post.bias': 3,
            'proj': 3,
        },
    ),
    (
        HFTextTower(BERT),
        {
            'transformer.embeddings.word_embeddings.weight': 0,
            'transformer.embeddings.LayerNorm.weight': 0,
            'transformer.encoder.layer.0.output.dense.bias': 1,
            'transformer.encoder.layer.1.output.dense.bias': 2,
            'transformer.pooler.dense.weight': 3,
            'proj.weight': 3,
        },
    ),
]
IDS = [type(tower).__name__ for tower, _ in ROWS]


@pytest.mark.parametrize(('tower', 'expected'), ROWS, ids=IDS)
def test_depths(tower, expected):
    depths = tower.parameter_depths()
    assert {name: depths[name] for name in expected} == expected
    assert depths.keys() == dict(tower.named_parameters()).keys()


def test_a_tower_of_timm_goes_from_its_stem_to_the_projection():
    tower = TimmImageTower(TIMM)
    depths = tower.parameter_depths()
    assert depths.keys() == dict(tower.named_parameters()).keys()
    assert [depths['trunk.stem.0.weight'], depths['head.proj.weight']] == [0, max(depths.values())]
    stages = [depths[f'trunk.stages.{stage}.blocks.0.conv_dw.weight'] for stage in range(4)]
    assert stages == sorted(stages)
    assert stages[0] > 0
    assert stages[-1] < depths['head.proj.weight']


@pytest.mark.parametrize(
    ('unlocked', 'trained'),
    [
        (0, set()),
        (1, {'norm_post', 'proj'}),
        (2, {'norm_post', 'proj', 'blocks.2'}),
        (4, {'norm_post', 'proj', 'blocks.2', 'blocks.1', 'blocks.0'}),
    ],
)
def test_the_last_groups_are_trained(unlocked, trained):
    tower = VisionTransformer(VIT)
    lock_layers(tower, unlocked)
    names = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert {
        '.'.join(name.split('.')[:2]) if 'blocks' in name else name.split('.')[0] for name in names
    } == trained


def test_locked_batch_norms_keep_their_statistics():
    tower = ModifiedResNet(RESNET)
    lock_layers(tower, 2)
    tower.train()
    keep_locked(tower)
    assert not tower.bn1.training
    assert not tower.layer3[0].bn1.training
    assert tower.layer4[0].bn1.training


@pytest.mark.parametrize('unlocked', [-1, 5, 50])
def test_numbers_of_groups_that_a_tower_does_not_have_are_refused(unlocked):
    with pytest.raises(InputError, match=r'must be in 0 \.\. 4'):
        lock_layers(VisionTransformer(VIT), unlocked)
