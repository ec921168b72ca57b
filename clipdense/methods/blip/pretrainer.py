"""Pre-training of BLIP.  B: pairs, L: tokens, Q: queue."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .losses import caption_loss
from .matching import Draw, MatchingTrainer
from .tokenizer import Tokens
from .trainer import load_blip


@MODELS.register_module()
class BlipPretrainer(MatchingTrainer):
    """Contrastive loss (ITC), matching with hard negatives (ITM) and language modeling (LM) in one step.

    The data is that of ``BlipTrainer``.  Batches are not split into micro-batches: negatives are drawn from
    the batch, and a part of it would have others.

    Args:
        blip: a BLIP with encoder, decoder and heads, its config, or weights for ``checkpoint.load``.
        queue_size: Q; 57600 in the release.
        momentum: of the momentum model.
        alpha: weight of its soft targets, which grows linearly over the first steps.
        ramp_steps: number of these steps; two epochs in the release.
        smoothing: of the labels of language modeling.
        micro_batch: must be None.
        hard_negatives: draw negatives by similarity; False draws all alike, for data in which many captions
            fit many images.
        drop_path: stochastic depth of the image tower, and of its momentum copy as in the release; see
            ``trainer.load_blip``.

    Raises:
        InputError: a model without these parts, or a setting out of range.

    Source: arXiv 2201.12086, section 3.2; salesforce/BLIP models/blip_pretrain.py.
    """

    def __init__(
        self,
        blip: nn.Module | dict | str | Path,
        queue_size: int = 57600,
        momentum: float = 0.995,
        alpha: float = 0.4,
        ramp_steps: int = 0,
        smoothing: float = 0.1,
        micro_batch: int | None = None,
        hard_negatives: bool = True,
        drop_path: float | None = None,
    ) -> None:
        model = load_blip(blip, drop_path=drop_path)
        if not model.size.shared or model.itm_head is None:
            raise InputError(
                'pre-training needs a BLIP whose encoder and decoder share their layers, with a matching '
                "head (such as the size 'BLIP-B')"
            )
        super().__init__(
            model, queue_size, momentum, alpha, ramp_steps, smoothing, micro_batch, hard_negatives
        )

    def losses(
        self, images: Tensor, texts: Tokens, numbers: Tensor | None = None, draw: Draw | None = None
    ) -> dict[str, Tensor]:
        """The three losses of a step, in the order of the release.

        Args:
            images: (B, 3, H, W), normalized.
            texts: B texts that start with ``ids.cls``.
            numbers: not used, each pair has an image of its own.
            draw: weights (B, B) of images for each text and of texts for each image -> the index of a
                negative image for each text and of a negative text for each image, (B,) each; drawn by these
                weights by default.
        """
        batch, pairs = self.encode(images, texts), len(images)
        contrastive, to_images, to_texts = self.contrast(batch)
        weights = self.weights(to_images[:, :pairs]), self.weights(to_texts[:, :pairs])
        return {
            'contrastive_loss': contrastive,
            'matching_loss': self.match(batch.tokens, texts, weights, draw),
            'language_loss': caption_loss(self.blip, batch.tokens, texts, self.smoothing),
        }
