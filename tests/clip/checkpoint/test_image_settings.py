"""Preprocessing that folders of Hugging Face and open_clip record: honoured as by its authors, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipdense.clip.checkpoint import load
from clipdense.clip.preprocess import STATISTICS, Preprocess
from clipdense.utils.errors import InputError

from .. import conftest
from ..conftest import VIT, write

CONFIG = {
    'model_type': 'clip',
    'vision_config': {'num_attention_heads': 1, 'hidden_act': 'gelu', 'image_size': 16, 'hidden_size': 64},
    'text_config': {'num_attention_heads': 1, 'hidden_act': 'gelu'},
}
CLIP = {'image_processor_type': 'CLIPImageProcessor'}
SIGLIP = {'image_processor_type': 'SiglipImageProcessor'}
SIDE = {'height': 16, 'width': 16}
SHORT = {'size': {'shortest_edge': 16}, 'crop_size': SIDE}
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
OPENAI, HALF = STATISTICS['openai'], STATISTICS['half']


def make(size):
    """A random CLIP with a plausible logit scale."""
    clip = conftest.make(size)
    clip.logit_scale.data.fill_(2.66)
    return clip


def scaled(statistics, factor):
    return tuple(tuple(value * factor for value in values) for values in statistics)


ACCEPTED = {
    'CLIP': ({**CLIP, **SHORT}, Preprocess(16)),
    'integers': ({**CLIP, 'size': 16, 'crop_size': 16}, Preprocess(16)),
    'own statistics': (
        {**CLIP, **SHORT, 'image_mean': list(OWN[0]), 'image_std': list(OWN[1])},
        Preprocess(16, *OWN),
    ),
    'bilinear': ({**CLIP, **SHORT, 'resample': 2}, Preprocess(16, interpolation='bilinear')),
    'nearest': ({**CLIP, **SHORT, 'resample': 0}, Preprocess(16, interpolation='nearest')),
    'squash': ({**CLIP, 'size': SIDE, 'do_center_crop': False}, Preprocess(16, resize='squash')),
    'squash and crop': ({**CLIP, 'size': SIDE, 'crop_size': SIDE}, Preprocess(16, resize='squash')),
    'SigLIP': ({**SIGLIP, 'size': SIDE}, Preprocess.named('siglip', 16)),
    'ViT': (
        {'image_processor_type': 'ViTImageProcessor', 'size': 16},
        Preprocess(16, *HALF, interpolation='bilinear', resize='squash'),
    ),
    'no normalization': (
        {**CLIP, **SHORT, 'do_normalize': False},
        Preprocess(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ),
    'values of 0 to 255': (
        {**CLIP, **SHORT, 'do_rescale': False, 'image_mean': [127.5] * 3, 'image_std': [127.5] * 3},
        Preprocess(16, *HALF),
    ),
    'values of -1 to 1': (
        {**CLIP, **SHORT, 'rescale_factor': 1 / 127.5},
        Preprocess(16, *scaled(OPENAI, 0.5)),
    ),
}


def folder_with(folder, **files):
    write(make(VIT), 'huggingface_clip', folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(CONFIG))
    for name, values in files.items():
        (folder / f'{name}.json').write_text(json.dumps(values))
    return folder


def assert_close(found, expected):
    assert (found.image_size, found.interpolation, found.resize) == (
        expected.image_size,
        expected.interpolation,
        expected.resize,
    )
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)


@pytest.mark.parametrize('layout', ['preprocessor_config', 'processor_config'])
@pytest.mark.parametrize('name', ACCEPTED)
def test_both_layouts(tmp_path, name, layout, recwarn):
    values, expected = ACCEPTED[name]
    values = {'image_processor': values} if layout == 'processor_config' else values
    assert_close(load(folder_with(tmp_path, **{layout: values})).preprocess, expected)
    assert not recwarn.list


@pytest.mark.parametrize('name', [name for name in ACCEPTED if name != 'nearest'])
def test_pixels_as_transformers(tmp_path, name):
    transformers = pytest.importorskip('transformers')
    values, expected = ACCEPTED[name]
    kind = values['image_processor_type']
    kind = getattr(transformers, f'{kind}Pil', getattr(transformers, kind))
    theirs = kind.from_dict(values)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = theirs(images=image, return_tensors='pt').pixel_values[0]
    preprocess = load(folder_with(tmp_path, preprocessor_config=values)).preprocess
    step = 1.01 / 255 / min(preprocess.std)  # rounding may differ by one of 255 levels
    torch.testing.assert_close(preprocess(image), expected.float(), atol=step, rtol=0)


REFUSED = {
    'shorter side of a SigLIP': ({**SIGLIP, 'size': 16}, 'shorter side of 16 and not cropped'),
    'not cropped': ({**CLIP, **SHORT, 'do_center_crop': False}, 'do_center_crop=false.*pass preprocess='),
    'cropped to less': ({**CLIP, 'size': {'shortest_edge': 20}, 'crop_size': SIDE}, 'resize to 20 and crop'),
    'not resized': ({**CLIP, **SHORT, 'do_resize': False}, 'unsupported do_resize=False'),
    'longest side': ({**CLIP, 'size': {'longest_edge': 16}}, "unsupported size=.*'longest_edge'"),
    'two sides': ({**SIGLIP, 'size': {'height': 16, 'width': 20}}, 'supported: equal height and width'),
    'one side': ({**SIGLIP, 'size': {'height': 16}}, 'supported: equal height and width'),
    'empty size': ({**SIGLIP, 'size': {}}, 'supported: equal height and width'),
    'lanczos': ({**CLIP, **SHORT, 'resample': 1}, r'unsupported resample=1; supported: 0 \(nearest\)'),
    'a name for a code': ({**CLIP, **SHORT, 'resample': 'bicubic'}, "unsupported resample='bicubic'"),
    'padded': ({**CLIP, **SHORT, 'do_pad': True}, 'unsupported do_pad=True'),
    'BGR': ({**CLIP, **SHORT, 'do_flip_channel_order': True}, 'unsupported do_flip_channel_order'),
    'another processor': ({**SHORT, 'image_processor_type': 'ViltImageProcessor'}, "processor 'ViltImage"),
    'patches of any size': ({'image_processor_type': 'Siglip2ImageProcessor'}, "'Siglip2ImageProcessor'"),
    'two means': ({**CLIP, **SHORT, 'image_mean': [0.5, 0.5]}, 'image_mean must be three finite numbers'),
    'a word for a mean': ({**CLIP, **SHORT, 'image_mean': 'half'}, 'image_mean must be three finite numbers'),
    'NaN': ({**CLIP, **SHORT, 'image_mean': [float('nan')] * 3}, 'image_mean must be three finite'),
    'std of 0': ({**CLIP, **SHORT, 'image_std': [0, 1, 1]}, 'image_std must be between 1e-06 and'),
    'huge mean': (
        {**CLIP, **SHORT, 'image_mean': [0, 0, 9e37]},
        'image_mean must be between',
    ),
    'tiny factor': ({**CLIP, **SHORT, 'rescale_factor': 1e-30}, 'rescale_factor must be between 1e-06'),
    'factor of 0': ({**CLIP, **SHORT, 'rescale_factor': 0}, 'rescale_factor must be a finite number other'),
    'yes for true': ({**CLIP, **SHORT, 'do_rescale': 'yes'}, 'do_rescale must be true or false'),
    'negative size': ({**CLIP, 'size': -16, 'crop_size': 16}, 'size must be a positive integer, got -16'),
    'images of another size': (
        {**CLIP, 'size': 224, 'crop_size': 224},
        'images are preprocessed to 224 pixels, but the model is for 16.*pass preprocess=',
    ),
    'no size': (CLIP, 'preprocessed to 224 pixels, but the model is for 16'),
    'not an object': ([1], 'is not a JSON object'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(tmp_path, name):
    values, message = REFUSED[name]
    folder = folder_with(tmp_path, preprocessor_config=values)
    with pytest.raises(InputError, match=message):
        load(folder)
    if name != 'not an object':
        folder_with(tmp_path, processor_config={'image_processor': values})
        with pytest.raises(InputError, match=message):
            load(folder)


def test_replaced_by_the_caller(tmp_path):
    folder = folder_with(tmp_path, preprocessor_config={**CLIP, 'size': 224, 'crop_size': 224})
    (folder / 'preprocessor_config.json').unlink()
    assert load(folder, preprocess='half').preprocess == Preprocess.named('half', 16)


def test_nothing_recorded_is_said(tmp_path):
    with pytest.warns(
        UserWarning, match="no preprocessing of images; assumed: 16 pixels, bicubic, resize 'sho"
    ):
        found = load(folder_with(tmp_path, processor_config={'processor_class': 'CLIPProcessor'})).preprocess
    assert found == Preprocess(16)


def test_two_files_that_differ(tmp_path):
    newer = {'image_processor': {**CLIP, **SHORT, 'resample': 2}}
    folder = folder_with(tmp_path, preprocessor_config={**CLIP, **SHORT}, processor_config=newer)
    with pytest.warns(UserWarning, match=r'preprocessor_config.json differs from processor_config.json'):
        assert load(folder).preprocess.interpolation == 'bilinear'


OPEN_CLIP = {
    'embed_dim': 32,
    'vision_cfg': {'image_size': 16, 'layers': 2, 'width': 64, 'patch_size': 4, 'mlp_ratio': 1.5},
    'text_cfg': {'width': 64, 'heads': 1, 'layers': 2, 'context_length': 12, 'vocab_size': 50},
}
OPEN_CLIP_CASES = {
    'one number': ({'mean': 0.5, 'std': [0.5, 0.5, 0.5]}, Preprocess(16, *HALF)),
    'random': ({'interpolation': 'random'}, Preprocess(16)),
    'bilinear, squash': (
        {'interpolation': 'bilinear', 'resize_mode': 'squash', 'size': [16, 16]},
        Preprocess(16, interpolation='bilinear', resize='squash'),
    ),
    'longest': ({'resize_mode': 'longest'}, "resize_mode='longest'"),
    'lanczos': ({'interpolation': 'lanczos'}, "interpolation='lanczos'"),
    'grey': ({'mode': 'L'}, "unsupported mode='L'"),
    'list': ([1], 'preprocess_cfg is not a JSON object'),
    'mean': ({'mean': [1, 2]}, 'preprocess_cfg.mean must be three finite numbers'),
}


@pytest.mark.parametrize('name', OPEN_CLIP_CASES)
def test_open_clip(tmp_path, name, recwarn):
    values, expected = OPEN_CLIP_CASES[name]
    write(make(VIT), 'openclip_vit', tmp_path / 'open_clip_model.safetensors')
    config = {'model_cfg': OPEN_CLIP, 'preprocess_cfg': values}
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(config))
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            load(tmp_path)
        return
    assert load(tmp_path).preprocess == expected
    assert not recwarn.list


def test_open_clip_without_or_with_other_sizes(tmp_path):
    write(make(VIT), 'openclip_vit', tmp_path / 'open_clip_model.safetensors')
    config = tmp_path / 'open_clip_config.json'
    config.write_text(json.dumps({'model_cfg': OPEN_CLIP}))
    with pytest.warns(UserWarning, match='records no preprocessing of images; assumed: 16 pixels'):
        load(tmp_path)
    config.write_text(json.dumps({'model_cfg': OPEN_CLIP, 'preprocess_cfg': {'size': 224}}))
    with pytest.warns(UserWarning, match='preprocess_cfg.size=224 differs from image_size=16'):
        assert load(tmp_path).preprocess.image_size == 16


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(['', 'bicubic', 'Siglip']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(['shortest_edge', 'height', 'width']), inner, max_size=3)
    ),
    max_leaves=4,
)
KEYS = [
    'size',
    'crop_size',
    'resample',
    'image_mean',
    'image_std',
    'do_rescale',
    'rescale_factor',
    'do_resize',
]
KEYS += ['do_center_crop', 'do_normalize', 'image_processor_type', 'image_processor']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return folder_with(tmp_path_factory.mktemp('model'))


@pytest.mark.filterwarnings('ignore')
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5), newer=st.booleans())
def test_any_values_are_read_or_refused(folder, values, newer):
    (folder / 'preprocessor_config.json').write_text(json.dumps({**CLIP, **SHORT, **values}))
    (folder / 'processor_config.json').write_text(json.dumps(values if newer else {}))
    try:
        image = load(folder).preprocess(Image.new('RGB', (9, 20)))
    except InputError:
        return
    assert image.shape == (3, 16, 16)
    assert image.isfinite().all()
