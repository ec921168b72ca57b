"""Config files of BLIP in the Hugging Face layout: ``config.json``, ``preprocessor_config.json``.

Source: transformers ``BlipConfig``, whose defaults apply to entries that a file omits; they differ from the
release (8 heads of the text transformer, eps 1e-5 of the ViT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdense.clip.checkpoint.config_files import huggingface_config_beside, huggingface_section
from clipdense.clip.checkpoint.image_settings import huggingface_images
from clipdense.clip.checkpoint.section import Section
from clipdense.clip.checkpoint.settings import recorded_preprocess
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import VitSize
from clipdense.utils.errors import InputError

from .model import Blip
from .sizes import BERT, BlipSize, SpecialIds

VISION_EPS = 1e-5  # the default of transformers, and what the published files record
_TEXT_HEADS, _VISION_HEADS = 8, 12  # defaults of transformers


def read_beside(path: Path) -> dict[str, Any]:
    """Overrides from ``config.json`` in the folder of the weights; {} without one.

    Raises:
        CheckpointError: a damaged file, a config of another kind of model, or an unsupported setting.
    """
    config = huggingface_config_beside(path, 'blip', 'BLIP')
    if config is None:
        return {}
    vision, text = huggingface_section(config, 'vision'), huggingface_section(config, 'text')
    vision.require(hidden_act='gelu', num_channels=3)
    text.require(hidden_act='gelu')
    return {
        'num_heads': vision.integer('num_attention_heads', _VISION_HEADS),
        'text_num_heads': text.integer('num_attention_heads', _TEXT_HEADS),
        'image_size': vision.integer('image_size', 384),
        'image_eps': vision.number('layer_norm_eps', VISION_EPS),
        'text_eps': text.number('layer_norm_eps', 1e-12),
        'ids': _ids(text),
    }


def _ids(text: Section) -> SpecialIds:
    """The special ids; ``[ENC]`` follows ``[DEC]``, and ``[CLS]`` comes before ``[SEP]``, as in BERT."""
    dec, sep = text.integer('bos_token_id', BERT.dec), text.integer('sep_token_id', BERT.sep)
    pad = text.get('pad_token_id', BERT.pad)
    if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
        raise text.error('pad_token_id', 'must be an id')
    return SpecialIds(pad=pad, cls=sep - 1, sep=sep, dec=dec, enc=dec + 1)


def preprocess_beside(folder: Path, size: VitSize) -> Preprocess | None:
    """The preprocessing that a folder records; None for BLIP's own.

    Raises:
        CheckpointError: a damaged file, or a setting that is not supported.
    """
    fields = huggingface_images(folder, 'blip')
    return None if fields is None else recorded_preprocess(fields, size.image_size, size.patch_size, folder)


def architecture(size: BlipSize) -> str:
    """The class of transformers for these parts.

    Raises:
        InputError: there is none.
    """
    if size.answers:
        return 'BlipForQuestionAnswering'
    if size.encoder and size.decoder:
        raise InputError(
            'transformers has no class for a BLIP of pre-training, with encoder and decoder: convert it to '
            "the layout 'salesforce'"
        )
    return 'BlipForConditionalGeneration' if size.decoder else 'BlipForImageTextRetrieval'


def configs(model: Blip) -> dict[str, dict[str, Any]]:
    """The contents of both files, by name without ending."""
    return {'config': _model(model), 'preprocessor_config': _images(model.preprocess)}


def _model(model: Blip) -> dict[str, Any]:
    size = model.size
    image, text, ids = size.image, size.text, size.text.ids
    assert isinstance(image, VitSize)
    return {
        'architectures': [architecture(size)],
        'model_type': 'blip',
        'image_text_hidden_size': size.embed_dim or 256,
        'projection_dim': 512,
        'vision_config': {
            'model_type': 'blip_vision_model',
            'hidden_size': image.width,
            'intermediate_size': image.mlp_width,
            'num_hidden_layers': image.layers,
            'num_attention_heads': image.num_heads,
            'image_size': image.image_size,
            'patch_size': image.patch_size,
            'hidden_act': 'gelu',
            'layer_norm_eps': size.image_eps,
        },
        'text_config': {
            'model_type': 'blip_text_model',
            'vocab_size': text.vocab_size,
            'hidden_size': text.width,
            'encoder_hidden_size': image.width,
            'intermediate_size': text.mlp_width,
            'num_hidden_layers': text.layers,
            'num_attention_heads': text.num_heads,
            'max_position_embeddings': text.context_length,
            'hidden_act': 'gelu',
            'layer_norm_eps': text.eps,
            'bos_token_id': ids.dec,
            'eos_token_id': ids.sep,
            'sep_token_id': ids.sep,
            'pad_token_id': ids.pad,
        },
    }


def _images(preprocess: Preprocess) -> dict[str, Any]:
    side = preprocess.image_size
    return {
        'image_processor_type': 'BlipImageProcessor',
        'do_resize': True,
        'size': {'height': side, 'width': side},
        'do_normalize': True,
        'image_mean': preprocess.mean,
        'image_std': preprocess.std,
        'resample': {'nearest': 0, 'bilinear': 2, 'bicubic': 3}[preprocess.interpolation],
    }
