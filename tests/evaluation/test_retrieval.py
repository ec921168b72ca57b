"""Retrieval: numbers by hand, then tiny models."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from clipdense.clip.model import build_clip
from clipdense.data.image_text.datasets import CocoCaptions, CsvPairs
from clipdense.data.scenes import SceneCaptions
from clipdense.evaluation import retrieval
from clipdense.evaluation.retrieval import Retrieval, best_ranks, recall_at, unique_rows
from clipdense.registry import EVALUATIONS
from clipdense.utils.errors import InputError

TINY = {
    'image': {
        'image_size': 32,
        'patch_size': 16,
        'width': 64,
        'layers': 1,
        'num_heads': 1,
        'mlp_width': 64,
        'embed_dim': 16,
    },
    'text': {'width': 64, 'layers': 1, 'num_heads': 1, 'mlp_width': 64, 'embed_dim': 16},
}
WAYS = ('image_to_text', 'text_to_image')


def angles(*degrees):
    """Unit vectors in the plane: the smaller the angle between two, the more alike."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


class TestRecall:
    def test_by_hand(self):
        images = angles(0, 20, 40, 80)
        texts = angles(5, 36, 79, 24)  # of images 0, 1, 2, 3
        report = recall_at(images, texts, torch.arange(4), ks=(1, 2, 3))
        # Texts that come before an image's own: none; 24 and 5; 36, 24 and 5; 79 and 36.
        assert [report[f'image_to_text/r{k}'] for k in (1, 2, 3)] == [1 / 4, 1 / 4, 3 / 4]
        assert report['image_to_text/median_rank'] == 3
        # Images that come before a text's own: none; 40; 80; 20, 40 and 0.
        assert [report[f'text_to_image/r{k}'] for k in (1, 2, 3)] == [1 / 4, 3 / 4, 3 / 4]
        assert report['text_to_image/median_rank'] == 2
        for way in WAYS:
            chances = [report[f'{way}/chance_r{k}'] for k in (1, 2, 3)]
            assert chances == pytest.approx([1 / 4, 1 / 2, 3 / 4])

    def test_several_captions_of_an_image(self):
        # Image 0 at 0 has captions at 50 and 10, image 1 at 90 has one at 30.
        report = recall_at(angles(0, 90), angles(50, 10, 30), torch.tensor([0, 0, 1]), ks=(1, 2))
        # Image 0 finds its caption at 10 first.  Image 1 has 50 before its own 30, but not 10.
        assert [report[f'image_to_text/r{k}'] for k in (1, 2)] == [1 / 2, 1]
        # The caption at 50 is nearer to image 1, that at 30 to image 0.
        assert [report[f'text_to_image/r{k}'] for k in (1, 2)] == [1 / 3, 1]
        # By chance: 2 of 3 and 1 of 3 answers are right for the images; for two places 1 - 1/3 * 0 and 2/3.
        assert report['image_to_text/chance_r1'] == pytest.approx((2 / 3 + 1 / 3) / 2)
        assert report['image_to_text/chance_r2'] == pytest.approx((1 + 2 / 3) / 2)
        assert report['text_to_image/chance_r1'] == pytest.approx(1 / 2)

    def test_equal_captions_are_one_text(self):
        # Three images; 0 and 1 have the same caption, at 0; 2 has one at 90.  A perfect model must get 1.
        images, texts = angles(0, 0, 90), angles(0, 90)
        owners, text_ids = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1])
        report = recall_at(images, texts, owners, (1,), text_ids)
        assert (report['image_to_text/r1'], report['text_to_image/r1']) == (1, 1)
        assert report['image_to_text/chance_r1'] == pytest.approx(1 / 2)
        assert report['text_to_image/chance_r1'] == pytest.approx((2 / 3 + 1 / 3) / 2)
        # Taken for different texts, each of the two would lose to the other's.
        apart = recall_at(images, texts[text_ids], owners, (1,))
        assert (apart['image_to_text/r1'], apart['text_to_image/r1']) == (1 / 3, 1 / 3)

    def test_a_caption_listed_twice_for_one_image_counts_once(self):
        owners, text_ids = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])
        report = recall_at(angles(0, 90), angles(5, 85), owners, (1,), text_ids)
        assert report['text_to_image/chance_r1'] == 1 / 2
        assert report['image_to_text/r1'] == 1

    @pytest.mark.parametrize('value', [1.0, 0.0, math.nan], ids=['all alike', 'all zero', 'nan'])
    def test_a_collapsed_model_finds_nothing(self, value):
        same = torch.full((6, 3), value)
        report = recall_at(same, same, torch.arange(6), (1, 5))
        assert [report[f'{way}/r{k}'] for way in WAYS for k in (1, 5)] == [0] * 4
        assert report['image_to_text/median_rank'] == 6

    def test_images_without_a_caption_are_only_in_the_way(self):
        report = recall_at(angles(0, 40, 90), angles(30, 80), torch.tensor([0, 2]), (1,))
        assert report['image_to_text/r1'] == 1
        assert report['text_to_image/r1'] == 1 / 2  # the one at 30 finds the uncaptioned image at 40

    def test_fewer_answers_than_places(self):
        report = recall_at(angles(0, 90), angles(0, 90), torch.arange(2), (1, 5, 10))
        assert report['image_to_text/r10'] == report['image_to_text/chance_r10'] == 1

    def test_half_precision(self):
        report = recall_at(angles(0, 90).half(), angles(0, 90).bfloat16(), torch.arange(2), (1,))
        assert report['text_to_image/r1'] == 1


