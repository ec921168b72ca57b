"""Segmenting with words against a closed head: the same ViT, decoder width and number of classes.

The peer is transformers' DPTForSemanticSegmentation, whose head is a 3 x 3 convolution, a norm and one filter
a class.  Weights are random: both compute, neither sees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

from .harness import Found, Options, Row, interleave, rate_rows

_SIDE, _PATCH = 384, 16
_VIT = {'embed_dim': 768, 'depth': 12, 'num_heads': 12}
_CHANNELS = (96, 192, 384, 768)
_HOOKS = (2, 5, 8, 11)


def lseg(options: Options) -> Found:
    """LSeg on ViT-B/16 at 384 pixels against transformers' DPT: masks of 150 and of 1,000 classes."""
    rows = [row for classes in (150, 1000) for row in _compare(classes, options)]
    sizes = {
        side: f'{_parameters(build(150)):.1f} M' for side, build in (('ours', _segmenter), ('peer', _closed))
    }
    return rows, {'parameters': sizes, 'images together': _together(options)} | _cache(options)


def _compare(classes: int, options: Options) -> list[Row]:
    images = torch.randn(_together(options), 3, _SIDE, _SIDE, device=options.device)
    ours, peer = _segmenter(classes).to(options.device), _closed(classes).to(options.device)
    with torch.inference_mode():
        times = interleave(lambda: _mask(ours, images), lambda: peer(images).logits.argmax(1), options)
    return rate_rows(f'{classes} classes', len(images), 'img', times, options.device)


def _together(options: Options) -> int:
    """An image of 1,000 classes has 590 MB of logits."""
    return options.batch if options.device != 'cpu' else 1


def _mask(model: LSeg, images: Tensor) -> Tensor:
    """(B, H, W), as the peer makes it: all logits, then the largest."""
    return model.pixel_logits(images, model.queries).argmax(1)


def _segmenter(classes: int) -> LSeg:
    torch.manual_seed(0)
    vit = timm_network('vit_base_patch16_384', **_VIT)
    model = LSeg(TransformerPyramid(vit, _HOOKS, _CHANNELS), embed_dim=512)
    queries = normalize(torch.randn(classes, 512), dim=-1)
    vocabulary = Vocabulary(tuple(f'class {index}' for index in range(classes)))
    model.set_vocabulary(vocabulary, ClassEmbeddings(queries, torch.arange(classes), classes))
    return model.eval()


def _closed(classes: int) -> nn.Module:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=_VIT['embed_dim'],
        num_hidden_layers=_VIT['depth'],
        num_attention_heads=_VIT['num_heads'],
        intermediate_size=4 * _VIT['embed_dim'],
        image_size=_SIDE,
        patch_size=_PATCH,
        is_hybrid=False,
        backbone_out_indices=list(_HOOKS),
        neck_hidden_sizes=list(_CHANNELS),
        fusion_hidden_size=256,
        use_batch_norm_in_fusion_residual=True,
        use_auxiliary_head=False,
        num_labels=classes,
    )
    return DPTForSemanticSegmentation(config).eval()


def _cache(options: Options) -> dict[str, Any]:
    """What embedding 150 words costs, which the release pays at every image and a kept vocabulary once."""
    clip = build_clip('ViT-B-32').to(options.device).eval()
    vocabulary = Vocabulary(tuple(f'class {index}' for index in range(150)))
    model = _segmenter(150).to(options.device)
    image = torch.randn(1, 3, _SIDE, _SIDE, device=options.device)

    embedder = PromptEnsemble(clip, 'name', cache=None)

    def anew() -> None:
        model.set_vocabulary(vocabulary, embedder.embed(vocabulary))
        _mask(model, image)

    with torch.inference_mode():
        kept, again = interleave(lambda: _mask(model, image), anew, options)
    seconds = [sorted(times.cpu if options.device == 'cpu' else times.wall) for times in (kept, again)]
    once, each = (found[len(found) // 2] for found in seconds)
    return {
        'words embedded at every image take': f'{each / once:.2f} times as long as words kept (150 words)'
    }


def _parameters(model: nn.Module) -> float:
    """In millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
