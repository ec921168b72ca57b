"""The BLIP of ``blip_scenes`` fine-tuned to answer questions, on 20,000 other scenes.

    clipdense scenes data/scenes --train 20000
    clipdense train blip/blip_scenes
    clipdense train blip/blip_scenes_vqa

Questions are drawn with the scenes: colors, textures and shapes of objects, their number, the ground, and
whether an object is there.

Cost: 239 CPU-seconds in one thread, with its evaluation.
Score: seed 0, accuracy of generated answers 0.550 / 0.609 / 0.356 on base / novel / unseen (0.356 / 0.391 /
0.350 by the most frequent answer to each kind of question), of chosen ones 0.550 / 0.606 / 0.356.
docs/research/learning_blip.md.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.scenes import SceneQuestions
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.answering import AnswerAccuracy
from clipdense.methods.blip.questions import BlipAnswerTrainer
from clipdense.methods.blip.tokenizer import QuestionIds

with read_base():
    from .._base_.blip_scenes import *
    from .._base_.default_runtime import *

question_words = [
    *('what', 'color', 'texture', 'shape', 'has', 'object', 'objects', 'how', 'many', 'are', 'like', '?'),
    *('yes', 'no', 'one', 'two', 'three'),
]
scene_text.update(words=[*scene_text['words'], *question_words])
model = dict(type=BlipAnswerTrainer, blip='work_dirs/blip_scenes/blip.safetensors', words=question_words)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        type=SceneQuestions,
        num_images=20_000,
        seed=1,
        tokenizer=dict(type=QuestionIds, size=scene_text, longest=12, longest_answer=4, most_answers=1),
    ),
)
train_cfg = dict(max_steps=1000)
param_scheduler = dict(type=WarmupCosine, warmup=50)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
)
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations={
            f'{by}/{split}': dict(
                type=AnswerAccuracy,
                dataset=dict(
                    type=SceneQuestions, num_images=320, splits=(split,), stream='val', vary_questions=False
                ),
                by=by,
                batch_size=64,
                name=f'{by}/{split}',
            )
            for by in ('generation', 'ranking')
            for split in ('base', 'novel', 'unseen')
        },
    ),
)
