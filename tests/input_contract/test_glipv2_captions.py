"""Inputs of the section "Captions of a GLIPv2" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.config import Config

from clipdense import Captioner, CaptionRules
from clipdense.clip import self_describing
from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.sizes import HFTextSize
from clipdense.data.detection.whole_images import CaptionDetection
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.scenes import SceneCaptions
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.v2.captioning import decoder_of
from clipdense.methods.glip.v2.detector import GLIPv2

from ..methods.glip.conftest import config

SECTION = 'Captions of a GLIPv2'
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
CAPTIONS = {'captions': {'image_size': 64}}
MPNET = dict(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)


def model(objectives=CAPTIONS, **options):
    torch.manual_seed(0)
    return GLIPv2(objectives=objectives, **config(**options)).eval()


def weights(folder, objectives=CAPTIONS):
    path = folder / 'glip.safetensors'
    made = model(objectives) if objectives else GLIP(**config())
    described = {'type': type(made), **({'objectives': objectives} if objectives else {}), **config()}
    self_describing.save(made, path, Config({'model': described}))
    return path


def described(folder, objectives=CAPTIONS, **rules):
    captioner = Captioner.from_pretrained(weights(folder, objectives), CaptionRules(**rules), device='cpu')
    assert captioner(IMAGE).score <= 0


def learned(made=model, size=64, captions=None):
    """The loss of a caption."""
    scenes = SceneCaptions(1, image_size=32)
    if captions is not None:
        scenes.captions_of = lambda index: captions
    item, owner = CaptionDetection(scenes, size)[0], made()
    data = owner.data_preprocessor({key: [value] for key, value in item.items()}, True)
    assert torch.isfinite(owner(data['inputs'], data['data_samples'], mode='loss')['loss_captions'])


def shards(folder):
    (folder / '0.tar').write_bytes(bytes(10240))
    CaptionDetection(ImageTextShards(str(folder / '0.tar'), batch_size=2), 64)


READ = {
    'weights of a GLIPv2 with `captions`': described,
    'weights of a GLIPv2 without `captions`': lambda folder: described(folder, {'contrast': {}}),
    'weights of a GLIP': lambda folder: described(folder, None),
    'prompt that begins with that of the training': lambda folder: described(folder, prompt='a picture of a'),
    'another prompt': lambda folder: described(folder, prompt='there is'),
    'prompt without room for a caption': lambda folder: described(folder, prompt='a ' * 19),
    '`max_length` above 77': lambda folder: described(folder, max_length=90),
    'head without fusion': lambda _: model(fused=False),
    '`image_size` of `answers` that differs': lambda _: model(
        CAPTIONS | {'answers': {'answers': ['yes', 'no']}}
    ),
    'text tower that reads no text causally': lambda _: HFTextTower(
        HFTextSize('mpnet', 24, 'mean_pooler', None, 32, MPNET)
    ).step(torch.full((1, 3), 7)),
    'caption that does not fit, in training': lambda _: decoder_of(model()).learned('cat ' * 90),
    'image without a caption, or with an empty one': lambda _: learned(captions=[' ']),
    'images of captions of another size': lambda _: learned(size=32),
    'captions in the data of a GLIP': lambda _: learned(lambda: GLIP(**config())),
    'shards': shards,
}


def test_row(row, check):
    check(row, READ)
