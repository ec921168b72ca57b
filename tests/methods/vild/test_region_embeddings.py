"""What the teacher sees in each region, and the store that it goes to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.store import RegionStore
from clipdense.data.detection.transforms import Resize
from clipdense.data.transforms import CenterCrop
from clipdense.methods.vild import region_embeddings
from clipdense.methods.vild.crops import crop_regions, grown
from clipdense.methods.vild.region_embeddings import embed_crops, embed_dataset, embed_regions
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part

SIZE = ClipSize(VitSize(32, 8, 32, 2, 1, 64, 8), TextSize(32, 1, 1, 32, 8))


def teacher(seed=0):
    torch.manual_seed(seed)
    return build_clip(SIZE).eval()


def make_image(seed=0, size=(90, 120)):
    """Smooth colours: what photographs are like, on the scale of a crop."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


BOXES = np.array([[10, 10, 60, 50], [0, 0, 120, 90], [100.3, 70.6, 119.9, 89.9], [5, 5, 9, 80]], np.float32)


@pytest.mark.parametrize(
    ('factor', 'expected'),
    [
        (1.0, [[10, 10, 60, 50], [0, 0, 120, 90], [100, 70, 120, 90], [5, 5, 9, 80]]),
        (1.5, [[0, 0, 73, 60], [0, 0, 120, 90], [95, 65, 120, 90], [4, 0, 10, 90]]),
    ],
)
def test_boxes_grow_about_their_centre(factor, expected):
    """50 x 40 at 1.5: 12.5 to the left and right, 10 up and down, whole pixels outward, cut at the border."""
    assert grown(BOXES, factor, (90, 120)).tolist() == expected


def test_a_box_is_never_thinner_than_a_pixel():
    assert grown(np.array([[5.0, 5, 5, 5], [119.9, 89.9, 130, 99]]), 1.0, (90, 120)).tolist() == [
        [5, 5, 6, 6],
        [119, 89, 120, 90],
    ]


def test_embeddings_equal_those_of_a_plain_loop():
    """PIL crops one by one, both sizes, embeddings added and normalized."""
    clip, image = teacher(), make_image()
    found = embed_crops(clip, crop_regions(image, BOXES, CenterCrop.of(clip.preprocess)))
    for row, box in enumerate(BOXES):
        total = 0
        for factor in (1.0, 1.5):
            crop = image.crop(tuple(grown(box[None], factor, (90, 120))[0].tolist()))
            with torch.no_grad():
                total = total + clip.encode_image(clip.preprocess(crop)[None])[0]
        assert cosine_similarity(found[row], normalize(total, dim=0), dim=0) > 0.9999
    assert torch.allclose(found.norm(dim=1), torch.ones(4))


def test_no_regions_no_embeddings():
    clip = teacher()
    crops = crop_regions(make_image(), BOXES[:0], CenterCrop.of(clip.preprocess))
    assert embed_crops(clip, crops).shape == (0, 8)


@pytest.fixture
def dataset(tmp_path):
    """Three images; the detector sees them at half their size."""
    images = [{'id': n, 'file_name': f'{n}.png', 'width': 120, 'height': 90} for n in (3, 5, 8)]
    for one in images:
        make_image(one['id']).save(tmp_path / one['file_name'])
    data = {'images': images, 'annotations': [], 'categories': [{'id': 1, 'name': 'cat'}]}
    (tmp_path / 'a.json').write_text(json.dumps(data))
    return CocoDetection(tmp_path / 'a.json', tmp_path, transforms=[Resize(scale=(60, 45))])


def detector(tiny, seed=0):
    model = tiny.build()
    model.__dict__['clip'] = teacher(seed)
    return model


@pytest.mark.parametrize('workers', [0, 2])
def test_a_dataset(tiny, dataset, tmp_path, workers):
    store = embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, workers=workers)
    assert store.unfinished == []
    for one in dataset.images:
        found = store[one.image_id]
        assert 0 < len(found.boxes) <= 6
        assert found.boxes[:, 2].max() > 60  # original pixels, not the detector's
        assert (found.boxes[:, 2:] <= [120, 90]).all()
        clip = teacher()
        expected = embed_crops(
            clip, crop_regions(make_image(one.image_id), found.boxes, CenterCrop.of(clip.preprocess))
        )
        assert np.abs(expected.numpy() - found.embeddings).max() < 1e-3


