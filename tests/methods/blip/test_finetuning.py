"""Fine-tuning: what is learned, and pairs of one image."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.sizes import ResNetSize
from clipdense.config import load_config
from clipdense.methods.blip.finetuning import BlipCaptionTrainer, BlipRetrievalTrainer
from clipdense.methods.blip.losses import lm_labels, lm_loss, negative_weights
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.questions import BlipAnswerTrainer
from clipdense.methods.blip.sizes import BlipSize, MedSize
from clipdense.methods.blip.tokenizer import CaptionIds
from clipdense.methods.blip.trainer import image_numbers
from clipdense.utils.errors import InputError

from .conftest import IDS, vocabulary_file


def resnet_blip():
    text = MedSize(24, 1, 2, 24, vocab_size=60, context_length=40, ids=IDS)
    return build_blip(BlipSize(ResNetSize(32, 2, (1, 1, 1, 1), 2, 16), text, embed_dim=16))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, -1], [2, 10, 11, 3], [2, 12, 3, -1]])
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {'images': images, 'token_ids': ids}


def losses_of(trainer, batch, names=None):
    data = trainer.data_preprocessor(dict(batch), True)
    return trainer(**data, names=names, mode='loss')


def test_captions_without_their_prompt(tiny, tmp_path, batch):
    """By hand: the first token is [DEC], tokens of the prompt are not learned."""
    model = tiny()
    file = vocabulary_file(tmp_path)
    trainer = BlipCaptionTrainer(model, prompt='a picture of ').eval()
    trainer.blip.tokenizer.file = file
    ids = CaptionIds(model.text_size, file, longest=8, prompt='a picture of ')(
        ['A Cat.', 'the dog on the cat']
    )
    assert ids[0].tolist() == [2, 4, 5, 6, 4, 7, 3, -1]
    batch = {'images': batch['images'][:2], 'token_ids': torch.as_tensor(ids)}
    found = losses_of(trainer, batch)
    texts = trainer.tokens(batch['token_ids'])
    texts.ids[:, 0] = 58
    tokens = model.encode_image(trainer.data_preprocessor(dict(batch))['images'])
    scores = model.predict(model.decoder.read(tokens), *texts)
    labels = lm_labels(texts.ids, texts.keep, 4)
    assert (labels[:, :4] == -100).all()
    assert (labels[:, 4] >= 0).all()
    assert_close(found['language_loss'], lm_loss(scores, labels, 0.1))


def test_pairs_of_one_image_share_the_target_and_are_no_negatives(tiny, batch):
    trainer = BlipRetrievalTrainer(tiny(), queue_size=4, alpha=0.0).eval()
    names = ['a', 'b', 'a', 'c']
    losses_of(trainer, batch, names)  # fills the queue
    assert trainer.queue.numbers.tolist() == image_numbers(names, torch.device('cpu')).tolist()
    seen = []
    trainer.match = lambda tokens, texts, weights, pool: seen.append(weights) or tokens.sum() * 0
    found = losses_of(trainer, batch, names)
    data = trainer.data_preprocessor(dict(batch))
    encoded = trainer.encode(data['images'], trainer.tokens(batch['token_ids']))
    targets = torch.zeros(4, 8)
    for row, name in enumerate(names):
        same = [at for at, other in enumerate(names * 2) if other == name]
        targets[row, same] = 1 / len(same)
    temperature = trainer.blip.joint.temperature
    expected = 0
    for one, others in ((encoded.image, 'text'), (encoded.text, 'image')):
        columns = torch.cat([getattr(encoded, f'slow_{others}').mT, getattr(trainer.queue, others)], dim=1)
        expected -= ((one @ columns / temperature).log_softmax(1) * targets).sum(1).mean() / 2
    assert_close(found['contrastive_loss'], expected, atol=1e-4, rtol=1e-4)  # the momentum model has moved
    for weights in seen[0]:
        assert (weights[0, 2], weights[2, 0]) == (0, 0)
        assert (weights.diagonal() == 0).all()
        assert (weights.sum(dim=1) > 0).all()


def test_negatives_that_are_drawn_alike(tiny, batch):
    trainer = BlipRetrievalTrainer(tiny(), queue_size=4, hard_negatives=False).eval()
    seen = []
    trainer.match = lambda tokens, texts, weights, pool: seen.extend(weights) or tokens.sum() * 0
    losses_of(trainer, batch, ['a', 'b', 'a', 'c'])
    for weights in seen:
        assert_close(weights[0], torch.tensor([0.0, 0.25, 0.0, 0.25]))
        assert_close(weights[1], torch.tensor([0.25, 0.0, 0.25, 0.25]))


def test_a_batch_of_one_image_has_no_negatives(tiny, batch):
    """Its pairs all match: nothing is drawn."""
    trainer = BlipRetrievalTrainer(tiny(), queue_size=4).eval()
    found = losses_of(trainer, batch, ['same'] * 4)
    assert all(value.isfinite() for value in found.values())
    blip, texts = trainer.blip, trainer.tokens(batch['token_ids'])
    texts.ids[:, 0] = 59
    tokens = blip.encode_image(trainer.data_preprocessor(dict(batch))['images'])
    scores = blip.match(blip.encoder.read(tokens), *texts)
    assert_close(found['matching_loss'], torch.nn.functional.cross_entropy(scores, torch.ones(4).long()))


TRAINERS = {
    'pre-training': lambda blip, **more: BlipPretrainer(blip, queue_size=4, **more),
    'captions': BlipCaptionTrainer,
    'retrieval': lambda blip, **more: BlipRetrievalTrainer(blip, queue_size=4, **more),
    'answers': BlipAnswerTrainer,
}


@pytest.mark.parametrize('build', TRAINERS.values(), ids=TRAINERS)
def test_stochastic_depth_of_the_image_tower(tiny, build):
    """Rates of the blocks, also of the momentum copy; nothing is dropped in evaluation, nor in the file."""
    images = torch.randn(16, 3, 32, 32)
    expected = tiny().encode_image(images)
    trainer = build(tiny(), drop_path=0.4)
    towers = [trainer.blip.image, *([trainer.averages.image] if hasattr(trainer, 'averages') else [])]
    assert [[block.drop_path for block in tower.blocks] for tower in towers] == [
        pytest.approx([0, 0.4])
    ] * len(towers)
    torch.manual_seed(0)
    assert not torch.equal(trainer.train().blip.encode_image(images), expected)
    assert torch.equal(trainer.eval().blip.encode_image(images), expected)
    assert build(tiny()).blip.image.drop_path == 0


def test_stochastic_depth_that_a_model_has_is_kept(tiny):
    model = tiny()
    model.image.set_drop_path(0.3)
    assert BlipCaptionTrainer(model).blip.image.drop_path == 0.3
    assert BlipCaptionTrainer(model, drop_path=0.0).blip.image.drop_path == 0


@pytest.mark.parametrize('name', ['blip_l', 'blip_l_caption_coco', 'blip_l_retrieval_coco'])
def test_published_trainings_of_the_large_model_have_stochastic_depth(name):
    large, base = load_config(f'blip/{name}'), load_config(f'blip/{name.replace("_l", "_b", 1)}')
    assert large.model.drop_path == 0.1
    assert 'drop_path' not in base.model
    assert large.optim_wrapper.optimizer.lr < base.optim_wrapper.optimizer.lr


def test_weights_of_negatives():
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    weights = negative_weights(torch.tensor([[0.0, 0.0, 0.0], [0.0, 900.0, 0.0], [0.0, 0.0, 5.0]]), same)
    assert_close(weights[0], torch.tensor([0.0, 0.0, 1 / 3]))
    assert_close(weights[1], torch.tensor([0.0, 0.0, 1.0]))  # its softmax is 0
    assert negative_weights(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)).sum() == 0


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda tiny: BlipCaptionTrainer(tiny(decoder=False)), 'cannot generate text'),
        (lambda tiny: BlipCaptionTrainer(tiny(shared=False, embed_dim=0)), 'answer questions'),
        (lambda tiny: BlipCaptionTrainer(tiny(), smoothing=1.0), 'smoothing must be at least 0 and below 1'),
        (lambda tiny: BlipCaptionTrainer(tiny(), drop_path=1.0), 'drop_path must be at least 0 and below 1'),
        (
            lambda tiny: BlipCaptionTrainer(resnet_blip(), drop_path=0.1),
            'with a ViT, got a ModifiedResNet',
        ),
        (lambda tiny: BlipCaptionTrainer(torch.nn.Linear(2, 2)), 'a BLIP is needed, got Linear'),
        (lambda tiny: BlipRetrievalTrainer(tiny(encoder=False, embed_dim=0)), 'give pre-trained weights'),
        (lambda tiny: BlipRetrievalTrainer(tiny(), micro_batch=2), 'micro_batch is not possible'),
    ],
)
def test_models_and_settings_that_are_refused(tiny, build, message):
    with pytest.raises(InputError, match=message):
        build(tiny)


def test_data_without_names(tiny, batch):
    with pytest.raises(InputError, match='gives no names of images'):
        losses_of(BlipRetrievalTrainer(tiny(), queue_size=4), batch)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('red', 'words must be a list of words'),
        (['red', 'Red'], "single words in lower case, or single signs; got 'Red'"),
        (['red cat'], 'single words'),
        (['red', 'cat', 'red'], "words has 'red' twice"),
        ([3], 'single words'),
    ],
)
def test_lists_of_words_that_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        MedSize(words=words)


def test_a_vocabulary_of_words():
    size = MedSize(words=['a', 'red', 'cat', ',', "dog's"])
    assert size.vocab_size == 11
    tokens = CaptionIds(size, longest=9)(["A red cat, a dog's tail"])
    assert tokens[0].tolist() == [1, 6, 7, 8, 9, 6, 10, 5, 2]
    decode = CaptionIds(size).tokenizer.decode
    assert decode([1, 6, 7, 8, 9, 6, 10, 5, 2, 7]) == "a red cat, a dog's"
    assert MedSize(**{**vars(size), 'words': list(size.words)}) == size
