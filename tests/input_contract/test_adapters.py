"""The tables below "Adapters" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.labeled import LabeledData
from clipdense.inference.adapters import make_adapter
from clipdense.inference.classifier import Classifier
from clipdense.inference.load import load
from clipdense.inference.segmenter import Segmenter
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.tasks.adapters import Origin, source_digest
from clipdense.weights.io import read_weights, write_weights

SECTION = 'Adapters'
SIZE = ClipSize(
    VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=16),
    TextSize(width=16, layers=1, num_heads=1, mlp_width=16, embed_dim=16),
)
torch.manual_seed(0)
CLIP, OTHER = build_clip(SIZE).eval(), build_clip(SIZE).eval()
IMAGE = np.zeros((16, 16, 3), np.uint8)


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


def pets(folder, names=('cat', 'dog'), count=2):
    for at, name in enumerate(names):
        for number in range(count):
            image(folder / name / f'{number}.png', (40 + 100 * at + 9 * number) % 256)
    return folder


def voc(folder, value=None):
    for number in range(2):
        image(folder / f'JPEGImages/{number}.png')
        (folder / 'SegmentationClass').mkdir(exist_ok=True)
        mask = np.full((16, 16), number if value is None else value, np.uint8)
        Image.fromarray(mask).save(folder / f'SegmentationClass/{number}.png')
    (folder / 'Annotations').mkdir()
    (folder / 'classes.txt').write_text('cat\ndog\n')
    (folder / 'ImageSets/Segmentation').mkdir(parents=True)
    (folder / 'ImageSets/Segmentation/train.txt').write_text('0\n1\n')
    return folder


def adapt(data, options=None, method='tip', **labels):
    return make_adapter(CLIP, LabeledData(data, **labels), method, options=options, cache=False)


def keys(data, *counts, **labels):
    assert tuple(adapt(data, **labels).counts) == counts


def parts(folder):
    pets(folder / 'train')
    pets(folder / 'val', count=1)
    pets(folder / 'test', count=1)
    found = LabeledData(folder).open()
    assert (len(found.train), len(found.validation)) == (4, 2)


def broken(folder):
    pets(folder, count=120)
    (folder / 'cat/0.png').write_bytes(b'no image')
    keys(folder, 119, 120)


def unreadable(folder):
    (pets(folder, count=3) / 'cat/0.png').write_bytes(b'no image')
    keys(folder, 2, 2, shots=2)  # of seed 0, which begins with 1.png and 0.png


def extra(folder, name):
    image(pets(folder) / name)
    return folder


def base(folder):
    found = LabeledData(pets(folder), classes='base').open().train
    assert (found.class_names, len(found)) == (('cat',), 2)


def empty(folder):
    (pets(folder) / 'cow').mkdir()
    return folder


def one_ignored(folder):
    masks = voc(folder) / 'SegmentationClass'
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(masks / '0.png')
    Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 8, 1).repeat(16, 0)).save(masks / '1.png')
    keys(folder, 1, 1)


def cache(names=('cat', 'dog'), weights=CLIP, dim=16):
    origin = Origin(source_digest(weights))
    return KeyValueCache(torch.eye(len(names), dim), range(len(names)), names, origin=origin)


def use(folder, made, names=('cat', 'dog')):
    made.save(folder / 'a.safetensors')
    return Classifier.from_pretrained(CLIP, cache=False, adapter=folder / 'a.safetensors')(IMAGE, list(names))


def official(folder):
    torch.save({'state_dict': ClipAdapter(16).image.state_dict()}, folder / 'model.pth.tar-20')
    Classifier.from_pretrained(CLIP, cache=False, adapter=folder / 'model.pth.tar-20')


def official_keys(folder):
    torch.save(torch.zeros(16, 2), folder / 'keys_1shots.pt')
    Classifier.from_pretrained(CLIP, cache=False, adapter=folder / 'keys_1shots.pt')


def no_adapter(folder):
    save(CLIP, folder / 'clip.safetensors')
    Classifier.from_pretrained(CLIP, cache=False, adapter=folder / 'clip.safetensors')


def no_model(folder):
    cache().save(folder / 'a.safetensors')
    load(folder / 'a.safetensors')


def changed(folder, value=1.0, keep=True):
    cache().save(folder / 'a.safetensors')
    file = read_weights(folder / 'a.safetensors')
    tensors = {name: x * value if x.is_floating_point() else x.clone() for name, x in file.tensors.items()}
    write_weights(folder / 'b.safetensors', tensors, file.metadata if keep else None)
    Classifier.from_pretrained(CLIP, cache=False, adapter=folder / 'b.safetensors')


def same_names(folder):
    found = use(folder, cache(('traffic light', 'dog')), ('Dog', 'Traffic_Light'))
    assert found.vocabulary.class_names == ('Dog', 'Traffic_Light')


def validate(folder, *names):
    pets(folder / 'a')
    adapt(folder / 'a', validation=pets(folder / 'b', names))


def pixels(folder):
    cache().save(folder / 'a.safetensors')
    Segmenter.from_pretrained(CLIP, 'maskclip', cache=False, adapter=folder / 'a.safetensors')


READ = {
    'a folder of class folders': lambda folder: keys(pets(folder), 2, 2),
    'a folder with `train`, `val` and `test` folders': parts,
    'a folder in the layout of PASCAL VOC with masks and boxes': lambda folder: keys(voc(folder), 1, 1),
    'an image that cannot be read': broken,
    'a folder that does not exist': lambda folder: adapt(folder / 'nowhere'),
    'a folder without images': adapt,
    'a class folder without images, with `--shots`': lambda folder: adapt(empty(folder), shots=1),
    'a class folder without images, without `--shots`': lambda folder: adapt(empty(folder)),
    'examples of one class': lambda folder: adapt(pets(folder, ('cat',))),
    'masks of ignored pixels only': lambda folder: adapt(voc(folder, 255)),
    'no shots': lambda folder: adapt(pets(folder), shots=0),
    'the examples as validation': lambda folder: adapt(pets(folder), validation=folder),
    'validation with other classes': lambda folder: validate(folder, 'cat', 'cow'),
    'validation without a class': lambda folder: validate(folder, 'cat'),
    'alpha below 0': lambda folder: adapt(pets(folder), {'alpha': -1}),
    'beta of 0': lambda folder: adapt(pets(folder), {'beta': 0}),
    'alpha above 1e6': lambda folder: adapt(pets(folder), {'alpha': 1e30}),
    '`balance` that is not true or false': lambda folder: adapt(pets(folder), {'balance': 'maybe'}),
    'an unreadable image among the shots': unreadable,
    'images in a folder within a class folder': lambda folder: keys(extra(folder, 'cat/a/b.png'), 3, 2),
    'images next to the class folders': lambda folder: keys(extra(folder, 'b.png'), 2, 2),
    "`classes='base'`": base,
    "`classes='base'` for masks": lambda folder: adapt(voc(folder), classes='base'),
    'alpha together with validation': lambda folder: adapt(
        pets(folder), {'alpha': 1.0}, shots=1, validation='rest'
    ),
    'a mask of ignored pixels only among others': one_ignored,
    'samples of images, for `tip_f`': lambda folder: adapt(pets(folder), {'samples': 5}, method='tip_f'),
    'a file of `clipdense adapt`': lambda folder: use(folder, cache()),
    'the same classes in another order and spelling': same_names,
    'a class without examples': lambda folder: use(folder, cache(), ('cat', 'cow')),
    'none of the classes': lambda folder: use(folder, cache(), ('cow', 'horse')),
    'an adapter of other weights': lambda folder: use(folder, cache(weights=OTHER)),
    'an adapter of another dimension': lambda folder: use(folder, cache(dim=9)),
    'an adapter of images for pixels': pixels,
    'an official file of CLIP-Adapter': official,
    'an official file of Tip-Adapter': official_keys,
    'weights of a CLIP': no_adapter,
    'an adapter as weights': no_model,
    'keys with NaN': lambda folder: changed(folder, torch.nan),
    'a file without its description': lambda folder: changed(folder, keep=False),
}


def test_row(row, check):
    check(row, READ)
