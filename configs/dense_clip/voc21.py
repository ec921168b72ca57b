"""A training-free method on VOC21, the 21 classes of PASCAL VOC 2012, under the settings published for it.

    clipdense test dense_clip/voc21 WEIGHTS -o custom_hooks.evaluation.evaluations.voc21.method=naclip

Methods: sclip, clearclip, naclip, resclip, sc_clip, proxyclip, gem, clip_surgery and the others of
docs/methods/dense_clip.md.  Their settings (class names, templates, windows, scale, thresholds, position
embeddings) stand once, in the table of presets; ``clipdense reproduce METHOD voc21`` prints them with the
published score beside the same measurement.
Data: ``data/VOCdevkit/VOC2012``, or another usual place below ``root``.
Cost: no training; 1,449 images, each in one or about eight passes of the image tower.
Score: the papers' are in the output of ``clipdense reproduce``.
Not run here: needs OpenAI's ViT-B/16 and PASCAL VOC 2012.
"""

from mmengine.config import read_base

from clipdense.benchmarks.evaluation import PresetSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *

model = dict(type=DenseCLIP, clip='ViT-B-16/openai')  # replaced by WEIGHTS
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            voc21=dict(
                type=PresetSegmentation,
                method='sclip',
                dataset='voc21',
                root='data',
                options=dict(proxyclip=dict(proxy='vit_base_patch8_224.dino')),
            ),
        ),
    ),
)
