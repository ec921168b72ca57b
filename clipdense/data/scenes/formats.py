"""Writers of the three dataset layouts: PASCAL VOC, COCO and webdataset."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from .scene import Scenes

_SHARD_SIZE = 1000  # images


class ImageRecord(NamedTuple):
    """One image, encoded."""

    set_name: str  # 'train', 'val_base', ...
    name: str
    size: int  # of a side, in pixels
    jpeg: bytes
    mask: bytes  # palette PNG
    caption: str
    class_names: list[str]  # of all objects
    objects: list[dict[str, Any]]  # those with labels: class_id, box (x1, y1, x2, y2), area, counts
    own_caption: str = ''  # of the objects with labels


class Writer:
    """Writes images one by one below ``folder``.

    Args:
        folder: existing folder.
        scenes: source of the images.
        jpeg_folder: existing folder with the same JPEG files; they are hard-linked instead of written again.
    """

    def __init__(self, folder: Path, scenes: Scenes, jpeg_folder: Path | None = None) -> None:
        self.folder, self.scenes, self.jpeg_folder = folder, scenes, jpeg_folder
        self._folders: set[Path] = set()

    def add(self, image: ImageRecord) -> None:
        """Write an image."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write the files that need all images."""
        raise NotImplementedError

    def _put(self, name: str, data: bytes | str) -> None:
        self._path(name).write_bytes(data.encode() if isinstance(data, str) else data)

    def _put_image(self, folder: str, image: ImageRecord) -> None:
        path = self._path(f'{folder}/{image.name}.jpg')
        if self.jpeg_folder is not None:
            with contextlib.suppress(OSError):  # file systems without links
                os.link(self.jpeg_folder / path.name, path)
                return
        path.write_bytes(image.jpeg)

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path


class VocWriter(Writer):
    """PASCAL VOC, for segmentation and detection.

    Mask values are line numbers of ``classes.txt`` from 0, the background; ``vocabulary.json`` also lists
    the novel classes.  Boxes are integer pixels counted from 1, both ends included.  There is a list for
    each set, and ``val`` for all sets ``val_*``, in ``ImageSets/Segmentation`` and ``ImageSets/Main``.
    """

    images = 'JPEGImages'

    def __init__(self, folder: Path, scenes: Scenes, jpeg_folder: Path | None = None) -> None:
        super().__init__(folder, scenes, jpeg_folder)
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, image: ImageRecord) -> None:
        """Write image, mask and boxes."""
        self._put_image(self.images, image)
        self._put(f'SegmentationClass/{image.name}.png', image.mask)
        self._put(f'Annotations/{image.name}.xml', self._annotation(image))
        for set_name in _lists(image.set_name):
            self._names[set_name].append(image.name)

    def finish(self) -> None:
        """Write lists and classes."""
        for set_name, names in self._names.items():
            for kind in ('Segmentation', 'Main'):
                self._put(f'ImageSets/{kind}/{set_name}.txt', '\n'.join(names) + '\n')
        vocabulary = self.scenes.vocabulary()
        self._put('classes.txt', '\n'.join(vocabulary.class_names) + '\n')
        vocabulary.save(self.folder / 'vocabulary.json')

    def _annotation(self, image: ImageRecord) -> str:
        objects = ''.join(map(self._object, image.objects))
        size = f'<width>{image.size}</width><height>{image.size}</height><depth>3</depth>'
        return (
            f'<annotation>\n  <folder>VOC</folder>\n  <filename>{image.name}.jpg</filename>\n'
            f'  <size>{size}</size>\n  <segmented>1</segmented>\n{objects}</annotation>\n'
        )

    def _object(self, item: dict[str, Any]) -> str:
        left, top, right, bottom = (int(value) for value in item['box'])
        return (
            f'  <object>\n    <name>{escape(self.scenes.class_names[item["class_id"]])}</name>\n'
            '    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n    <difficult>0</difficult>\n'
            f'    <bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>'
            f'<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>\n  </object>\n'
        )


