"""Table of the datasets: folders, file suffixes, lists, labels and download addresses.

Source: the dataset configs of SCLIP (arXiv 2312.01597) and of ProxyCLIP (ADE20K's 847 classes), which the
training-free papers share, and mmsegmentation's guide to preparing datasets, whose folders these are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.class_names import named_vocabulary
from clipdense.vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class Benchmark:
    """A dataset with one interpretation of its labels.

    Args:
        name: used in commands.
        title: used in tables and messages.
        vocabulary: name of the class list, in the order of the labels.
        folders: possible places below the parent folder of all datasets, the usual one first.
        images, masks: folders of images and masks, relative to the dataset's folder.
        image_suffix, mask_suffix: ends of file names; the part before is the same for both.
        num_images: published number of images.
        source: where to get it.
        split_list: file that lists the images; by default all images of the folder.
        zero_is_unlabeled: in the files, 0 is unlabeled and 1 is class 0 ("reduce zero label").
        ignore_index: label of ignored pixels.
        prepare: the conversion that makes its masks, for ``clipdense prepare``; empty where none is needed.
    """

    name: str
    title: str
    vocabulary: str
    folders: tuple[str, ...]
    images: str
    masks: str
    image_suffix: str
    mask_suffix: str
    num_images: int
    source: str
    split_list: str = ''
    zero_is_unlabeled: bool = False
    ignore_index: int = 255
    prepare: str = ''

    def classes(self) -> Vocabulary:
        """The classes in the order of its labels."""
        return named_vocabulary(self.vocabulary)


_VOC21 = Benchmark(
    'voc21',
    'VOC21',
    'voc21',
    folders=('VOCdevkit/VOC2012', 'VOC2012'),
    images='JPEGImages',
    masks='SegmentationClass',
    image_suffix='.jpg',
    mask_suffix='.png',
    num_images=1449,
    source='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar',
    split_list='ImageSets/Segmentation/val.txt',
)
_CONTEXT60 = Benchmark(
    'context60',
    'Context60',
    'context60',
    folders=('VOCdevkit/VOC2010', 'VOC2010'),
    images='JPEGImages',
    masks='SegmentationClassContext',
    image_suffix='.jpg',
    mask_suffix='.png',
    num_images=5105,
    source='http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and '
    'https://codalabuser.blob.core.windows.net/public/trainval_merged.json (labels)',
    split_list='ImageSets/SegmentationContext/val.txt',
    prepare='context',
)
_COCO_STUFF = Benchmark(
    'coco_stuff',
    'COCO-Stuff',
    'coco_stuff',
    folders=('coco_stuff164k',),
    images='images/val2017',
    masks='annotations/val2017',
    image_suffix='.jpg',
    mask_suffix='_labelTrainIds.png',
    num_images=5000,
    source='http://images.cocodataset.org/zips/val2017.zip (to images/) and http://calvin.inf.ed.ac.uk/'
    'wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip (to annotations/)',
    prepare='coco_stuff',
)
# Things, and a background for stuff and unlabeled pixels: no pixel is ignored.
_COCO_OBJECT = replace(
    _COCO_STUFF,
    name='coco_object',
    title='COCO-Object',
    vocabulary='coco_object',
    folders=('coco_object', 'coco_stuff164k'),
    mask_suffix='_instanceTrainIds.png',
    prepare='coco_object',
)
_ADE20K = Benchmark(
    'ade20k',
    'ADE20K-150',
    'ade20k',
    folders=('ade/ADEChallengeData2016', 'ADEChallengeData2016'),
    images='images/validation',
    masks='annotations/validation',
    image_suffix='.jpg',
    mask_suffix='.png',
    num_images=2000,
    source='http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
    zero_is_unlabeled=True,
)
_ADE20K_FULL = Benchmark(
    'ade20k_full',
    'ADE20K-847',
    'ade20k_full',
    folders=('ADE20K_2021_17_01',),
    images='images_detectron2/validation',
    masks='annotations_detectron2/validation',
    image_suffix='.jpg',
    mask_suffix='.tif',
    num_images=2000,
    source='https://groups.csail.mit.edu/vision/datasets/ADE20K/ (after registration)',
    ignore_index=65535,
    prepare='ade20k_full',
)
_CITYSCAPES = Benchmark(
    'cityscapes',
    'Cityscapes',
    'cityscapes',
    folders=('cityscapes',),
    images='leftImg8bit/val',
    masks='gtFine/val',
    image_suffix='_leftImg8bit.png',
    mask_suffix='_gtFine_labelTrainIds.png',
    num_images=500,
    source='https://www.cityscapes-dataset.com/downloads/ (after registration): '
    'leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip',
    prepare='cityscapes',
)

TRAINING_DATA = ('voc_aug',)  # which can be prepared, but are not benchmarks
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _VOC21,
        _CONTEXT60,
        _COCO_OBJECT,
        replace(_VOC21, name='voc20', title='VOC20', vocabulary='voc20', zero_is_unlabeled=True),
        replace(
            _CONTEXT60, name='context59', title='Context59', vocabulary='context59', zero_is_unlabeled=True
        ),
        _COCO_STUFF,
        _CITYSCAPES,
        _ADE20K,
        _ADE20K_FULL,
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The dataset of a name or title; case, "-" and "_" do not matter.

    Raises:
        InputError: an unknown name; the nearest is named.
    """
    for benchmark in BENCHMARKS.values():
        if _plain(name) in (_plain(benchmark.name), _plain(benchmark.title)):
            return benchmark
    raise InputError(
        f'unknown dataset {name!r}.{nearest(name, BENCHMARKS)} Use {", ".join(BENCHMARKS)}, '
        'or a folder in PASCAL VOC format'
    )


def _plain(name: str) -> str:
    return name.lower().replace('-', '').replace('_', '')
