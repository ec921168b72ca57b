"""Two processes: each contrasts its own pairs with the queue of both, and gradients are averaged.

Negatives are those of a process in pre-training, and those of both for retrieval.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from clipdense.methods.blip.finetuning import BlipRetrievalTrainer
from clipdense.methods.blip.losses import negative_weights
from clipdense.methods.blip.matching import Pool
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.questions import BlipAnswerTrainer
from clipdense.methods.blip.tokenizer import Tokens
from clipdense.methods.blip.trainer import image_numbers

from ..processes import check_two, train

STEPS, LR = 3, 0.1
PAIRS = 2  # of a process: each has one other pair, so that negatives are not random


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    count = 2 * PAIRS * STEPS
    ids = torch.randint(4, 50, (count, 6), generator=generator)
    ids[:, 0], ids[:, 5] = 2, 3
    ids[[0, 2], 4], ids[[0, 2], 5] = 3, -1  # all of the first process in the first step: shorter
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {'images': images, 'token_ids': ids, 'names': [f'image {at % 9}' for at in range(count)]}


def by_hand(model, data):
    """The same steps in one process: the mean of the gradients of the parts of each batch."""
    for step in range(STEPS):
        everything = range(2 * PAIRS * step, 2 * PAIRS * (step + 1))
        halves = [deepcopy(model) for _ in range(2)]
        rows = [list(everything)[rank::2] for rank in range(2)]  # as the sampler deals them
        images = [model.data_preprocessor({'images': data['images'][some]})['images'] for some in rows]
        texts = [model.tokens(data['token_ids'][some]) for some in rows]
        named = [image_numbers([data['names'][row] for row in some], images[0].device) for some in rows]
        if isinstance(model, BlipPretrainer):
            losses = [
                loss
                for half, *inputs in zip(halves, images, texts, named, strict=True)
                for loss in half.losses(*inputs).values()
            ]
        else:
            batches = [half.encode(*one) for half, *one in zip(halves, images, texts, strict=True)]
            losses = matching_with_all(halves, batches, named, texts)
            pairs = zip(halves, batches, named, strict=True)
            losses += [half.contrast(batch, numbers)[0] for half, batch, numbers in pairs]
        torch.stack(losses).sum().backward()
        places = (model.queue.place + torch.arange(PAIRS)) % model.queue.size
        image, text = (
            torch.cat([getattr(half.queue, name)[:, places].mT for half in halves])
            for name in ('image', 'text')
        )
        known = [half.queue.numbers for half in halves]
        numbers = None if known[0] is None else torch.cat([one[places] for one in known])
        model.queue.write(image, text, numbers)
        model.averages.load_state_dict(halves[0].averages.state_dict())
        parts = zip(model.blip.parameters(), *(half.blip.parameters() for half in halves), strict=True)
        with torch.no_grad():
            model.blip.joint.temperature.copy_(halves[0].blip.joint.temperature)  # clamped before the step
            for parameter, one, other in parts:
                if one.grad is not None:
                    parameter -= LR * (one.grad + other.grad) / 2
        model.steps += 1
    return model.state_dict()


def matching_with_all(halves, batches, numbers, texts):
    """The matching losses of retrieval: negatives of both processes, found and drawn by hand."""
    longest = max(one.ids.shape[1] for one in texts)
    padded = [[F.pad(part, (0, longest - part.shape[1])) for part in one] for one in texts]
    pool = Pool(
        torch.cat([batch.tokens for batch in batches]),
        Tokens(*(torch.cat(parts) for parts in zip(*padded, strict=True))),
    )
    images, captions = (torch.cat([getattr(one, name) for one in batches]) for name in ('image', 'text'))
    losses = []
    for half, batch, mine, own in zip(halves, batches, numbers, texts, strict=True):
        same = mine[:, None] == torch.cat(numbers)
        scores = (batch.text @ images.mT, batch.image @ captions.mT)
        weights = [negative_weights(score / half.blip.joint.temperature, same) for score in scores]
        losses.append(half.match(batch.tokens, own, tuple(weights), likeliest, pool))
    return losses


def likeliest(images, texts):
    """In place of a random draw."""
    return images.argmax(dim=1), texts.argmax(dim=1)


@pytest.mark.parametrize('kind', [BlipPretrainer, BlipRetrievalTrainer])
def test_two_processes(tiny, data, tmp_path, monkeypatch, kind, run_processes):
    if kind is BlipRetrievalTrainer:  # its negatives are not the only other pair
        monkeypatch.setattr('clipdense.methods.blip.matching._draw', likeliest)
    model = kind(tiny(dropout=0.0), queue_size=10, momentum=0.9, ramp_steps=2).double().train()
    expected = by_hand(deepcopy(model), data)
    check_two(run_processes, expected, model, data, tmp_path, steps=STEPS, batch_size=PAIRS, lr=LR)


def test_two_processes_that_learn_answers_equal_one(tiny, data, tmp_path, run_processes):
    """Answers have no negatives: each question counts by its share of the batch."""
    answers = data['token_ids'][:, None, :4].repeat(1, 2, 1)
    answers[:, 1, 1] = 9
    answers[..., 3] = 3
    weights = torch.tensor([[0.7, 0.3], [1.0, 0.0]]).repeat(len(answers) // 2, 1).double()
    answers[weights == 0] = -1
    data = {**data, 'answer_ids': answers, 'answer_weights': weights}
    model = BlipAnswerTrainer(tiny(dropout=0.0)).double().train()
    alone = train(deepcopy(model), data, tmp_path / 'one', steps=STEPS, batch_size=2 * PAIRS, lr=LR)
    check_two(run_processes, alone, model, data, tmp_path, steps=STEPS, batch_size=PAIRS, lr=LR)
