"""Parts of a CLIP as graphs for export, and what a graph is.

B: images, K: classes or texts, L: tokens, D: joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError

from .model import MAX_LOGIT_SCALE

Make = Callable[[tuple[int, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph.

    Args:
        shape: sizes; a string is the name of a size that is given at run time.
        make: shape and generator -> values to trace and check with; normal ones by default.
    """

    shape: tuple[int | str, ...]
    make: Make | None = None

    def example(self, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """Random values of a size."""
        shape = tuple(sizes[side] if isinstance(side, str) else side for side in self.shape)
        return torch.randn(shape, generator=generator) if self.make is None else self.make(shape, generator)


@dataclass(frozen=True)
class Graph:
    """A part of a model that can be exported: tensors in, tensors out, no state.

    Args:
        part: 'image', 'text', 'pixels', 'classifier', 'segmenter' or 'detector'.
        module: tensors in the order of ``inputs`` -> a tensor, or as many as ``outputs``.
        inputs: by name.
        outputs: what each is, with its shape, by name.
        sizes: of the named sizes when the graph is traced; at least 2.
        smallest: of named sizes; 1 by default.
        multiples: of which named sizes must be multiples.
        fixed: named sizes that become numbers, and why.
        facts: what a program needs to use the graph, plain values for JSON.
        source: the model whose weights are in the graph.
    """

    part: str
    module: nn.Module
    inputs: Mapping[str, GraphInput]
    outputs: Mapping[str, str]
    sizes: Mapping[str, int]
    source: nn.Module
    smallest: Mapping[str, int] = field(default_factory=dict)
    multiples: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def examples(self, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of these sizes."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(one.example(sizes, generator) for one in self.inputs.values())


class ImageGraph(nn.Module):
    """(B, 3, H, W) -> unit embeddings (B, D)."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(self.clip.encode_image(images)), dim=-1)


class PixelsGraph(nn.Module):
    """(B, 3, H, W) -> unit embeddings (B, D, h, w)."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(self.clip.encode_dense(images)), dim=1)


class TextGraph(nn.Module):
    """(K, L) token ids -> unit embeddings (K, D)."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, token_ids: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(self.clip.encode_text(token_ids)), dim=-1)


class ClassifierGraph(nn.Module):
    """(B, 3, H, W), (K, D) -> logits (B, K): scaled cosines, and the bias of a SigLIP."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip, self.scale = clip, logit_scale(clip)
        bias = getattr(clip, 'logit_bias', None)
        self.bias = 0.0 if bias is None else float(bias)

    def forward(self, images: Tensor, class_embeddings: Tensor) -> Tensor:
        images = F.normalize(at_least_fp32(self.clip.encode_image(images)), dim=-1)
        return images @ unit_rows(class_embeddings).mT * self.scale + self.bias


def unit_rows(class_embeddings: Tensor) -> Tensor:
    """(K, D) of any norm -> of unit norm, in fp32: what every graph does with its class embeddings."""
    return F.normalize(at_least_fp32(class_embeddings), dim=-1)


def logit_scale(clip: Any) -> float:
    """The factor on cosines."""
    return float(clip.logit_scale.detach().float().exp().clamp(max=MAX_LOGIT_SCALE))


def image_input(patch: int) -> dict[str, Any]:
    """The input ``images`` and its sizes, as keyword arguments of ``Graph``."""
    return {
        'inputs': {'images': GraphInput(('batch', 3, 'height', 'width'))},
        'smallest': {
            'height': 2 * patch,
            'width': 2 * patch,
        },  # torch takes a grid of one cell for a constant
    }


def class_input(embed_dim: int) -> GraphInput:
    """The input ``class_embeddings``, (K, D) of any norm."""
    return GraphInput(('classes', embed_dim))


def image_sizes(image_size: int, patch_size: int = 1) -> dict[str, int]:
    """Sizes to trace with: neither square nor the image size of the weights, which would become constants."""
    return {'batch': 2, 'height': image_size, 'width': image_size + patch_size, 'classes': 7}


def fixed_sizes(tower: nn.Module) -> dict[str, str]:
    """Why height and width are fixed for this image tower, by name; empty if they are free."""
    if any(
        type(one).__name__ == 'Conv2dSame' for one in tower.modules()
    ):  # of timm, for weights of TensorFlow
        return dict.fromkeys(('height', 'width'), 'the padding of its convolutions is computed from it')
    return {}


def preprocessing(preprocess: Any) -> dict[str, Any]:
    """Facts about the images that a graph takes."""
    return {
        'preprocess': {**preprocess.to_dict(), 'mean': list(preprocess.mean), 'std': list(preprocess.std)}
    }


def image_graph(clip: Any) -> Graph:
    """The image tower: images -> unit embeddings.

    Raises:
        InputError: a model without one.
    """
    _need(clip, 'encode_image', 'an image tower')
    tower = clip.image
    fixed = fixed_sizes(tower)
    return Graph(
        part='image',
        module=ImageGraph(clip),
        outputs={'image_embeddings': '(batch, D), unit norm'},
        sizes=image_sizes(tower.size.image_size, 0 if fixed else _patch(tower)),
        fixed=fixed,
        facts={**preprocessing(clip.preprocess), 'embed_dim': embed_dim(clip)},
        source=clip,
        **image_input(_patch(tower)),
    )


def pixels_graph(clip: Any) -> Graph:
    """The image tower: images -> unit embeddings of each patch (``encode_dense``).

    Raises:
        InputError: a model without one.
    """
    outputs = {'pixel_embeddings': '(batch, D, h, w), unit norm'}
    return replace(image_graph(clip), part='pixels', module=PixelsGraph(clip), outputs=outputs)


def text_graph(clip: Any) -> Graph:
    """The text tower: token ids -> unit embeddings.  The tokenizer stays outside.

    Raises:
        InputError: a model without one.
    """
    _need(clip, 'encode_text', 'a text tower')
    size = clip.text.size
    length = int(size.context_length)
    eos = getattr(size, 'eos_token_id', None)

    def token_ids(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        last = size.vocab_size - 1 if eos is None else eos
        ids = torch.randint(1, max(2, size.vocab_size - 1), shape, generator=generator)
        ids[ids == last] = 1
        ends = torch.randint(1, shape[1], shape[:1], generator=generator)
        ids[torch.arange(shape[0]), ends] = last
        return ids

    return Graph(
        part='text',
        module=TextGraph(clip),
        inputs={'token_ids': GraphInput(('texts', length), token_ids)},
        outputs={'text_embeddings': '(texts, D), unit norm'},
        sizes={'texts': 5},
        facts={
            'embed_dim': embed_dim(clip),
            'context_length': length,
            'tokenizer': type(clip.tokenizer).__name__,
            'eos_token_id': eos,
        },
        source=clip,
    )


def classifier_graph(clip: Any) -> Graph:
    """Images and class embeddings -> logits.

    Raises:
        InputError: a model without an image tower.
    """
    graph, module = image_graph(clip), ClassifierGraph(clip)
    return Graph(
        part='classifier',
        module=module,
        inputs={**graph.inputs, 'class_embeddings': class_input(embed_dim(clip))},
        outputs={'logits': '(batch, classes), cosines times logit_scale'},
        sizes=graph.sizes,
        smallest=graph.smallest,
        fixed=graph.fixed,
        facts={**graph.facts, 'logit_scale': module.scale, 'logit_bias': module.bias},
        source=clip,
    )


def embed_dim(clip: Any) -> int:
    """D, of a whole CLIP or of one tower."""
    return int(clip.embed_dim)


def _need(clip: Any, name: str, what: str) -> None:
    if not hasattr(clip, name):
        raise InputError(f'a {type(clip).__name__} has no {what.partition(" ")[2]}: use weights with {what}')


def _patch(tower: Any) -> int:
    return int(getattr(tower, 'patch_size', getattr(tower.size, 'patch_size', 1)))
