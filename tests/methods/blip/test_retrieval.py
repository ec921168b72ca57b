"""Retrieval: candidates by similarity, scored again by matching."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from clipdense.cli.app import main
from clipdense.data.image_text import CsvPairs
from clipdense.data.transforms import CenterCrop
from clipdense.evaluation.retrieval import Retrieval
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.ranking import Candidates, caption_tokens
from clipdense.methods.blip.retrieval import MatchingRetrieval, ranks_of, retrieve
from clipdense.methods.blip.tokenizer import BlipTokenizer
from clipdense.registry import EVALUATIONS
from clipdense.utils.errors import InputError

from .conftest import lively_blip, vocabulary_file

TEXTS = ['a cat on the dog', 'dog', 'word7 word8', 'a picture of word9', 'cat', 'word3 on word4']


@pytest.fixture
def model(tmp_path):
    found = lively_blip(0.3)
    found.tokenizer = BlipTokenizer(found.text_size, vocabulary_file(tmp_path))
    return found


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(5):
        Image.fromarray(rng.integers(0, 256, (20 + index, 30, 3), np.uint8)).save(folder / f'{index}.png')
    return sorted(folder.iterdir())


@torch.no_grad()
def plain_scores(model, photos, texts=TEXTS):
    """Similarity and matching of all pairs, one by one: (N, U) each."""
    ids, keep = caption_tokens(model, texts)
    similarity, match = torch.empty(2, len(photos), len(texts))
    for row, photo in enumerate(photos):
        tokens = model.encode_image(model.preprocess(Image.open(photo))[None])
        for column in range(len(texts)):
            text = ids[column : column + 1, : int(keep[column].sum())]
            similarity[row, column] = (model.embed_image(tokens) @ model.embed_text(text).mT)[0, 0]
            compared = text.clone()
            compared[:, 0] = model.text_size.ids.enc
            match[row, column] = model.match(model.encoder.read(tokens), compared)[0, 1]
    return similarity, match


@pytest.mark.parametrize('top_k', [2, 100])
def test_the_best_candidates_by_both_scores(model, photos, top_k):
    similarity, match = plain_scores(model, photos)
    ranking = retrieve(model, photos, TEXTS, top_k, batch_size=2)
    for found, alone, both in (
        (ranking.texts_of_images, similarity, similarity + match),
        (ranking.images_of_texts, similarity.mT, (similarity + match).mT),
    ):
        places = alone.topk(min(top_k, alone.shape[1]), dim=1).indices
        expected, order = both.gather(1, places).sort(dim=1, descending=True)
        assert torch.equal(found.places, places.gather(1, order))
        assert_close(found.scores, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('top_k', [1, 3, 7])
def test_ranks_are_those_of_the_release(top_k):
    """Its matrix has -100 where a pair is not a candidate; here ties count against the model."""
    queries, answers = 9, 7
    scores = torch.randn(queries, answers)
    places = torch.randn(queries, answers).topk(top_k, dim=1).indices
    pairs = torch.stack([torch.randint(0, queries, (12,)), torch.randint(0, answers, (12,))]).unique(dim=1)
    matrix = torch.full((queries, answers), -100.0).scatter(1, places, scores.gather(1, places))
    expected = []
    for query in range(queries):
        right = set(pairs[1][pairs[0] == query].tolist())
        row = matrix[query].tolist()
        best = max((row[answer] for answer in right), default=-float('inf'))
        expected.append(sum(row[answer] >= best for answer in range(answers) if answer not in right))
    found = ranks_of(Candidates(places, scores.gather(1, places)), pairs, answers)
    assert found.tolist() == expected


def table(photos, captions=TEXTS, group=True):
    rows = [f'{photo}\t{caption}' for photo, caption in zip([*photos, photos[0]], captions, strict=True)]
    path = photos[0].parent.parent / 'pairs.tsv'
    path.write_text('\n'.join(['filepath\ttitle', *rows]) + '\n')
    return path


def data(model, photos):
    return CsvPairs(table(photos), transform=CenterCrop.of(model.preprocess), group=True)


@pytest.mark.parametrize('top_k', [3, 100])
def test_recall_of_the_evaluation(model, photos, top_k):
    report = MatchingRetrieval(data(model, photos), 2, ks=(1, 2), top_k=top_k)(model)
    ranking = retrieve(model, photos, TEXTS, top_k)
    owners = [0, 1, 2, 3, 4, 0]
    first = ranking.texts_of_images.places[:, :2].tolist()
    hits = [any(owners[text] == image for text in best) for image, best in enumerate(first)]
    assert report['retrieval/image_to_text/r2'] == pytest.approx(sum(hits) / 5)
    hits = [owners[text] == int(best[0]) for text, best in enumerate(ranking.images_of_texts.places)]
    assert report['retrieval/text_to_image/r1'] == pytest.approx(sum(hits) / 6)
    assert (report['retrieval/images'], report['retrieval/texts']) == (5, 6)
    assert report['retrieval/text_to_image/chance_r1'] == pytest.approx(1 / 5)


def test_similarity_alone_is_that_of_a_clip(model, photos):
    """A BLIP without the second step, through the evaluation of CLIPs."""

    class Alone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blip, self.preprocess = model, model.preprocess

        def tokenizer(self, texts):
            ids, keep = caption_tokens(model, texts)
            return ids.masked_fill(keep == 0, -1).numpy()

        def encode_image(self, images, normalize):
            return model.embed_image(model.encode_image(images))

        def encode_text(self, tokens, normalize):
            return model.embed_text(tokens.clamp(min=0), (tokens >= 0).long())

    expected = Retrieval(data(model, photos), 2, ks=(1,))(Alone())
    found = MatchingRetrieval(data(model, photos), 2, ks=(1,))(model)
    for key in ('image_to_text/r1', 'text_to_image/r1', 'text_to_image/median_rank'):
        assert found[f'retrieval/similarity/{key}'] == expected[f'retrieval/{key}']


def test_from_a_config_of_a_training(model, photos):
    trainer = BlipPretrainer(model, queue_size=8).train()
    evaluation = EVALUATIONS.build({'type': 'MatchingRetrieval', 'dataset': data(model, photos), 'ks': (1,)})
    evaluation.check(trainer)
    assert evaluation(trainer) == MatchingRetrieval(data(model, photos), ks=(1,))(model)
    assert trainer.training
    assert evaluation.whole_model


def test_unreadable_images_are_left_out(model, photos):
    (photos[2]).write_text('x')
    report = MatchingRetrieval(
        CsvPairs(table(photos), transform=CenterCrop.of(model.preprocess), group=True, max_bad_fraction=0.5),
        2,
        ks=(1,),
    )(model)
    assert (report['retrieval/images'], report['retrieval/texts']) == (4, 5)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['test', *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_command(capsys, model, photos, tmp_path):
    save(model, tmp_path / 'blip.safetensors')
    given = (tmp_path / 'blip.safetensors', '--data', table(photos), '--device', 'cpu')
    status, out, err = run(capsys, *given, '--json')
    assert status == 0, err
    assert json.loads(out) == pytest.approx(MatchingRetrieval(data(model, photos))(model))
    status, _, err = run(capsys, *given, '--classes', 'cat, dog')
    assert status == 2
    assert 'captions, which have no classes' in err


def test_wrong_weights(capsys, tiny, photos, tmp_path):
    save(tiny(shared=False, embed_dim=0), tmp_path / 'answers.safetensors')
    status, _, err = run(capsys, tmp_path / 'answers.safetensors', '--data', table(photos))
    assert status == 2
    assert 'use weights for retrieval' in err
    with pytest.raises(InputError, match='use weights for retrieval'):
        retrieve(tiny(shared=False, embed_dim=0), photos, TEXTS)


@pytest.mark.parametrize(
    ('images', 'texts', 'top_k', 'message'),
    [
        ([], ['a'], 5, 'a list of images and a list of texts'),
        (None, 'a cat', 5, 'a list of images and a list of texts'),
        ('0.png', ['a'], 5, 'a list of images and a list of texts'),
        (None, ['a', ' '], 5, "text 2 must be a text that is not empty, got ' '"),
        (None, ['a', None], 5, 'text 2 must be a text that is not empty, got None'),
        (None, ['a'], 0, 'top_k must be a whole number of at least 1, got 0'),
        (['missing.png'], ['a'], 5, 'missing.png'),
    ],
)
def test_wrong_calls(model, photos, images, texts, top_k, message):
    with pytest.raises(InputError, match=message):
        retrieve(model, photos if images is None else images, texts, top_k)


def test_fewer_candidates_than_results(model, photos):
    with pytest.raises(InputError, match='top_k=5 candidates are fewer than the 10 retrieved results'):
        MatchingRetrieval(data(model, photos), top_k=5)
