"""The tables of docs/scaling.md: what a training of CLIP costs on many GPUs, from formulas.

    python tools/scaling_plan.py

Operations and bytes are computed from the sizes of the towers and checked by tests against torch's own counts
on real models; speeds of GPUs and of published runs are quoted, with their sources in docs/scaling.md.

B: pairs per GPU, G: GPUs, P: parameters, D: joint space, T: tokens, C: width.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import PUBLISHED, ClipSize, TextSize, VitSize

TOWERS = (('ViT-S/16', 384, 12), ('ViT-B/16', 768, 12), ('ViT-L/16', 1024, 24))
MODELS = ('ViT-B-32', 'ViT-B-16', 'ViT-L-14')
GPUS = (8, 64, 256)
PAIRS = 400e6 * 32
CAPTION_TOKENS = 17  # mean of captions of 10 to 20 words, start and end included (docs/benchmarks.md)
H100 = 989e12  # bf16 operations per second, dense
A100 = 312e12
NVLINK = 450e9  # bytes per second that an H100 sends inside a machine of 8
NETWORK = 50e9  # between machines, 400 Gbit/s for each GPU
MEMORY = 80e9  # bytes of one H100
PAIRS_PER_CORE = (
    209,
    377,
)  # JPEGs of 640 x 480 read, cropped and tokenized in a CPU-second, see docs/benchmarks.md
BYTES_PER_PAIR = 25e3  # of LAION-400M: 10 TB at 256 pixels
# open_clip's runs of arXiv 2212.07143 on A100: model, GPUs, pairs per second
PUBLISHED_RUNS = (
    ('ViT-B-32', 128, 108_844.57),
    ('ViT-B-16', 344, 136_370.91),
    ('ViT-L-14', 768, 60_327.91),
    ('ViT-L-14', 1024, 79_116.28),
)


def block_operations(tokens: float, width: int, mlp_width: int, rows: float | None = None) -> float:
    """Operations of a transformer block, two for each multiplication with an addition.

    Args:
        tokens: T.
        width: C.
        mlp_width: of the MLP.
        rows: tokens whose output is needed; all by default.
    """
    rows = tokens if rows is None else rows
    attention = 2 * tokens * 3 * width**2 + 4 * tokens**2 * width
    return attention + 2 * rows * (width**2 + 2 * width * mlp_width)


def tower_operations(size: VitSize | TextSize, tokens: float | None = None) -> float:
    """Operations of the forward pass of one image or text; the last block is needed for one token only."""
    if isinstance(size, VitSize):
        patches = (size.image_size // size.patch_size) ** 2
        tokens = patches + 1
        first = 2 * patches * 3 * size.patch_size**2 * size.width
    else:
        tokens = size.context_length if tokens is None else tokens
        first = 0.0
    blocks = (size.layers - 1) * block_operations(tokens, size.width, size.mlp_width)
    last = block_operations(tokens, size.width, size.mlp_width, rows=1)
    return first + blocks + last + 2 * size.width * size.embed_dim


def pair_operations(size: ClipSize, text_tokens: float = CAPTION_TOKENS) -> float:
    """Operations of one pair in training: the backward pass takes twice the forward pass."""
    assert isinstance(size.image, VitSize)
    assert isinstance(size.text, TextSize)
    return 3 * (tower_operations(size.image) + tower_operations(size.text, text_tokens))


def parameters(size: ClipSize) -> int:
    """P."""
    with torch.device('meta'):
        return sum(parameter.numel() for parameter in build_clip(size).parameters())


def saved_bytes(size: ClipSize, precision: torch.dtype, checkpointing: bool = False) -> float:
    """Bytes that the backward pass of one pair needs, without the weights.

    Counted for two and for three blocks, for one and for two pairs, since every block and every pair adds the
    same.
    """
    counts = {}
    for layers in (2, 3):
        small = replace(
            size, image=replace(size.image, layers=layers), text=replace(size.text, layers=layers)
        )
        model = build_clip(small)
        model.set_gradient_checkpointing(checkpointing)
        for tower in ('image', 'text'):
            one, two = (kept_by_graph(model, tower, pairs, precision) for pairs in (1, 2))
            counts[tower, layers] = two - one
    total = 0.0
    for tower, depth in (('image', size.image.layers), ('text', size.text.layers)):
        block = counts[tower, 3] - counts[tower, 2]
        total += counts[tower, 2] + (depth - 2) * block
    return total


def kept_by_graph(model: Any, tower: str, pairs: int, precision: torch.dtype) -> int:
    """Bytes that the graph of a forward pass keeps, each storage once."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # so that no address is used twice
        return tensor

    kept: list[Tensor] = []
    side = model.image.size.image_size
    ids = torch.zeros(pairs, CAPTION_TOKENS, dtype=torch.int64)
    ids[:, -1] = model.text.size.vocab_size - 1
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast('cpu', precision, enabled=precision != torch.float32),
    ):
        if tower == 'image':
            model.encode_image(torch.randn(pairs, 3, side, side))
        else:
            model.encode_text(ids)
    return sum(found.values())


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, except for activations: fp32 weights, gradients, two moments of AdamW."""

    state: float
    bf16_weights: float

    @classmethod
    def of(cls, count: int, gpus: int = 1, largest_block: int = 0) -> Memory:
        """For P parameters; FSDP over ``gpus`` has one block at a time whole, in bf16 with its gradient."""
        if gpus == 1:
            return cls(16.0 * count, 2.0 * count)  # autocast keeps a bf16 copy of the weights in a step
        return cls(16.0 * count / gpus, 2 * 2.0 * largest_block)

    @property
    def total(self) -> float:
        """Their sum."""
        return self.state + self.bf16_weights


def largest_block(size: ClipSize) -> int:
    """Parameters of the largest part that FSDP gathers: a block, or the embedding of tokens with the rest."""
    with torch.device('meta'):
        model = build_clip(size)
    blocks = [
        sum(p.numel() for p in block.parameters()) for block in (*model.image.blocks, *model.text.blocks)
    ]
    return max(*blocks, parameters(size) - sum(blocks))


def gradient_bytes(count: int, gpus: int) -> float:
    """Bytes that one GPU sends in a step for the mean of P fp32 gradients by a ring."""
    return 2 * (gpus - 1) / gpus * 4 * count


def fsdp_bytes(count: int, gpus: int) -> float:
    """Bytes that one GPU sends in a step of FSDP: bf16 weights gathered twice, fp32 gradients scattered."""
    return (gpus - 1) / gpus * count * (2 * 2 + 4)


def softmax_bytes(batch: int, gpus: int, dim: int) -> float:
    """Bytes that one GPU sends for the softmax loss: gathers of B embeddings, sums of their gradients."""
    return 2 * (gpus - 1) * batch * dim * 4 + 2 * 2 * (gpus - 1) * batch * dim * 4


def ring_bytes(batch: int, gpus: int, dim: int) -> float:
    """Bytes that one GPU sends for the sigmoid loss: B texts go round once, their gradients as well."""
    return (2 * gpus - 1) * batch * dim * 4 if gpus > 1 else 0.0


def softmax_logits(batch: int, gpus: int) -> float:
    """Bytes of the logits (B, G B) of both directions with their gradients, fp32."""
    return 2 * 2 * 4 * batch * batch * gpus


def ring_logits(batch: int, chunk: int = 4096) -> float:
    """Bytes of a chunk of logits of the sigmoid loss: cosines, signs, margins, slopes."""
    return 4 * 4 * batch * min(batch, chunk)


def main(given: Sequence[str] | None = None) -> None:
    """Print all tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--activations', action='store_true', help='also count what backward passes keep (minutes)'
    )
    options = parser.parse_args(given)
    for table in (published(), time(), communication(), loading()):
        print('\n'.join(table), end='\n\n')
    if options.activations:
        print('\n'.join(memory()), end='\n\n')
        print('\n'.join(growth()))


