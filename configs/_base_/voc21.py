"""VOC21: the 1,449 validation images of PASCAL VOC 2012, twenty classes and the background.

``data/VOCdevkit/VOC2012``, or another usual place below ``data``; ``-o test_dataloader.dataset.root=FOLDER``.
"""

from clipdense.data.benchmarks.reader import BenchmarkSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.evaluation.mean_iou import MeanIoU
from clipdense.methods.dense_clip.segmenter import DenseCLIP

model = dict(type=DenseCLIP, clip='ViT-B-16/openai')  # replaced by the WEIGHTS of the command line
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(type=BenchmarkSegmentation, benchmark='voc21', root='data', vocabulary='voc21_sclip'),
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = [dict(type=VocabularyHook, templates='imagenet')]