class CocoWriter(Writer):
    """COCO: ``images`` and ``annotations/{instances,captions,grounding}_SET.json``, all ids from 1.

    Categories are all classes, in order, each with its split; segmentations are uncompressed run lengths.
    ``grounding`` has a caption about the objects with labels, and the box of each name in it.
    """

    def __init__(self, folder: Path, scenes: Scenes, jpeg_folder: Path | None = None) -> None:
        super().__init__(folder, scenes, jpeg_folder)
        self._images: dict[str, list[ImageRecord]] = defaultdict(list)

    def add(self, image: ImageRecord) -> None:
        """Write the image, and keep its annotations for ``finish``."""
        self._put_image('images', image)
        for set_name in _lists(image.set_name):
            self._images[set_name].append(image._replace(jpeg=b'', mask=b''))

    def finish(self) -> None:
        """Write the annotations."""
        for set_name, records in self._images.items():
            images = [
                {'id': number, 'file_name': f'{one.name}.jpg', 'width': one.size, 'height': one.size}
                for number, one in enumerate(records, 1)
            ]
            captions = [
                {'id': number, 'image_id': number, 'caption': one.caption}
                for number, one in enumerate(records, 1)
            ]
            boxes = [
                self._annotation(item, image_id, one.size)
                for image_id, one in enumerate(records, 1)
                for item in one.objects
            ]
            for number, box in enumerate(boxes, 1):
                box['id'] = number
            info = {'description': f'clipdense scenes, {set_name}'}
            instances = {
                'info': info,
                'images': images,
                'annotations': boxes,
                'categories': self._categories(),
            }
            self._put(f'annotations/instances_{set_name}.json', _json(instances))
            texts = {'info': info, 'images': images, 'annotations': captions}
            self._put(f'annotations/captions_{set_name}.json', _json(texts))
            self._put(f'annotations/grounding_{set_name}.json', _json(self._grounding(info, records)))

    def _grounding(self, info: dict[str, str], records: list[ImageRecord]) -> dict[str, Any]:
        """Captions with boxes, in the layout of MDETR's Flickr30k entities."""
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number, one in enumerate(records, 1):
            if not one.objects:
                continue
            facts = {'id': number, 'file_name': f'{one.name}.jpg', 'width': one.size, 'height': one.size}
            images.append({**facts, 'caption': one.own_caption})
            for item in one.objects:
                name = self.scenes.class_names[item['class_id']]
                start = one.own_caption.find(name)
                if start >= 0:  # a caption may name a part of the objects
                    box = {**self._annotation(item, number, one.size), 'id': len(boxes) + 1}
                    del box['segmentation']
                    spans = [[start, start + len(name)]]
                    boxes.append({**box, 'category_id': 1, 'tokens_positive': spans})
        kinds = [{'id': 1, 'name': 'object', 'supercategory': 'object'}]  # which COCO's layout needs
        return {'info': info, 'images': images, 'annotations': boxes, 'categories': kinds}

    def _categories(self) -> list[dict[str, Any]]:
        split_of = {name: split for split, names in self.scenes.splits.items() for name in names}
        return [
            {'id': number, 'name': name, 'supercategory': name.split(' ')[-1], 'split': split_of[name]}
            for number, name in enumerate(self.scenes.class_names, 1)
        ]

    @staticmethod
    def _annotation(item: dict[str, Any], image_id: int, size: int) -> dict[str, Any]:
        left, top, right, bottom = item['box']
        return {
            'id': 0,
            'image_id': image_id,
            'category_id': item['class_id'] + 1,
            'bbox': [left, top, right - left, bottom - top],
            'area': item['area'],
            'iscrowd': 0,
            'segmentation': {'size': [size, size], 'counts': item['counts']},
        }


class ShardWriter(Writer):
    """webdataset: ``SET/000000.tar`` and so on, with ``.jpg``, ``.txt`` and ``.json`` for each image."""

    def __init__(self, folder: Path, scenes: Scenes, jpeg_folder: Path | None = None) -> None:
        super().__init__(folder, scenes, jpeg_folder)
        self._counts: dict[str, int] = defaultdict(int)
        self._tar: tarfile.TarFile | None = None

    def add(self, image: ImageRecord) -> None:
        """Append to the set's last shard, or start the next one."""
        number = self._counts[image.set_name]
        self._counts[image.set_name] += 1
        if number % _SHARD_SIZE == 0:
            self.finish()
            path = self._path(f'{image.set_name}/{number // _SHARD_SIZE:06d}.tar')
            self._tar = tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed in finish)
        facts = {'caption': image.caption, 'class_names': image.class_names}
        self._append(f'{image.name}.jpg', image.jpeg)
        self._append(f'{image.name}.txt', image.caption.encode())
        self._append(f'{image.name}.json', _json(facts).encode())

    def finish(self) -> None:
        """Close the last shard."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def _append(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)  # no time and no owner: the same bytes for everyone
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def _lists(set_name: str) -> list[str]:
    """The lists that contain an image: 'val_base' is a part of 'val'."""
    return list(dict.fromkeys([set_name, set_name.split('_')[0]]))


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(',', ':'))
