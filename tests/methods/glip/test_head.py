"""The head and its parts against microsoft/GLIP, stage by stage, with gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.glip.fusion import Fusion
from clipdense.methods.glip.head import GLIPHead
from clipdense.methods.glip.layouts import head_layout, numbered_blocks
from clipdense.methods.glip.sizes import HeadSize
from clipdense.methods.glip.structures import TextFeatures
from clipdense.weights.key_map import to_ours

HEADS = ('glip_vldyhead_bert_tiny', 'glip_vldyhead_clip_tiny', 'glip_dyhead_nofuse_tiny')


def part_of(tensors, prefix):
    return {
        name.removeprefix(prefix): one.clone() for name, one in tensors.items() if name.startswith(prefix)
    }


def renamed(tensors, prefix):
    found, leftover = to_ours(numbered_blocks(part_of(tensors, prefix)), head_layout(5))
    assert not leftover
    return found


@pytest.fixture(params=HEADS)
def case(golden, request):
    tensors, meta = golden(request.param)
    size = HeadSize(
        channels=meta['channels'],
        text_width=meta['lang_dim'],
        depth=meta['num_convs'],
        fused=meta['early_fuse'],
        fusion_width=meta['fuse_embed_dim'],
        fusion_heads=meta['fuse_heads'],
        language='clip' if meta['lang'] == 'clip' else 'bert',
        text_heads=meta['lang_heads'],
        text_mlp=meta['bert_intermediate'] or 4 * meta['lang_dim'],
        groups=meta['gn_groups'],
    )
    head = GLIPHead(size).eval()
    head.load_state_dict(renamed(tensors, 'state.'))
    levels = [tensors[f'input.feat{level}'].clone().requires_grad_() for level in range(5)]
    features = [tensors[f'input.{name}'].clone() for name in ('hidden', 'embedded')]
    text = TextFeatures(*(one.requires_grad_() for one in features), tensors['input.mask'].bool())
    return tensors, head, levels, text


def close(found, expected, share=2e-6):
    assert_close(found, expected, atol=share * max(1.0, float(expected.abs().max())), rtol=1e-5)


def test_every_stage(case):
    tensors, head, levels, text = case
    hidden, stage = text.hidden, 0
    for block in head.blocks:
        if block.fusion is not None:
            flat = torch.cat([level.flatten(2) for level in levels], dim=2).mT
            places, hidden = block.fusion(flat, hidden, text.mask)
            sizes = [level.shape[-2:] for level in levels]
            split = places.mT.split([h * w for h, w in sizes], dim=2)
            levels = [part.unflatten(2, size) for part, size in zip(split, sizes, strict=True)]
            close(hidden, tensors[f'output.tower{stage}.hidden'])
            hidden = block.language(hidden, text.mask)
            close(hidden, tensors[f'output.tower{stage + 1}.hidden'])
            stage += 2
        levels = block.image(levels)
        for level, found in enumerate(levels):
            close(found, tensors[f'output.tower{stage}.visual{level}'])
        stage += 1


def test_outputs_and_gradients(case):
    tensors, head, levels, text = case
    output = head(levels, text)
    for level in range(5):
        close(output.logits[level], tensors[f'output.dot_product_logits{level}'])
        close(output.deltas[level], tensors[f'output.bbox{level}'])
        close(output.centerness[level], tensors[f'output.centerness{level}'])
    weighted = [logit * tensors[f'input.weight{level}'] for level, logit in enumerate(output.logits)]
    sum(one.sum() for one in (*weighted, *output.deltas, *output.centerness)).backward()
    inputs = {f'feat{level}': given for level, given in enumerate(levels)}
    inputs |= {name: given for name, given in text._asdict().items() if given.is_floating_point()}
    gradients = renamed({key: one for key, one in tensors.items() if key[5:] not in inputs}, 'grad.')
    parameters = dict(head.named_parameters())
    assert {name.partition('.')[0] for name in gradients} >= {'words', 'blocks'}
    for name, expected in gradients.items():
        close(parameters[name].grad, expected, 1e-5)
    for name, given in inputs.items():
        if f'grad.{name}' in tensors:
            close(given.grad, tensors[f'grad.{name}'], 1e-5)


@pytest.mark.parametrize('name', ['no_mask', 'masked', 'long', 'clamp'])
def test_fusion(golden, name):
    tensors, meta = golden('glip_fuse_tiny')
    block = Fusion(
        meta['v_dim'], meta['l_dim'], meta['embed_dim'], meta['num_heads'], meta['layer_scale_init']
    ).eval()

    def ours(prefix):
        names = {f'blocks.0.fusion.b_attn.{key}': one for key, one in part_of(tensors, prefix).items()}
        names = {key: one for key, one in names.items() if not key.endswith(('b_attn.v', 'b_attn.l'))}
        found, leftover = to_ours(names, head_layout(5))
        assert not leftover
        return {key.removeprefix('blocks.0.fusion.'): one for key, one in found.items()}

    block.load_state_dict(ours('state.'))
    times = meta['cases'][name]['qk_weight_times']
    with torch.no_grad():
        block.query.weight.mul_(times)
        block.key.weight.mul_(times)
    image, text = (tensors[f'input.{name}.{side}'].clone().requires_grad_() for side in 'vl')
    given = tensors.get(f'input.{name}.mask')
    mask = None if given is None else given.bool()
    alone = block.attend(image, text, mask)
    found = block(image, text, mask)
    for side, attended, whole in zip('vl', alone, found, strict=True):
        close(attended, tensors[f'output.{name}.attn_{side}'], 1e-5)
        close(whole, tensors[f'output.{name}.{side}'], 1e-5)
    loss = sum(
        (one * tensors[f'input.{name}.weight_{side}']).sum() for side, one in zip('vl', found, strict=True)
    )
    loss.backward()
    expected = ours(f'grad.{name}.')
    for key, parameter in block.named_parameters():
        close(parameter.grad, expected[key], 1e-5)
    close(image.grad, tensors[f'grad.{name}.v'], 1e-5)
    close(text.grad, tensors[f'grad.{name}.l'], 1e-5)


def test_the_layer_scale_follows_the_depth():
    head = GLIPHead(
        HeadSize(channels=16, text_width=8, depth=4, fusion_width=16, fusion_heads=2, text_heads=2)
    )
    assert_close(head.blocks[0].fusion.image_scale, torch.full((16,), 0.25))


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ({'channels': 20, 'groups': 16}, 'channels=20 is not divisible by groups=16'),
        ({'fusion_width': 30, 'fusion_heads': 8}, 'fusion_width=30 is not divisible'),
        ({'language': 'gpt'}, "language must be 'bert' or 'clip'"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        HeadSize(**sizes)