def published() -> list[str]:
    """What share of the peak open_clip's published runs reached."""
    lines = [
        '| model | A100 | pairs/s for each | GFLOP for each pair | share of the peak |',
        '|---|---|---|---|---|',
    ]
    for name, gpus, rate in PUBLISHED_RUNS:
        work = pair_operations(PUBLISHED[name], PUBLISHED[name].text.context_length)
        share = work * rate / gpus / A100
        lines.append(f'| {name} | {gpus} | {rate / gpus:.0f} | {work / 1e9:.0f} | {share:.1%} |')
    return lines


def time() -> list[str]:
    """GPU-hours and days for ``PAIRS`` pairs."""
    lines = [
        '| model | parameters | GFLOP for each pair | GPU-hours at 15 % / 40 % | '
        + ' | '.join(f'{gpus} H100' for gpus in GPUS)
        + ' |',
        '|---' * (4 + len(GPUS)) + '|',
    ]
    for name in MODELS:
        work = pair_operations(PUBLISHED[name])
        hours = [PAIRS * work / (H100 * share) / 3600 for share in (0.15, 0.4)]
        days = [' / '.join(f'{value / gpus / 24:.1f}' for value in hours) + ' days' for gpus in GPUS]
        count = parameters(PUBLISHED[name]) / 1e6
        cells = [f'{count:.0f} M', f'{work / 1e9:.0f}', f'{hours[0]:,.0f} / {hours[1]:,.0f}', *days]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return lines


