"""One tower of a CLIP in a file of its own: what it gives, and where both are needed."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from clipdense.benchmarks.build import make_subject
from clipdense.clip.checkpoint import convert, load, load_any, save
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.embedding_files import save_embeddings
from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference import load as inference
from clipdense.inference.classifier import Classifier
from clipdense.inference.detector import Detector
from clipdense.inference.segmenter import Segmenter
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.vocab.vocabulary import Vocabulary

from ..conftest import SIZES, inputs, make, write

TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=12,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
)
CLIP_TEXT = {**TEXT, 'projection_dim': 8, 'eos_token_id': 59, 'bos_token_id': 58, 'pad_token_id': 1}
CLIP_VISION = {**VISION, 'projection_dim': 8}
TOWERS = {  # of transformers: the model, its config, and where the output has the embedding
    'CLIPTextModelWithProjection': ('CLIPTextConfig', CLIP_TEXT, 'text_embeds'),
    'MetaClip2TextModelWithProjection': ('MetaClip2TextConfig', CLIP_TEXT, 'text_embeds'),
    'SiglipTextModel': ('SiglipTextConfig', {**TEXT, 'projection_size': 16}, 'pooler_output'),
    'CLIPVisionModelWithProjection': ('CLIPVisionConfig', CLIP_VISION, 'image_embeds'),
    'MetaClip2VisionModelWithProjection': ('MetaClip2VisionConfig', CLIP_VISION, 'image_embeds'),
    'SiglipVisionModel': ('SiglipVisionConfig', VISION, 'pooler_output'),
}


def tower(name, folder, **options):
    """A random tower of transformers, and its folder."""
    config, values, output = TOWERS.get(name) or (
        ('CLIPTextConfig', CLIP_TEXT, '') if 'Text' in name else ('CLIPVisionConfig', CLIP_VISION, '')
    )
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder, **options)
    return model, output


@pytest.mark.parametrize('old', [False, True], ids=['transformers 5', 'transformers 4'])
@pytest.mark.parametrize('sharded', [False, True], ids=['one file', 'shards'])
@pytest.mark.parametrize('name', TOWERS)
@torch.no_grad()
def test_towers_of_transformers(name, sharded, old, tmp_path):
    theirs, output = tower(name, tmp_path, **({'max_shard_size': '4KB'} if sharded else {}))
    assert (tmp_path / 'model.safetensors.index.json').exists() == sharded
    if old:
        with_prefix(tmp_path, 'text_model.' if 'Text' in name else 'vision_model.')
    ours = load_any(tmp_path)
    if 'Text' in name:
        assert isinstance(ours, FrozenText)
        ids = torch.randint(3, 50, (3, 12))
        ids[:, 7] = 59
        assert_close(ours.encode_text(ids), getattr(theirs(ids), output), atol=1e-5, rtol=1e-5)
        return
    assert isinstance(ours, FrozenImage)
    images = torch.randn(2, 3, 32, 32)
    assert_close(ours.encode_image(images), getattr(theirs(images), output), atol=1e-5, rtol=1e-5)
    assert ours.encode_dense(images, normalize=True).shape == (2, ours.embed_dim, 4, 4)


def with_prefix(folder, prefix):
    """Rename the tensors to those of transformers 4."""

    def renamed(name):
        whole = name.startswith((prefix, 'visual_projection', 'text_projection'))
        return name if whole else f'{prefix}{name}'

    for file in folder.glob('*.safetensors'):
        save_file({renamed(name): x for name, x in load_file(file).items()}, file)
    for file in folder.glob('*.index.json'):
        index = json.loads(file.read_text())
        index['weight_map'] = {renamed(name): part for name, part in index['weight_map'].items()}
        file.write_text(json.dumps(index))


NOT_JOINT = {'CLIPTextModel': 'text_projection', 'CLIPVisionModel': 'visual_projection'}


@pytest.mark.parametrize('name', NOT_JOINT)
def test_towers_without_projection(name, tmp_path):
    tower(name, tmp_path)
    with pytest.raises(CheckpointError, match=rf'no projection into the joint space \({NOT_JOINT[name]}\)'):
        load_any(tmp_path)


LAYOUTS = {
    'openclip_vit': ('vit', {'activation': 'gelu'}),
    'openclip_custom_vit': ('vit', {'activation': 'gelu'}),
    'openclip_resnet': ('resnet', {'activation': 'gelu'}),
    'openclip_siglip': ('siglip', {'activation': 'gelu_tanh'}),
    'slip': ('slip', {'activation': 'gelu'}),
    'clipdense': ('vit', {'activation': 'gelu'}),
}
OF_IMAGE = ('visual.', 'image.', 'image_projection')
OF_LOGITS = ('logit_scale', 'logit_bias')


@pytest.mark.parametrize('half', ['image', 'text'])
@pytest.mark.parametrize('layout', LAYOUTS)
@torch.no_grad()
def test_files_with_one_tower_cut_off(layout, half, tmp_path):
    kind, options = LAYOUTS[layout]
    clip, file = make(SIZES[kind]), tmp_path / 'weights.safetensors'
    write(clip, layout, file)
    tensors = load_file(file)
    kept = {name: x for name, x in tensors.items() if name.startswith(OF_IMAGE) == (half == 'image')}
    save_file({name: x for name, x in kept.items() if name not in OF_LOGITS}, file)
    if layout == 'slip' and half == 'text':
        options = {'activation': 'quick_gelu'}  # without its image tower it is one of OpenAI's kind
    found, (images, ids) = load_any(file, **options), inputs(SIZES[kind])
    if half == 'image':
        assert_close(found.encode_image(images), clip.encode_image(images), atol=1e-5, rtol=0)
        assert_close(found.encode_dense(images), clip.encode_dense(images), atol=1e-5, rtol=0)
    else:
        assert_close(found.encode_text(ids), clip.encode_text(ids), atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match=rf'not a full CLIP checkpoint \({half} tower only\)'):
        load(file, **options)


def test_self_describing_file_with_one_tower_cut_off(tmp_path):
    """It records the sizes of both towers, and the scale of the logits stays."""
    from safetensors import safe_open

    clip, file = make(SIZES['vit']), tmp_path / 'clip.safetensors'
    save(clip, file)
    with safe_open(file, 'pt') as opened:
        metadata = opened.metadata()
    save_file({n: x for n, x in load_file(file).items() if not n.startswith('text.')}, file, metadata)
    found = load_any(file)
    assert (found.image.size, found.preprocess, found.scale_known) == (clip.image.size, clip.preprocess, True)
    assert torch.equal(found.logit_scale, clip.logit_scale)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A CLIP, its two halves, and class embeddings from the one with the text tower."""
    path = tmp_path_factory.mktemp('halves')
    text = TextSize(64, 2, 1, 96, 16, activation='gelu')
    clip = build_clip(ClipSize(VitSize(32, 8, 64, 2, 1, 96, 16, 'gelu'), text)).eval()
    save(clip, path / 'whole.safetensors')
    tensors = write(clip, 'openclip_vit', path / 'all.safetensors')
    tensors = {name: x for name, x in load_file(tensors).items() if name not in OF_LOGITS}
    for half in ('image', 'text'):
        kept = {n: x for n, x in tensors.items() if n.startswith('visual.') == (half == 'image')}
        save_file(kept, path / f'{half}.safetensors')
    names = Vocabulary(('cat', 'dog'))
    found = PromptEnsemble(load_any(path / 'text.safetensors', activation='gelu'), 'name', cache=None)
    save_embeddings(path / 'names.safetensors', names, found.embed(names), 'name')
    return path


