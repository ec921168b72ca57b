"""Images: reproducible, exactly labeled, and showing what they say."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from clipdense.data.scenes import DIFFICULTIES, SPLITS, Scenes
from clipdense.data.scenes.painting import COLORS, OUTLINES, finish, lay_out, paint_ground, paint_object
from clipdense.data.scenes.rng import RandomStream
from clipdense.data.scenes.scene import _Placed, _visible
from clipdense.utils.errors import InputError

CLASSES = ['red striped star', 'green dotted circle', 'blue solid square', 'yellow checked triangle']


def same(first, second):
    arrays = ('image', 'mask', 'boxes', 'class_ids')
    equal = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)
    return equal and first.caption == second.caption


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
@pytest.mark.parametrize('image_size', [None, 16, 50, 224])
def test_types_and_exact_labels(difficulty, image_size):
    scenes = Scenes(difficulty, image_size=image_size)
    size = image_size or DIFFICULTIES[difficulty].image_size
    for index in range(8):
        scene = scenes.draw(index)
        assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)
        assert (scene.mask.shape, scene.mask.dtype) == ((size, size), np.uint8)
        assert (scene.boxes.dtype, scene.class_ids.dtype) == (np.float32, np.int64)
        assert sorted(np.unique(scene.mask)) == sorted([0, *(scene.class_ids + 1)])
        for class_id, box in zip(scene.class_ids, scene.boxes, strict=True):
            rows, columns = np.nonzero(scene.mask == class_id + 1)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == tight


# Whoever changes what scenes look like changes every published number: change this digest knowingly.
def test_images_are_the_same_on_every_platform():
    scenes = Scenes(seed=7, image_size=48)
    drawn = [scenes.draw(index, CLASSES, stream='pinned') for index in range(40)]
    digest = hashlib.sha256(b''.join(scene.image.tobytes() + scene.boxes.tobytes() for scene in drawn))
    captions = hashlib.sha256('\n'.join(scene.caption for scene in drawn).encode())
    assert (digest.hexdigest()[:16], captions.hexdigest()[:16]) == ('b65c8b70a590b124', '905680d1982c552e')


def test_images_do_not_depend_on_order_or_process():
    forwards, backwards = Scenes(), Scenes()
    drawn = [forwards.draw(index) for index in range(6)]
    again = [backwards.draw(index) for index in reversed(range(6))][::-1]
    with ProcessPoolExecutor(1) as pool:
        elsewhere = list(pool.map(pickle.loads(pickle.dumps(Scenes())).draw, range(6)))
    assert all(same(a, b) and same(a, c) for a, b, c in zip(drawn, again, elsewhere, strict=True))


@pytest.mark.parametrize(
    ('seed', 'index', 'stream'),
    [(1, 0, 'train'), (0, 1, 'train'), (0, 0, 'val')],
    ids=['seed', 'index', 'stream'],
)
def test_what_makes_another_image(seed, index, stream):
    assert not same(Scenes().draw(0), Scenes(seed=seed).draw(index, stream=stream))


def test_another_size_shows_the_same_scene():
    for index in range(12):
        small, large = Scenes(image_size=64).draw(index), Scenes(image_size=256).draw(index)
        assert small.class_ids.tolist() == large.class_ids.tolist()
        np.testing.assert_allclose(small.boxes * 4, large.boxes, atol=6)
        shrunk = large.image.reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(shrunk - small.image).mean() < 6


@pytest.mark.parametrize('allowed', [('base', 'novel'), ('unseen',), CLASSES[:2], ('novel', CLASSES[0])])
def test_only_what_is_allowed_occurs(allowed):
    scenes = Scenes('hard')
    names = {name for item in allowed for name in scenes.splits.get(item, (item,))}
    seen = {scenes.class_names[at] for index in range(60) for at in scenes.draw(index, allowed).class_ids}
    assert seen <= names
    assert len(seen) > 1


@pytest.mark.parametrize(('num_objects', 'found'), [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (None, {1, 2, 3})])
def test_number_of_objects(num_objects, found):
    scenes = Scenes()
    counts = [len(scenes.draw(index, num_objects=num_objects).class_ids) for index in range(80)]
    assert set(counts) <= found
    assert max(counts) == max(found)


def test_all_classes_are_drawn_about_equally_often():
    scenes = Scenes()
    drawn = np.concatenate([scenes.draw(index, num_objects=1).class_ids for index in range(960)])
    counts = np.bincount(drawn, minlength=64)
    assert counts[:48].min() > 6  # 20 expected
    assert counts[48:].sum() == 0


def test_a_lone_object_is_large_enough_to_see():
    scenes = Scenes()
    areas = [(scenes.draw(index, num_objects=1).mask > 0).sum() for index in range(200)]
    assert min(areas) > 60  # of 1024 pixels


@pytest.mark.parametrize('color', COLORS)
def test_a_solid_object_has_its_color(color):
    scenes = Scenes('hard')
    centers = np.array([rgb for rgb, _ in COLORS.values()])
    for index in range(12):
        scene = scenes.draw(index, [f'{color} solid square'], num_objects=1)
        mean = scene.image[scene.mask > 0].mean(0)
        assert list(COLORS)[np.square(centers - mean).sum(1).argmin()] == color


@pytest.mark.parametrize('texture', ['striped', 'dotted', 'checked', 'ringed'])
def test_textures_show_two_colors(texture):
    scenes = Scenes('hard', image_size=32)
    for index in range(20):
        scene = scenes.draw(index, [f'blue {texture} circle'], num_objects=1)
        pale = scene.image[scene.mask > 0].min(1) > 150  # blue has little red, the second color has much
        assert 0.08 < pale.mean() < 0.8


AREAS = {
    'circle': np.pi,
    'square': 1.76**2,
    'triangle': 0.65**2 * 27**0.5,
    'ring': np.pi * (1.07**2 - 0.43**2),
}


@pytest.mark.parametrize(('shape', 'area'), AREAS.items())
def test_shapes_cover_what_geometry_says(shape, area):
    figure = lay_out(shape, (100, 100), 50, 0.1, 200)
    assert figure.inside.sum() == pytest.approx(area * 50**2, rel=0.01)


@pytest.mark.parametrize('shape', OUTLINES)
def test_shapes_fit_into_their_window(shape):
    """The window is no smaller than the shape: a border of the canvas cuts it, the window does not."""
    for turn in (-0.9, 0.0, 0.18, 1.0):
        figure = lay_out(shape, (60.3, 59.1), 30, turn, 120)
        edges = [figure.inside[0], figure.inside[-1], figure.inside[:, 0], figure.inside[:, -1]]
        assert not np.concatenate(edges).any()


@pytest.mark.parametrize(
    ('places', 'kept'),
    [
        ([(20, 8), (44, 8)], [0, 1]),
        ([(20, 8), (20, 16)], [1]),  # wholly hidden
        ([(20, 8), (24, 8)], [1]),  # a quarter of the width is seen
        ([(20, 8), (30, 8)], [0, 1]),  # more than half is seen
        ([(20, 8), (24, 8), (44, 8)], [1, 2]),
        ([(20, 8), (25, 8), (30, 8)], [0, 2]),  # the middle one goes, and sets the first free
    ],
)
def test_hidden_objects_are_left_out(places, kept):
    placed = [_Placed(at, lay_out('square', (x, 32), radius, 0, 64)) for at, (x, radius) in enumerate(places)]
    stay, labels = _visible(placed, 64)
    assert [item.class_id for item in stay] == kept
    assert set(np.unique(labels)) == set(range(len(kept) + 1))


def test_painting_stays_inside_the_outline():
    canvas = paint_ground('plain', 64, RandomStream(0, 'a', 0))
    before = finish(canvas)
    figure = lay_out('star', (30, 30), 15, 0.1, 64)
    paint_object(canvas, figure, 'red', 'striped', RandomStream(0, 'b', 0))
    changed = (finish(canvas) != before).any(-1)
    far = np.ones((64, 64), bool)
    far[figure.window] = figure.distance > 0.5
    assert not (changed & far).any()
    assert changed[figure.window][figure.inside].all()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Scenes('standart'), "unknown difficulty 'standart'.*Did you mean 'standard'"),
        (lambda: Scenes(image_size=8), 'image_size must be at least 16 pixels, got 8'),
        (lambda: Scenes().draw(0, ['red stripped star']), "Did you mean 'red striped star'"),
        (lambda: Scenes().draw(0, ['bsae']), "neither a split.*Did you mean 'base'"),
        (lambda: Scenes().draw(0, []), 'at least one split or class'),
    ],
    ids=['difficulty', 'size', 'class', 'split', 'none'],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_vocabulary():
    scenes = Scenes()
    everything, base = scenes.vocabulary(), scenes.vocabulary(['base'], background=False)
    assert everything.class_names == ('background', *scenes.class_names)
    assert everything.background == 'background'
    assert everything.base == scenes.base
    assert everything.novel == {*scenes.novel, *scenes.unseen}
    assert (base.class_names, base.background, base.novel) == (scenes.base, None, frozenset())
    assert scenes.class_names == tuple(name for split in SPLITS for name in scenes.splits[split])