def communication() -> list[str]:
    """What one GPU computes and sends in a step, batch 32,768 in all."""
    lines = [
        '| model | H100 | pairs each | computing at 40 % | gradients | softmax: sent, logits | '
        'ring: sent, logits |',
        '|---|---|---|---|---|---|---|',
    ]
    for name in MODELS:
        size = PUBLISHED[name]
        count, dim = parameters(size), size.image.embed_dim
        for gpus in GPUS:
            batch = 32_768 // gpus
            sent, speed = gradient_bytes(count, gpus), NVLINK if gpus <= 8 else NETWORK
            softmax = softmax_bytes(batch, gpus, dim), softmax_logits(batch, gpus)
            ring = ring_bytes(batch, gpus, dim), ring_logits(batch)
            cells = [
                f'{pair_operations(size) * batch / (0.4 * H100) * 1e3:,.0f} ms',
                f'{sent / 1e6:,.0f} MB, {sent / speed * 1e3:,.0f} ms',
                f'{softmax[0] / 1e6:,.0f} MB, {softmax[1] / 1e6:,.0f} MB',
                f'{ring[0] / 1e6:,.0f} MB, {ring[1] / 1e6:,.0f} MB',
            ]
            lines.append(f'| {name} | {gpus} | {batch} | ' + ' | '.join(cells) + ' |')
    return lines


def loading() -> list[str]:
    """CPU cores and bandwidth that feed one H100."""
    lines = [
        '| model | pairs/s of an H100 at 15 % / 40 % | cores, all pixels decoded | '
        '`reduce=1`, simplejpeg | MB/s |',
        '|---|---|---|---|---|',
    ]
    for name in MODELS:
        rates = [H100 * share / pair_operations(PUBLISHED[name]) for share in (0.15, 0.4)]
        cores = [' / '.join(f'{rate / each:.1f}' for rate in rates) for each in PAIRS_PER_CORE]
        width = ' / '.join(f'{rate * BYTES_PER_PAIR / 1e6:.0f}' for rate in rates)
        cells = [f'{rates[0]:,.0f} / {rates[1]:,.0f}', *cores, width]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return lines


def memory() -> list[str]:
    """Gigabytes of one GPU by tower, and the largest batch that fits in it."""
    lines = [
        '| model | state, DDP | state, FSDP over 8 | MB for each pair | the same, checkpointing | '
        'largest batch: DDP | DDP, checkpointing | FSDP, checkpointing |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name in MODELS:
        size, count = PUBLISHED[name], parameters(PUBLISHED[name])
        plain = Memory.of(count).total
        sharded = Memory.of(count, 8, largest_block(size)).total
        kept = saved_bytes(size, torch.bfloat16)
        recomputed = saved_bytes(size, torch.bfloat16, checkpointing=True) + one_block(size)
        fits = [
            f'{int((MEMORY - state) / each):,}'
            for state, each in ((plain, kept), (plain, recomputed), (sharded, recomputed))
        ]
        cells = [f'{state / 1e9:.1f} GB' for state in (plain, sharded)]
        cells += [f'{each / 1e6:.0f}' for each in (kept, recomputed)]
        lines.append(f'| {name} | ' + ' | '.join([*cells, *fits]) + ' |')
    return lines


def growth() -> list[str]:
    """What a pair costs with image towers S, B and L of patches of 16, beside the same text tower."""
    lines = [
        '| image tower | width, layers | parameters of its blocks | GFLOP for each pair | MB for each pair | '
        'the same, checkpointing | state |',
        '|---|---|---|---|---|---|---|',
    ]
    found = []
    for name, width, layers in TOWERS:
        base = PUBLISHED['ViT-B-16']
        image = replace(base.image, width=width, layers=layers, num_heads=width // 64, mlp_width=4 * width)
        size = replace(base, image=image)
        kept = saved_bytes(size, torch.bfloat16)
        again = saved_bytes(size, torch.bfloat16, checkpointing=True) + one_block(size)
        own = parameters(size) - parameters(replace(size, image=replace(image, layers=0)))  # of its blocks
        state = Memory.of(parameters(size)).total
        found.append((own, pair_operations(size), kept, again, state))
        cells = [f'{own / 1e6:.0f} M', f'{found[-1][1] / 1e9:.0f}', f'{kept / 1e6:.0f}', f'{again / 1e6:.0f}']
        lines.append(
            f'| {name} | {width}, {layers} | ' + ' | '.join([*cells, f'{state / 1e9:.1f} GB']) + ' |'
        )
    grown = [last / first for first, last in zip(found[0], found[-1], strict=True)]
    slopes = [f'{log(factor) / log(grown[0]):.2f}' for factor in grown[1:]]
    lines.append('| slope over the parameters, S to L | | | ' + ' | '.join(slopes) + ' |')
    return lines


def one_block(size: ClipSize) -> float:
    """Bytes of one pair that a block keeps while it is computed again."""
    two = replace(size, image=replace(size.image, layers=2), text=replace(size.text, layers=2))
    return saved_bytes(two, torch.bfloat16) / 2


if __name__ == '__main__':
    main()