@pytest.fixture
def photo():
    return Image.effect_noise((64, 48), 60).convert('RGB')


def test_two_halves_segment_as_the_whole(folder, photo):
    options = {'device': 'cpu', 'cache': False}
    whole = Segmenter.from_pretrained(folder / 'whole.safetensors', templates='name', **options)
    with pytest.warns(UserWarning, match='records no preprocessing'):
        half = Segmenter.from_pretrained(
            folder / 'image.safetensors', embedder=folder / 'names.safetensors', activation='gelu', **options
        )
    one, other = (segmenter(photo, ['cat', 'dog']) for segmenter in (whole, half))
    assert (one.mask == other.mask).all()


def test_two_halves_classify_as_the_whole(folder, photo):
    """The order of the classes is the same; the scale of the logits is assumed."""
    whole = Classifier.from_pretrained(folder / 'whole.safetensors', templates='name', cache=False)
    embedder = folder / 'names.safetensors'
    with pytest.warns(UserWarning, match='records no logit_scale; assumed: 100'):
        half = Classifier.from_pretrained(folder / 'image.safetensors', embedder=embedder, activation='gelu')
    names = [[name for name, _ in c(photo, ['cat', 'dog']).top(2)] for c in (whole, half)]
    assert names[0] == names[1]


NO_TEXT, NO_IMAGE = r'\(image tower only\); it can classify', r'\(text tower only\); it can write'
IMPOSSIBLE = {
    'segmenter without embeddings': (Segmenter.from_pretrained, 'image', 'cannot embed class names'),
    'classifier without embeddings': (Classifier.from_pretrained, 'image', 'cannot embed class names'),
    'segmenter of text': (Segmenter.from_pretrained, 'text', NO_IMAGE),
    'classifier of text': (Classifier.from_pretrained, 'text', NO_IMAGE),
    'detector of an image tower': (Detector.from_pretrained, 'image', NO_TEXT),
    'detector of a text tower': (Detector.from_pretrained, 'text', NO_IMAGE),
    'CLIP of an image tower': (inference.load_clip, 'image', NO_TEXT),
    'CLIP of a text tower': (inference.load_clip, 'text', NO_IMAGE),
    'class embeddings of an image tower': (inference.load_text_clip, 'image', NO_TEXT),
    'benchmark': (lambda file, **more: make_subject(load_any(file, **more), file), 'image', NO_TEXT),
}


