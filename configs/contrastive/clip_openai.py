"""CLIP as OpenAI trained it, on 400 million pairs; ViT-B/16 unless another size is named.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_openai.py \\
        -o train_dataloader.dataset.urls='/data/shards/{00000..99999}.tar'

Other sizes, each by its options:

    ViT-B/32  -o model.clip.size=ViT-B-32-quickgelu
    ViT-L/14  -o model.clip.size=ViT-L-14-quickgelu -o optim_wrapper.optimizer.lr=4e-4
    RN50      -o model.clip.size=RN50-quickgelu -o 'optim_wrapper.optimizer.betas=(0.9, 0.999)' \\
              -o optim_wrapper.optimizer.eps=1e-8

Any webdataset shards will do.
Cost: 32 epochs at a batch of 32,768 in the paper.
Score: Radford et al. (2021) report ImageNet zero-shot top-1 of 59.6 % (RN50), 63.2 % (ViT-B/32), 68.6 %
(ViT-B/16) and 75.3 % (ViT-L/14).
Not run here: needs the paper's 400 million pairs, which are not public, and hundreds of GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *
