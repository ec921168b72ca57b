"""Folders of transformers: token ids, pooling and embeddings follow the files of the folder."""

from __future__ import annotations

import json

import pytest
import torch

from clipdense.clip.checkpoint import convert, save
from clipdense.inference.load import load
from clipdense.utils.errors import InputError

transformers = pytest.importorskip('transformers')

SIZES = {
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
}
TEXT = {**SIZES, 'max_position_embeddings': 16}
VISION = {**SIZES, 'image_size': 32, 'patch_size': 8}
TEXTS = ("a cat's toy, T-shirt", 'The CAT', 'a <sks> cat Foo.', '')
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!-'<>_ABC"]
WORDS = [*LETTERS, *(f'{letter}</w>' for letter in LETTERS), 'ca', 'cat</w>', 'th', 'the</w>']
END = len(WORDS) + 1  # the id of the end token


def byte_pairs(*added, start='<|startoftext|>', end='<|endoftext|>', pad=None):
    """A CLIPTokenizer of a hundred byte pairs, with added tokens."""
    folder = {word: index for index, word in enumerate([*WORDS, start, end])}
    merges = [('c', 'a'), ('ca', 't</w>'), ('t', 'h'), ('th', 'e</w>')]
    made = transformers.CLIPTokenizer(
        vocab=folder, merges=merges, bos_token=start, eos_token=end, pad_token=pad or end, unk_token=end
    )
    made.add_tokens(list(added))
    return made


def gemma(suffix):
    """A Siglip2Tokenizer, with or without an end token."""
    names = [
        '<pad>',
        '<eos>',
        '<bos>',
        '<unk>',
        '<mask>',
        *"▁abcdefghijklmnopqrstuvwxyzABC.,'-<>",
        '▁a',
        'ca',
    ]
    words = {name: index for index, name in enumerate(names)}
    made = transformers.Siglip2Tokenizer(vocab=words, merges=[('▁', 'a'), ('c', 'a')])
    made.add_tokens(['<sks>'])
    if suffix:
        from tokenizers.processors import TemplateProcessing

        made.backend_tokenizer.post_processor = TemplateProcessing('$A <eos>', special_tokens=[('<eos>', 1)])
    return made


def words_of_xlm():
    """A tokenizer without class: start 0, padding 1, end 2, as MetaCLIP 2 has them."""
    import tokenizers

    words = {'<s>': 0, '<pad>': 1, '</s>': 2, '<unk>': 3, 'a': 4, 'cat': 5, 'The': 6, '.': 7}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, '<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        '<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)]
    )
    special = {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<pad>', 'unk_token': '<unk>'}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


@torch.no_grad()
def randomise(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_().mul_(0.2)
    return model.eval()


def clip_model(vocab_size, eos_token_id, kind='CLIP'):
    text = {**TEXT, 'vocab_size': vocab_size, 'eos_token_id': eos_token_id, 'bos_token_id': 0}
    config = getattr(transformers, f'{kind}Config')(text_config=text, vision_config=VISION, projection_dim=16)
    return randomise(getattr(transformers, f'{kind}Model')(config))


def siglip_model(vocab_size, _=None):
    config = transformers.SiglipConfig(
        text_config={**TEXT, 'vocab_size': vocab_size}, vision_config={**VISION}
    )
    return randomise(transformers.SiglipModel(config))


def group_vit(vocab_size, eos_token_id):
    stages = {'depths': [1, 1, 1], 'num_group_tokens': [8, 4, 0], 'num_output_groups': [8, 4, 4]}
    vision = {**VISION, 'intermediate_size': 128, 'num_hidden_layers': 3, **stages}
    text = {**TEXT, 'vocab_size': vocab_size, 'eos_token_id': eos_token_id, 'bos_token_id': 0}
    config = transformers.GroupViTConfig(
        text_config=text, vision_config=vision, projection_dim=16, projection_intermediate_dim=24
    )
    return randomise(transformers.GroupViTModel(config))


def change(name, **values):
    """An edit of a JSON file of the folder."""

    def edit(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text('utf-8')), **values}))

    return edit


def without_class_or_lower_case(folder):
    change('tokenizer.json', normalizer=None)(folder)
    change('tokenizer_config.json', tokenizer_class='PreTrainedTokenizerFast')(folder)


def as_slow_files(folder):
    """vocab.json, merges.txt and added_tokens.json instead of tokenizer.json."""
    values = json.loads((folder / 'tokenizer.json').read_text('utf-8'))
    vocab, added = values['model']['vocab'], values['added_tokens']
    extra = {token['content']: token['id'] for token in added if token['id'] > END}
    merges = '#version: 0.2\n' + ''.join(f'{left} {right}\n' for left, right in values['model']['merges'])
    (folder / 'vocab.json').write_text(json.dumps(vocab))
    (folder / 'merges.txt').write_text(merges)
    (folder / 'added_tokens.json').write_text(json.dumps(extra))
    (folder / 'tokenizer.json').unlink()


