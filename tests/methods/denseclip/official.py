"""The published network as plain functions of its official tensors, written from the paper and the formulas.

B: images, K: classes, D: joint space, C: channels, (h, w): cells.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

WIDTH, DIM, HEADS, CONTEXTS, CLASSES, POSITIONS = 16, 32, 4, 2, 3, 9


class Tensors(dict):
    """Random official tensors, created in the shape in which they are first asked for."""

    def get_(self, name, *shape, around=0.0, scale=0.3):
        if name not in self:
            self[name] = around + scale * torch.randn(*shape)
        return self[name]

    def linear(self, name, x, out, bias=True):
        weight = self.get_(f'{name}.weight', out, x.shape[-1], scale=x.shape[-1] ** -0.5)
        return F.linear(x, weight, self.get_(f'{name}.bias', out) if bias else None)

    def layer_norm(self, name, x):
        width = x.shape[-1]
        weight = self.get_(f'{name}.weight', width, around=1.0)
        return F.layer_norm(x, (width,), weight, self.get_(f'{name}.bias', width))

    def conv(self, name, x, out, side=1, stride=1, bias=True):
        scale = (x.shape[1] * side * side) ** -0.5
        weight = self.get_(f'{name}.weight', out, x.shape[1], side, side, scale=scale)
        padding = side // 2 if stride in (1, 2) else 0
        return F.conv2d(x, weight, self.get_(f'{name}.bias', out) if bias else None, stride, padding)

    def batch_norm(self, name, x):
        width = x.shape[1]
        mean, bias = self.get_(f'{name}.running_mean', width), self.get_(f'{name}.bias', width)
        var = self.get_(f'{name}.running_var', width, around=1.0, scale=0.05).abs_()
        weight = self.get_(f'{name}.weight', width, around=1.0)
        self.setdefault(f'{name}.num_batches_tracked', torch.tensor(7))
        shape = (1, width, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(
            shape
        )

    def group_norm(self, name, x):
        width = x.shape[1]
        weight = self.get_(f'{name}.weight', width, around=1.0)
        return F.group_norm(x, 1, weight, self.get_(f'{name}.bias', width))

    def double(self, name, x):
        width = x.shape[1]
        weight = self.get_(f'{name}.weight', width, width, 2, 2, scale=width**-0.5)
        return F.conv_transpose2d(x, weight, self.get_(f'{name}.bias', width), stride=2)


def attention(query, key, value, heads, mask=None):
    """Softmax attention, written out."""
    parts = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    query, key, value = parts
    scores = query @ key.mT / query.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def clip_block(t, name, x, heads, mask=None):
    width = x.shape[-1]
    y = t.layer_norm(f'{name}.ln_1', x)
    weight = t.get_(f'{name}.attn.in_proj_weight', 3 * width, width, scale=width**-0.5)
    query, key, value = F.linear(y, weight, t.get_(f'{name}.attn.in_proj_bias', 3 * width)).chunk(3, -1)
    x = x + t.linear(f'{name}.attn.out_proj', attention(query, key, value, heads, mask), width)
    y = t.linear(f'{name}.mlp.c_fc', t.layer_norm(f'{name}.ln_2', x), 4 * width)
    return x + t.linear(f'{name}.mlp.c_proj', y * torch.sigmoid(1.702 * y), width)


def resized_positions(positions, grid):
    side = int((len(positions) - 1) ** 0.5)
    body = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    body = F.interpolate(body, grid, mode='bilinear')[0].flatten(1).T
    return torch.cat([positions[:1], body])


def resnet(t, images, stem=8):
    x = images
    for number, (out, stride) in enumerate([(stem // 2, 2), (stem // 2, 1), (stem, 1)], start=1):
        x = t.conv(f'backbone.conv{number}', x, out, 3, stride, bias=False)
        x = F.relu(t.batch_norm(f'backbone.bn{number}', x))
    x, maps = F.avg_pool2d(x, 2), []
    for stage in range(4):
        name, width = f'backbone.layer{stage + 1}.0', stem * 2**stage
        y = F.relu(t.batch_norm(f'{name}.bn1', t.conv(f'{name}.conv1', x, width, bias=False)))
        y = F.relu(t.batch_norm(f'{name}.bn2', t.conv(f'{name}.conv2', y, width, 3, bias=False)))
        smaller = (lambda z: F.avg_pool2d(z, 2)) if stage else (lambda z: z)
        y = t.batch_norm(f'{name}.bn3', t.conv(f'{name}.conv3', smaller(y), 4 * width, bias=False))
        shortcut = t.conv(f'{name}.downsample.0', smaller(x), 4 * width, bias=False)
        x = F.relu(y + t.batch_norm(f'{name}.downsample.1', shortcut))
        maps.append(x)
    grid, name = x.shape[-2:], 'backbone.attnpool'
    cells = x.flatten(2).mT
    tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1)
    tokens = tokens + resized_positions(t.get_(f'{name}.positional_embedding', 5, tokens.shape[-1]), grid)
    parts = (t.linear(f'{name}.{one}_proj', tokens, tokens.shape[-1]) for one in 'qkv')
    tokens = t.linear(f'{name}.c_proj', attention(*parts, HEADS), DIM)
    return maps, 3, tokens[:, 0], tokens[:, 1:].mT.unflatten(2, grid)


def vit(t, images, width=32, patch=16, depth=4, taps=(0, 1, 2, 3)):
    x = t.conv('backbone.conv1', images, width, patch, patch, bias=False)
    grid = x.shape[-2:]
    token = t.get_('backbone.class_embedding', width)
    x = torch.cat([token.expand(len(x), 1, -1), x.flatten(2).mT], 1)
    positions = resized_positions(t.get_('backbone.positional_embedding', 5, width), grid)
    x = x + torch.cat([positions[:1] + token, positions[1:]])  # the token, a second time
    x, maps = t.layer_norm('backbone.ln_pre', x), []
    for block in range(depth):
        x = clip_block(t, f'backbone.transformer.resblocks.{block}', x, HEADS)
        if block in taps:
            maps.append(x[:, 1:].mT.unflatten(2, grid))
    first, second, third, fourth = maps
    first = t.double('backbone.fpn1.1', t.group_norm('backbone.fpn1.0', first))
    first = t.double('backbone.fpn1.4', F.gelu(t.batch_norm('backbone.fpn1.2', first)))
    second = t.double('backbone.fpn2.1', t.group_norm('backbone.fpn2.0', second))
    third = t.group_norm('backbone.fpn3', third)
    fourth = F.max_pool2d(t.group_norm('backbone.fpn4.0', fourth), 2)
    tokens = t.layer_norm('backbone.ln_post', x) @ t.get_('backbone.proj', width, DIM)
    return [first, second, third, fourth], 2, tokens[:, 0], tokens[:, 1:].mT.unflatten(2, grid)


def texts(t, ids, width=32, layers=2):
    """Token ids (K, L) with end-of-text as the largest -> (K, D), contexts after start-of-text."""
    name = 'text_encoder'
    table = t.get_(f'{name}.token_embedding.weight', 49408, width)
    contexts = t.get_('contexts', 1, CONTEXTS, width)
    x = table[ids]
    x = torch.cat([x[:, :1], contexts.expand(len(x), -1, -1), x[:, 1:]], 1)
    x = x + t.get_(f'{name}.positional_embedding', POSITIONS, width)
    mask = torch.full((POSITIONS, POSITIONS), float('-inf')).triu(1)
    for layer in range(layers):
        x = clip_block(t, f'{name}.transformer.resblocks.{layer}', x, 2, mask)
    x = t.layer_norm(f'{name}.ln_final', x)[torch.arange(len(x)), ids.argmax(-1) + CONTEXTS]
    return x @ t.get_(f'{name}.text_projection', width, DIM)


def context_decoder(t, text, image, layers=2):
    name = 'context_decoder'
    memory = t.linear(f'{name}.memory_proj.1', t.layer_norm(f'{name}.memory_proj.0', image), WIDTH)
    memory = t.layer_norm(f'{name}.memory_proj.2', memory)
    x = t.linear(f'{name}.text_proj.1', t.layer_norm(f'{name}.text_proj.0', text), WIDTH)
    for layer in range(layers):
        one = f'{name}.decoder.{layer}'
        for kind, norm in (('self_attn', 'norm1'), ('cross_attn', 'norm2')):
            query = t.layer_norm(f'{one}.{norm}', x)
            source = query if kind == 'self_attn' else memory
            query, key, value = (
                t.linear(f'{one}.{kind}.{part}_proj', y, WIDTH, bias=False)
                for part, y in (('q', query), ('k', source), ('v', source))
            )
            x = x + t.linear(f'{one}.{kind}.proj', attention(query, key, value, HEADS), WIDTH)
        y = F.gelu(t.linear(f'{one}.mlp.0', t.layer_norm(f'{one}.norm3', x), 4 * WIDTH))
        x = x + t.linear(f'{one}.mlp.3', y, WIDTH)
    return t.linear(f'{name}.out_proj.1', t.layer_norm(f'{name}.out_proj.0', x), DIM)


def segment(t, tower, images, ids, width=8):
    """Logits at the size of the images, and the score map."""
    maps, place, pooled, local = tower(t, images)
    text = texts(t, ids).expand(len(images), -1, -1)
    image = torch.cat([pooled[:, None], local.flatten(2).mT], 1)
    text = text + t.get_('gamma', DIM) * context_decoder(t, text, image)
    scores = torch.einsum('bdhw,bkd->bkhw', local, text)
    scores = scores / local.norm(dim=1, keepdim=True) / text.norm(dim=-1)[:, :, None, None]
    maps[place] = torch.cat([maps[place], scores], 1)
    merged = [t.conv(f'neck.lateral_convs.{level}.conv', x, width) for level, x in enumerate(maps)]
    for level in (2, 1, 0):
        merged[level] = merged[level] + F.interpolate(merged[level + 1], scale_factor=2, mode='nearest')
    total = 0
    for level, x in enumerate(merged):
        x = t.conv(f'neck.fpn_convs.{level}.conv', x, width, 3)
        for step in range(max(1, level)):
            name = f'decode_head.scale_heads.{level}.{2 * step}'
            x = F.relu(t.batch_norm(f'{name}.bn', t.conv(f'{name}.conv', x, width, 3, bias=False)))
            if level:
                x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        total = total + x
    logits = t.conv('decode_head.conv_seg', total, len(ids))
    return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=False), scores
