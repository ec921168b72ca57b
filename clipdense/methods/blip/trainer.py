"""What the trainings of BLIP share.  B: pairs, L: tokens, S: image tokens, W: their width, D: joint space."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import describe
from clipdense.clip.vit import VisionTransformer
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
    from collections.abc import Mapping, Sequence

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
    tokenizer_name, text_name = 'CaptionIds', 'caption'  # of the data, for messages
    batch_matters = ''  # why a batch cannot be split into parts, if it cannot

    def __init__(self, blip: Blip, smoothing: float = 0.1) -> None:
        super().__init__(data_preprocessor=ImagePreprocessor(blip.preprocess.mean, blip.preprocess.std))
        check_share(smoothing=smoothing)
        self.blip, self.smoothing = blip, smoothing

    @abstractmethod
    def losses(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The losses of a batch, of the arguments that ``inputs`` gives."""

    def inputs(self, data: Mapping[str, Any]) -> tuple[Any, ...]:
        """Arguments of ``losses``: images, texts, and numbers (B,), equal for pairs of one image."""
        images = data['images']
        return images, self.tokens(data.get('token_ids')), image_numbers(data.get('names'), images.device)

    def forward(
        self,
        images: Tensor,
        token_ids: Tensor | None = None,
        names: Sequence[str] | None = None,
        mode: str = 'tensor',
        **more: Any,
    ) -> Any:
        """(B, 3, H, W) normalized, and what else a batch has -> losses (mode 'loss'), or image tokens."""
        if mode != 'loss':
            return self.blip.encode_image(images)
        return self.losses(*self.inputs({'images': images, 'token_ids': token_ids, 'names': names, **more}))

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step.

        Raises:
            InputError: accumulation, which changes what a batch is, or captions of another tokenizer.
        """
        if getattr(optim_wrapper, '_accumulative_counts', 1) > 1 and self.batch_matters:
            raise InputError(f'accumulative_counts must be 1: {self.batch_matters}')
        data = self.data_preprocessor(data, training=True)
        inputs = self.inputs(data)
        with optim_wrapper.optim_context(self):
            losses = run_pass(self, self.losses, *inputs)
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

    def tokens(self, token_ids: Tensor | None) -> Tokens:
        """Ids (B, L) whose padding is negative.

        Raises:
            InputError: they are not those of ``CaptionIds`` with the vocabulary of the model.
        """
        size = self.blip.text_size
        keep = None if token_ids is None else token_ids >= 0
        if token_ids is None or keep is None or not keep[:, :2].all():
            raise InputError(
                f'a {self.text_name} has no ids: use the tokenizer {self.tokenizer_name} for the dataset'
            )
        if not (token_ids[:, 0] == size.ids.cls).all():
            raise InputError(
                f'{self.text_name}s must start with the id {size.ids.cls}: use the tokenizer '
                f'{self.tokenizer_name} for the dataset, with the size of the text transformer'
            )
        if bool((token_ids[keep] >= size.vocab_size).any()):
            raise InputError(
                f'{self.text_name}s have ids that the model does not have: their tokenizer is another one'
            )
        length = int(keep.sum(dim=1).max())
        if length > size.context_length:
            raise InputError(
                f'a {self.text_name} has {length} tokens, and the model {size.context_length} '
                f'positions: set longest={size.context_length} of {self.tokenizer_name}'
            )
        ids = token_ids.masked_fill(~keep, size.ids.pad)
        return Tokens(ids[:, :length], keep[:, :length].long())


def load_blip(
    blip: nn.Module | dict | str | Path, image_size: int | None = None, drop_path: float | None = None
) -> Blip:
    """The BLIP to train.

    Args:
        blip: weights for ``checkpoint.load``, a model, or its config.
        image_size: of the images of training and inference; position embeddings are resized to it.
        drop_path: stochastic depth of the last block of a ViT in training, which grows linearly from 0 along
            the blocks; 0.1 for ViT-L and 0 for ViT-B in the release.  None: that of the model, which is 0 for
            weights.

    Raises:
        InputError: not a BLIP, an image size that it cannot have, or stochastic depth of another tower.
    """
    model = load(blip) if isinstance(blip, str | Path) else build_module(blip)
    if not isinstance(model, Blip):
        raise InputError(f'a BLIP is needed, got {type(model).__name__}')
    if image_size is not None and image_size != model.preprocess.image_size:
        resize_images(model, image_size)
    if drop_path is None:
        return model
    if not isinstance(model.image, VisionTransformer):
        raise InputError(
            f'drop_path={drop_path!r} is for a BLIP with a ViT, got a {type(model.image).__name__}: remove '
            "it (for a tower of timm, set drop_path_rate in the options of the size's image)"
        )
    model.image.set_drop_path(drop_path)
    return model


def resize_images(blip: Blip, image_size: int) -> None:
    """Make a BLIP one for images of another size: its preprocessing, and position embeddings of a ViT.

    Raises:
        InputError: a size that is not a multiple of the patches, or a tower without patches.
    """
    tower = blip.image
    if not isinstance(tower, VisionTransformer):
        raise InputError('image_size is for a BLIP with a ViT, whose position embeddings are resized')
    patch = tower.patch_size
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < patch:
        raise InputError(f'image_size must be a whole number of at least {patch}, got {image_size!r}')
    if image_size % patch:
        raise InputError(f'image_size must be a multiple of the patches of {patch} pixels, got {image_size}')
    side = image_size // patch
    tower.pos_embed = nn.Parameter(tower.positions((side, side)).detach().clone())
    tower.size = replace(tower.size, image_size=image_size)
    blip.preprocess = replace(blip.preprocess, image_size=image_size)


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
