"""Weights in and out: salesforce's files, Hugging Face's, ours."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

import clipdense
from clipdense.clip.preprocess import Preprocess
from clipdense.inference.convert import convert
from clipdense.methods import find_method
from clipdense.methods.blip.checkpoint import from_official, load, save, to_official, write_huggingface
from clipdense.methods.blip.sizes import BERT, PUBLISHED, BlipSize
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import write_weights

from .conftest import HEADS, IDS, PRETRAIN_IDS, state_of, twice

transformers = pytest.importorskip('transformers')
KINDS = ('caption', 'retrieval')
CLASSES = {
    'caption': 'BlipForConditionalGeneration',
    'retrieval': 'BlipForImageTextRetrieval',
    'answers': 'BlipForQuestionAnswering',
}


def hf_model(kind, image=32):
    """A random model of transformers; the widths are equal, which VQA needs."""
    vision = {
        'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 48,
        'image_size': image, 'patch_size': 8,
    }  # fmt: skip
    text = {
        'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 40,
        'vocab_size': 60, 'max_position_embeddings': 24, 'bos_token_id': 58, 'sep_token_id': 3,
        'eos_token_id': 3, 'pad_token_id': 0, 'encoder_hidden_size': 32,
    }  # fmt: skip
    config = transformers.BlipConfig(vision_config=vision, text_config=text, image_text_hidden_size=16)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[kind])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_there_and_back_bit_for_bit(golden, official, kind):
    state = state_of(golden('blip_tiny')[0], f'state.{kind}.')
    back = to_official(official(kind), 'huggingface')
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name


def test_the_official_file_of_pre_training(golden, official):
    tensors, meta = golden('blip_pretrain_tiny')
    state = twice(state_of(tensors, 'state.'), meta['shared_between_encoder_and_decoder'])
    back = to_official(official('pretrain'), 'salesforce')
    for name, value in back.items():
        if '.cls.predictions.decoder.' not in name:  # second names, which the golden file leaves out
            assert torch.equal(state[name].reshape(value.shape), value), name
    left_out = {name for name in state if name not in back}
    assert left_out
    assert all('_m.' in name or 'queue' in name for name in left_out)


@pytest.mark.parametrize('kind', CLASSES)
def test_a_folder_of_transformers_both_ways(tmp_path, kind):
    theirs = hf_model(kind)
    theirs.save_pretrained(tmp_path / 'theirs')
    model = clipdense.load(tmp_path / 'theirs', device='cpu')
    write_huggingface(model, tmp_path / 'ours')
    again = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path / 'ours')
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.vision_model(images).last_hidden_state
        assert_close(model.encode_image(images), expected, atol=1e-5, rtol=1e-5)


def test_answers_decode_the_question(tmp_path):
    """Without padding, where transformers is a reference for VQA as well."""
    theirs = hf_model('answers')
    theirs.save_pretrained(tmp_path)
    model = load(tmp_path)
    images, question = torch.randn(2, 3, 32, 32), torch.tensor([[59, 7, 8, 3], [59, 9, 10, 3]])
    answer = torch.tensor([[58, 11, 12, 3], [58, 13, 14, 3]])
    with torch.no_grad():
        states = theirs.text_encoder(
            question, encoder_hidden_states=theirs.vision_model(images).last_hidden_state
        ).last_hidden_state
        expected = theirs.text_decoder(answer, encoder_hidden_states=states).logits
        own = model.encoder(question, None, model.encoder.read(model.encode_image(images)))
        assert_close(model.predict(model.decoder.read(own), answer), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('parts', [{}, {'encoder': False, 'embed_dim': 0}, {'decoder': False}])
def test_our_own_format(tiny, tmp_path, parts):
    model = tiny(**parts)
    save(model, tmp_path / 'b.safetensors')
    again = clipdense.load(tmp_path / 'b.safetensors', device='cpu')
    assert again.size == model.size
    assert again.preprocess == model.preprocess
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.encode_image(images), model.encode_image(images))
    if model.size.shared:
        assert again.decoder.layers[0].cross is again.encoder.layers[0].cross


@pytest.mark.parametrize(
    ('kind', 'to'),
    [
        ('caption', 'clipdense'),
        ('caption', 'salesforce'),
        ('retrieval', 'salesforce'),
        ('answers', 'clipdense'),
    ],
)
def test_convert(tmp_path, kind, to):
    hf_model(kind).save_pretrained(tmp_path / 'hf')
    file = convert(tmp_path / 'hf', tmp_path / 'one.safetensors', to)
    given = {} if to == 'clipdense' else {'num_heads': 2, 'text_num_heads': 4, 'ids': IDS, 'image_eps': 1e-5}
    one, two = load(file, **given), load(tmp_path / 'hf')
    for name, value in two.state_dict().items():
        assert torch.equal(one.state_dict()[name], value), name


def test_layouts_are_recognized(golden, tiny):
    for kind in KINDS:
        assert find_method(state_of(golden('blip_tiny')[0], f'state.{kind}.')).name == 'blip'
    assert find_method(state_of(golden('blip_pretrain_tiny')[0], 'state.')).name == 'blip'
    assert find_method(f'module.blip.{name}' for name in tiny().state_dict()).name == 'blip'
    for other in ('openai_clip_vit_tiny', 'groupvit_hf_tiny', 'lseg_tiny'):
        found = find_method(key.removeprefix('state.') for key in golden(other)[0])
        assert found is None or found.name != 'blip'


def test_published_sizes():
    """Numbers of parameters of table 1 and the released files."""
    for name, size in PUBLISHED.items():
        assert size.text.ids == BERT, name
        assert BlipSize.from_dict(json.loads(json.dumps(size.to_dict()))) == size
    assert PUBLISHED['BLIP-B-vqa'].answers
    assert not PUBLISHED['BLIP-B'].answers


def changed(state, **changes):
    """A state with tensors replaced; None removes one."""
    state = {**state, **changes}
    return {name: value for name, value in state.items() if value is not None}


WORDS = 'text_decoder.bert.embeddings.word_embeddings.weight'
HEAD = 'text_decoder.cls.predictions'
DAMAGED = [
    ({'vision_model.post_layernorm.bias': None}, '1 missing .image.norm_post.bias'),
    ({'text_decoder.more': torch.zeros(2)}, '1 unexpected .text_decoder.more'),
    ({f'{HEAD}.decoder.weight': torch.zeros(60, 32)}, 'are one tensor in BLIP, but differ'),
    ({'vision_model.embeddings.position_embedding': torch.zeros(1, 12, 24)}, '11 position embeddings do not'),
    ({WORDS: torch.zeros(59, 32)}, 'differ in the weights|invalid sizes'),
    ({'vision_model.post_layernorm.bias': torch.full((24,), torch.nan)}, 'not finite'),
    (
        {'text_decoder.bert.encoder.layer.1.attention.self.key.weight': None},
        'key.weight: all parts are needed',
    ),
]


@pytest.mark.parametrize(('changes', 'message'), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_weights(golden, changes, message):
    state = state_of(golden('blip_tiny')[0], 'state.caption.')
    with pytest.raises(CheckpointError, match=message):
        from_official(changed(state, **changes), **HEADS, ids=IDS)


def test_encoder_and_decoder_that_should_be_one_differ(golden):
    tensors, meta = golden('blip_pretrain_tiny')
    state = twice(state_of(tensors, 'state.'), meta['shared_between_encoder_and_decoder'])
    name = 'text_decoder.bert.encoder.layer.1.output.dense.bias'
    with pytest.raises(CheckpointError, match=r'decoder.layers.1.feed.mlp.fc2.bias and encoder'):
        from_official({**state, name: state[name] + 1}, **HEADS, ids=PRETRAIN_IDS)


def test_a_bert_without_the_two_added_ids(golden):
    state = state_of(golden('blip_tiny')[0], 'state.caption.')
    words = torch.zeros(30522, 32)
    plain = changed(state, **{WORDS: words, f'{HEAD}.decoder.weight': words})
    with pytest.raises(
        CheckpointError, match=r'30522 rows, a plain BERT: the two ids that BLIP adds, \[DEC\]'
    ):
        from_official(plain, **HEADS)


def test_a_model_of_transformers_without_the_losses_of_blip(tmp_path):
    config = hf_model('retrieval').config
    transformers.BlipModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match='is a transformers BlipModel'):
        clipdense.load(tmp_path, device='cpu')


@pytest.mark.parametrize(
    ('entry', 'value', 'message'),
    [
        ('model_type', 'clip', "model_type 'clip', but the tensors are a BLIP"),
        ('text_config', {'hidden_act': 'relu'}, 'unsupported hidden_act'),
        ('text_config', {'bos_token_id': 60}, r'lacks dec, enc'),
        ('vision_config', {'num_attention_heads': 'x'}, 'num_attention_heads must be a positive integer'),
        ('text_config', {'num_attention_heads': 5}, 'not divisible by 5'),
        ('vision_config', {'image_size': 64}, r'is \(17, 32\), expected \(65, 32\)'),
    ],
)
def test_config_files_of_other_models(tmp_path, entry, value, message):
    hf_model('caption').save_pretrained(tmp_path)
    file = tmp_path / 'config.json'
    config = json.loads(file.read_text())
    config[entry] = {**config[entry], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        clipdense.load(tmp_path, device='cpu')


def test_settings_of_our_files_cannot_be_overridden(tiny, tmp_path):
    save(tiny(), tmp_path / 'b.safetensors')
    with pytest.raises(CheckpointError, match="records its settings: remove the override 'num_heads'"):
        clipdense.load(tmp_path / 'b.safetensors', device='cpu', num_heads=2)
    again = clipdense.load(tmp_path / 'b.safetensors', device='cpu', preprocess='imagenet')
    assert again.preprocess == Preprocess.named('imagenet', 32)


def test_unknown_overrides_and_layouts(tiny, golden):
    state = state_of(golden('blip_tiny')[0], 'state.caption.')
    with pytest.raises(InputError, match="no override 'activation'"):
        from_official(state, activation='gelu')
    with pytest.raises(InputError, match="must be 'salesforce' or 'huggingface'"):
        to_official(tiny(), 'timm')
    with pytest.raises(InputError, match='no class for a BLIP of pre-training'):
        to_official(tiny(), 'huggingface')
    with pytest.raises(CheckpointError, match='not a BLIP'):
        from_official({'a': torch.zeros(1)})


def test_a_truncated_file(tiny, tmp_path):
    file = tmp_path / 'b.safetensors'
    state = tiny().state_dict()
    write_weights(file, {name: value for name, value in state.items() if 'layers.1' not in name})
    with pytest.raises(CheckpointError, match='not a BLIP'):  # ours without its metadata
        clipdense.load(file, device='cpu')
