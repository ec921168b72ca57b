"""Released weights in microsoft's and mmdet's layout, and our self-describing files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torch.testing import assert_close
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

import clipdense
from clipdense.clip import self_describing
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods import find_method
from clipdense.methods.glip.checkpoint import from_official, published
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.layouts import numbered_blocks
from clipdense.registry import build_module
from clipdense.utils.errors import CheckpointError, InputError

from .conftest import config

TINY_CLIP = ClipSize(VitSize(32, 8, 16, 1, 1, 16, 8), TextSize(16, 1, 1, 16, 8))
TINY = {'text_num_heads': 2, 'fusion_heads': 4, 'groups': 4}
SWIN = dict(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=[7, 7])
TEXT, CHANNELS = 16, 16
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def official_swin(model):
    """A Swin of torchvision under the official names, and with its own dimensions."""
    state, found = model.state_dict(), {}
    for name, tensor in state.items():
        parts = name.split('.')
        if parts[0] != 'features':
            continue
        stage, rest = int(parts[1]), parts[2:]
        if stage == 0:
            found[f'patch_embed.{"proj" if rest[0] == "0" else "norm"}.{rest[-1]}'] = tensor
        elif stage % 2:
            inner = '.'.join(rest[1:]).replace('mlp.0.', 'mlp.fc1.').replace('mlp.3.', 'mlp.fc2.')
            if inner == 'attn.relative_position_index':
                tensor = tensor.reshape(49, 49)
            found[f'layers.{stage // 2}.blocks.{rest[0]}.{inner}'] = tensor
        else:
            found[f'layers.{stage // 2 - 1}.downsample.{".".join(rest)}'] = tensor
    for level in range(1, 4):  # GLIP's norms of the levels
        width = SWIN['embed_dim'] * 2**level
        found[f'norm{level}.weight'], found[f'norm{level}.bias'] = torch.ones(width), torch.zeros(width)
    return found


def bert(layers=1, width=TEXT, words=30):
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    found = {f'embeddings.{name}_embeddings.weight': normal(count, width) for name, count in
             (('word', words), ('position', 32), ('token_type', 2))}  # fmt: skip
    found |= {
        'embeddings.LayerNorm.weight': torch.ones(width),
        'embeddings.LayerNorm.bias': torch.zeros(width),
    }
    for layer in range(layers):
        found |= {f'encoder.layer.{layer}.{name}': one for name, one in bert_layer(normal, width).items()}
    return found


def bert_layer(normal, width):
    linear = {'attention.self.query': (width, width), 'attention.self.key': (width, width),
              'attention.self.value': (width, width), 'attention.output.dense': (width, width),
              'intermediate.dense': (32, width), 'output.dense': (width, 32)}  # fmt: skip
    found = {}
    for name, shape in linear.items():
        found[f'{name}.weight'], found[f'{name}.bias'] = normal(*shape), normal(shape[0])
    for name in ('attention.output.LayerNorm', 'output.LayerNorm'):
        found[f'{name}.weight'], found[f'{name}.bias'] = torch.ones(width), torch.zeros(width)
    return found


def official_head(fused=True, blocks=2):
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.1

    c, found, index = CHANNELS, {}, 0
    for _ in range(blocks):
        if fused:
            for side, width in (('v', c), ('l', TEXT)):
                at = f'dyhead_tower.{index}.b_attn'
                found |= {f'{at}.gamma_{side}': normal(width)}
                for name, shape in ((f'layer_norm_{side}', (width,)), (f'attn.{side}_proj', (32, width)),
                                    (f'attn.values_{side}_proj', (32, width)),
                                    (f'attn.out_{side}_proj', (width, 32))):  # fmt: skip
                    found[f'{at}.{name}.weight'], found[f'{at}.{name}.bias'] = (
                        normal(*shape),
                        normal(shape[0]),
                    )
            layer = bert_layer(normal, TEXT)
            found |= {f'dyhead_tower.{index + 1}.{name}': one for name, one in layer.items()}
            index += 2
        at = f'dyhead_tower.{index}'
        for number in range(3):
            found[f'{at}.DyConv.{number}.conv.weight'] = normal(c, c, 3, 3)
            found[f'{at}.DyConv.{number}.conv.bias'] = normal(c)
            found[f'{at}.DyConv.{number}.bn.weight'], found[f'{at}.DyConv.{number}.bn.bias'] = (
                normal(c),
                normal(c),
            )
        for name, shape in (('AttnConv.1', (1, c, 1, 1)), ('offset', (27, c, 3, 3)),
                            ('relu.fc.0', (c // 4, c)), ('relu.fc.2', (4 * c, c // 4))):  # fmt: skip
            found[f'{at}.{name}.weight'], found[f'{at}.{name}.bias'] = normal(*shape), normal(shape[0])
        index += 1
    outer = {'bbox_pred': (4, c, 1, 1), 'centerness': (1, c, 1, 1), 'cls_logits': (80, c, 1, 1)}
    for name, shape in (outer | {'dot_product_projection_text': (c, TEXT)}).items():
        found[f'{name}.weight'], found[f'{name}.bias'] = normal(*shape), normal(shape[0])
    found |= {'log_scale': normal(1), 'bias_lang': normal(TEXT), 'bias0': torch.tensor([-1.0])}
    return found | {f'scales.{level}.scale': torch.ones(1) + level for level in range(5)}


def official_fpn():
    generator, found = torch.Generator().manual_seed(5), {}
    for level in (2, 3, 4):
        width = SWIN['embed_dim'] * 2 ** (level - 1)
        found[f'fpn_inner{level}'], found[f'fpn_layer{level}'] = (
            (CHANNELS, width, 1, 1),
            (CHANNELS, CHANNELS, 3, 3),
        )
    found |= {f'top_blocks.p{level}': (CHANNELS, CHANNELS, 3, 3) for level in (6, 7)}
    state = {}
    for name, shape in found.items():
        state[f'{name}.weight'] = torch.randn(*shape, generator=generator) * 0.1
        state[f'{name}.bias'] = torch.zeros(CHANNELS)
    return state


@pytest.fixture(scope='module')
def swin():
    torch.manual_seed(2)
    return TorchvisionSwin(patch_size=[4, 4], **SWIN, stochastic_depth_prob=0.0, num_classes=3).eval()


@pytest.fixture
def official(swin):
    """``official(fused) -> tensors`` as they stand in microsoft's files, without the entry ``model``."""

    def make(fused=True):
        parts = {
            'backbone.body.': official_swin(swin),
            'backbone.fpn.': official_fpn(),
            'language_backbone.body.model.': bert() | {'embeddings.position_ids': torch.arange(32)[None]},
            'rpn.head.': official_head(fused),
            'rpn.anchor_generator.cell_anchors.': {'0': torch.zeros(1, 4)},
        }
        return {prefix + name: one.clone() for prefix, part in parts.items() for name, one in part.items()}

    return make


