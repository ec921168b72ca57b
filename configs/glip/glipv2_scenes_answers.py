"""GLIPv2 that answers questions about scenes of 96 pixels, learned beside the boxes of base classes.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    clipdense train contrastive/clip_scenes
    clipdense train glip/glip_scenes_captions
    clipdense train glip/glipv2_scenes_answers

Three questions to an image with boxes (10,000 and 3,349 in an epoch).  Questions are those of
``blip/blip_scenes_vqa``.

Cost: 4 minutes of one thread beside other jobs.
Score: three seeds, accuracy of answers 0.570 / 0.587 / 0.432 on base / novel / unseen (0.356 / 0.391 / 0.350
by the most frequent answer to each kind of question); AP50 among all 64 names 0.595 / 0.677 / 0.571
(0.610 / 0.666 / 0.597 before).  docs/research/learning_glip.md.
"""

from mmengine.config import read_base

from clipdense.data.detection.mixture import DetectionMixture
from clipdense.data.detection.whole_images import QuestionDetection
from clipdense.data.scenes import SceneQuestions
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.answering import AnswerAccuracy
from clipdense.methods.glip.v2.detector import GLIPv2

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_scenes import *
    from .._base_.scenes_detection import *

answers = [
    *(
        'red',
        'green',
        'blue',
        'yellow',
        'solid',
        'striped',
        'dotted',
        'checked',
        'circle',
        'square',
        'triangle',
    ),
    *('star', 'one', 'two', 'three', 'plain', 'sandy', 'rough', 'cloudy', 'woven', 'yes', 'no'),
]
model.update(
    type=GLIPv2,
    objectives=dict(answers=dict(answers=answers, image_size=96, width=64)),
    start='work_dirs/glip_scenes_captions/glip.safetensors',
)
boxes = train_dataloader.pop('dataset')
train_dataloader.update(
    batch_size=16,
    dataset=dict(
        type=DetectionMixture,
        datasets=dict(
            boxes=boxes,
            questions=dict(
                type=QuestionDetection,
                questions=dict(type=SceneQuestions, num_images=20_000, seed=1, image_size=96),
                image_size=96,
            ),
        ),
        weights=dict(questions=0.5),
    ),
)
train_cfg = dict(max_steps=900)
custom_hooks['evaluation'] = dict(
    type=EvaluationHook,
    evaluations={
        f'generation/{split}': dict(
            type=AnswerAccuracy,
            dataset=dict(
                type=SceneQuestions,
                num_images=320,
                splits=(split,),
                stream='val',
                vary_questions=False,
                image_size=96,
            ),
            by='generation',
            batch_size=64,
            name=f'generation/{split}',
        )
        for split in ('base', 'novel', 'unseen')
    },
)