@pytest.mark.filterwarnings('ignore:.*assumed')
@pytest.mark.parametrize('name', IMPOSSIBLE)
def test_what_needs_both(name, folder):
    use, half, message = IMPOSSIBLE[name]
    with pytest.raises(InputError, match=message):
        use(folder / f'{half}.safetensors', activation='gelu')


@pytest.mark.parametrize('to', ['clipdense', 'openclip', 'huggingface'])
def test_conversion(to, folder, tmp_path):
    with pytest.raises(CheckpointError, match=NO_IMAGE):
        convert(folder / 'text.safetensors', tmp_path / 'out.safetensors', to, activation='gelu')


@pytest.mark.parametrize(
    ('half', 'override'),
    [('image', {'text_num_heads': 1}), ('text', {'num_heads': 1}), ('text', {'preprocess': 'half'})],
)
def test_settings_of_the_other_tower(half, override, folder):
    with pytest.raises(InputError, match=f'{half} tower only: remove the override'):
        load_any(folder / f'{half}.safetensors', activation='gelu', **override)


def test_config_of_one_tower_beside_another(tmp_path):
    tower('CLIPTextModelWithProjection', tmp_path / 'text')
    tower('CLIPVisionModelWithProjection', tmp_path / 'image')
    (tmp_path / 'text' / 'config.json').rename(tmp_path / 'image' / 'config.json')
    with pytest.raises(
        CheckpointError, match='declares the text tower of a CLIP, but the tensors are those of'
    ):
        load_any(tmp_path / 'image')


def test_a_tower_of_another_kind(tmp_path):
    """BLIP has an image tower under the names of CLIP's, and more."""
    tower('CLIPVisionModel', tmp_path)
    with_prefix(tmp_path, 'vision_model.')
    file = tmp_path / 'model.safetensors'
    save_file({**load_file(file), 'text_encoder.weight': torch.zeros(2)}, file)
    with pytest.raises(CheckpointError):
        load_any(tmp_path)
