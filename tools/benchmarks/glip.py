"""Detecting with a text: GLIP-T's head against mmdet's, with the same weights and the same text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn import functional as F

from clipdense.methods.glip.checkpoint import published
from clipdense.methods.glip.class_text import EncodedChunk
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.language import BertLayer
from clipdense.methods.glip.layouts import head_layout
from clipdense.methods.glip.structures import TextFeatures
from clipdense.vocab.class_names import CLASS_NAMES
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.key_map import from_ours

from .clip_pair import check_equal
from .harness import Found, Options, Row, interleave, steady_clock
from .vocabulary_memory import memory_of

CLASSES = (80, 1203)
SIDE, DETECTIONS, PADDED = 320, 100, 256
_PARTS = ('fusion', 'language', 'image')
_META = {'img_shape': (SIDE, SIDE), 'scale_factor': (1.0, 1.0)}


def glip(options: Options) -> Found:
    """GLIP-T's head against mmdet's with the text model stubbed; texts kept or encoded for each image."""
    torch.manual_seed(0)
    ours = detector().to(options.device)
    peer = mmdet_head(ours).to(options.device)
    image = torch.randn(1, 3, SIDE, SIDE, device=options.device)
    levels = torch.no_grad()(ours.extract_feat)(image)
    rows, notes, clock = (
        [],
        {'pixels': f'{SIDE} x {SIDE}', 'detections': DETECTIONS},
        steady_clock(options.device),
    )
    backbone, _ = interleave(lambda: torch.no_grad()(ours.extract_feat)(image), lambda: None, options)
    for count in CLASSES:
        ours.set_vocabulary(Vocabulary(names(count)))
        spread_scores(ours, peer, levels)
        few = options if count == CLASSES[0] else replace(options, repeats=min(options.repeats, 1))
        texts, _ = interleave(lambda: encode(ours), lambda: None, few, warm_up=0)
        found: dict[str, Any] = {}
        mine = kept(found, 'ours', run(ours, levels))
        memory = memory_of(mine, options.device)
        theirs = kept(found, 'peer', run_peer(peer, ours.class_text.encoded(), levels))
        head = interleave(mine, theirs, few, warm_up=0)
        difference = check_equal('scores', found['ours'].scores[:20], found['peer'].scores[:20], 1e-4)
        rows += [
            Row(f'{count} names, head{label}', *(median(getattr(side, name)) for side in head), 's')
            for name, label in ((clock, ''), ('wall', ', wall'))
        ]
        parts = [median(getattr(one, clock)) for one in (backbone, head[0], texts)]
        rows.append(
            Row(f'{count} names, image; peer: ours, texts encoded again', sum(parts[:2]), sum(parts), 's')
        )
        notes |= {
            f'{count} names': f'{len(ours.class_text.prompts)} texts, memory {memory / 2**20:.0f} MiB, '
            f'texts {parts[2]:.3g} s, largest difference of the scores {difference:.1g}'
        }
        if count == CLASSES[0]:
            padded, _ = interleave(
                run_peer(peer, ours.class_text.encoded(), levels, PADDED), lambda: None, few, warm_up=0
            )
            notes[f'mmdet with texts padded to {PADDED}, {count} names'] = (
                f'{median(getattr(padded, clock)):.3g} s'
            )
    return rows, notes


def kept(found: dict[str, Any], side: str, once: Callable[[], Any]) -> Callable[[], Any]:
    """The same, with its result put into ``found``."""

    def call() -> None:
        found[side] = once()

    return call


def encode(model: GLIP) -> None:
    """Encode all texts of the vocabulary."""
    model.class_text.forget()
    model.class_text.encoded()


def names(count: int) -> tuple[str, ...]:
    """So many class names: those of COCO, of other datasets, and these with another word before them."""
    known = [name for kind in ('coco', *CLASS_NAMES) for name in CLASS_NAMES[kind]]
    return tuple(dict.fromkeys([*known, *(f'small {name}' for name in known)]))[:count]


def detector() -> GLIP:
    """GLIP-T with random weights."""
    return published('GLIP-T-C').eval()


@torch.no_grad()
def spread_scores(ours: GLIP, peer: Any, levels: tuple[Tensor, ...]) -> None:
    """Set the bias of both so that one percent of the tokens pass the threshold of candidates."""
    chunk = ours.class_text.encoded()[0]
    logits = torch.cat(ours.head(levels, chunk.features).logits, dim=1)
    passing = logits.flatten().sort().values[int(0.99 * logits.numel())]
    ours.head.bias += torch.logit(torch.tensor(ours.candidates.threshold)) - passing
    peer.head.bias0.copy_(ours.head.bias)


def mmdet_head(ours: GLIP) -> Any:
    """mmdet's head with the weights of ours; its text layers, which no longer import, are ours too."""
    from mmdet.models.dense_heads import atss_vlfusion_head as module

    size = ours.head.size
    bert = SimpleNamespace(
        hidden_size=size.text_width, num_attention_heads=size.text_heads, intermediate_size=size.text_mlp
    )
    config = SimpleNamespace(from_pretrained=lambda _: bert)
    with patch.object(module, 'BertConfig', config), patch.object(module, 'BertEncoderLayer', TextLayer):
        head = module.ATSSVLFusionHead(
            num_classes=CLASSES[0],
            in_channels=size.channels,
            feat_channels=size.channels,
            early_fuse=True,
            num_dyhead_blocks=size.depth,
            anchor_generator={
                'type': 'AnchorGenerator',
                'ratios': [1.0],
                'octave_base_scale': size.anchor_scale,
                'scales_per_octave': 1,
                'strides': list(size.strides),
                'center_offset': 0.5,
            },
            bbox_coder={
                'type': 'DeltaXYWHBBoxCoderForGLIP',
                'target_means': [0.0] * 4,
                'target_stds': [0.1, 0.1, 0.2, 0.2],
            },
            test_cfg=ConfigDict(
                nms_pre=ours.candidates.per_level,
                min_bbox_size=0,
                score_thr=ours.candidates.threshold,
                nms={'type': 'nms', 'iou_threshold': ours.detection.iou_threshold},
                max_per_img=DETECTIONS,
            ),
        )
    head.head.load_state_dict(mmdet_names(ours))
    return head.eval()


