"""Text towers of Hugging Face's transformers, as open_clip builds them: RoBERTa, XLM-R, NLLB, BERT.

K: texts, L: tokens, C: width, D: joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipdense.layers.attention import causal_mask
from clipdense.layers.depth import parameter_depths
from clipdense.layers.exporting import exporting
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, MissingPackage

from .conse import Centered
from .sizes import HFTextSize

_CAUSAL = ('bert', 'roberta', 'xlm-roberta', 't5', 'mt5', 'm2m_100')  # follow a mask for each token


@MODELS.register_module()
class HFTextTower(nn.Module):
    """A text encoder of transformers, pooling over its tokens, and a projection.

    Args:
        size: architecture, pooling and projection; or a dict with the fields of ``HFTextSize``.

    Raises:
        MissingPackage: transformers is not installed, or has no such architecture.
        InputError: an unknown pooler.

    Source: open_clip hf_model.py ``HFTextEncoder``.
    """

    def __init__(self, size: HFTextSize | dict) -> None:
        super().__init__()
        self.size = size = HFTextSize(**size) if isinstance(size, dict) else size
        if size.pooler not in POOLERS:
            raise InputError(f'unknown pooler {size.pooler!r}: use one of {", ".join(POOLERS)}')
        self.transformer: Any = _encoder(size)
        self.pad_id = self.transformer.config.pad_token_id
        self.proj = _projection(size)
        self._gradient_checkpointing = False

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': type(self), 'size': asdict(self.size)}

    def parameter_depths(self) -> dict[str, int]:
        """0 for what embeds tokens, 1 + i for layer i, then pooler and projection."""
        lists = {name: part for name, part in self.named_modules() if isinstance(part, nn.ModuleList)}
        stack = next(name for name in lists if name.endswith(('layer', 'layers')))
        layers = [f'{stack}.{index}' for index in range(len(lists[stack]))]
        names = {name.rpartition('.')[0] for name, _ in self.named_parameters() if 'embed' in name}
        return parameter_depths(self, layers, first=sorted(names))

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on == self._gradient_checkpointing:
            return
        if on:
            self.transformer.gradient_checkpointing_enable()
        else:
            self.transformer.gradient_checkpointing_disable()
        self._gradient_checkpointing = on

    def forward(self, token_ids: Tensor) -> Tensor:
        """(K, L) -> features (K, C), before projection.

        Positions that are padding in all texts are left out, which changes nothing else.
        """
        mask = token_ids.ne(self.pad_id)  # (K, L)
        if exporting():
            return self._pool(token_ids, mask)
        filled = mask.any(dim=0).nonzero()
        length = int(filled.max()) + 1 if len(filled) else 1
        return self._pool(token_ids[:, :length], mask[:, :length])

    def forward_embeddings(
        self, embeddings: Tensor, eot: Tensor, deep: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Not available: learned prompts need a text tower of CLIP.

        Raises:
            InputError: always.
        """
        raise InputError(
            f'learned prompts need a text tower of CLIP, not a {self.size.model_type} of transformers'
        )

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(K, L) -> features of every token (K, L, C), not projected.

        Args:
            token_ids: of K texts.
            mask: (K, L) bool, False for padding, which is not attended to; by default padding ids.
        """
        mask = token_ids.ne(self.pad_id) if mask is None else mask
        return self.transformer(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state

    def step(
        self, token_ids: Tensor, past: Sequence[tuple[Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor]]]:
        """The next tokens of texts, each of which reads those before it.

        There are no cached keys: the tokens before are read again, and the cache has their ids.

        Args:
            token_ids: (K, L).
            past: the cache of the tokens before them; None at the beginning.

        Returns:
            Features (K, L, C), not projected, and the cache with these tokens.

        Raises:
            InputError: an architecture of which it is not known that it can be read causally.
        """
        if self.size.model_type not in _CAUSAL:
            raise InputError(
                f'a text tower of kind {self.size.model_type} cannot read a text causally; those that can: '
                f'{", ".join(_CAUSAL)}, and that of a CLIP'
            )
        whole = token_ids if past is None else torch.cat([past[0][0], token_ids], dim=1)  # (K, P + L)
        mask = causal_mask(whole.shape[1], device=whole.device).expand(len(whole), 1, -1, -1)
        states = self.transformer(input_ids=whole, attention_mask=mask).last_hidden_state
        return states[:, -token_ids.shape[1] :], [(whole,)]

    def project(self, features: Tensor) -> Tensor:
        """(K, C) -> (K, D)."""
        return self.proj(features)

    def _pool(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        output = self.transformer(input_ids=token_ids, attention_mask=mask.long())
        return POOLERS[self.size.pooler](output, mask)


def mean_pooler(output: Any, mask: Tensor) -> Tensor:
    """The mean over the tokens that are not padding."""
    weights = mask.unsqueeze(-1).to(output.last_hidden_state.dtype)  # (K, L, 1)
    return (output.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1)


def cls_pooler(output: Any, mask: Tensor) -> Tensor:
    """The pooled output of the architecture, or the first token where it has none."""
    pooled = getattr(output, 'pooler_output', None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled


def cls_last_hidden_state_pooler(output: Any, mask: Tensor) -> Tensor:
    """The first token."""
    return output.last_hidden_state[:, 0]


POOLERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    function.__name__: function for function in (mean_pooler, cls_pooler, cls_last_hidden_state_pooler)
}


def _encoder(size: HFTextSize) -> Any:
    """The encoder with new weights; on the meta device its buffers, which no file contains, are real."""
    try:
        from transformers import CONFIG_MAPPING, AutoModel, __version__
    except ImportError as error:
        raise MissingPackage(
            f'a text tower of kind {size.model_type} needs transformers: pip install "clipdense[hf]"'
        ) from error
    if size.model_type not in CONFIG_MAPPING:
        raise MissingPackage(
            f'the installed transformers {__version__} has no model type {size.model_type!r}; a newer '
            'release may: pip install --upgrade transformers'
        )
    config = CONFIG_MAPPING[size.model_type](**size.options)
    with real_buffers():
        if getattr(config, 'is_encoder_decoder', False):
            return AutoModel.from_config(config).get_encoder()
        return AutoModel.from_config(config, add_pooling_layer=size.pooler == 'cls_pooler')


def _projection(size: HFTextSize) -> nn.Module:
    """open_clip's projection: none, a linear layer, or two with GELU; or that of ConSE."""
    if size.projection in (None, 'centered'):
        if size.width != size.embed_dim:
            raise InputError(
                f'{size.model_type} of width {size.width} has no projection to embed_dim {size.embed_dim}'
            )
        return Centered(size.width) if size.projection else nn.Identity()
    if size.projection == 'linear':
        return nn.Linear(size.width, size.embed_dim, bias=False)
    hidden = (size.width + size.embed_dim) // 2
    return nn.Sequential(
        nn.Linear(size.width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, size.embed_dim, bias=False)
    )


@contextmanager
def real_buffers() -> Iterator[None]:
    """Within ``meta_device``: parameters without memory, but buffers with their values on the CPU."""
    if not torch.empty(0).is_meta:
        yield
        return
    with torch.device('cpu'), _EmptyOnMeta():
        yield


class _EmptyOnMeta(TorchFunctionMode):
    """``torch.empty``, from which torch makes parameters, gives tensors without memory; others are real."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)
