r"""ViLD on scenes of 96 pixels with a teacher that has read the names of novel classes; small.

    clipdense embed regions vild/vild_scenes work_dirs/vild_scenes_rpn/step_1000.pth \
        data/scenes_detection/regions --max 16
    clipdense train vild/vild_scenes

All four variants, several seeds, in one table: ``python tools/vild_scenes.py``, which does all of it.

Cost: 2 to 5 minutes in one thread beside other jobs; the whole tool, three seeds, 94 CPU-minutes.
Score: AP50, three seeds, on class names that no box had: text 0.030, image 0.120, vild 0.100, ensemble 0.072;
on names that boxes had 0.406, 0.290, 0.366, 0.418.  docs/research/learning_vild.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_detection import *
    from .._base_.vild_scenes import *

proposer = 'work_dirs/vild_scenes_rpn/step_1000.pth'
model.merge(dict(frozen=('backbone', 'neck', 'rpn_head'), start=proposer))
train_dataloader.merge(dict(dataset=dict(regions=f'{data_root}/regions')))
train_cfg = dict(max_steps=1000)
