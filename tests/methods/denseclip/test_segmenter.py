"""Both segmenters as models: sizes, class names, contexts, losses, training, files, and bad input."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F
from torch.testing import assert_close

import clipdense
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize
from clipdense.data.scenes import SceneSegmentation
from clipdense.data.segmentation.crops import SegmentationCrops
from clipdense.engine.export import ExportHook
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.launch import train
from clipdense.inference.load import load, load_embedder
from clipdense.methods.denseclip.backbones import default_taps
from clipdense.methods.denseclip.contexts import embed_names
from clipdense.methods.denseclip.open_vocabulary import OpenContextAwareSegmenter
from clipdense.methods.denseclip.segmenter import ContextAwareSegmenter
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import NAMES, RESNET, VIT

KINDS = ['fixed', 'open']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('image', ['vit', 'resnet'])
@pytest.mark.parametrize('size', [(32, 32), (1, 1), (33, 70)])
def test_logits_have_the_size_of_the_image(make_model, kind, image, size):
    model = make_model(kind, image)
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).shape == (2, 3, *size)
    assert model.segment(torch.randn(3, *size)).classes.shape == size


@pytest.mark.parametrize('n_ctx', [0, 4])
def test_a_logit_does_not_depend_on_the_other_names(make_model, n_ctx):
    """Nor on chunks: no layer of the open variant sees two classes."""
    names = [f'thing {index}' for index in range(40)]
    model, image = make_model(names=names, n_ctx=n_ctx), torch.randn(1, 3, 40, 64)
    torch.nn.init.normal_(model.correct.out.weight)
    with torch.no_grad():
        features = model.encode_pixels(image)
        logits = model.classify_pixels(features, model.queries)
        assert_close(model.classify_pixels(features, model.queries[[7, 3]]), logits[:, [7, 3]])
        per_image = torch.stack([model.queries[:2]])  # (B, K, D)
        assert_close(model.classify_pixels(features, per_image), logits[:, :2])
    whole = model.segment(image[0])
    model.memory_budget = 1
    assert torch.equal(model.segment(image[0]).classes, whole.classes)
    assert not model.joint_over_classes


def test_the_open_variant_written_out(make_model):
    """Cosine over temperature and the correction of each class, from the parts."""
    model, image = make_model('open', temperature=0.05), torch.randn(1, 3, 64, 64)
    for parameter in model.correct.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        fused, pooled, local, _ = features = model.encode_pixels(image)
        logits, scores = model.decode(features, model.queries)
        for place in range(3):
            text = model.queries[place]
            change = model.context_decoder(text[None, None], pooled, local)[0, 0]
            text = F.normalize(text + model.gamma * change, dim=0)
            cosine = (F.normalize(model.project(fused)[0], dim=0) * text[:, None, None]).sum(0)
            score = (F.normalize(local[0], dim=0) * text[:, None, None]).sum(0)
            assert_close(scores[0, place], score)
            score = F.interpolate(score[None, None], cosine.shape, mode='bilinear')[0, 0]
            hidden = model.correct.scores(torch.stack([cosine, score])[None]) + model.correct.image(fused)
            correction = model.correct.out(F.gelu(hidden))[0, 0]
            assert_close(logits[0, place], cosine / 0.05 + correction, atol=1e-5, rtol=1e-5)


def test_classes_of_the_published_one_are_fixed(make_model, make_clip):
    model, image = make_model('fixed'), torch.randn(3, 32, 32)
    with torch.no_grad():
        logits = model.pixel_logits(image[None], torch.eye(3))
        chosen = Vocabulary(('tree', 'sky'))
        model.set_vocabulary(chosen, class_embedder(model).embed(chosen))
        assert_close(model.pixel_logits(image[None], model.queries), logits[:, [2, 0]])
    with pytest.raises(InputError, match=r"'house' is not one of the 3 classes .* open-vocabulary variant"):
        class_embedder(model).embed(Vocabulary(('sky', 'house')))
    rows = F.normalize(torch.randn(2, 16), dim=-1)
    with pytest.raises(InputError, match='embeds its class names itself'):
        model.set_vocabulary(chosen, ClassEmbeddings(rows, torch.arange(2), 2))


def test_contexts_stand_before_the_name(make_clip):
    """Written out: start of text, contexts, name, end of text, in a text tower without shortcuts."""
    clip = make_clip()
    contexts = torch.randn(3, 32)
    found = embed_names(load_text(clip), ['sky', 'a red car'], contexts)
    for name, row in zip(['sky', 'a red car'], found, strict=True):
        ids = clip.tokenizer([name])[0]
        end = int(ids.argmax())
        table = clip.text.token_embed.weight
        tokens = torch.cat([table[ids[:1]], contexts, table[ids[1 : end + 1]]])[None]
        expected = clip.encode_prompts(tokens, torch.tensor([end + 3]))[0]
        assert_close(row, expected)


def load_text(clip):
    from clipdense.clip.frozen_text import FrozenText

    return FrozenText.of(clip)


@pytest.mark.parametrize('kind', KINDS)
def test_the_loss_written_out(make_model, kind):
    """Cross entropy of the mask over labeled pixels, and 0.4 of that of the score map over 0.07."""
    model = make_model(kind)
    mask = torch.randint(0, 3, (2, 64, 64))
    mask[0, :10] = 255
    images, samples = torch.randn(2, 3, 64, 64), [sample(one) for one in mask]
    with torch.no_grad():
        found = model.loss(images, samples)
        features = model.encode_pixels(images)
        logits, scores = model.decode(features) if kind == 'fixed' else model.decode(features, model.queries)
    up = [F.interpolate(x, (64, 64), mode='bilinear') for x in (logits, scores / 0.07)]
    expected = [F.cross_entropy(x, mask, ignore_index=255) for x in up]
    assert_close(found['loss_mask'], expected[0])
    assert_close(found['loss_identity'], 0.4 * expected[1])
    model.loss_options['identity'] = 0
    assert set(model.loss(images, samples)) == {'loss_mask'}


def sample(mask):
    mask = torch.as_tensor(mask)
    return SegmentationSample('a.jpg', tuple(mask.shape), mask)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('image', ['vit', 'resnet'])
def test_what_learns(make_model, kind, image):
    """Everything but the text tower, and not a locked image tower."""
    for locked in (False, True):
        model = make_model(kind, image, n_ctx=2, backbone={'locked': locked}).train()
        labels = torch.randint(0, 3, (64, 64))
        sum(model.loss(torch.randn(2, 3, 64, 64), [sample(labels)] * 2).values()).backward()
        for name, parameter in model.named_parameters():
            frozen = name.startswith('clip.') or (locked and name.startswith('backbone.tower.'))
            assert (parameter.grad is None) == frozen, name
        assert model.backbone.tower.training != locked


def test_class_embeddings_follow_the_contexts(make_model):
    """They are kept between images, and computed again when the contexts or the weights change."""
    model = make_model('fixed')
    with torch.no_grad():
        first = model.class_texts()
        assert model.class_texts() is first
        model.contexts += 1
        assert not torch.allclose(model.class_texts(), first)
        model.load_state_dict(make_model('fixed').state_dict())
        assert not torch.allclose(model.class_texts(), first)
    assert model.class_texts().requires_grad


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        ('open', {'n_ctx': -1}, 'n_ctx must be 0 or more, got -1'),
        ('open', {'n_ctx': 75}, '75 learned contexts leave no room for a class name .* 77 tokens'),
        ('open', {'temperature': 0}, 'temperature must be positive, got 0'),
        ('open', {'statistics': 'mine'}, "unknown statistics 'mine'"),
        ('open', {'backbone': {'tabs': 1}}, "backbone has no option 'tabs'.*Did you mean 'taps'"),
        ('open', {'loss': {'weight': 1}}, "loss has no option 'weight'"),
        ('open', {'backbone': {'taps': (0, 1, 2, 3)}}, 'taps and scales are those of a ViT'),
        ('open', {'decoder': {'width': 16, 'num_heads': 3}}, '16, is not divisible by 3 heads'),
        ('open', {'decoder': {'class_attention': True}}, 'do not attend to each other'),
        ('fixed', {'image': 'vit', 'backbone': {'taps': (0, 1, 2, 4)}}, 'from 0 to 3, got'),
        ('fixed', {'image': 'vit', 'backbone': {'scales': (4, 2, 1, 1)}}, 'each half of the one before'),
        ('fixed', {'image': 'vit', 'backbone': {'scales': (16, 8, 4, 2)}}, 'one of the scales must be 1'),
    ],
)
def test_bad_options(make_model, kind, options, message):
    with pytest.raises(InputError, match=message):
        make_model(kind, **options)


def test_bad_parts(make_clip):
    siglip = TextSize(width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=16, flavour='siglip')
    with pytest.raises(InputError, match='learned contexts need a causal text tower'):
        ContextAwareSegmenter(NAMES, build_clip(ClipSize(RESNET, siglip)))
    with pytest.raises(InputError, match='no image tower: give a full CLIP'):
        OpenContextAwareSegmenter(load_text(make_clip()))
    with pytest.raises(InputError, match='needs a ViT or ResNet of CLIP as image tower, not a Linear'):
        OpenContextAwareSegmenter(make_clip(), {'image': torch.nn.Linear(1, 1)})
    wide = build_clip(ClipSize(VIT, TextSize(32, 1, 1, 32, 16))).image
    wide.size = type(VIT)(**{**vars(VIT), 'embed_dim': 8})
    with pytest.raises(InputError, match='embeds in 8 dimensions, the text tower in 16'):
        OpenContextAwareSegmenter(make_clip(), {'image': wide})


@pytest.mark.parametrize('kind', KINDS)
def test_bad_batches(make_model, kind):
    model = make_model(kind)
    with pytest.raises(InputError, match=r'a\.jpg has labels \[3\], which are not classes'):
        model.loss(torch.randn(1, 3, 32, 32), [sample(torch.full((32, 32), 3))])
    with pytest.raises(InputError, match='SegmentationCrops'):
        model.loss([torch.randn(3, 8, 8), torch.randn(3, 9, 8)], [])
    with pytest.raises(InputError, match='has no mask'):
        model.loss(torch.randn(1, 3, 8, 8), [SegmentationSample('a.jpg', (8, 8))])


@pytest.mark.parametrize(
    ('depth', 'taps'), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (2, (0, 0, 1, 1))]
)
def test_the_blocks_that_are_read(depth, taps):
    assert default_taps(depth) == taps


def config(model, tmp_path):
    scenes = dict(type=SceneSegmentation, split='base', num_images=8, difficulty='easy', stream='train')
    return Config(
        {
            'model': model,
            'train_dataloader': {
                'batch_size': 4,
                'dataset': dict(
                    type=SegmentationCrops, dataset=scenes, size=32, long_side=None, scale=(1.0, 1.0)
                ),
            },
            'train_cfg': {'max_steps': 3},
            'optim_wrapper': {'optimizer': {'type': torch.optim.AdamW, 'lr': 1e-3}},
            'default_hooks': dict(export=dict(type=ExportHook)),
            'custom_hooks': [dict(type=VocabularyHook, templates='name')],
            'work_dir': str(tmp_path / 'run'),
            'randomness': {'seed': 0},
        }
    )


@pytest.mark.parametrize('kind', KINDS)
def test_training_leaves_one_file_that_is_enough(tmp_path, make_clip, kind):
    save_clip(make_clip('vit'), tmp_path / 'clip.safetensors')
    model = dict(clip=str(tmp_path / 'clip.safetensors'), width=8, n_ctx=2, decoder=dict(width=16, layers=1))
    if kind == 'fixed':
        names = SceneSegmentation('base', 1, 'easy').vocabulary.class_names
        model = dict(type=ContextAwareSegmenter, class_names=names, **model)
    else:
        model = dict(type=OpenContextAwareSegmenter, **model)
    runner = train(config(model, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert {'loss', 'loss_mask', 'loss_identity'} <= lines[0].keys()
    (tmp_path / 'clip.safetensors').unlink()
    trained = runner.model.eval()
    found = load(tmp_path / 'run' / 'denseclip.safetensors')
    vocabulary = Vocabulary(('red solid star', 'background'))
    image, labels = torch.randn(3, 40, 40), []
    for one in (trained, found):
        one.set_vocabulary(vocabulary, class_embedder(one).embed(vocabulary))
        labels.append(one.segment(image).classes)
    assert torch.equal(*labels)


@pytest.mark.parametrize('kind', KINDS)
def test_class_names_through_the_segmenter(kind, make_model):
    """Through ``Segmenter``; templates, which learned contexts replace, are refused."""
    model = make_model(kind, n_ctx=2)
    segmenter = clipdense.Segmenter(model)
    image = (torch.rand(30, 40, 3) * 255).to(torch.uint8).numpy()
    assert segmenter(image, ['tree', 'sky']).mask.shape == (30, 40)
    with pytest.raises(InputError, match='templates have no effect: class names are embedded by the'):
        load_embedder(model, templates='imagenet')
    if kind == 'fixed':
        with pytest.raises(InputError, match="'house' is not one of the 3 classes"):
            segmenter(image, ['tree', 'house'])
    stored = ClassEmbeddings(F.normalize(torch.randn(1, 8), dim=-1), torch.arange(1), 1)
    with pytest.raises(InputError, match='the class embeddings have dimension 8, the model has'):
        clipdense.Segmenter(model, Stored(stored))(image, ['tree'])


class Stored:
    """An embedder of other weights."""

    def __init__(self, embeddings):
        self.embeddings = embeddings

    def embed(self, vocabulary):
        return self.embeddings


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_other_precisions(make_model, kind, dtype):
    """Logits in fp32 or more, near those of fp32."""
    model, image = make_model(kind), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.pixel_logits(image, model.queries)
        model = model.to(dtype)
        features = model.encode_pixels(image.to(dtype))
        logits = model.classify_pixels(features, model.queries)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-3
    assert (logits.float() - expected).abs().mean() < tolerance * expected.abs().mean()
