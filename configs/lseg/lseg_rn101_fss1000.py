"""Zero-shot segmentation on FSS-1000: 240 classes never seen.

    clipdense train lseg/lseg_rn101_fss1000

The release trains on each episode's support image too; here the model sees the query alone.
Cost: 4 epochs of FSS-1000.
Score: the release gives 84.7 mIoU, and 87.8 with ViT-L/16.
Not run here: needs FSS-1000 and a GPU.
"""

from mmengine.config import read_base

from clipdense.data.segmentation.few_shot import FSS1000
from clipdense.evaluation.few_shot import FoldIoU

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_episodes import *
    from .._base_.lseg_release import *

train_dataloader.update(dataset=dict(type=FSS1000, root='data/FSS-1000', split='train'))
test_dataloader.update(dataset=dict(type=FSS1000, root='data/FSS-1000', split='test'))
test_evaluator.update(type=FoldIoU)
train_cfg.update(max_epochs=4)
