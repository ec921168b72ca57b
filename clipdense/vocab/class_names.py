"""Class names of published datasets, in label order, in English spelling ("dining table")."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from clipdense.utils.errors import InputError, nearest

from .ade20k_full import ADE20K_FULL_NAMES
from .vocabulary import Vocabulary


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(', '))


# Wang et al., SCLIP (arXiv 2312.01597), class files of VOC21 and COCO-Object: queries of the background.
BACKGROUND_WORDS = _words(
    'sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, '
    'door, window, wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence'
)
# Lan et al., ProxyCLIP (arXiv 2408.04883), class file of COCO-Object.
_PROXYCLIP_BACKGROUND = _words(
    'sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, floor, '
    'hill, rail'
)

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    'voc20': _words(
        'aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, '
        'motorbike, person, potted plant, sheep, sofa, train, tv monitor'
    ),
    'coco': _words(
        'person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, '
        'stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, '
        'giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, '
        'baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, '
        'knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, '
        'cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, '
        'cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, '
        'hair drier, toothbrush'
    ),
    'coco_stuff': (),  # COCO's things, then its stuff; see below
    'context59': _words(
        'aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, '
        'car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, '
        'food, grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, '
        'potted plant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, '
        'tree, truck, tv monitor, wall, water, window, wood'
    ),
    'ade20k_full': ADE20K_FULL_NAMES,
    'camvid': _words('sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist'),
    'cityscapes': _words(
        'road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, '
        'sky, person, rider, car, truck, bus, train, motorcycle, bicycle'
    ),
    'ade20k': _words(
        'wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, '
        'person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, '
        'house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, '
        'railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, '
        'fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, '
        'stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, '
        'countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, '
        'bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, '
        'airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, '
        'stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, '
        'barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, '
        'microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, '
        'traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, '
        'radiator, glass, clock, flag'
    ),
    'cifar10': _words('airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck'),
    'cifar100': _words(
        'apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, '
        'bus, butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, '
        'cockroach, couch, crab, crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, '
        'hamster, house, kangaroo, keyboard, lamp, lawn mower, leopard, lion, lizard, lobster, man, maple '
        'tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid, otter, palm tree, pear, '
        'pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, '
        'rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, '
        'streetcar, sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor, train, '
        'trout, tulip, turtle, wardrobe, whale, willow tree, wolf, woman, worm'
    ),
}
CLASS_NAMES['coco_stuff'] = CLASS_NAMES['coco'] + _words(
    'banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, '
    'ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, '
    'door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, '
    'food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, '
    'metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, '
    'platform, playing field, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, '
    'sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, '
    'textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, '
    'wall-tile, wall-wood, water-other, water drops, window-blind, window-other, wood'
)

# Published class files of VOC; the names that differ from those above, in all of them and in one.
_VOC_NAMES = {
    'boat': 'ship',
    'dining table': 'table',
    'potted plant': 'pottedplant',
    'tv monitor': 'tvmonitor',
}
_SCLIP_PERSON = tuple(
    f'person in {clothes}' for clothes in ('shirt', 'jeans', 'dress', 'sweater', 'skirt', 'jacket')
)
_SCLIP_SYNONYMS = {
    'person': _SCLIP_PERSON,
    'television monitor': ('tv monitor', 'monitor', 'television', 'screen'),
}


def imagenet_names() -> tuple[str, ...]:
    """OpenAI's 1,000 ImageNet names from ``open_clip_torch``, made unique.

    The published list contains "missile" and "sunglasses" twice (classes 657 and 744, 836 and 837), which
    cannot be distinguished; 744 and 836 get WordNet's "projectile" and "sunglass".

    Raises:
        InputError: open_clip_torch is not installed.
    """
    package = importlib.util.find_spec('open_clip')
    if package is None or package.origin is None:
        raise InputError('the ImageNet class names need open_clip; run pip install open_clip_torch')
    file = Path(package.origin).with_name(
        'zero_shot_metadata.py'
    )  # without importing the package, which takes seconds
    spec = importlib.util.spec_from_file_location('_open_clip_zero_shot_metadata', file)
    assert spec is not None
    assert spec.loader is not None
    metadata = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metadata)
    names = list(metadata.IMAGENET_CLASSNAMES)
    names[744], names[836] = 'projectile', 'sunglass'
    return tuple(names)


def _plain(name: str) -> Callable[[], Vocabulary]:
    return lambda: Vocabulary(CLASS_NAMES[name])


def _with_background(name: str) -> Callable[[], Vocabulary]:
    return lambda: Vocabulary(CLASS_NAMES[name]).with_background(BACKGROUND_WORDS)


def _voc() -> Vocabulary:
    """One name per class, as in the files of ClearCLIP and ProxyCLIP."""
    return Vocabulary(tuple(_VOC_NAMES.get(name, name) for name in CLASS_NAMES['voc20']))


def _sclip_voc() -> Vocabulary:
    names = tuple('television monitor' if name == 'tvmonitor' else name for name in _voc().class_names)
    return Vocabulary(names, _SCLIP_SYNONYMS)


def _sclip_object() -> Vocabulary:
    return Vocabulary(CLASS_NAMES['coco'], {'person': (*_SCLIP_PERSON, 'body')})


def _unspaced(name: str) -> Vocabulary:
    """Names without spaces ("trafficlight"), as in the class files of these methods."""
    return Vocabulary(tuple(name.replace(' ', '') for name in CLASS_NAMES[name]))


def _maskclip_stuff() -> Vocabulary:
    """Natural names of stuff: "building" for "building-other", "tile ceiling" for "ceiling-tile"."""

    def natural(name: str) -> str:
        noun, _, kind = name.partition('-')
        return noun if kind in ('', 'other', 'stuff') else f'{kind} {noun}'

    things = len(CLASS_NAMES['coco'])
    stuff = (
        natural(name).replace('playing field', 'playingfield') for name in CLASS_NAMES['coco_stuff'][things:]
    )
    return Vocabulary((*CLASS_NAMES['coco'], *(name.replace('water drops', 'waterdrops') for name in stuff)))


def _after(words: tuple[str, ...], vocabulary: Vocabulary) -> Vocabulary:
    """Insert a background with exactly these queries, including names of other classes."""
    names = ('background', *vocabulary.class_names)
    return Vocabulary(names, {**vocabulary.synonyms, 'background': words}, 'background')


# Names of NVlabs/GroupViT that differ from those above.
_GROUPVIT_VOC = {'dining table': 'table', 'potted plant': 'plant', 'tv monitor': 'monitor'}
_GROUPVIT_CONTEXT = {'aeroplane': 'airplane', 'potted plant': 'plant', 'tv monitor': 'monitor'}


def _renamed(name: str, changes: dict[str, str]) -> tuple[str, ...]:
    return tuple(changes.get(word, word) for word in CLASS_NAMES[name])


# The class files of published protocols, "<dataset>_<family>".
_CLASS_FILES: dict[str, Callable[[], Vocabulary]] = {
    'voc20_sclip': _sclip_voc,
    'voc21_sclip': lambda: _after(BACKGROUND_WORDS, _sclip_voc()),
    'context59_sclip': lambda: _unspaced('context59'),
    'context60_sclip': lambda: _after((), _unspaced('context59')),
    'coco_object_sclip': lambda: _after(BACKGROUND_WORDS, _sclip_object()),
    'coco_stuff_sclip': lambda: _unspaced('coco_stuff'),
    'ade20k_sclip': lambda: _unspaced('ade20k'),
    'cityscapes_sclip': lambda: _unspaced('cityscapes'),
    'context59_maskclip': lambda: Vocabulary(('airplane', *CLASS_NAMES['context59'][1:])),
    'coco_stuff_maskclip': _maskclip_stuff,
    'voc21_groupvit': lambda: _after((), Vocabulary(_renamed('voc20', _GROUPVIT_VOC))),
    'context60_groupvit': lambda: _after((), Vocabulary(_renamed('context59', _GROUPVIT_CONTEXT))),
    'voc20_clearclip': _voc,
    'voc21_clearclip': lambda: _after((), _voc()),
    'coco_object_clearclip': lambda: _after((), Vocabulary(CLASS_NAMES['coco'])),
    'voc21_proxyclip': lambda: _after(BACKGROUND_WORDS, _voc()),
    'coco_object_proxyclip': lambda: _after(_PROXYCLIP_BACKGROUND, Vocabulary(CLASS_NAMES['coco'])),
}
_VOCABULARIES: dict[str, Callable[[], Vocabulary]] = {
    **{name: _plain(name) for name in CLASS_NAMES},
    **_CLASS_FILES,
    'voc21': _with_background('voc20'),
    'context60': lambda: Vocabulary(CLASS_NAMES['context59']).with_background(),
    'coco_object': _with_background('coco'),
    'imagenet': lambda: Vocabulary(imagenet_names()),
}
VOCABULARY_NAMES = tuple(sorted(_VOCABULARIES))


def named_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a published dataset, one of ``VOCABULARY_NAMES``.

    ``voc21`` and ``coco_object`` have a background queried by ``BACKGROUND_WORDS`` at index 0, ``context60``
    one that is queried by its name.  Synonyms change mIoU by several points: names that end in ``_sclip``,
    ``_clearclip``, ``_proxyclip``, ``_groupvit`` and ``_maskclip`` have exactly the names of these papers'
    class files (in ``coco_object_sclip`` "bed" is a query of background and beds; the background, being
    first, wins).

    Raises:
        InputError: an unknown name; the message suggests the nearest one.
    """
    if name not in _VOCABULARIES:
        known = ', '.join(VOCABULARY_NAMES)
        raise InputError(f'unknown class list {name!r}.{nearest(str(name), _VOCABULARIES)} Use {known}')
    return _VOCABULARIES[name]()


def read_class_names(source: Vocabulary | Sequence[str] | str | Path) -> Vocabulary:
    """A vocabulary out of what a config gives.

    Args:
        source: a vocabulary; names; the name of a class list such as 'coco'; or a file, see
            ``Vocabulary.from_file``.

    Raises:
        InputError: an unknown list, or a file that cannot be read.
    """
    if isinstance(source, Vocabulary):
        return source
    if not isinstance(source, (str, Path)):
        return Vocabulary(tuple(source)).marking_background()
    path = Path(source)
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return Vocabulary.from_file(path)
    return named_vocabulary(str(source))
