"""A trained model in one file: built again it is the same, and no file makes anything else run."""

from __future__ import annotations

import ast
import sys

import pytest
import torch
from mmengine.config import Config

from clipdense.clip import self_describing as portable
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.engine.checkpointing import write_checkpoint
from clipdense.methods.lseg.backbones import ResNetPyramid, TransformerPyramid, timm_network
from clipdense.methods.lseg.closed_set import ClosedSetDPT
from clipdense.methods.lseg.regularize import BottleneckBlock
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.registry import MODELS, build_module
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import CheckpointError, InputError, MissingPackage
from clipdense.weights.io import WeightsFile, read_weights, write_weights

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=6, num_heads=2, mlp_width=16, embed_dim=8)
RESNET = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=8)
PYRAMID = {'type': TransformerPyramid, 'channels': (8, 8, 8, 8), 'scales': (4, 2, 1, 0.5)}
TIMM = {'img_size': 32, 'patch_size': 16, 'embed_dim': 16, 'depth': 4, 'num_heads': 2, 'pretrained': True}

CONFIGS = {  # image tower of the CLIP, entries of the model
    'the tower of the CLIP': (VIT, {'backbone': PYRAMID}),
    'a tower cut short': (VIT, {'backbone': {**PYRAMID, 'hooks': (0, 1, 2, 3), 'readout': 'add'}}),
    'the ResNet of the CLIP': (RESNET, {}),
    'a block, and windows': (
        RESNET,
        {'block': {'type': BottleneckBlock, 'depth': 2}, 'slide': {'window': 32, 'scales': [1.0, 2.0]}},
    ),
    'a network of timm': (
        VIT,
        {
            'backbone': {
                'type': TransformerPyramid,
                'vit': {'type': timm_network, 'name': 'vit_tiny_patch16_224', **TIMM},
                'channels': (8, 8, 8, 8),
            }
        },
    ),
    'a network of its own': (
        VIT,
        {
            'backbone': {
                'type': ResNetPyramid,
                'resnet': {'type': ModifiedResNet, 'size': {**vars(RESNET), 'width': 4}},
            }
        },
    ),
}


@pytest.fixture
def run(tmp_path):
    """``run(image, entries)``: the config of a run, and the model that it built."""

    def make(image=VIT, entries=None):
        torch.manual_seed(0)
        save_clip(build_clip(ClipSize(image, TEXT)), tmp_path / 'clip.safetensors')
        part = {'type': LSeg, 'clip': str(tmp_path / 'clip.safetensors'), 'width': 8, **(entries or {})}
        cfg = Config({'model': part, 'train_dataloader': {'dataset': object()}})
        model = MODELS.build(cfg.model)
        (tmp_path / 'clip.safetensors').unlink()  # nothing but the one file is there afterwards
        for parameter in model.parameters():  # norms and biases as training leaves them: not at one and zero
            torch.nn.init.normal_(parameter.data, std=0.3)
        return cfg, model.eval()

    return make


def open_file(path):
    file = read_weights(path)
    return portable.build(file, portable.read_config(file))


@pytest.mark.parametrize(('image', 'entries'), CONFIGS.values(), ids=CONFIGS)
def test_the_file_alone_is_the_model(tmp_path, run, image, entries):
    cfg, model = run(image, entries)
    portable.save(model, tmp_path / 'lseg.safetensors', cfg)
    found = open_file(tmp_path / 'lseg.safetensors')
    assert not found.training
    assert found.slide == model.slide
    ids, same = (one.clip.tokenizer(['a cat', 'sky']) for one in (model, found))
    assert torch.equal(same, ids)
    text = model.clip.encode_text(ids, normalize=True)
    assert torch.equal(found.clip.encode_text(ids, normalize=True), text)
    images = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(found.pixel_logits(images, text), model.pixel_logits(images, text))


def test_a_training_checkpoint_alone_is_the_model(tmp_path, run):
    cfg, model = run(RESNET)
    meta = {'step': 3, **portable.meta(model, cfg)}
    write_checkpoint(tmp_path / 'step_3.pth', {'state_dict': model.state_dict(), 'meta': meta})
    found = open_file(tmp_path / 'step_3.pth')
    assert all(torch.equal(x, found.state_dict()[name]) for name, x in model.state_dict().items())


