"""LSeg on COCO-Stuff: 171 classes of things and stuff.

    clipdense prepare coco_stuff data/coco_stuff164k
    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_coco_stuff.py

Cost: 30 epochs, as many images as 176 epochs of ADE20K.
Score: none was published.
Not run here: needs COCO and 8 GPUs for days.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_ade20k import *
    from .._base_.lseg_release import *

data_root = 'data/coco_stuff164k'
for part in (train_dataloader['dataset'], test_dataloader):
    part['dataset'].update(benchmark='coco_stuff', root=data_root)
train_cfg.update(max_epochs=30)
param_scheduler.update(end=30)
