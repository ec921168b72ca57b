"""GLIPv2's captions: nothing leaks, what is learned, and files that describe images."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch.testing import assert_close

from clipdense import Captioner, CaptionRules
from clipdense.clip import self_describing
from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.sizes import HFTextSize
from clipdense.clip.tokenizers import FolderTokenizer, TokenizerRules
from clipdense.data.detection.mixture import DetectionMixture
from clipdense.data.detection.whole_images import CaptionDetection, QuestionDetection
from clipdense.data.image_text.datasets import CsvPairs
from clipdense.data.image_text.question_files import QuestionList
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.scenes import SceneCaptions
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.text import GroundingText
from clipdense.methods.glip.v2.captioning import decoder_of
from clipdense.methods.glip.v2.detector import GLIPv2
from clipdense.methods.glip.v2.word_head import NOT_ASKED
from clipdense.tasks.generation import generate
from clipdense.utils.errors import InputError

from ..conftest import TEXT, config, text_tower

COLORS = {'red': (230, 20, 20), 'blue': (20, 20, 230)}
CAPTIONS = {'red': 'a red wall', 'blue': 'the wide sea in summer'}
BERT = dict(
    vocab_size=30,
    hidden_size=TEXT,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
RULES = {
    'greedy': CaptionRules('greedy', max_length=16),
    'beam': CaptionRules('beam', beams=3, max_length=16),
    'nucleus': CaptionRules('nucleus', max_length=16),
}


def glipv2(captions=None, **options):
    torch.manual_seed(0)
    objectives = {'captions': {'image_size': 64} if captions is None else captions}
    objectives |= options.pop('more', {})
    weights = options.pop('weights', None)
    return GLIPv2(objectives=objectives, weights=weights, **config(**options))


@pytest.fixture(params=['clip', 'siglip', 'bert'])
def model(request, tmp_path, hub_bert):
    """Models with CLIP's causal text tower, with one that is not causal, and with BERT."""
    tower = {
        'clip': text_tower,
        'siglip': lambda: text_tower(flavour='glip'),
        'bert': lambda: _bert(hub_bert(tmp_path)),
    }[request.param]()
    made = glipv2(clip=tower, depth=2, language='bert' if request.param == 'bert' else 'clip').eval()
    with torch.no_grad():  # features that depend on the image and on other tokens, as after training
        for name, value in made.named_parameters():
            if name.startswith(('head.blocks', 'captions', 'clip')) and value.ndim > 1:
                value.normal_(std=0.5 * value.shape[-1] ** -0.5)
        made.captions.out.weight.normal_()
    return made


def _bert(folder):
    size = HFTextSize('bert', TEXT, 'mean_pooler', None, 32, BERT)
    return GroundingText(HFTextTower(size), FolderTokenizer(folder, size, TokenizerRules('none', 'bert')))


def images_of(count=2):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def ids_of(model, rows=2, length=9):
    """Ids that are not special."""
    return torch.randint(5, 29, (rows, length), generator=torch.Generator().manual_seed(1))


def write(folder):
    """A table of captions and its images, which have another size than those of the model."""
    for name, color in COLORS.items():
        Image.new('RGB', (80, 50), color).save(folder / f'{name}.png')
    rows = [f'{name}.png\t{caption}' for name, caption in CAPTIONS.items()]
    (folder / 'captions.tsv').write_text('\n'.join(['filepath\ttitle', *rows]) + '\n')
    return folder


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


@pytest.fixture
def captions(files):
    return CaptionDetection(CsvPairs(files / 'captions.tsv'), image_size=64)


def _shards(folder):
    (folder / '0.tar').write_bytes(bytes(10240))
    return ImageTextShards(str(folder / '0.tar'), batch_size=2)


def batch_of(*datasets):
    items = [one for dataset in datasets for one in dataset]
    return {key: [one[key] for one in items] for key in ('inputs', 'data_samples')}


