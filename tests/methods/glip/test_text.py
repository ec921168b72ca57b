"""Text towers: microsoft/GLIP's own (``glip_clip_text_tiny``), a causal CLIP and BERT."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.long_texts import stretch_context, stretch_positions
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, HFTextSize, TextSize, VitSize
from clipdense.clip.text import TextTransformer
from clipdense.clip.tokenizers import MissingTokenizer
from clipdense.methods.glip.prompts import Prompt, class_prompt
from clipdense.methods.glip.text import GroundingText, default_tokenizer, text_of
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

from .conftest import text_tower

NAMES = {
    'positional_embedding': 'pos_embed',
    'token_embedding': 'token_embed',
    'ln_final': 'norm_post',
    'attn.in_proj_': 'attn.qkv.',
    'attn.out_proj': 'attn.proj',
    'ln_1': 'norm1',
    'ln_2': 'norm2',
    'mlp.c_fc': 'mlp.fc1',
    'mlp.c_proj': 'mlp.fc2',
    'resblocks': 'blocks',
}
BERT = HFTextSize(
    'bert',
    16,
    'cls_last_hidden_state_pooler',
    None,
    64,
    dict(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    ),
)


def test_the_text_tower_of_glip(golden):
    """Attention in both directions, without the padding."""
    tensors, meta = golden('glip_clip_text_tiny')
    width = meta['width']
    size = TextSize(
        width, meta['layers'], meta['heads'], 4 * width, width, meta['vocab'], meta['context_length']
    )
    tower = TextTransformer({**vars(size), 'flavour': 'glip'}).eval()
    state = {}
    for name, tensor in tensors.items():
        if name.startswith('state.'):
            ours = name.removeprefix('state.')
            for theirs, new in NAMES.items():
                ours = ours.replace(theirs, new)
            state[ours] = tensor
    tower.load_state_dict(state)
    mask = tensors['input.attention_mask'].bool()
    found = tower.encode_tokens(tensors['input.input_ids'], mask)
    assert_close(found[mask], tensors['output.hidden'][mask], atol=1e-5, rtol=1e-5)
    assert_close(found[mask], tensors['output.embedded'][mask], atol=1e-5, rtol=1e-5)


def test_longer_texts_have_the_positions_of_glip(golden):
    tensors, meta = golden('glip_clip_text_tiny')
    old, new = tensors['input.old_positional_embedding'], tensors['output.resized_positional_embedding']
    assert_close(stretch_positions(old, meta['context_length'], keep=0), new, atol=1e-6, rtol=1e-5)


def test_a_stretched_clip_has_room_for_more_names():
    image = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=16)
    text = TextSize(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=16)
    clip = build_clip(ClipSize(image, text))
    longer = text_of(dict(type=stretch_context, clip=clip, length=256, keep=0))
    assert (text_of(clip).room, longer.room) == (75, 254)
    features = longer([class_prompt(['dog'] * 100)]).features
    assert features.mask.sum() == 2 + 100 + 99  # start and end, names, full stops


def test_features_of_tokens_are_those_that_are_pooled():
    torch.manual_seed(0)
    text = build_module(text_tower()).eval()
    token_ids = text.tokenizer(['a red star', 'dog'])
    features = text.text.encode_tokens(token_ids)
    ends = token_ids.argmax(dim=1)
    assert_close(features[torch.arange(2), ends], text.text(token_ids), atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    for size in (dict(), dict(flavour='glip')):
        text = build_module(text_tower(**size)).eval()
        prompts = [class_prompt(['dog']), class_prompt(['a striped star', 'traffic light'])]
        together = text(prompts).features
        for index, prompt in enumerate(prompts):
            alone = text([prompt]).features
            length = alone.mask.shape[1]
            assert_close(together.hidden[index, :length], alone.hidden[0], atol=1e-5, rtol=1e-5)
            assert together.mask[index].sum() == length
        assert not together.embedded[~together.mask].any()


def test_tokens_of_phrases():
    text = build_module(text_tower()).eval()
    encoded = text([Prompt('there are some holes on the road', (((10, 20),), ((24, 32),)))])
    assert encoded.phrases == [((3, 4), (6, 7))]
    apart = text([class_prompt(['red star', 'dog'])], per_phrase=True)
    assert apart.phrases == [((0, 1, 2), (3, 4))]  # their words and the end of each text
    assert apart.features.mask.sum() == 5


@pytest.mark.parametrize('names', [['red star', 'dog'], ['dog']], ids=['two names', 'one name'])
def test_the_last_token_of_each_name(names):
    text = build_module(text_tower()).eval()
    prompt = class_prompt(names)
    whole = text([prompt], per_phrase=True)
    found = text([prompt], per_phrase=True, last_token=True)
    assert found.phrases == [tuple((place,) for place in range(len(names)))]
    if len(names) > 1:
        ends = [tokens[-1] for tokens in whole.phrases[0]]
        assert_close(found.features.hidden, whole.features.hidden[:, ends])
    assert_close(found.features.hidden[0, -1], text([class_prompt(['dog'])]).features.hidden[0, -1])


def test_what_does_not_fit_is_refused():
    text = build_module(text_tower())
    with pytest.raises(InputError, match='has 80 tokens, and 75 fit'):
        text([Prompt('dog ' * 80, (((0, 3),),))])


@pytest.fixture(scope='module')
def bert():
    tokenizer = default_tokenizer(BERT)
    if isinstance(tokenizer, MissingTokenizer):
        pytest.skip('the package with the vocabulary of BERT is not installed')
    return GroundingText(HFTextTower(BERT), tokenizer).eval()


def test_prompts_as_bert_reads_them(bert, golden_path):
    """Ids and tokens of classes of the released prompts."""
    official = json.loads(golden_path('glip_prompts.json').read_text('utf-8'))
    cases = [case for case in official['cases'] if case['tokenizer'] == 'bert-base-uncased']
    plain = [case for case in cases if case['separator'] == '. ' and not case['caption_prompt']]
    assert plain
    for case in plain:
        names = [*case['names'], *(case['suppressed'] or ())]
        encoded = bert([class_prompt(names)])
        assert encoded.features.mask.shape[1] == len(case['input_ids'])
        found = encoded.phrases[0][: len(case['names'])]
        assert [list(tokens) for tokens in found] == list(case['label_to_tokens'].values())


def test_weights_without_a_tokenizer_say_so(tmp_path):
    text = GroundingText(HFTextTower(BERT), MissingTokenizer('put tokenizer.json next to the weights'))
    with pytest.raises(InputError, match=re.escape('put tokenizer.json next to')):
        text([class_prompt(['dog'])])


def test_a_tower_with_a_class_token_is_refused():
    text = build_module(text_tower(flavour='coca', context_length=76))
    with pytest.raises(InputError, match='without a class token'):
        text([class_prompt(['dog'])])
