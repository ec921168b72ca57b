"""BLIP against the official outputs: transformers and salesforce/BLIP."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.blip.losses import lm_loss
from clipdense.methods.blip.tower import image_tokens

TIGHT = {'atol': 1e-5, 'rtol': 1e-5}


@pytest.fixture
def tiny_golden(golden):
    return golden('blip_tiny')[0]


def test_image_tokens(official, tiny_golden):
    tokens = official('caption').encode_image(tiny_golden['input.pixel_values'])
    assert_close(tokens, tiny_golden['output.caption.image_embeds'], **TIGHT)


def test_a_rectangular_image(official, tiny_golden):
    tokens, grid = image_tokens(official('retrieval').image, tiny_golden['input.pixel_values_rect'])
    assert grid == (6, 5)
    assert_close(tokens, tiny_golden['output.retrieval.vision_rect'], **TIGHT)


def test_caption_scores(official, tiny_golden):
    model = official('caption')
    context = model.decoder.read(model.encode_image(tiny_golden['input.pixel_values']))
    scores = model.predict(
        context, tiny_golden['input.caption.input_ids'], tiny_golden['input.caption.attention_mask']
    )
    expected = tiny_golden['output.caption.logits']  # up to 42; in fp64 they differ from it by 3e-5 as well
    assert_close(scores, expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize(
    ('labels', 'smoothing', 'output'),
    [('labels', 0.1, 'loss'), ('labels', 0.0, 'loss_no_smoothing'), ('labels_prompt', 0.1, 'loss_prompt')],
)
def test_caption_losses(tiny_golden, labels, smoothing, output):
    scores = tiny_golden['output.caption.logits']
    loss = lm_loss(scores, tiny_golden[f'input.caption.{labels}'], smoothing)
    assert_close(loss, tiny_golden[f'output.caption.{output}'], **TIGHT)


def test_caption_gradients(official, tiny_golden):
    model = official('caption')
    images = tiny_golden['input.pixel_values'].requires_grad_()
    ids, keep = tiny_golden['input.caption.input_ids'], tiny_golden['input.caption.attention_mask']
    scores = model.predict(model.decoder.read(model.encode_image(images)), ids, keep)
    lm_loss(scores, tiny_golden['input.caption.labels']).backward()
    block = model.image.blocks[0].attn.qkv.weight
    key, _ = model.decoder.layers[0].cross.kv.weight.grad.chunk(2)
    prefix = 'grad.caption'
    layer = f'{prefix}.text_decoder.bert.encoder.layer.0'
    for found, name in (
        (images.grad, f'{prefix}.pixel_values'),
        (
            model.decoder.embed.words.weight.grad,
            f'{prefix}.text_decoder.bert.embeddings.word_embeddings.weight',
        ),
        (key, f'{layer}.crossattention.self.key.weight'),
        (model.decoder.head.bias.grad, f'{prefix}.text_decoder.cls.predictions.bias'),
        (block.grad, f'{prefix}.vision_model.encoder.layers.0.self_attn.qkv.weight'),
    ):
        assert_close(found, tiny_golden[name], **TIGHT)


@pytest.mark.parametrize(('ids', 'output'), [('input_ids_enc', 'itm_enc'), ('input_ids', 'itm_cls')])
def test_matching(official, tiny_golden, ids, output):
    model = official('retrieval')
    context = model.encoder.read(model.encode_image(tiny_golden['input.pixel_values']))
    scores = model.match(
        context, tiny_golden[f'input.retrieval.{ids}'], tiny_golden['input.retrieval.attention_mask']
    )
    assert_close(scores, tiny_golden[f'output.retrieval.{output}'], **TIGHT)


def test_states_of_texts(official, tiny_golden):
    model = official('retrieval')
    keep = tiny_golden['input.retrieval.attention_mask']
    valid = keep.bool()
    alone = model.encoder(tiny_golden['input.retrieval.input_ids'], keep)
    assert_close(alone[valid], tiny_golden['output.retrieval.text_hidden'][valid], **TIGHT)
    context = model.encoder.read(model.encode_image(tiny_golden['input.pixel_values']))
    both = model.encoder(tiny_golden['input.retrieval.input_ids_enc'], keep, context)
    assert_close(both[valid], tiny_golden['output.retrieval.multimodal_enc'][valid], **TIGHT)


def test_similarities(official, tiny_golden):
    model = official('retrieval')
    images = model.embed_image(model.encode_image(tiny_golden['input.pixel_values']))
    keep = tiny_golden['input.retrieval.attention_mask']
    texts = model.embed_text(tiny_golden['input.retrieval.input_ids'], keep)
    assert_close(images @ texts.T, tiny_golden['output.retrieval.itc'], **TIGHT)


def test_several_texts_of_an_image_read_it_once(official, tiny_golden):
    """Three texts of each image, with a context of one row for each image."""
    model = official('retrieval')
    tokens = model.encode_image(tiny_golden['input.pixel_values'])
    ids = tiny_golden['input.retrieval.input_ids_enc'].repeat(3, 1)
    keep = tiny_golden['input.retrieval.attention_mask'].repeat(3, 1)
    few = model.match(model.encoder.read(tokens), ids, keep)
    every = model.match(model.encoder.read(tokens.repeat_interleave(3, dim=0)), ids, keep)
    assert_close(few, every, atol=1e-6, rtol=1e-6)


def test_what_encoder_and_decoder_share(official, golden):
    model = official('pretrain')
    _, meta = golden('blip_pretrain_tiny')
    own = {name for name, _ in model.decoder.named_parameters()}
    distinct = {id(one) for one in model.encoder.parameters()}
    shared = {name for name, one in model.decoder.named_parameters() if id(one) in distinct}
    assert {name for name in own - shared if not name.startswith('head.')} == {
        name for name in own if 'self_attn' in name
    }
    assert len(meta['not_shared']) == 20  # 10 of each layer; fused in 6 here
    assert sum('self_attn' in name for name in own) == 12


def test_scores_do_not_depend_on_padding(official, tiny_golden):
    model = official('caption')
    context = model.decoder.read(model.encode_image(tiny_golden['input.pixel_values']))
    ids, keep = tiny_golden['input.caption.input_ids'], tiny_golden['input.caption.attention_mask']
    changed = torch.where(keep.bool(), ids, 7)
    before, after = model.predict(context, ids, keep), model.predict(context, changed, keep)
    assert_close(before[keep.bool()], after[keep.bool()])
