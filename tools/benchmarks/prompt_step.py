"""A training step of learned prompts: texts cut after their last token, against all 77 tokens."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import CLIP, build_clip
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.vocab.class_names import named_vocabulary
from clipdense.weights.key_map import from_ours

from .harness import Found, Options, Row, interleave

CLASSES, CONTEXT, LENGTH = 100, 16, 77


class PlainText(nn.Module):
    """OpenAI's text tower as its program runs it: every text has 77 tokens, with a causal mask."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        size = clip.text.size
        state = from_ours(
            {n: x for n, x in clip.state_dict().items() if n.startswith('text.')}, 'openclip_vit'
        )
        self.positions, self.proj = state['positional_embedding'], state['text_projection']
        self.norm = nn.LayerNorm(size.width)
        self.norm.load_state_dict({name: state[f'ln_final.{name}'] for name in ('weight', 'bias')})
        self.blocks = nn.ModuleList()
        for index in range(size.layers):
            start = f'transformer.resblocks.{index}.'
            block = PlainBlock(size.width, size.num_heads)
            own = {name.removeprefix(start): x for name, x in state.items() if name.startswith(start)}
            block.load_state_dict(own)
            self.blocks.append(block)
        self.mask = torch.full((LENGTH, LENGTH), float('-inf')).triu(1)

    def forward(self, prompts: Tensor, eot: Tensor) -> Tensor:
        """(K, 77, C) -> (K, D)."""
        x = (prompts + self.positions).transpose(0, 1)
        for block in self.blocks:
            x = block(x, self.mask)
        x = self.norm(x.transpose(0, 1))
        return x[torch.arange(len(x)), eot] @ self.proj


class PlainBlock(nn.Module):
    """A block with the names of OpenAI's weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({'c_fc': nn.Linear(width, 4 * width), 'c_proj': nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(L, K, C) -> the same shape."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.mlp['c_fc'](self.ln_2(x))
        return x + self.mlp['c_proj'](y * torch.sigmoid(1.702 * y))


def prompt_step(options: Options) -> Found:
    """A CoOp step of a text tower: 100 classes, 16 context tokens, without the image tower."""
    torch.manual_seed(0)
    name = 'ViT-B-16-quickgelu' if options.model == Options.model else options.model
    clip = build_clip(name).requires_grad_(False).eval()
    names = [one.replace('_', ' ') for one in named_vocabulary('imagenet').class_names[:CLASSES]]
    learner = CoOp(clip, CONTEXT, class_names=names)
    images = F.normalize(torch.randn(options.batch, clip.embed_dim), dim=-1)
    labels = torch.arange(options.batch) % CLASSES
    plain = PlainText(clip).requires_grad_(False)
    context = nn.Parameter(learner.ctx.detach().clone())
    ids = torch.as_tensor(clip.tokenizer([f'{" ".join("X" * CONTEXT)} {one}.' for one in names]))
    fixed, eot = clip.text.token_embed(ids), ids.argmax(dim=-1)

    def ours() -> float:
        return step(lambda: learner(), learner.ctx, images, labels)

    def peer() -> float:
        def classes() -> Tensor:
            shared = context.expand(CLASSES, -1, -1)
            prompts = torch.cat([fixed[:, :1], shared, fixed[:, 1 + CONTEXT :]], dim=1)
            return F.normalize(plain(prompts, eot), dim=-1)

        return step(classes, context, images, labels)

    losses = ours(), peer()
    gradients = float((learner.ctx.grad - context.grad).abs().max())
    if abs(losses[0] - losses[1]) > 1e-5:
        raise SystemExit(f'the losses differ: {losses}')
    times = interleave(ours, peer, options, warm_up=0)
    wall, cpu = ([median(getattr(one, clock)) for one in times] for clock in ('wall', 'cpu'))
    notes = {
        'loss': losses[0],
        'difference of the losses': abs(losses[0] - losses[1]),
        'largest difference of the gradients': gradients,
        'tokens of the longest text': learner.texts.token_ids.shape[1],
        'mean tokens': float((learner.texts.eot + 1).float().mean()),
    }
    return [Row('step, CPU time', *cpu, 'CPU-s'), Row('step', *wall, 's')], notes


def step(classes: Callable[[], Tensor], context: nn.Parameter, images: Tensor, labels: Tensor) -> float:
    """Forward, loss and backward."""
    context.grad = None
    loss = F.cross_entropy(100 * images @ classes().mT, labels)
    loss.backward()
    return loss.item()
