"""GLIP's entry in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method, Option

_OURS = {'head.log_scale', 'head.text_bias', 'head.words.weight'}
_THEIRS = ('log_scale', 'bias_lang', 'bias0', 'dot_product_projection_text.weight')
_HEADS = ('rpn.head.', 'bbox_head.head.')  # of microsoft/GLIP and of mmdet


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of GLIP's files, mmdet's, or a training checkpoint (needs a config)."""
    keys = {key.removeprefix('model.').removeprefix('module.') for key in keys}
    return keys >= _OURS or any(keys >= {f'{head}{name}' for name in _THEIRS} for head in _HEADS)


METHOD = Method(
    name='glip',
    task='detection',
    summary='boxes matched to the tokens of a text, in which image and text are fused',
    learns_from='boxes with class names or phrases',
    paper='Li et al. 2022 (arXiv 2112.03857)',
    recognize=recognize,
    layout='GLIP (microsoft, mmdet)',
    load='clipdense.methods.glip.checkpoint:from_file',
    build='clipdense.methods.glip.predictor:build',
    starters={'glip': 'clipdense.methods.glip.starter:glip'},
    tests={
        'boxes': 'clipdense.evaluation.own_data:detection',
        'phrases': 'clipdense.evaluation.own_data:phrases',
        'phrase masks': 'clipdense.evaluation.own_data:phrase_masks',
        'questions': 'clipdense.methods.glip.v2.answering:on_own_data',
        'captions': 'clipdense.methods.glip.v2.captioning:on_own_data',
    },
    writes={
        'captions': 'a GLIPv2 that was trained with the objective captions',
        'answers': 'a GLIPv2 that was trained with the objective answers',
    },
    no_graph='its head reads the class names together with the image',
    options=(Option('image_size', None, 'longer side of resized images; by default as the weights say'),),
)
