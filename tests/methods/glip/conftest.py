"""A small GLIP: 64-pixel images, 16 channels, a text tower of two layers."""

from __future__ import annotations

import json

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from clipdense.clip.text import TextTransformer
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.head import GLIPHead
from clipdense.methods.glip.parts import FPN, DetDataPreprocessor, ResNet
from clipdense.methods.glip.text import GroundingText
from clipdense.vocab.vocabulary import Vocabulary

WIDTH, TEXT = 16, 24


def text_tower(**size):
    options = dict(width=TEXT, layers=2, num_heads=2, mlp_width=48, embed_dim=8) | size
    return dict(type=GroundingText, text=dict(type=TextTransformer, size=options))


def config(fused=True, language='clip', clip=None, depth=1, **options):
    """Arguments of ``GLIP``."""
    head = dict(channels=WIDTH, text_width=TEXT, depth=depth, fused=fused, fusion_width=32, fusion_heads=4)
    head |= dict(language=language, text_heads=2, text_mlp=48, groups=4, strides=(4, 8, 16, 32, 64))
    resnet = dict(depth=18, base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1))
    return dict(
        backbone=dict(type=ResNet, **resnet, out_indices=(0, 1, 2)),
        neck=dict(
            type=FPN,
            in_channels=[8, 16, 32],
            out_channels=WIDTH,
            num_outs=5,
            add_extra_convs='on_output',
            relu_before_extra_convs=True,
        ),
        head=dict(type=GLIPHead, size=head),
        clip=clip or text_tower(),
        data_preprocessor=dict(
            type=DetDataPreprocessor, mean=[127.5] * 3, std=[63.75] * 3, pad_size_divisor=32
        ),
        **options,
    )


@pytest.fixture
def glip():
    """``glip(**options) -> GLIP`` with seeded weights."""

    def make(**options):
        torch.manual_seed(0)
        model = GLIP(**config(**options))
        with torch.no_grad():  # scores that differ, as after training
            model.head.bias.fill_(-1.0)
            model.head.words.weight.normal_(std=2.0)
        return model

    return make


@pytest.fixture
def vocabulary():
    return Vocabulary(('red star', 'blue square', 'traffic light'))


@pytest.fixture
def batch():
    """``batch(boxes, labels) -> data`` of images of 64 pixels."""

    def make(*objects):
        generator = torch.Generator().manual_seed(1)
        inputs, samples = [], []
        for number, (boxes, labels) in enumerate(objects):
            sample = DetDataSample(metainfo=dict(img_id=number, img_shape=(64, 64), ori_shape=(64, 64)))
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                labels=torch.tensor(labels, dtype=torch.int64),
            )
            inputs.append(torch.randint(0, 255, (3, 64, 64), generator=generator, dtype=torch.uint8))
            samples.append(sample)
        return dict(inputs=inputs, data_samples=samples)

    return make


@pytest.fixture
def hub_bert():
    """``hub_bert(folder) -> folder`` with the tokenizer of an uncased BERT of 30 words."""
    tokenizers = pytest.importorskip('tokenizers')

    def write(folder):
        special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
        words = [*special, 'cat', 'dog', 'red', 'star', '.', *'abcdefghijklmno']
        model = tokenizers.models.WordPiece(
            {word: index for index, word in enumerate(words)}, unk_token='[UNK]'
        )
        made = tokenizers.Tokenizer(model)
        made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
        )
        made.save(str(folder / 'tokenizer.json'))
        roles = {f'{role}_token': f'[{role.upper()}]' for role in ('cls', 'sep', 'pad', 'unk', 'mask')}
        content = {
            'tokenizer_class': 'BertTokenizer',
            'do_lower_case': True,
            'model_max_length': 512,
            **roles,
        }
        (folder / 'tokenizer_config.json').write_text(json.dumps(content))
        return folder

    return write