def boxes_of(batch):
    data = batch(([[4, 4, 30, 30], [30, 30, 60, 62]], [0, 1]))
    return [
        dict(zip(['inputs', 'data_samples'], one, strict=True)) for one in zip(*data.values(), strict=True)
    ]


def losses_of(model, data):
    found = model.data_preprocessor(data, True)
    return model(found['inputs'], found['data_samples'], mode='loss')


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    """A model that was trained on the two captions."""
    table = CsvPairs(write(tmp_path_factory.mktemp('learned')) / 'captions.tsv')
    data, model = batch_of(CaptionDetection(table, image_size=64)), glipv2().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        losses_of(model, copy.deepcopy(data))['loss_captions'].backward()
        optimizer.step()
    return model.eval()


class TestNothingLeaks:
    @torch.no_grad()
    def test_a_later_token_changes_no_earlier_logit(self, model):
        decoder, ids = decoder_of(model), ids_of(model)
        changed = ids.clone()
        changed[:, 6] = (ids[:, 6] - 5 + 3) % 24 + 5
        read = decoder.read(model.extract_feat(images_of()))
        before, after = (decoder.scores(decoder.step(one, read)[0]) for one in (ids, changed))
        assert torch.equal(before[:, :6], after[:, :6])
        assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-4)

    @torch.no_grad()
    def test_the_image_is_read_and_reads_nothing(self, model):
        """What texts read of an image is there before any text is; logits depend on it."""
        decoder, ids = decoder_of(model), ids_of(model)
        read = decoder.read(model.extract_feat(images_of()))
        kept = [part.clone() for block in read.blocks for part in block]
        found = decoder.scores(decoder.step(ids, read)[0])
        decoder.step(ids.flip(1), read)
        assert all(torch.equal(*pair) for pair in zip(kept, (p for b in read.blocks for p in b), strict=True))
        swapped = decoder.scores(decoder.step(ids, read.row(torch.tensor([1, 0])))[0])
        assert not torch.allclose(found, swapped, atol=1e-4)

    def test_gradient_reaches_the_text_side_of_the_fusion_only(self, captions):
        model = glipv2(depth=2).train()
        losses_of(model, batch_of(captions))['loss_captions'].backward()
        for block in model.head.blocks:
            without = {n.split('.')[0] for n, one in block.fusion.named_parameters() if one.grad is None}
            assert without == {'text_value', 'image_proj', 'image_scale'}  # what an image gets from a text
        first, last = (list(block.image.parameters()) for block in model.head.blocks)
        assert any(one.grad.any() for one in first)
        assert all(one.grad is None for one in last)  # no text reads it any more
        assert model.backbone.conv1.weight.grad.any()