def test_an_interrupted_run_goes_on(tiny, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(region_embeddings, '_FLUSH', 1)
    whole = embed_dataset(detector(tiny), dataset, tmp_path / 'whole', regions=6)
    seen = []

    def once(*arguments):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return embed_crops(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(region_embeddings, 'embed_crops', once)
        with pytest.raises(KeyboardInterrupt):
            embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6)
    seen.clear()
    monkeypatch.setattr(region_embeddings, 'embed_crops', lambda *a: (seen.append(1), embed_crops(*a))[1])
    store = embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6)
    assert len(seen) == 1
    for one in dataset.images:
        assert np.array_equal(store[one.image_id].embeddings, whole[one.image_id].embeddings)


def test_processes_share_the_images(tiny, dataset, tmp_path, monkeypatch):
    """Each takes its own, even where another has already begun."""
    monkeypatch.setattr(region_embeddings, 'world_size', lambda: 2)
    monkeypatch.setattr(region_embeddings.dist, 'barrier', lambda: None)
    done = []
    for number in (0, 1):
        monkeypatch.setattr(region_embeddings, 'rank', lambda number=number: number)
        monkeypatch.setattr(region_embeddings, 'is_main', lambda number=number: number == 0)
        done.append(len(embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6).unfinished))
    assert done == [1, 0]


def test_parts_join_to_the_same_bytes(tiny, dataset, tmp_path, monkeypatch):
    """Also where one is interrupted; nothing of the parts is left."""
    whole = embed_dataset(detector(tiny), dataset, tmp_path / 'whole', regions=6)
    for text in ('2/2', '1/2'):
        with pytest.raises(InputError, match=r'is incomplete|does not contain'):
            RegionStore(tmp_path / 'store')
        with monkeypatch.context() as patch:
            patch.setattr(region_embeddings, 'embed_crops', lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, part=Part.parse(text))
        embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, part=Part.parse(text))
    for name in ('boxes.npy', 'embeddings.npy', 'count.npy', 'store.json'):
        assert (tmp_path / 'store' / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not list((tmp_path / 'store').glob('part*'))
    again = embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, part=Part(1, 2))
    assert len(again) == 3


@pytest.mark.parametrize(
    ('before', 'part', 'message'),
    [
        ('1/2', '1/3', 'was started as 2 parts, not 3'),
        ('1/2', None, 'was started as 2 parts: give --part'),
        (None, '1/2', 'exists and does not belong to a job'),
        (None, '1/9', '3 images cannot be divided into 9 parts'),
    ],
)
def test_parts_of_different_numbers_are_not_mixed(tiny, dataset, tmp_path, before, part, message):
    embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, part=Part.parse(before))
    with pytest.raises(InputError, match=message):
        embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6, part=Part.parse(part))


@pytest.mark.parametrize('change', ['teacher', 'detector'])
def test_a_foreign_store_is_refused(tiny, dataset, tmp_path, change):
    embed_dataset(detector(tiny), dataset, tmp_path / 'store', regions=6)
    model = detector(tiny, seed=1 if change == 'teacher' else 0)
    if change == 'detector':
        with torch.no_grad():
            model.rpn_head.rpn_cls.weight.add_(1)
    with pytest.raises(InputError, match='another teacher' if change == 'teacher' else 'another detector'):
        embed_dataset(model, dataset, tmp_path / 'store', regions=6)


def test_a_detector_without_a_teacher(tiny, dataset, tmp_path):
    with pytest.raises(InputError, match='has no teacher'):
        embed_dataset(tiny.build(), dataset, tmp_path / 'store')


def test_from_a_config(tiny, dataset, tmp_path):
    """Only backbone, neck and RPN of the weights are used."""
    from mmengine.config import Config

    from clipdense.methods.vild.detector import ViLD

    torch.save({'state_dict': tiny.build('text').state_dict()}, tmp_path / 'rpn.pth')
    size = dict(type=build_clip, size=SIZE)
    proposals = dict(type=CocoDetection, annotations=str(tmp_path / 'a.json'), images=str(tmp_path))
    model = dict(type=ViLD, **tiny.config('ensemble'))
    cfg = Config(dict(model=model, proposal_dataset=proposals))
    cfg.model.clip = size
    store = embed_regions(cfg, tmp_path / 'rpn.pth', tmp_path / 'store', regions=4)
    assert len(store) == 3
    cfg.proposal_dataset = None
    with pytest.raises(InputError, match='has no proposal_dataset'):
        embed_regions(cfg, tmp_path / 'rpn.pth', Path('x'))
