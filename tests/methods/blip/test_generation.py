"""Generated ids against transformers' (up to the first end), and what the rules promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from clipdense.tasks.captioning import CaptionRules
from clipdense.tasks.generation import generate
from clipdense.utils.errors import InputError

from .conftest import lively_blip

END = 3
RULES = {
    'greedy': CaptionRules('greedy', max_length=14, min_length=0),
    'beam3': CaptionRules('beam', beams=3, max_length=14, min_length=5),
    'beam3_penalty': CaptionRules('beam', beams=3, max_length=12, min_length=4, repetition_penalty=1.5),
}


def to_the_end(row):
    row = row.tolist()
    return row[: row.index(END) + 1] if END in row else row


def prompt_of(tensors, given):
    if not given:
        return torch.full((3, 1), 58)
    prompt = tensors['input.generate.prompt'][:, :-1].clone()
    prompt[:, 0] = 58
    return prompt


@pytest.mark.parametrize('prompt', [False, True], ids=['', 'prompt'])
@pytest.mark.parametrize('name', RULES)
def test_ids_of_transformers(official, golden, name, prompt):
    tensors, _ = golden('blip_tiny')
    model = official('caption')
    context = model.decoder.read(model.encode_image(tensors['input.pixel_values']))
    found, _ = generate(model.decoder, context, prompt_of(tensors, prompt), RULES[name])
    expected = tensors[f'output.generate.{name}{"_prompt" if prompt else ""}']
    assert [to_the_end(row) for row in found] == [to_the_end(row) for row in expected]


@pytest.fixture
def lively():
    """A captioning model whose next ids depend on the text and the image; three images."""
    return lively_blip(encoder=False, embed_dim=0), torch.randn(3, 3, 32, 32)


def ids_of(model, images, rules, **options):
    context = model.decoder.read(model.encode_image(images))
    prompt = torch.full((len(images), 1), model.text_size.ids.dec)
    return generate(model.decoder, context, prompt, rules, **options)


SEARCHES = [
    CaptionRules('greedy'),
    CaptionRules('beam', beams=1),
    CaptionRules('beam', beams=4, repetition_penalty=1.3),
    CaptionRules('nucleus', max_length=15),
]


@pytest.mark.parametrize('rules', SEARCHES, ids=lambda rules: f'{rules.search}{rules.beams}')
def test_a_batch_gives_what_single_images_give(lively, rules):
    model, images = lively
    together, scores = ids_of(model, images, rules)
    for index, image in enumerate(images):
        alone, score = ids_of(model, image[None], rules, numbers=[index])
        assert to_the_end(alone[0]) == to_the_end(together[index])
        assert_close(score[0], scores[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('rules', SEARCHES, ids=lambda rules: f'{rules.search}{rules.beams}')
def test_the_cache_changes_nothing(lively, rules):
    """The score is the mean log probability of the ids, computed again from the whole text."""
    model, images = lively
    rules = replace(rules, repetition_penalty=1.0)
    ids, scores = ids_of(model, images, rules)
    context = model.decoder.read(model.encode_image(images))
    log_probs = model.predict(context, ids).log_softmax(dim=-1)
    for row, score, text in zip(log_probs, scores, ids, strict=True):
        text = torch.tensor(to_the_end(text))
        each = row[: len(text) - 1].gather(1, text[1:, None])
        assert_close(each.mean(), score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('search', ['greedy', 'beam', 'nucleus'])
def test_lengths(lively, search):
    model, images = lively
    with torch.no_grad():
        model.decoder.head.bias[END] = 100.0  # ends at once if it may
    ids, _ = ids_of(model, images, CaptionRules(search, min_length=7, max_length=12))
    assert [len(to_the_end(row)) for row in ids] == [8, 8, 8]
    with torch.no_grad():
        model.decoder.head.bias[END] = -100.0
    ids, _ = ids_of(model, images, CaptionRules(search, min_length=2, max_length=9))
    assert ids.shape == (3, 9)
    assert END not in ids


def test_nucleus_depends_on_seed_and_number_only(lively):
    model, images = lively
    same = images[:1].repeat(3, 1, 1, 1)
    rules = CaptionRules('nucleus', max_length=15, top_p=1.0)
    first, _ = ids_of(model, same, rules)
    assert torch.equal(first, ids_of(model, same, rules)[0])
    assert len({tuple(row.tolist()) for row in first}) > 1
    assert not torch.equal(first, ids_of(model, same, replace(rules, seed=1))[0])


def test_a_prompt_without_room(lively):
    model, images = lively
    context = model.decoder.read(model.encode_image(images))
    with pytest.raises(
        InputError, match='the prompt has 9 tokens, which leaves no room for a caption with max'
    ):
        generate(model.decoder, context, torch.full((3, 9), 7), CaptionRules(max_length=9))
    with pytest.raises(InputError, match='max_length=41 is more than the 40 positions'):
        generate(model.decoder, context, torch.full((3, 1), 58), CaptionRules(max_length=41))


def test_a_prompt_longer_than_the_minimum(lively):
    model, images = lively
    context = model.decoder.read(model.encode_image(images))
    ids, _ = generate(model.decoder, context, torch.full((3, 8), 7), CaptionRules(min_length=5))
    assert ids[:, :8].eq(7).all()
    assert ids.shape[1] > 8
