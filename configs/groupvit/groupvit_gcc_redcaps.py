"""GroupViT as ``groupvit_gcc_yfcc``, with RedCaps12M in place of YFCC14M: 25.9 million pairs, as released.

    torchrun --nproc_per_node 16 tools/train.py configs/groupvit/groupvit_gcc_redcaps.py

The release leaves the multi-label loss out on RedCaps.
Cost: 16 V100 for two days in the paper, 30 epochs at a batch of 4,096.
Score: the repository, for models trained again after submission: 50.8 mIoU on VOC21, 23.7 on Context60, 27.5
on COCO-Object, 51.6 % on ImageNet.
Not run here: needs CC3M, CC12M and RedCaps12M, and 16 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.groupvit_gcc import *

model.update(multi_label_weight=0.0)
train_dataloader['dataset'].update(
    urls=['data/gcc3m_shards', 'data/gcc12m_shards', 'data/redcaps12m_shards'],
    tokenizer=None,
    samples_per_epoch=25_914_641,
)
train_cfg = dict(max_steps=189_804)  # 30 epochs
param_scheduler.update(warmup=12_653)
