"""A backbone that learns from images alone: ``python tools/proxy_scenes.py --out proxy.safetensors``.

No text and no label is used.  An image with hidden patches, turned and tinted, has to tell of each patch the
cluster to which a slow copy of the network assigns that patch and its neighbors in the image as it is
(iBOT, arXiv 2111.07832 section 3; neighbors as in SelfPatch, arXiv 2206.07990); the copy spreads the patches
of a batch evenly over the clusters (SwAV, arXiv 2006.09882 section 3).  The file is a proxy of ProxyCLIP:
``clipdense segment PHOTO --method proxyclip -o proxy=FILE``.

B: images, C: width, (h, w): patches, K: clusters, S: side of an image.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import Dataset

from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.data.scenes import Scenes
from clipdense.engine.hooks import ProgressHook
from clipdense.engine.launch import train
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.dense_clip.proxy import create_backbone, save_backbone
from clipdense.tasks.model import Model

NAME = 'vit_tiny_patch16_224'
ARGUMENTS = {'img_size': 32, 'patch_size': 4, 'embed_dim': 96, 'depth': 4, 'num_heads': 4, 'mlp_ratio': 2}


def main() -> None:
    """Train, then write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/proxy_scenes/proxy.safetensors'))
    parser.add_argument('--images', type=int, default=16_000, help='to learn from (%(default)s)')
    parser.add_argument('--steps', type=int, default=500, help='of 32 images (%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    begin = time.process_time()
    runner = train(config(options.images, options.steps), options.out.parent, resume=True, seed=options.seed)
    save_backbone(options.out, runner.model.teacher, NAME, ARGUMENTS)
    print(json.dumps({'proxy': str(options.out), 'cpu_seconds': round(time.process_time() - begin)}))


def config(images: int, steps: int) -> Config:
    """The whole training."""
    return Config(
        {
            'model': {'type': PatchClusters},
            'train_dataloader': {
                'batch_size': 32,
                'num_workers': 0,
                'dataset': {'type': Images, 'count': images},
            },
            'train_cfg': {'max_steps': steps},
            'optim_wrapper': {
                'type': PrecisionOptimWrapper,
                'precision': 'auto',
                'optimizer': {'type': AdamW, 'lr': 1e-3, 'weight_decay': 0.05},
            },
            'param_scheduler': [{'type': WarmupCosine, 'warmup': min(50, steps // 10)}],
            'default_hooks': {'logger': {'type': ProgressHook}},
        }
    )


class Images(Dataset):
    """Scenes of base and novel combinations, without anything that is known about them."""

    def __init__(self, count: int) -> None:
        self.scenes, self.count = Scenes(), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``images`` (3, S, S) uint8."""
        return {'images': torch.from_numpy(self.scenes.draw(index).image).permute(2, 0, 1)}


class PatchClusters(Model):
    """A network and its slow copy, which agree on clusters of patches.

    Args:
        name, arguments: of the backbone, see ``TimmProxy``.
        clusters: K.
        hidden: share of the patches that the network does not see.
        momentum: of the slow copy.
        around: side of the square of patches over which the copy's cosines are averaged.
        temperature: of the network's and of the copy's cosines.
    """

    def __init__(
        self,
        name: str = NAME,
        arguments: dict[str, Any] | None = None,
        clusters: int = 64,
        hidden: float = 0.4,
        momentum: float = 0.98,
        around: int = 3,
        temperature: tuple[float, float] = (0.1, 0.05),
    ) -> None:
        backbone = create_backbone(name, ARGUMENTS if arguments is None else arguments)
        statistics = backbone.pretrained_cfg
        super().__init__(data_preprocessor=ImagePreprocessor(statistics['mean'], statistics['std']))
        self.student = backbone
        self.centers = nn.Parameter(torch.randn(clusters, backbone.num_features))
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self.register_buffer('teacher_centers', self.centers.detach().clone())
        self.patch = backbone.feature_info[-1]['reduction']
        self.hidden, self.momentum, self.temperature = hidden, momentum, temperature
        self.around = around

    def init_weights(self) -> None:
        """Called before training: network and copy start from two draws."""
        self.student.init_weights()
        self.teacher.init_weights()

    def forward(self, images: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        """(B, 3, S, S), normalized -> the cross-entropy, and the share of clusters in use."""
        turn, mirror = (int(torch.randint(count, ())) for count in (4, 2))
        seen = _tint(_turn(images, turn, mirror))
        grid = [side // self.patch for side in images.shape[-2:]]
        hide = (torch.rand(len(images), 1, *grid) < self.hidden).to(images)
        seen = seen * (1 - F.interpolate(hide, images.shape[-2:]))  # hidden patches have the mean color
        student = _cosines(self.student, self.centers, seen)  # (B, K, h, w)
        with torch.no_grad():
            self._follow()
            teacher = _turn(_cosines(self.teacher, self.teacher_centers, images), turn, mirror)
            near = self.around // 2  # neighbors are mostly of one thing
            teacher = F.avg_pool2d(teacher, self.around, 1, near, count_include_pad=False)
            target = _evenly(teacher.transpose(0, 1).flatten(1).T / self.temperature[1])  # (Bhw, K)
        found = (student.transpose(0, 1).flatten(1).T / self.temperature[0]).log_softmax(dim=1)
        used = target.argmax(dim=1).unique().numel() / len(self.centers)
        return {'loss': -(target * found).sum(dim=1).mean(), 'used': images.new_tensor(used)}

    def _follow(self) -> None:
        """The copy moves a little towards the network."""
        ours, theirs = list(self.student.parameters()), list(self.teacher.parameters())
        for slow, fast in zip([*theirs, self.teacher_centers], [*ours, self.centers], strict=True):
            slow.lerp_(fast.detach(), 1 - self.momentum)


def _cosines(backbone: Any, centers: Tensor, images: Tensor) -> Tensor:
    """(B, 3, S, S), (K, C) -> (B, K, h, w): of each patch with each cluster's center."""
    (features,) = backbone.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
    return torch.einsum('bchw,kc->bkhw', F.normalize(features, dim=1), F.normalize(centers, dim=1))


def _turn(maps: Tensor, quarters: int, mirror: int) -> Tensor:
    """A scene has no top and no left: what lies where in the grid must not be learnt."""
    maps = maps.rot90(quarters, (2, 3))
    return maps.flip(3) if mirror else maps


def _tint(images: Tensor) -> Tensor:
    """Brighter or darker, more or less contrast, a little noise; each image by itself."""
    gain = 1 + 0.2 * (2 * torch.rand(len(images), 1, 1, 1) - 1)
    shift = 0.2 * (2 * torch.rand(len(images), 3, 1, 1) - 1)
    return images * gain.to(images) + shift.to(images) + 0.05 * torch.randn_like(images)


def _evenly(logits: Tensor, rounds: int = 3) -> Tensor:
    """(N, K) -> assignments (N, K) whose rows sum to one and whose columns to about N / K: Sinkhorn-Knopp."""
    for _ in range(rounds):
        logits = logits.log_softmax(dim=0).log_softmax(dim=1)
    return logits.exp()


if __name__ == '__main__':
    main()
