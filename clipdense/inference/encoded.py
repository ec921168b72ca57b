"""Images that were encoded once, for any number of vocabularies."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image
from torch import Tensor, nn

from clipdense.utils.errors import InputError

_TOKENS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True, repr=False, eq=False)
class Encoded:
    """An image as a predictor encoded it; the predictor takes it wherever it takes an image.

    Args:
        image: the image, after EXIF rotation.
        features: what the model computed.
        model: a token of the model that encoded it.
        settings: name -> value of what the encoding depends on.
    """

    image: Image.Image
    features: Any
    model: str
    settings: Mapping[str, Hashable]

    def __repr__(self) -> str:
        """``Encoded(640 x 480, 3.1 MB)``, width first."""
        return f'Encoded({self.image.width} x {self.image.height}, {self.nbytes / 1e6:.1f} MB)'

    @property
    def nbytes(self) -> int:
        """Bytes of the features and of the image."""
        tensors = {one.untyped_storage().data_ptr(): one for one in _tensors(self.features)}
        return sum(one.numel() * one.element_size() for one in tensors.values()) + 3 * (
            self.image.width * self.image.height
        )

    def check(self, model: nn.Module, settings: Mapping[str, Hashable]) -> None:
        """Check that a predictor can use this.

        Raises:
            InputError: another model encoded it, or the same with other settings, which are named.
        """
        if self.model != model_token(model):
            raise InputError(
                'the image was encoded by another model: encode it with the predictor that is asked'
            )
        for name, value in settings.items():
            if self.settings.get(name) != value:
                raise InputError(
                    f'the image was encoded with another {name} ({self.settings.get(name)}, now {value}): '
                    'encode it again'
                )


def model_token(model: nn.Module) -> str:
    """A name of a model, unique in all processes; copies have others."""
    return _TOKENS.setdefault(model, uuid.uuid4().hex)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dicts and objects with fields."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif hasattr(value, 'all_items'):  # mmengine's InstanceData
        yield from (one for _, one in value.all_items() if isinstance(one, Tensor))