def as_mmdet(model, tensors):
    """The same weights as mmdet's converter writes them."""
    head = {
        name.removeprefix('rpn.head.'): one for name, one in tensors.items() if name.startswith('rpn.head.')
    }
    found = {
        'bbox_head.head.' + name.replace('.DyConv.', '.dyconvs.').replace('.AttnConv.', '.attnconv.'): one
        for name, one in head.items()
        if not name.startswith('cls_logits')
    }
    found |= {name: one.reshape(()) for name, one in found.items() if '.scales.' in name}
    found |= {
        f'language_model.{name}': one for name, one in tensors.items() if name.startswith('language_backbone')
    }
    body = {name: one for name, one in model.state_dict().items() if name.startswith(('backbone.', 'neck.'))}
    return found | body


@pytest.mark.parametrize('fused', [True, False])
def test_released_weights_in_both_layouts(official, fused):
    tensors = official(fused)
    assert find_method(tensors).name == 'glip'
    model = from_official(tensors, **TINY)
    assert model.head.size.fused == fused
    again = as_mmdet(model, tensors)
    assert find_method(again).name == 'glip'
    other = from_official(again, **TINY).state_dict()
    assert model.state_dict().keys() == other.keys()
    assert all(torch.equal(one, other[name]) for name, one in model.state_dict().items())