def only_fast(folder):
    (folder / 'tokenizer_config.json').unlink()


ADDED = ('<sks>', 'Foo')
FOLDERS = {  # model, end-of-text of its config, tokenizer, edit of the folder
    'own vocabulary': (clip_model, END, byte_pairs, None),
    'added tokens': (clip_model, END, lambda: byte_pairs(*ADDED), None),
    'added tokens, legacy config': (clip_model, 2, lambda: byte_pairs(*ADDED), None),
    'another end': (clip_model, END, lambda: byte_pairs('<sks>', start='<go>', end='<end>'), None),
    'another padding': (clip_model, END, lambda: byte_pairs('<sks>', '<pad>', pad='<pad>'), None),
    'upper case': (clip_model, END, lambda: byte_pairs(*ADDED), without_class_or_lower_case),
    'tokenizer.json only': (clip_model, END, lambda: byte_pairs(*ADDED), only_fast),
    'vocab.json and merges.txt': (clip_model, END, lambda: byte_pairs(*ADDED), as_slow_files),
    'SigLIP 2, left padding': (siglip_model, None, lambda: gemma(suffix=False), None),
    'SigLIP 2': (
        siglip_model,
        None,
        lambda: gemma(suffix=True),
        change('tokenizer_config.json', padding_side='right'),
    ),
    'SigLIP 2, nine tokens': (
        siglip_model,
        None,
        lambda: gemma(suffix=True),
        change('tokenizer_config.json', padding_side='right', model_max_length=9),
    ),
    'MetaCLIP 2': (lambda size, eos: clip_model(size, eos, 'MetaClip2'), 2, words_of_xlm, None),
    'GroupViT': (group_vit, END, lambda: byte_pairs(*ADDED), None),
    'GroupViT, legacy config': (group_vit, 2, lambda: byte_pairs(*ADDED), None),
}


def write(folder, name):
    """A folder of transformers; returns the model."""
    build, eos, tokenizer, edit = FOLDERS[name]
    made = tokenizer()
    model = build(len(made), eos)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    if edit is not None:
        edit(folder)
    return model


@torch.no_grad()
def assert_as_transformers(clip, model, folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = clip.tokenizer([text])
        expected = theirs([text], padding='max_length', max_length=ids.shape[1], truncation=True).input_ids
        assert ids.tolist() == expected, text
        features = model.get_text_features(input_ids=ids)
        features = getattr(features, 'pooler_output', features)
        torch.testing.assert_close(clip.encode_text(ids), features, atol=1e-5, rtol=0)
    images = torch.randn(2, 3, 32, 32)
    features = model.get_image_features(pixel_values=images)
    features = getattr(features, 'pooler_output', features)
    torch.testing.assert_close(clip.encode_image(images), features, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', FOLDERS)
def test_as_transformers(tmp_path, name):
    model = write(tmp_path, name)
    assert_as_transformers(load(tmp_path, device='cpu'), model, tmp_path)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', [name for name in FOLDERS if 'GroupViT' not in name])
@pytest.mark.parametrize('to', ['clipdense', 'huggingface'])
def test_conventions_travel_with_the_weights(tmp_path, name, to):
    model = write(tmp_path / 'theirs', name)
    target = tmp_path / 'ours' if to == 'huggingface' else tmp_path / 'ours.safetensors'
    convert(tmp_path / 'theirs', target, to)
    clip = load(target, device='cpu')
    assert_as_transformers(clip, model, tmp_path / 'theirs')
    if to == 'huggingface':  # the files say the same to transformers
        back = type(model).from_pretrained(target).eval()
        assert_as_transformers(clip, back, target)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['added tokens', 'MetaCLIP 2'])
def test_open_clip_pools_at_the_same_token(tmp_path, name):
    open_clip = pytest.importorskip('open_clip')
    write(tmp_path / 'theirs', name)
    clip = load(tmp_path / 'theirs', device='cpu')
    convert(tmp_path / 'theirs', tmp_path / 'ours', 'openclip')
    back = open_clip.create_model(f'local-dir:{tmp_path / "ours"}').eval()
    again = load(tmp_path / 'ours', device='cpu')
    ids = clip.tokenizer(['a <sks> cat', 'The cat'])
    assert torch.equal(again.tokenizer(['a <sks> cat', 'The cat']), ids)
    with torch.no_grad():
        expected = clip.encode_text(ids)
        torch.testing.assert_close(back.encode_text(ids), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(again.encode_text(ids), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings('ignore')
def test_group_vit_keeps_its_conventions(tmp_path):
    from clipdense.methods.groupvit.checkpoint import save as save_group_vit
    from clipdense.methods.groupvit.checkpoint import save_huggingface

    model = write(tmp_path / 'theirs', 'GroupViT')
    ours = load(tmp_path / 'theirs', device='cpu')
    save_group_vit(ours, tmp_path / 'ours.safetensors')
    save_huggingface(ours, tmp_path / 'ours')
    for path in ('ours.safetensors', 'ours'):
        assert_as_transformers(load(tmp_path / path, device='cpu'), model, tmp_path / 'theirs')


@pytest.mark.filterwarnings('ignore')
def test_openai_vocabulary_needs_no_package(tmp_path):
    """A folder with OpenAI's table has OpenAI's tokenizer, as files of other layouts have it."""
    from clipdense.vocab.byte_pairs import openai_byte_pairs

    clip_model(49408, 49407).save_pretrained(tmp_path)
    vocab = openai_byte_pairs().vocabulary()
    (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'CLIPTokenizer'}))
    assert type(load(tmp_path, device='cpu').tokenizer).__name__ == 'OpenAITokenizer'
    swapped = {**vocab, 'cat</w>': vocab['dog</w>'], 'dog</w>': vocab['cat</w>']}
    (tmp_path / 'vocab.json').write_text(json.dumps(swapped))
    assert type(load(tmp_path, device='cpu').tokenizer).__name__ == 'FolderTokenizer'


def spoil(name, text=None):
    """Replace a file of the folder, or remove it."""

    def edit(folder):
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text)

    return edit