def test_the_tokenizer_comes_along(tmp_path, run):
    """Weights with ids of their own bring the files that make them."""
    from clipdense.clip.tokenizers import FolderTokenizer

    cfg, model = run(RESNET)
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'tokenizer.json').write_text('{}')
    model.clip.tokenizer = FolderTokenizer(tmp_path / 'own', model.clip.text.size)
    portable.save(model, tmp_path / 'lseg.safetensors', cfg)
    assert (tmp_path / 'lseg-tokenizer' / 'tokenizer.json').read_text() == '{}'


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'slide': Slide(window=32)}, 'contains a Slide, which is not plain data'),
        ({'loss': {'type': dict}}, "type 'builtins.dict' is not registered"),
    ],
    ids=['object', 'foreign class'],
)
def test_what_no_file_can_say_is_refused_when_it_is_written(tmp_path, run, entries, message):
    cfg, model = run(RESNET)
    cfg.model.update(entries)
    with pytest.raises(InputError, match=message):
        portable.save(model, tmp_path / 'lseg.safetensors', cfg)
    assert portable.meta(model, cfg) == {}
    assert not (tmp_path / 'lseg.safetensors').exists()


def test_a_model_built_in_code_has_no_config(run):
    _, model = run(RESNET)
    with pytest.raises(InputError, match='built in code'):
        portable.describe(model, Config({'model': model}))


def test_models_without_words_stay_as_they_are(run):
    closed = ClosedSetDPT(('a', 'b'), ResNetPyramid(ModifiedResNet(RESNET)), width=8)
    assert not portable.is_portable(closed)
    assert not portable.is_portable(build_clip(ClipSize(VIT, TEXT)))
    assert portable.is_portable(run(RESNET)[1])


HOSTILE = {
    'code': ("__import__('os').getcwd()", 'not plain data'),
    'no model': ("{'type': 'LSeg'}", 'not plain data with an entry model'),
    'no text': ('{', 'not plain data'),
    'deep': ('(' * 5000, 'not plain data'),
    'a class of others': ("{'model': {'type': 'subprocess.Popen', 'args': 'true'}}", "'subprocess.Popen'"),
    'a name without a home': ("{'model': {'type': 'LSeg'}}", "type 'LSeg' is not registered"),
    'what a module has imported': (
        "{'model': {'type': 'clipdense.clip.tokenizers.shutil.rmtree'}}",
        'type .*rmtree.* is not registered',
    ),
    'our own, not registered': (
        "{'model': {'type': 'clipdense.utils.files.atomic_write'}}",
        'type .*atomic_write.* is not registered',
    ),
    'further inside': (
        "{'model': {'type': 'clipdense.methods.lseg.segmenter.LSeg', 'backbone': [{'type': 'os.system'}]}}",
        r'type .os\.system. is not registered',
    ),
    'another type': ("{'model': {'type': ['a']}}", 'model.type must be the name of a class'),
    'parts that do not fit': (
        "{'model': {'type': 'clipdense.clip.vit.VisionTransformer'}}",
        'invalid model',
    ),
    'a scope that is imported': (
        "{'model': {'type': 'clipdense.methods.lseg.segmenter.LSeg', '_scope_': 'evil'}}",
        'model._scope_ must be one of',
    ),
    'imports': (
        "{'model': {'type': 'clipdense.clip.vit.VisionTransformer'}, 'custom_imports': {'imports': 'os'}}",
        'custom_imports imports code',
    ),
    'a constructor': (
        "{'model': {'type': 'clipdense.clip.vit.VisionTransformer', 'constructor': 'os.system'}}",
        "model.constructor: type 'os.system'",
    ),
    'a run': (
        "{'model': {'type': 'clipdense.engine.runner.Runner', 'work_dir': 'x'}}",
        'Runner. is not registered',
    ),
    'a file that is code': (
        "{'model': {'type': 'clipdense.clip.vit.VisionTransformer', 'a': [{'b': ('x.pkl',)}]}}",
        'model.a.0.b.0: .x.pkl. would be read as code',
    ),
    'a command': (
        "{'model': {'type': 'clipdense.clip.vit.VisionTransformer', 'urls': 'pipe:touch x'}}",
        'model.urls: .* runs a command',
    ),
    'NaN': ("{'model': {'type': 'clipdense.clip.vit.VisionTransformer', 'a': 1e999 - 1e999}}", 'not plain'),
    'bytes': ("{'model': {'type': 'clipdense.clip.vit.VisionTransformer', 'a': b'x'}}", 'model.a is a bytes'),
    'no words': ("{'model': {'type': 'clipdense.methods.lseg.segmenter.LSeg'}}", 'has no network'),
}


