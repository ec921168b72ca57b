"""Fine-tuning of a pre-trained BLIP for captions and for retrieval.  B: pairs, L: tokens, Q: queue."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.dist import gather_with_grad
from clipdense.utils.errors import InputError

from .losses import caption_loss
from .matching import MatchingTrainer
from .model import Blip
from .tokenizer import Tokens
from .trainer import BlipTrainer, load_blip


@MODELS.register_module()
class BlipCaptionTrainer(BlipTrainer):
    """Language modeling of captions; the file that it writes generates captions only.

    The prompt comes before each caption and is not learned; give the dataset ``CaptionIds`` with the same
    prompt.

    Args:
        blip: a BLIP with a decoder, its config, or weights for ``checkpoint.load``.
        prompt: beginning of the captions in training, that of ``CaptionRules``.
        smoothing: of the labels.
        image_size: of the images, see ``load_blip``.
        drop_path: stochastic depth of the image tower, see ``load_blip``.

    Raises:
        InputError: a model without decoder, one that answers questions, or a setting out of range.

    Source: salesforce/BLIP models/blip.py ``BLIP_Decoder``.
    """

    def __init__(
        self,
        blip: nn.Module | dict | str | Path,
        prompt: str = 'a picture of ',
        smoothing: float = 0.1,
        image_size: int | None = None,
        drop_path: float | None = None,
    ) -> None:
        model = load_blip(blip, image_size, drop_path)
        if model.size.answers:
            raise InputError('these BLIP weights answer questions: fine-tune pre-trained ones for captions')
        decoder = model.need_decoder()
        own = Blip(model.image, decoder=decoder, preprocess=model.preprocess, tokenizer=model.tokenizer)
        super().__init__(own, smoothing)
        self.prompt = prompt

    def losses(self, images: Tensor, texts: Tokens, numbers: Tensor | None = None) -> dict[str, Tensor]:
        """'language_loss' over the tokens after the prompt."""
        prompt = self._prompt()
        if prompt and not (texts.ids[:, 1 : 1 + len(prompt)] == texts.ids.new_tensor(prompt)).all():
            raise InputError(
                f'the captions do not begin with the prompt {self.prompt!r}: give CaptionIds and '
                'BlipCaptionTrainer one prompt'
            )
        tokens = self.blip.encode_image(images)
        return {
            'language_loss': caption_loss(self.blip, tokens, texts, self.smoothing, 1 + len(prompt)),
        }

    def _prompt(self) -> list[int]:
        return self.blip.tokenizer.encode(self.prompt) if self.prompt.strip() else []


@MODELS.register_module()
class BlipRetrievalTrainer(MatchingTrainer):
    """Contrastive loss and matching of a pre-trained BLIP, for retrieval and for filtering captions.

    Pairs of one image, by the name of the image, match one another: they share the target of the contrastive
    loss, also in the queue, and are no negatives.

    Args:
        blip: a BLIP with an encoder and heads, its config, or weights for ``checkpoint.load``.  A decoder is
            left out of the file that the training writes.
        queue_size: Q; 57600 in the release.
        momentum: of the momentum model.
        alpha: weight of its soft targets, which grows linearly over the first steps.
        ramp_steps: number of these steps; one epoch in the release.
        micro_batch: must be None.
        hard_negatives: draw negatives by similarity; False draws all alike, for data in which many captions
            fit many images.
        image_size: of the images, see ``load_blip``.
        drop_path: stochastic depth of the image tower, see ``load_blip``.

    Raises:
        InputError: a model without these parts, or a setting out of range.

    Source: salesforce/BLIP models/blip_retrieval.py with ``negative_all_rank``: negatives are drawn from the
        pairs of all processes.
    """

    numbered = takes_names = True

    def __init__(
        self,
        blip: nn.Module | dict | str | Path,
        queue_size: int = 57600,
        momentum: float = 0.995,
        alpha: float = 0.4,
        ramp_steps: int = 0,
        micro_batch: int | None = None,
        hard_negatives: bool = True,
        image_size: int | None = None,
        drop_path: float | None = None,
    ) -> None:
        model = load_blip(blip, image_size, drop_path)
        if model.joint is None or model.itm_head is None:
            raise InputError('retrieval needs a BLIP with an encoder and its heads: give pre-trained weights')
        own = Blip(
            model.image,
            model.encoder,
            joint=model.joint,
            itm_head=model.itm_head,
            preprocess=model.preprocess,
            tokenizer=model.tokenizer,
        )
        super().__init__(own, queue_size, momentum, alpha, ramp_steps, 0.0, micro_batch, hard_negatives)

    def losses(self, images: Tensor, texts: Tokens, numbers: Tensor | None = None) -> dict[str, Tensor]:
        """'contrastive_loss' and 'matching_loss'; negatives are drawn by the similarities of the model."""
        if numbers is None:
            raise InputError('the dataset gives no names of images, by which pairs of one image are found')
        batch = self.encode(images, texts)
        contrastive, _, _ = self.contrast(batch, numbers)
        temperature = self.blip.need_joint().temperature
        with torch.no_grad():
            images, captions, every = map(
                gather_with_grad, (batch.image, batch.text, numbers)
            )  # (G, D), (G,)
            to_images = batch.text @ images.mT / temperature  # (B, G)
            to_texts = batch.image @ captions.mT / temperature
        same = numbers[:, None] == every
        weights = self.weights(to_images, same), self.weights(to_texts, same)
        pool = self.of_all_processes(batch.tokens, texts)
        return {
            'contrastive_loss': contrastive,
            'matching_loss': self.match(batch.tokens, texts, weights, pool=pool),
        }
