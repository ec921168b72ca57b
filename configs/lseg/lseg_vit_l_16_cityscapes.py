"""LSeg on Cityscapes: crops of 768 pixels from images of 2048.

    clipdense prepare cityscapes data/cityscapes
    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_cityscapes.py

Cost: 240 epochs of Cityscapes.
Score: none was published.
Not run here: needs Cityscapes and 8 GPUs for days.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_ade20k import *
    from .._base_.lseg_release import *

data_root = 'data/cityscapes'
model['slide'] = dict(short_side=1024, window=768, stride=512)
train_dataloader['dataset'].update(size=768, long_side=2048)
for part in (train_dataloader['dataset'], test_dataloader):
    part['dataset'].update(benchmark='cityscapes', root=data_root)