REFUSED = {  # end-of-text of the config, edit of the folder, message
    'another end than the tokenizer': (5, None, f'ends texts with the id {END}, but the .* eos_token_id=5'),
    'an end beyond the vocabulary': (49407, None, 'eos_token_id=49407, but .* 100 tokens; pass eos_token_id'),
    'several ends': ([1, 2], None, r'text_config.eos_token_id must be one id, got \[1, 2\]'),
    'left padding': (END, change('tokenizer_config.json', padding_side='left'), "padding_side='left'"),
    'a damaged tokenizer': (END, spoil('tokenizer.json', '{'), 'cannot read the tokenizer'),
    'no tokenizer': (END, spoil('tokenizer.json'), 'has no tokenizer for its vocabulary'),
    'a list for settings': (END, spoil('tokenizer_config.json', '[]'), 'is not a JSON object'),
}  # fmt: skip


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', REFUSED)
def test_contradictions_are_refused(tmp_path, name):
    eos, edit, message = REFUSED[name]
    made = byte_pairs()
    clip_model(len(made), END).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text('utf-8'))
    config['text_config']['eos_token_id'] = eos
    (tmp_path / 'config.json').write_text(json.dumps(config))
    if edit is not None:
        edit(tmp_path)
    with pytest.raises(InputError, match=message):
        load(tmp_path, device='cpu').tokenizer('a cat')


@pytest.mark.filterwarnings('ignore')
def test_tokens_of_another_model_are_refused(tmp_path):
    clip_model(20, 19).save_pretrained(tmp_path)
    byte_pairs().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f'gives the id {END}, but the model has 20 tokens'):
        load(tmp_path, device='cpu').tokenizer('a cat')


@pytest.mark.filterwarnings('ignore')
def test_end_of_text_is_asked_for_and_may_be_given(tmp_path):
    """A vocabulary beyond OpenAI's and no config: nothing tells which token is the end."""
    model = clip_model(49410, 49407)
    model.save_pretrained(tmp_path)
    (tmp_path / 'config.json').unlink()
    heads = {'activation': 'quick_gelu', 'num_heads': 4, 'text_num_heads': 4}
    with pytest.raises(
        InputError, match=r'cannot infer the end-of-text token of a vocabulary of 49410.*pass eos_'
    ):
        load(tmp_path, device='cpu', **heads)
    ids = torch.tensor([[49406, 5, 49409, 49407, 0]])
    for given, position in ((49407, 3), ('largest', 2)):
        clip = load(tmp_path, device='cpu', **heads, eos_token_id=given)
        with torch.no_grad():
            states = model.text_model(input_ids=ids).last_hidden_state[:, position]
            torch.testing.assert_close(
                clip.encode_text(ids), model.text_projection(states), atol=1e-5, rtol=0
            )
    clip = load(tmp_path, device='cpu', **heads, eos_token_id=49407)
    with pytest.raises(InputError, match='text 1 has no end-of-text token 49407'):
        clip.encode_text(torch.tensor([[49406, 49407], [49406, 7]]))
    save(clip, tmp_path / 'ours.safetensors')
    assert load(tmp_path / 'ours.safetensors', device='cpu').size.text.eos_token_id == 49407
    with pytest.raises(InputError, match='eos_token_id'):
        load(tmp_path / 'ours.safetensors', device='cpu', eos_token_id=49406)
