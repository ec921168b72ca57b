"""DetPro (Du et al., arXiv 2203.14940): a context for the class names of a detector, learned from regions.

N: regions, K: classes, n: context tokens, L: tokens, C: width of the text tower, D: joint space.

Each context is learned from regions in one range of IoU; ``prompt_sets`` adds several of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.class_embeddings import image_tower_digest
from clipdense.clip.model import CLIP
from clipdense.data.detection.region_features import LabeledRegions
from clipdense.engine.parallel import unwrapped
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import HOOKS, MODELS, build_module
from clipdense.tasks.classification import FrozenClipModel
from clipdense.utils.errors import InputError

from .checkpoint import save_prompts
from .classifier import FILE
from .detpro_losses import Mode, background_loss, frequency_weights
from .learner import CoOp, PromptLearner
from .prompt_sets import plain_name
from .texts import WithText, nameless_text, text_tower


@MODELS.register_module()
class DetPro(FrozenClipModel):
    """Learns the context of a detector's class names from CLIP embeddings of regions.

    The CLIP is frozen and in evaluation mode; it is not part of the state dict.

    Args:
        clip: the model, its config, or weights as ``clipdense.load`` takes them.
        learner: a ``PromptLearner`` of this CLIP, or its config, to which ``clip`` is added; a ``CoOp`` with
            8 context tokens by default.
        mode: loss for background, see ``background_loss``.
        temperature: divisor of the cosines.
        background_ctx: tokens of the learned background of the mode 'learn'.

    Raises:
        InputError: as the learner, a learner that needs images, or a temperature that is not positive.
    """

    clip: CLIP

    def __init__(
        self,
        clip: nn.Module | dict | str,
        learner: PromptLearner | Mapping[str, Any] | None = None,
        mode: Mode = 'soft',
        temperature: float = 0.01,
        background_ctx: int = 10,
    ) -> None:
        if not temperature > 0:
            raise InputError(f'temperature must be positive, got {temperature}')
        model: Any = load(clip) if isinstance(clip, str) else build_module(clip)
        super().__init__(model)
        if learner is None:
            learner = CoOp(model, n_ctx=8)
        elif isinstance(learner, Mapping):
            learner = build_module({**learner, 'clip': model})
        if learner.clip is not model:  # type: ignore[union-attr]
            raise InputError('the learner was built for another CLIP: give both the same')
        if learner.conditional or learner.changes_images:  # type: ignore[union-attr]
            raise InputError(
                f'regions are embedded before training, and a {type(learner).__name__} changes with the '
                'image: use CoOp'
            )
        self.learner: PromptLearner = learner  # type: ignore[assignment]
        self.mode, self.temperature = mode, temperature
        self.background: Background | None = Background(model, background_ctx) if mode == 'learn' else None
        self.register_buffer('class_weight', None, persistent=False)

    def set_regions(self, regions: LabeledRegions) -> None:
        """Set the classes and their weights to those of the training data.

        Raises:
            InputError: regions that were embedded by another CLIP, or as ``PromptLearner.set_classes``.
        """
        width = regions.features.shape[1]
        if width != self.clip.embed_dim:
            raise InputError(
                f'the regions were embedded by another CLIP: {width} values, the text tower has '
                f'{self.clip.embed_dim}'
            )
        if regions.teacher and isinstance(self.clip, CLIP):
            found = image_tower_digest(self.clip)
            if found != regions.teacher:
                raise InputError(
                    f'the regions were embedded by another CLIP: digest {regions.teacher[:12]}, that of the '
                    f'given weights is {found[:12]}; give the weights that embedded them'
                )
        self.learner.set_classes([plain_name(name) for name in regions.class_names])
        weight = frequency_weights(regions.labels, len(regions.class_names))
        self.class_weight = weight.to(next(self.parameters()).device)

    def forward(self, features: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        """Embeddings of regions (N, D) -> logits (N, K); mode 'loss': loss, and accuracy of objects."""
        classes = self.learner()  # (K, D)
        if self.background is not None:
            classes = torch.cat([classes, self.background()])
        logits = F.normalize(at_least_fp32(features), dim=-1) @ classes.mT / self.temperature
        count = len(self.learner.class_names)
        if mode != 'loss':
            return list(logits[:, :count]) if mode == 'predict' else logits[:, :count]
        if labels is None:
            raise InputError('training needs labels: use the dataset LabeledRegions')
        is_object = labels < count
        right = (logits[:, :count].argmax(dim=1) == labels)[is_object].sum()
        loss = background_loss(logits, labels, self.mode, self.class_weight)
        return {'loss': loss, 'accuracy': right / is_object.sum().clamp(min=1)}

    def export(self, folder: Path) -> Path:
        """Write the prompts, see ``save_prompts``; called after training."""
        return save_prompts(self.learner, folder / FILE)


class Background(nn.Module):
    """A text without class name whose tokens are learned: the background of the mode 'learn'.

    Args:
        clip: as that of the learner.
        n_ctx: n.
    """

    def __init__(self, clip: WithText, n_ctx: int) -> None:
        super().__init__()
        self.__dict__['clip'] = clip
        self.text = nameless_text(clip, n_ctx)
        self.ctx = nn.Parameter(torch.randn(n_ctx, text_tower(clip).size.width) * 0.02)

    def forward(self) -> Tensor:
        """(1, D), unit norm."""
        tower = text_tower(self.clip)
        text = self.text.to(self.ctx.device)
        prompt = text.assemble(self.ctx, tower.token_embed(text.token_ids))  # (1, L, C)
        return F.normalize(at_least_fp32(tower.project(tower.forward_embeddings(prompt, text.eot))), dim=-1)


@HOOKS.register_module()
class RegionsHook(Hook):
    """Gives a ``DetPro`` the classes and weights of its training data."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Set the regions of the training set.

        Raises:
            InputError: a dataset of another kind, or as ``DetPro.set_regions``.
        """
        dataset = runner.train_dataloader.dataset
        if not isinstance(dataset, LabeledRegions):
            raise InputError(f'DetPro is trained on LabeledRegions, not on {type(dataset).__name__}')
        unwrapped(runner.model).set_regions(dataset)