def mmdet_names(ours: GLIP) -> dict[str, Tensor]:
    """The tensors of our head by mmdet's names."""
    state = ours.head.state_dict()
    language = {name: state.pop(name) for name in list(state) if '.language.' in name}
    found = from_ours(state, head_layout(len(ours.head.size.strides)))
    named = {}
    for name, tensor in (found | language).items():
        if name.startswith('blocks.'):
            _, block, part, rest = name.split('.', 3)
            name = f'dyhead_tower.{3 * int(block) + _PARTS.index(part)}.{rest}'
        name = name.replace('.DyConv.', '.dyconvs.').replace('.AttnConv.', '.attnconv.')
        named[name] = tensor.reshape(()) if name.startswith('scales.') else tensor
    return named


class TextLayer(BertLayer):
    """Our text layer as mmdet's tower builds and calls one."""

    def __init__(self, config: Any, **_: Any) -> None:
        super().__init__(config.hidden_size, config.num_attention_heads, config.intermediate_size)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        text = inputs['lang']
        text['hidden'] = super().forward(text['hidden'], text['masks'].bool())
        return {'visual': inputs['visual'], 'lang': text}


def run(model: GLIP, levels: tuple[Tensor, ...]) -> Callable[[], Any]:
    """Levels of one image to detections, in all texts."""
    rules = model.detection.changed(max_detections=DETECTIONS)
    return torch.no_grad()(lambda: model.detect(levels, [_META], rules)[0])


def run_peer(
    head: Any, chunks: list[EncodedChunk], levels: tuple[Tensor, ...], length: int = 0
) -> Callable[[], Any]:
    """The same in mmdet's head, which joins the detections of its texts without another suppression.

    Texts are padded to ``length`` tokens, as mmdet's text model does.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    texts = [(padded(one.features, length), token_lists(one)) for one in chunks]

    @torch.no_grad()
    def once() -> Any:
        found = []
        for text, tokens in texts:
            sample = DetDataSample(metainfo=_META)
            sample.token_positive_map = tokens
            features = {'hidden': text.hidden, 'embedded': text.embedded, 'masks': text.mask.long()}
            found += head.predict(levels, features, [sample])
        every = InstanceData.cat(found)
        return every[every.scores.topk(min(DETECTIONS, len(every))).indices]

    return once


def padded(text: TextFeatures, length: int) -> TextFeatures:
    """A text with zeros up to so many tokens."""
    more = max(length - text.mask.shape[1], 0)
    hidden, embedded = (F.pad(one, (0, 0, 0, more)) for one in (text.hidden, text.embedded))
    return TextFeatures(hidden, embedded, F.pad(text.mask, (0, more)))


def token_lists(chunk: EncodedChunk) -> dict[int, list[int]]:
    """Name, counted from 1 -> its tokens."""
    return {row + 1: one.nonzero()[:, 0].tolist() for row, one in enumerate(chunk.positive)}
