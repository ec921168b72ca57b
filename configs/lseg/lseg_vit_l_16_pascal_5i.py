"""Zero-shot segmentation on PASCAL-5i: one class against the others, five classes never seen.

    for fold in 0 1 2 3; do
        clipdense train lseg/lseg_vit_l_16_pascal_5i --work-dir work_dirs/lseg_vit_l_16_pascal_5i/$fold \\
            -o train_dataloader.dataset.fold=$fold -o test_dataloader.dataset.fold=$fold
    done

Cost: not measured here (it needs a GPU and VOC with the masks of SBD).  The release stops after 3 epochs; the
rate still follows a schedule of 240.
Score: not measured here.  The paper gives 61.3, 63.6, 43.1 and 41.0 mIoU by fold, 52.3 on average, and 67.0
FB-IoU.  Users of the release did not reach these (isl-org/lang-seg issues 19, 36).

The release trains on each episode's support image too; this recipe sees the query alone.
"""

from mmengine.config import read_base

from clipdense.data.few_shot import PascalFold
from clipdense.evaluation.few_shot import FoldIoU
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.episodes import EpisodeLSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_release import *

model = dict(
    type=EpisodeLSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_large_patch16_384.augreg_in21k_ft_in1k', pretrained=True),
    ),
    clip='ViT-B-32/openai',
    statistics='half',
)
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(type=PascalFold, root='data/VOCdevkit/VOC2012', fold=0, split='train', episodes=None),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=4,
    dataset=dict(type=PascalFold, root='data/VOCdevkit/VOC2012', fold=0),
)
test_evaluator.update(type=FoldIoU)
train_cfg.update(max_epochs=4)
