"""What all configs share: a line every 50 steps, a checkpoint every 1000, the two newest kept, the trained
model as a file of its own, a fixed seed.

Left out: TensorBoard and the like, which write more files.  To have one::

    visualizer = dict(type=Visualizer, vis_backends=[dict(type=TensorboardVisBackend)])
"""

from clipdense.engine.checkpoint_hook import CheckpointHook
from clipdense.engine.export import ExportHook
from clipdense.engine.hooks import ProgressHook

default_scope = None  # configs name classes, not strings
default_hooks = dict(
    logger=dict(type=ProgressHook, interval=50),
    checkpoint=dict(type=CheckpointHook, interval=1000, max_keep=2),
    export=dict(type=ExportHook),
)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
randomness = dict(seed=0)
load_from = None
resume = False
