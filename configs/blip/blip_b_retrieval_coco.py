"""BLIP ViT-B/16 fine-tuned for retrieval on COCO, 384 pixels: contrastive loss and matching.

    torchrun --nproc_per_node 8 tools/train.py configs/blip/blip_b_retrieval_coco.py \\
        -o model.blip=model_base.pth

Cost: 6 epochs at a batch of 256 in the release.
Score: the paper reports 81.9 % text recall at 1 and 64.3 % image recall at 1 on COCO with 129 million pairs.
Not run here: needs the released pre-trained weights, COCO and 8 GPUs.
"""

from mmengine.config import read_base

from clipdense.data.image_text.datasets import CocoCaptions
from clipdense.engine.optimizer import EpochCosine
from clipdense.methods.blip.finetuning import BlipRetrievalTrainer

with read_base():
    from .._base_.blip_release import *
    from .._base_.default_runtime import *

model = dict(
    type=BlipRetrievalTrainer,
    blip='model_base.pth',
    image_size=384,
    queue_size=57_600,
    ramp_steps=442,  # one epoch
)
blip_augment.update(size=384, scale=(0.5, 1.0))
blip_ids.update(longest=35)
train_dataloader.update(
    batch_size=32,
    drop_last=True,
    dataset=dict(
        type=CocoCaptions,
        annotation_file='data/coco/annotations/captions_train2014.json',
        image_folder='data/coco/train2014',
        transform=blip_augment,
        tokenizer=blip_ids,
    ),
)
train_cfg = dict(max_epochs=6)
optim_wrapper['optimizer'].update(lr=1e-5)
param_scheduler = dict(type=EpochCosine, warmup=0)