@pytest.mark.parametrize(('text', 'message'), HOSTILE.values(), ids=HOSTILE)
def test_configs_that_are_refused(tmp_path, text, message):
    metadata = {'format': portable.FORMAT, 'version': '1', 'config': text}
    write_weights(tmp_path / 'bad.safetensors', {'a': torch.ones(1)}, metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_file(tmp_path / 'bad.safetensors')
    assert 'bad.safetensors' in str(caught.value)


@pytest.mark.parametrize('lost', ['project.bias', 'clip.text.proj'])
def test_weights_that_do_not_fit_are_named(tmp_path, run, lost):
    cfg, model = run(RESNET)
    portable.save(model, tmp_path / 'lseg.safetensors', cfg)
    file = read_weights(tmp_path / 'lseg.safetensors')
    del file.tensors[lost]
    with pytest.raises(CheckpointError, match=rf'1 missing \({lost.removeprefix("clip.")}\)'):
        portable.build(file, portable.read_config(file))


@pytest.mark.parametrize('meta', [None, 'text', {'clip': {}}, {'portable': 'text'}], ids=str)
def test_other_files_bring_no_config(tmp_path, meta):
    file = WeightsFile(tmp_path / 'a.pth', 'torch', {}, extra={'meta': meta})
    assert portable.read_config(file) is None


def test_the_config_names_no_file(run):
    cfg, model = run(VIT, {'backbone': PYRAMID})
    described = portable.describe(model, cfg)
    assert 'clip.safetensors' not in described['config']
    assert ast.literal_eval(described['config']).keys() == {'model'}


class WholeCLIP(torch.nn.Module):
    """A model that needs the image tower of its CLIP as well."""

    portable_name, portable_types = 'whole', {}

    def __init__(self, clip):
        super().__init__()
        self.clip, self.head = build_module(clip), torch.nn.Linear(2, 2)

    @property
    def portable_clip(self):
        return self.clip

    def portable_config(self, cfg):
        return {'model': dict(cfg['model']), 'labels': ['a', 'b']}

    def apply_portable_config(self, config):
        self.labels = config['labels']


def test_a_file_may_hold_a_whole_clip(tmp_path, monkeypatch):
    WholeCLIP.__module__ = 'clipdense.clip.model'
    monkeypatch.setattr('clipdense.clip.model.WholeCLIP', WholeCLIP, raising=False)
    monkeypatch.setitem(MODELS.module_dict, 'WholeCLIP', WholeCLIP)
    clip = build_clip(ClipSize(VIT, TEXT), 'siglip', position_mode='bilinear')
    cfg = Config({'model': {'type': WholeCLIP, 'clip': 'clip.safetensors'}})
    model = WholeCLIP(clip)
    portable.save(model, tmp_path / 'whole.safetensors', cfg)
    file = read_weights(tmp_path / 'whole.safetensors')
    found = portable.build(file, portable.read_config(file))
    assert found.labels == ['a', 'b']
    assert found.clip.preprocess == clip.preprocess
    assert found.clip.image.position_mode == 'bilinear'
    assert all(torch.equal(x, found.state_dict()[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize(
    ('code', 'kind', 'message'),
    [
        ('import no_such_backend', MissingPackage, r'no-such-backend is not installed: pip install no-such'),
        ('raise OSError("no space")', CheckpointError, 'ownmodels.model cannot be .*: OSError: no space'),
        ('', CheckpointError, "'ownmodels.model.Tower' is not registered in clipdense, ownmodels"),
    ],
    ids=['a package', 'an error', 'no such class'],
)
def test_why_the_class_of_a_file_cannot_be_imported(tmp_path, monkeypatch, code, kind, message):
    (tmp_path / 'ownmodels').mkdir()
    (tmp_path / 'ownmodels/__init__.py').touch()
    (tmp_path / 'ownmodels/model.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'ownmodels', raising=False)
    monkeypatch.delitem(sys.modules, 'ownmodels.model', raising=False)
    text = repr({'model': {'type': 'ownmodels.model.Tower'}})
    file = WeightsFile(
        tmp_path / 'own.safetensors',
        'safetensors',
        {},
        {'format': portable.FORMAT, 'version': '1', 'config': text},
    )
    with pytest.raises(kind, match=rf'own\.safetensors: .*{message}'):
        portable.read_config(file, ('clipdense', 'ownmodels'))