def plain_ranks(queries, gallery, pairs):
    """The definition, one query at a time over the whole matrix."""
    scores = (queries @ gallery.T).tolist()
    right = [set(pairs[1][pairs[0] == query].tolist()) for query in range(len(queries))]
    return [
        sum(
            score >= max((row[answer] for answer in answers), default=-math.inf)
            for place, score in enumerate(row)
            if place not in answers
        )
        for row, answers in zip(scores, right, strict=True)
    ]


@pytest.mark.parametrize('at_once', [1, 70, 1 << 22], ids=['one row', 'few rows', 'whole'])
def test_ranks_in_pieces_are_those_of_the_whole_matrix(monkeypatch, at_once):
    monkeypatch.setattr(retrieval, '_SCORES_AT_ONCE', at_once)
    # Whole numbers, so that there are many ties and no rounding; pairs in no order, some queries with none.
    queries, gallery = torch.randint(-2, 3, (2, 23, 3)).double()
    pairs = torch.randint(0, 23, (2, 40)).unique(dim=1)
    pairs = pairs[:, torch.randperm(pairs.shape[1])]
    assert best_ranks(queries, gallery, pairs).tolist() == plain_ranks(queries, gallery, pairs)


def test_unique_rows():
    rows, ids = unique_rows(torch.tensor([[3, 1], [2, 2], [3, 1], [0, 9], [2, 2]]))
    assert rows.tolist() == [[3, 1], [2, 2], [0, 9]]
    assert ids.tolist() == [0, 1, 0, 2, 1]


