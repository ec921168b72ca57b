"""What the trainings of BLIP share.  B: pairs, L: tokens, S: image tokens, W: their width, D: joint space."""

from __future__ import annotations

from abc import abstractmethod
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import describe
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.parallel import run_pass
from clipdense.registry import build_module
from clipdense.tasks.model import Model, total_loss
from clipdense.utils.errors import InputError
from clipdense.weights.io import WeightsFile

from .checkpoint import load, save
from .model import Blip
from .tokenizer import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.optim import OptimWrapper

FILE = 'blip.safetensors'  # what a training writes for inference
_PREFIX = 'blip.'  # of tensor names of the BLIP


class BlipTrainer(Model):
    """Trains a BLIP on images and captions; a subclass has the losses.

    ``token_ids`` of the data are (B, L), those of ``CaptionIds``: they start with ``ids.cls``, and padding is
    negative.

    Args:
        blip: the model, on which the subclass has checked what it needs.
        smoothing: of the labels of language modeling.

    Raises:
        InputError: a value out of range.
    """

    blip: Blip
    weights_argument = 'blip'
    batch_matters = ''  # why a batch cannot be split into parts, if it cannot

    def __init__(self, blip: Blip, smoothing: float = 0.1) -> None:
        super().__init__(data_preprocessor=ImagePreprocessor(blip.preprocess.mean, blip.preprocess.std))
        check_share(smoothing=smoothing)
        self.blip, self.smoothing = blip, smoothing

    @abstractmethod
    def losses(self, images: Tensor, texts: Tokens, numbers: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            images: (B, 3, H, W), normalized.
            texts: B texts that start with ``ids.cls``.
            numbers: (B,) int64, equal for pairs of one image.
        """

    def forward(
        self, images: Tensor, token_ids: Tensor, names: Sequence[str] | None = None, mode: str = 'tensor'
    ) -> Any:
        """(B, 3, H, W) normalized, (B, L), B names of images -> losses (mode 'loss'), or image tokens."""
        if mode != 'loss':
            return self.blip.encode_image(images)
        return self.losses(images, self.tokens(token_ids), image_numbers(names, token_ids.device))

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step.

        Raises:
            InputError: accumulation, which changes what a batch is, or captions of another tokenizer.
        """
        if getattr(optim_wrapper, '_accumulative_counts', 1) > 1 and self.batch_matters:
            raise InputError(f'accumulative_counts must be 1: {self.batch_matters}')
        data = self.data_preprocessor(data, training=True)
        images, texts = data['images'], self.tokens(data['token_ids'])
        numbers = image_numbers(data.get('names'), images.device)
        with optim_wrapper.optim_context(self):
            losses = run_pass(self, self.losses, images, texts, numbers)
        total, logged = total_loss(losses)
        optim_wrapper.update_params(total)
        return logged

    def checkpoint_meta(self) -> dict[str, Any]:
        """What ``clipdense.load`` needs to read the BLIP in a training checkpoint."""
        return {'blip': describe(self.blip.size, self.blip.preprocess)}  # type: ignore[arg-type]

    def export(self, folder: Path) -> Path:
        """Write the BLIP without what only the training needs; called after training."""
        save(self.blip, folder / FILE)
        return folder / FILE

    def own_tensors(self, file: WeightsFile) -> dict[str, Tensor]:
        """The tensors of a training checkpoint, or those of a BLIP beside those of this training."""
        if any(name.startswith(_PREFIX) for name in file.tensors):
            return dict(file.tensors)
        own = {name: x for name, x in self.state_dict().items() if not name.startswith(_PREFIX)}
        return own | {f'{_PREFIX}{name}': tensor for name, tensor in file.tensors.items()}

    def tokens(self, token_ids: Tensor) -> Tokens:
        """Ids (B, L) whose padding is negative.

        Raises:
            InputError: they are not those of ``CaptionIds`` with the vocabulary of the model.
        """
        size, keep = self.blip.text_size, token_ids >= 0
        if not keep[:, :2].all():
            raise InputError('a caption has no ids: use the tokenizer CaptionIds for the dataset')
        if not (token_ids[:, 0] == size.ids.cls).all():
            raise InputError(
                f'captions must start with the id {size.ids.cls}: use the tokenizer CaptionIds for the '
                'dataset, with the size of the text transformer'
            )
        if bool((token_ids[keep] >= size.vocab_size).any()):
            raise InputError('captions have ids that the model does not have: their tokenizer is another one')
        length = int(keep.sum(dim=1).max())
        if length > size.context_length:
            raise InputError(
                f'a caption has {length} tokens, and the model {size.context_length} positions: set longest='
                f'{size.context_length} of CaptionIds'
            )
        ids = token_ids.masked_fill(~keep, size.ids.pad)
        return Tokens(ids[:, :length], keep[:, :length].long())


def load_blip(blip: nn.Module | dict | str | Path) -> Blip:
    """The BLIP to train: weights for ``checkpoint.load``, a model, or its config."""
    model = load(blip) if isinstance(blip, str | Path) else build_module(blip)
    if not isinstance(model, Blip):
        raise InputError(f'a BLIP is needed, got {type(model).__name__}')
    return model


def with_first(ids: Tensor, start: int) -> Tensor:
    """Texts (B, L) with another first id."""
    ids = ids.clone()
    ids[:, 0] = start
    return ids


def image_numbers(names: Sequence[str] | None, device: torch.device) -> Tensor | None:
    """Names of images -> (B,) int64, equal for equal names; None without names."""
    if names is None:
        return None
    digests = [blake2b(str(name).encode('utf-8', 'surrogatepass'), digest_size=8).digest() for name in names]
    return torch.tensor([int.from_bytes(one, 'big', signed=True) for one in digests], device=device)


def check_share(**values: float) -> None:
    """Check that settings are at least 0 and below 1.

    Raises:
        InputError: naming the setting.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise InputError(f'{name} must be at least 0 and below 1, got {value!r}')


def check_pairs(size: int, last: bool = False) -> None:
    """Check that a batch has negatives.

    Raises:
        InputError: it has one pair.
    """
    if size < 2:
        where = 'the last batch of each epoch has one pair: set drop_last=True' if last else 'got one pair'
        raise InputError(f'matching needs a negative from the batch, so at least two pairs: {where}')
