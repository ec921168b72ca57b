"""Blood cells (BCCD, PASCAL VOC layout): data, with platelets as the novel class."""

from clipdense.data.detection.datasets import VOCDetection
from clipdense.data.detection.transforms import RandomFlip, Resize

data_root = 'data/bccd'
small = dict(type=Resize, scale=(320, 240), keep_ratio=True)
train_set = dict(type=VOCDetection, root=data_root, split='train', classes=['RBC', 'WBC'])
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        **train_set,
        training=True,
        transforms=[small, dict(type=RandomFlip, prob=0.5, direction=['horizontal', 'vertical'])],
    ),
)
proposal_dataset = dict(**train_set, transforms=[small])
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type=VOCDetection,
        root=data_root,
        split='test',
        classes=['RBC', 'WBC', 'Platelets'],
        novel=['Platelets'],
        transforms=[small],
    ),
)
train_cfg = dict(max_steps=400)