class TestCache:
    @torch.no_grad()
    def test_steps_are_the_whole_text(self, model):
        decoder, ids = decoder_of(model), ids_of(model)
        read = decoder.read(model.extract_feat(images_of()))
        past, found = None, []
        for part in ids.split([3, 1, 1, 4], dim=1):
            states, past = decoder.step(part, read, past)
            found.append(states)
        assert_close(torch.cat(found, dim=1), decoder.step(ids, read)[0], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize('search', RULES)
    @torch.no_grad()
    def test_scores_are_those_of_the_whole_text(self, model, search):
        """The mean log probability of the generated ids, computed again in one pass."""
        decoder = decoder_of(model)
        read = decoder.read(model.extract_feat(images_of()))
        start, end = decoder.start('a red'), decoder.ids.end
        rules = CaptionRules(search, max_length=14, min_length=6, repetition_penalty=1.0)
        ids, scores = generate(decoder, read, torch.tensor([start] * 2), rules)
        log_probs = decoder.scores(decoder.step(ids, read)[0]).log_softmax(dim=-1)
        for row, text, score in zip(log_probs, ids.tolist(), scores, strict=True):
            stop = text.index(end, len(start)) + 1 if end in text[len(start) :] else len(text)
            each = [row[place - 1, text[place]] for place in range(len(start), stop)]
            if stop == len(text) and stop < rules.longest and text[-1] != end:
                each.append(row[-1, end])  # cut, since all texts have ended
            assert_close(torch.stack(each).mean(), score, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize('search', RULES)
    def test_a_batch_gives_what_single_images_give(self, model, search):
        images = images_of(3)
        together = model.caption(images, RULES[search])
        for number, image in enumerate(images):
            alone = model.caption(image[None], RULES[search], [number])[0]
            assert alone.text == together[number].text
            assert alone.score == pytest.approx(together[number].score, abs=1e-4)


class TestTraining:
    def test_it_learns_to_describe_images(self, learned, files):
        for rules in (RULES['greedy'], RULES['beam']):
            found = Captioner(learned, rules)([str(files / f'{name}.png') for name in CAPTIONS])
            assert [one.text for one in found] == list(CAPTIONS.values())
            assert all(-0.7 < one.score <= 0 for one in found)

    def test_loss(self, captions):
        """Each word from what is before it, a text at a time, without padding; the prompt does not count."""
        model = glipv2().eval()
        data = batch_of(captions)
        decoder = decoder_of(model)
        inputs = model.data_preprocessor(copy.deepcopy(data), False)['inputs']
        losses = []
        for image, caption in zip(inputs, CAPTIONS.values(), strict=True):
            read = decoder.read(model.extract_feat(image[None]))
            ids = model.clip.tokenizer([f'a picture of {caption}'])[0].tolist()
            ids = ids[: ids.index(49407) + 1]
            for stop in range(4, len(ids)):
                states, _ = decoder.step(torch.tensor([ids[:stop]]), read)
                losses.append(-decoder.scores(states[0, -1]).log_softmax(dim=0)[ids[stop]])
        expected = torch.stack(losses).mean()
        assert_close(losses_of(model, data)['loss_captions'], expected, atol=1e-5, rtol=1e-5)

    def test_gradients(self, captions, batch, vocabulary):
        """Of all parameters, from boxes and captions in one batch, and from either alone."""
        for datasets in ([boxes_of(batch), captions], [captions], [boxes_of(batch)]):
            model = glipv2(more={'contrast': {}, 'masked_words': {}}).train()
            model.set_vocabulary(vocabulary)
            losses = losses_of(model, batch_of(*datasets))
            assert all(torch.isfinite(one) for one in losses.values())
            sum(losses.values()).backward()
            assert [n for n, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
            assert model.captions.fc.weight.grad.any() == (captions in datasets)

    def test_boxes_are_trained_as_without_captions(self, captions, batch, vocabulary):
        boxes = boxes_of(batch)
        model = glipv2(more={'contrast': {}}).eval()
        model.set_vocabulary(vocabulary)
        both, alone = losses_of(model, batch_of(boxes, captions)), losses_of(model, batch_of(boxes))
        for name in alone.keys() - {'loss_captions'}:
            assert_close(both[name], alone[name], atol=1e-5, rtol=1e-5)
        only = losses_of(model, batch_of(captions))
        assert [name for name, one in only.items() if one.item()] == ['loss_captions']
        assert_close(only['loss_captions'], both['loss_captions'], atol=1e-5, rtol=1e-5)

    def test_beside_questions(self, captions, files):
        (files / 'asked.json').write_text('[{"image": "red.png", "question": "red?", "answer": "yes"}]')
        asked = QuestionDetection(QuestionList(files / 'asked.json'), image_size=64)
        model = glipv2(more={'answers': {'answers': ['yes', 'no'], 'image_size': 64}}).eval()
        losses = losses_of(model, batch_of(captions, asked))
        assert losses['loss_captions'] > 0
        assert losses['loss_answers'] > 0

    def test_weight(self, captions):
        data, found = batch_of(captions), []
        for weight in (1.0, 0.5):
            found.append(losses_of(glipv2(weights={'captions': weight}).eval(), data)['loss_captions'])
        assert_close(found[1], found[0] / 2)

    def test_captions_that_are_too_long(self):
        """They are cut and have no end; the first one is reported."""
        decoder = decoder_of(glipv2())
        with pytest.warns(UserWarning, match='has 80 tokens, and 72 fit: its end is left out') as seen:
            learned = [decoder.learned('red wall ' * 40) for _ in range(3)]
        assert len(seen) == 1
        assert (len(learned[0].ids), len(learned[0].targets)) == (75, 75)
        assert learned[0].targets[:3] == [NOT_ASKED] * 3
        assert decoder.ids.end not in learned[0].targets
        fits = decoder.learned('red wall ' * 36)
        assert (len(fits.ids), fits.targets[-1]) == (76, decoder.ids.end)

    @pytest.mark.parametrize(
        ('model', 'message'),
        [
            (
                lambda: GLIP(**config()),
                'has captions without boxes: use type=GLIPv2 with objectives',
            ),
            (
                lambda: GLIPv2(objectives={'contrast': {}}, **config()),
                'has captions without boxes: use type=GLIPv2',
            ),
            (
                lambda: glipv2({}),
                'CaptionDetection have 64 x 64 pixels, and objectives.captions.image_size is 480',
            ),
            (lambda: glipv2({'image_size': 64, 'prompt': 'a ' * 75}), 'has 75 tokens and 75 fit with a cap'),
        ],
    )
    def test_models_that_cannot_learn_them(self, captions, model, message):
        with pytest.raises(InputError, match=message):
            losses_of(model(), batch_of(captions))

    @pytest.mark.parametrize(
        ('settings', 'options', 'message'),
        [
            ({'image_size': 0}, {}, 'image_size of the captions must be a whole number'),
            ({'image_size': True}, {}, 'image_size of the captions must be a whole number'),
            ({'prompt': None}, {}, 'prompt of the captions must be a text, got None'),
            ({'beams': 3}, {}, 'CaptionHead: .*beams'),
            ({}, {'fused': False}, 'captions are predicted from the fused text: set head.size.fused=True'),
            (
                {},
                {'more': {'answers': {'answers': ['yes', 'no'], 'image_size': 64}}},
                'size is 64, and that of',
            ),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, options, message):
        with pytest.raises(InputError, match=message):
            glipv2(settings, **options)


class TestData:
    def test_samples(self, captions):
        image, sample = captions[1]['inputs'], captions[1]['data_samples']
        assert image.shape == (3, 64, 64)
        assert image[:, 0, 0].tolist() == list(COLORS['blue'])
        assert sample.description == CAPTIONS['blue']
        assert len(sample.gt_instances.bboxes) == 0

    def test_one_of_several_captions_in_each_epoch(self, files):
        rows = ['filepath\ttitle', *(f'red.png\tcaption {number}' for number in range(4))]
        (files / 'several.tsv').write_text('\n'.join(rows))
        found = []
        for seed in (0, 0, 1):
            dataset = CaptionDetection(CsvPairs(files / 'several.tsv', group=True), 64, seed)
            drawn = []
            for epoch in range(30):
                dataset.set_epoch(epoch)
                drawn.append(dataset[0]['data_samples'].description)
            found.append(drawn)
        assert set(found[0]) == {f'caption {number}' for number in range(4)}
        assert found[0] == found[1] != found[2]

    def test_an_unreadable_image(self, files):
        (files / 'red.png').write_bytes(b'no image')
        dataset = CaptionDetection(CsvPairs(files / 'captions.tsv', max_bad_fraction=1.0), 64)
        assert dataset[0]['data_samples'].description == CAPTIONS['blue']

    def test_in_a_mixture(self):
        scenes = dict(type=SceneCaptions, num_images=3, image_size=48)
        mixture = DetectionMixture(
            dict(seen=dict(type=CaptionDetection, captions=scenes, image_size=32)), dict(seen=2)
        )
        mixture.set_epoch(1)
        assert (len(mixture), mixture.has_texts) == (6, True)
        assert mixture[5]['inputs'].shape == (3, 32, 32)
        assert mixture[5]['data_samples'].description == mixture.parts[0].source.captions_of(2)[0]

    @pytest.mark.parametrize(
        ('dataset', 'size', 'message'),
        [
            (lambda _: [1, 2], 64, r'list has no captions_of.index.: use a dataset of captions, such as Csv'),
            (_shards, 64, r'ImageTextShards has no captions_of.index.'),
            (
                lambda file: CsvPairs(file / 'captions.tsv', transform=lambda image, rng: image),
                64,
                'remove transform',
            ),
            (lambda file: CsvPairs(file / 'captions.tsv'), 0, 'image_size must be a whole number'),
        ],
    )
    def test_wrong_settings_are_refused(self, files, dataset, size, message):
        with pytest.raises(InputError, match=message):
            CaptionDetection(dataset(files), size)

    @pytest.mark.parametrize('given', [[], [''], [' '], [None], [3]])
    def test_captions_without_words(self, given):
        scenes = SceneCaptions(2, image_size=32)
        scenes.captions_of = lambda index: given
        with pytest.raises(InputError, match='the caption of image 1 must be a text with words'):
            CaptionDetection(scenes, 32)[1]


class TestFiles:
    @pytest.fixture
    def saved(self, learned, files):
        cfg = Config({'model': {'type': GLIPv2, 'objectives': {'captions': {'image_size': 64}}, **config()}})
        self_describing.save(learned, files / 'glip.safetensors', cfg)
        return files / 'glip.safetensors'

    def test_a_file_describes_images_as_the_model(self, learned, saved, files):
        images = [str(files / f'{name}.png') for name in CAPTIONS]
        assert Captioner.from_pretrained(saved, device='cpu')(images) == Captioner(learned)(images)

    @pytest.mark.parametrize(
        ('rules', 'message'),
        [
            (dict(max_length=4, min_length=0), 'the prompt has 4 tokens, which leaves no room'),
            (dict(prompt='a ' * 90), 'which leaves no room for a caption'),
            (dict(max_length=78), 'max_length=78 is more than the 77 positions'),
        ],
    )
    def test_rules_that_are_refused(self, learned, rules, message):
        with pytest.raises(InputError, match=message):
            Captioner(learned, CaptionRules(**rules))

    def test_prompts(self, learned, files):
        """That of the training, one that goes on from it, and others, which are reported."""
        image = str(files / 'red.png')
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert Captioner(learned, CaptionRules('greedy', 'a picture of a'))(image).text == 'red wall'
        for prompt in ('', 'a photo of'):
            with pytest.warns(UserWarning, match="learned captions after the prompt 'a picture of ', not"):
                Captioner(learned, CaptionRules('greedy', prompt))

    @pytest.mark.parametrize('text', ["a man's hat, red", 'is it a cat?', 'one star; two: it sleeps!'])
    def test_signs_have_no_space_before_them(self, text):
        decoder = decoder_of(glipv2())
        assert decoder.words_of([*decoder.text.encode_words(text), decoder.ids.end, 7]) == text

    @pytest.mark.parametrize('objectives', [{'contrast': {}}, None])
    def test_weights_without_the_objective(self, objectives, glip, files):
        model = glip()
        if objectives:
            model = GLIPv2(objectives=objectives, **config())
        described = {'type': type(model), **({'objectives': objectives} if objectives else {}), **config()}
        self_describing.save(model, files / 'glip.safetensors', Config({'model': described}))
        message = 'do not describe images: use those of a GLIPv2' if objectives else 'cannot describe images'
        with pytest.raises(InputError, match=message):
            Captioner.from_pretrained(files / 'glip.safetensors')