def test_the_backbone_gives_the_features_of_torchvision(official, swin):
    """Patch merging takes its four neighbors in another order in mmdet."""
    model = from_official(official(), **TINY)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = model.backbone(images)
        x, expected = images, []
        for number, stage in enumerate(swin.features):
            x = stage(x)
            if number in (3, 5, 7):
                expected.append(x)
    for level, one in zip(found, expected, strict=True):
        normalized = torch.nn.functional.layer_norm(one, one.shape[-1:])
        assert_close(level, normalized.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_a_released_file_detects(official, tmp_path, hub_bert):
    """As published: the tensors below ``model``, names with ``module.``, a tokenizer next to the file."""
    folder = hub_bert(tmp_path)
    tensors = {f'module.{name}': one for name, one in official().items()}
    torch.save({'model': tensors, 'iteration': 1}, folder / 'glip_tiny.pth')
    detector = clipdense.Detector.from_pretrained(folder / 'glip_tiny.pth', device='cpu', **TINY)
    found = detector(IMAGE, ['cat', 'dog'], score_threshold=0.0)
    assert found.xyxy.shape[1] == 4
    assert len(found.confidence)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: t.pop('rpn.head.bias_lang'), 'missing'),
        (lambda t: t.pop('backbone.fpn.top_blocks.p7.weight'), 'missing'),
        (lambda t: t.update({'rpn.head.mask_head.weight': torch.ones(2)}), r'unexpected tensors.*mask_head'),
        (lambda t: t.update({'rpn.head.bbox_pred.weight': torch.ones(4, 3, 1, 1)}), 'of another shape'),
        (lambda t: t.pop('language_backbone.body.model.embeddings.word_embeddings.weight'), 'not BERT'),
        (lambda t: t.pop('backbone.body.patch_embed.proj.weight'), 'missing'),
    ],
    ids=['head', 'neck', 'more', 'shape', 'text', 'backbone'],
)
def test_other_tensors_are_refused(official, change, message):
    tensors = official()
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        from_official(tensors, **TINY)


def test_a_training_checkpoint_needs_its_config(tmp_path):
    model = GLIP(**config())
    save_file(model.state_dict(), tmp_path / 'step.safetensors')
    with pytest.raises(InputError, match='training checkpoint that needs its config'):
        clipdense.load(tmp_path / 'step.safetensors')


def test_our_file_describes_itself(tmp_path):
    cfg = Config({'model': {'type': GLIP, **config()}, 'test_dataloader': {'dataset': {'transforms': []}}})
    model = build_module(cfg.model).eval()
    self_describing.save(model, tmp_path / 'glip.safetensors', cfg)
    detector = clipdense.Detector.from_pretrained(tmp_path / 'glip.safetensors', device='cpu')
    for name, one in model.state_dict().items():
        assert torch.equal(one, detector.model.model.state_dict()[name]), name
    assert detector(IMAGE, ['red star'], score_threshold=0.0).xyxy.shape[1] == 4
    with pytest.raises(InputError, match='remove clip'):
        clipdense.Detector.from_pretrained(tmp_path / 'glip.safetensors', clip=build_clip(TINY_CLIP))


def test_training_starts_from_other_weights(tmp_path):
    torch.manual_seed(1)
    save_file(GLIP(**config()).state_dict(), tmp_path / 'first.safetensors')
    torch.manual_seed(2)
    model = GLIP(**config(start=tmp_path / 'first.safetensors'))
    model.init_weights()
    torch.manual_seed(1)
    assert torch.equal(model.head.words.weight, GLIP(**config()).head.words.weight)
    with pytest.raises(CheckpointError, match='does not match GLIP'):
        GLIP(**config(start=tmp_path / 'first.safetensors', fused=False)).init_weights()


def test_blocks_are_numbered():
    names = {'dyhead_tower.3.b_attn.gamma_v': torch.ones(1), 'dyhead_tower.5.offset.bias': torch.ones(1)}
    assert list(numbered_blocks(names)) == ['blocks.1.fusion.b_attn.gamma_v', 'blocks.1.image.offset.bias']
    assert list(numbered_blocks({'dyhead_tower.3.offset.bias': torch.ones(1)})) == [
        'blocks.3.image.offset.bias'
    ]


@pytest.mark.parametrize('name', ['GLIP-T', 'GLIP-L', 'GLIP-T-A'])
def test_published_sizes(name):
    """Parameters of a block, in millions: fusion 6.30, BERT layer 7.09, DyConv 1.92."""
    with torch.device('meta'):
        model = published(name)
    parts = {
        key: sum(p.numel() for p in part.parameters()) for key, part in model.head.blocks[0].named_children()
    }
    expected = {'fusion': 6.30, 'language': 7.09, 'image': 1.92}
    assert {key: round(count / 1e6, 2) for key, count in parts.items()} == {
        key: expected[key] for key in parts
    }
    assert len(parts) == (1 if name == 'GLIP-T-A' else 3)
    assert len(model.head.blocks) == (8 if name == 'GLIP-L' else 6)


def test_unknown_published_models_are_refused():
    with pytest.raises(InputError, match=r"unknown model 'GLIP-M': use one of GLIP-T-A"):
        published('GLIP-M')
