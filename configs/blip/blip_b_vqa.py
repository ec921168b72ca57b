"""BLIP ViT-B/16 fine-tuned to answer questions of VQA v2 and Visual Genome, 480 pixels.

    torchrun --nproc_per_node 16 tools/train.py configs/blip/blip_b_vqa.py -o model.blip=model_base.pth

Questions are lists as in the release, with the answers of ten people each, whose shares are the weights of
the answers; those of Visual Genome have one, of weight 0.2.  ``VqaQuestions`` reads the files of VQA v2.

Cost: 10 epochs at a batch of 256 in the release.
Score: the paper reports 78.32 % on test-std with 129 million pairs and CapFilt.
Not run here: needs the released pre-trained weights, VQA v2 with Visual Genome, and 16 GPUs.
"""

from mmengine.config import read_base

from clipdense.data.image_text.question_files import QuestionList
from clipdense.engine.optimizer import EpochCosine
from clipdense.methods.blip.questions import BlipAnswerTrainer
from clipdense.methods.blip.tokenizer import QuestionIds

with read_base():
    from .._base_.blip_release import *
    from .._base_.default_runtime import *

model = dict(type=BlipAnswerTrainer, blip='model_base.pth', image_size=480)
blip_augment.update(size=480, scale=(0.5, 1.0))
train_dataloader.update(
    batch_size=16,
    dataset=dict(
        type=QuestionList,
        files=[f'data/vqa/{name}.json' for name in ('vqa_train', 'vqa_val', 'vg_qa')],
        image_folder='data/vqa/images',
        transform=blip_augment,
        tokenizer=dict(type=QuestionIds, size=dict(), file='bert-base-uncased/vocab.txt', longest=35),
    ),
)
train_cfg = dict(max_epochs=10)
optim_wrapper['optimizer'].update(lr=2e-5)
param_scheduler = dict(type=EpochCosine, warmup=0)
