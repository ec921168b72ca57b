"""LiT: a text tower for a locked ViT-L/16 of timm that was trained on ImageNet-21k (arXiv 2111.07991).

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/lit_vit_l_16.py \\
        -o train_dataloader.dataset.urls='/data/shards/{00000..99999}.tar'

Any webdataset shards will do; timm fetches its weights.
Cost: 900 million samples, our choice.
Not run here: needs the weights of timm, shards and 8 GPUs.
"""

from mmengine.config import read_base

from clipdense.clip.pairs import pair_towers

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

model['clip'] = dict(
    type=pair_towers,
    image=dict(
        model='vit_large_patch16_224.augreg_in21k',
        image_size=224,
        embed_dim=768,
        projection='linear',
        pretrained=True,
    ),
    text=dict(width=768, layers=12, num_heads=12, mlp_width=3072, embed_dim=768, activation='gelu'),
)
model.update(
    lock_image=True,
    unlocked_groups=1,  # the projection, which is new
    micro_batch=512,
)
train_dataloader['dataset'].update(urls='data/shards/{00000..99999}.tar', samples_per_epoch=15_000_000)
train_cfg = dict(max_steps=27_466)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=1e-4)