class TestEvaluation:
    @pytest.mark.parametrize('workers', [0, 2])
    def test_scenes_from_a_config(self, workers):
        scenes = {'type': 'SceneCaptions', 'num_images': 30, 'difficulty': 'easy', 'splits': ['unseen']}
        config = {'type': 'Retrieval', 'dataset': scenes, 'batch_size': 8, 'num_workers': workers}
        clip = build_clip(TINY).train()
        report = EVALUATIONS.build(config)(clip)
        data = SceneCaptions(30, 'easy', splits=['unseen'])
        texts = {data[index]['token_ids'].numpy().tobytes() for index in range(30)}
        assert report['retrieval/images'] == 30
        assert report['retrieval/texts'] == len(texts)
        assert {key for key in report if key.count('/') == 2} == {
            f'retrieval/{way}/{key}'
            for way in WAYS
            for key in ('r1', 'r5', 'r10', 'chance_r1', 'chance_r5', 'chance_r10', 'median_rank')
        }
        assert clip.training

    def test_all_captions_of_coco_are_asked_and_found(self, tmp_path):
        colours = ['red', 'green', 'blue']
        captions = [(0, 'red'), (1, 'green'), (1, 'lime'), (2, 'blue'), (2, 'blue'), (2, 'green')]
        for colour in colours:
            Image.new('RGB', (40, 30), colour).save(tmp_path / f'{colour}.png')
        content = {
            'images': [{'id': i, 'file_name': f'{colour}.png'} for i, colour in enumerate(colours)],
            'annotations': [{'image_id': i, 'caption': caption} for i, caption in captions],
        }
        (tmp_path / 'captions.json').write_text(json.dumps(content))
        clip = ByName(build_clip(TINY))
        report = Retrieval(CocoCaptions(tmp_path / 'captions.json', tmp_path), 2, name='coco', ks=(1,))(clip)
        assert (report['coco/images'], report['coco/texts']) == (3, 4)
        # Each image finds a caption of its own.  "lime" is like no image more than another: not found.
        assert report['coco/image_to_text/r1'] == 1
        assert report['coco/text_to_image/r1'] == 3 / 4

    def test_a_stream_without_a_length(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter([scenes[index] for index in range(5)])

            def __len__(self):
                raise TypeError

        scenes = SceneCaptions(5, 'easy')
        clip = build_clip(TINY)
        assert Retrieval(Stream(), 2)(clip) == Retrieval([scenes[index] for index in range(5)], 2)(clip)

    def table(self, folder, rows, **settings):
        for color in ('red', 'green', 'blue'):
            Image.new('RGB', (40, 30), color).save(folder / f'{color}.png')
        text = ''.join(f'{name}\t{caption}\n' for name, caption in [('filepath', 'title'), *rows])
        (folder / 'x.tsv').write_text(text)
        return Retrieval(CsvPairs(folder / 'x.tsv', **settings), 2, ks=(1,))

    @pytest.mark.parametrize('at', [0, 1, 2])
    def test_an_unreadable_image_is_left_out_with_its_captions(self, tmp_path, at):
        rows = [('red.png', 'red'), ('green.png', 'green'), ('blue.png', 'blue')]
        (tmp_path / 'broken.png').write_bytes(b'x')
        rows.insert(at, ('broken.png', 'lime'))
        report = self.table(tmp_path, rows)(ByName(build_clip(TINY)))
        assert (report['retrieval/images'], report['retrieval/texts']) == (3, 3)
        assert [report[f'retrieval/{way}/r1'] for way in WAYS] == [1, 1]

    def test_an_image_in_several_rows_is_grouped_or_refused(self, tmp_path):
        rows = [('red.png', 'red'), ('blue.png', 'blue'), ('./red.png', 'lime'), ('red.png', 'red')]
        report = self.table(tmp_path, rows, group=True)(ByName(build_clip(TINY)))
        assert (report['retrieval/images'], report['retrieval/texts']) == (2, 3)
        with pytest.raises(InputError, match='1 rows have the image of an earlier row; pass group=True'):
            self.table(tmp_path, rows)

    @pytest.mark.parametrize('tower', ['encode_image', 'encode_text'])
    def test_refuses_embeddings_that_are_not_finite(self, tmp_path, tower):
        clip = ByName(build_clip(TINY))
        encode = getattr(clip, tower)
        setattr(clip, tower, lambda *inputs, normalize: encode(*inputs, normalize) * math.nan)
        with pytest.raises(InputError, match=r'embeddings of the (images|captions) are not finite \(2 of 2'):
            self.table(tmp_path, [('red.png', 'red'), ('blue.png', 'blue')])(clip)

    def test_refuses_an_empty_dataset(self):
        with pytest.raises(InputError, match='the dataset has no images that can be read'):
            Retrieval([])(build_clip(TINY))


class ByName(torch.nn.Module):
    """Sees the strongest colour of an image, and reads the names of the three colours."""

    def __init__(self, clip):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.preprocess, self.tokenizer = clip.preprocess, clip.tokenizer

    def encode_image(self, images, normalize=False):
        return F.normalize(images.mean((2, 3)).clamp(min=0), dim=-1)

    def encode_text(self, token_ids, normalize=False):
        names = [self.tokenizer.decode(row[1:2].tolist()).strip() for row in token_ids.numpy()]
        table = dict(zip(['red', 'green', 'blue'], np.eye(3, dtype=np.float32).tolist(), strict=True))
        return F.normalize(torch.tensor([table.get(name, [1.0, 1.0, 1.0]) for name in names]), dim=-1)
