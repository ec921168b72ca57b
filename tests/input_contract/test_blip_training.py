"""Inputs of the section "Training of a BLIP" of docs/input_contract.md."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import torch
from PIL import Image

from clipdense import Captioner
from clipdense.clip.tokenizers import Tokenizer
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.inference.shard_captions import caption_shards
from clipdense.methods.blip.finetuning import BlipCaptionTrainer, BlipRetrievalTrainer
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.scoring import itm_scorer
from clipdense.methods.blip.sizes import MedSize
from clipdense.methods.blip.tokenizer import BlipTokenizer, CaptionIds

from ..methods.blip.conftest import tiny_blip, vocabulary_file, write_captioner

SECTION = 'Training of a BLIP'
TEXTS = ['a cat', 'the dog on the cat', 'dogs', 'a picture of a dog']
NAMES = ['a', 'b', 'c', 'd']


def ids_of(folder, texts=TEXTS, **options):
    return CaptionIds(tiny_blip().text_size, vocabulary_file(folder), **{'longest': 12, **options})(texts)


def step(kind, ids, names=None, equal=False, counts=1, **options):
    """One step of training on as many random images."""
    trainer = kind(tiny_blip(), **options).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(ids), 3, 32, 32), dtype=torch.uint8, generator=generator)
    data = {'images': images[:1].expand_as(images) if equal else images, 'token_ids': torch.as_tensor(ids)}
    optimizer = torch.optim.SGD(trainer.parameters(), lr=0.01)
    wrapper = PrecisionOptimWrapper(optimizer, 'fp32', accumulative_counts=counts)
    logged = trainer.train_step(data if names is None else {**data, 'names': names}, wrapper)
    assert all(value.isfinite() for value in logged.values())


def pretrain(ids, **options):
    step(BlipPretrainer, ids, **{'queue_size': 8, **options})


def retrieve(ids, **options):
    step(BlipRetrievalTrainer, ids, **{'queue_size': 8, 'names': NAMES, **options})


def punctuation(folder):
    ids = ids_of(folder, ['...', 'a cat'])
    assert ids[0].tolist() == [2, 3] + [-1] * 10
    pretrain(ids)


def truncated(folder):
    assert (ids_of(folder, longest=5)[1] >= 0).all()
    pretrain(ids_of(folder, longest=5))


def unknown_word(folder):
    tokenizer = BlipTokenizer(MedSize(words=['a', 'cat']))
    assert tokenizer.decode(tokenizer.encode('a blue cat')) == 'a cat'


def larger_vocabulary(folder):
    ids = ids_of(folder)
    ids[0, 1] = 60
    pretrain(ids)


def too_long(folder):
    ids = np.full((2, 41), 4, np.int64)
    ids[:, 0] = 2
    pretrain(ids)


def captioned_shards(folder):
    file = io.BytesIO()
    Image.new('RGB', (8, 8)).save(file, 'PNG')
    with tarfile.open(folder / '0.tar', 'w') as archive:
        for ending, data in (('png', file.getvalue()), ('synthetic.json', b'{"caption": "a cat"}')):
            entry = tarfile.TarInfo(f'a.{ending}')
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    captioner = Captioner.from_pretrained(write_captioner(folder / 'weights'), device='cpu')
    caption_shards(folder / '0.tar', folder / 'out', captioner)


CAPTIONING = {'encoder': False, 'embed_dim': 0}
READ = {
    'captions by `CaptionIds`': lambda folder: pretrain(ids_of(folder)),
    'caption of punctuation only': punctuation,
    'caption of more ids than `longest`': truncated,
    'word that a list of words lacks': unknown_word,
    'captions by the tokenizer of a CLIP': lambda folder: pretrain(Tokenizer()(TEXTS)),
    'ids of a larger vocabulary': larger_vocabulary,
    'captions longer than the positions of the model': too_long,
    'batch of one pair': lambda folder: BlipPretrainer(tiny_blip(), 8).check_batch(1),
    'batch of equal images, pre-training': lambda folder: pretrain(ids_of(folder), equal=True),
    'batch of one image, retrieval': lambda folder: retrieve(ids_of(folder), equal=True, names=['a'] * 4),
    'images without names, retrieval': lambda folder: retrieve(ids_of(folder), names=None),
    'captions without the prompt of the model': lambda folder: prompt_of_another_text(folder),
    'queue that a step does not divide': lambda folder: pretrain(ids_of(folder), queue_size=7),
    'step larger than the queue': lambda folder: BlipPretrainer(tiny_blip(), 6).check_batch(8),
    '`micro_batch`': lambda folder: pretrain(ids_of(folder), micro_batch=2),
    '`accumulative_counts` of 2, pre-training': lambda folder: pretrain(ids_of(folder), counts=2),
    'weights for captioning, pre-training': lambda folder: BlipPretrainer(tiny_blip(**CAPTIONING)),
    'weights for captioning, retrieval': lambda folder: BlipRetrievalTrainer(tiny_blip(**CAPTIONING)),
    'shards with captions by a model, to be captioned': captioned_shards,
    "shards to be filtered by a CLIP's weights, `--by itm`": lambda folder: itm_scorer(torch.nn.Linear(1, 1)),
}


def prompt_of_another_text(folder):
    model = tiny_blip()
    model.tokenizer.file = vocabulary_file(folder)
    trainer = BlipCaptionTrainer(model, prompt='a picture of ')
    trainer.losses(
        torch.zeros(4, 3, 32, 32), trainer.tokens(torch.as_tensor(ids_of(folder, prompt='the cat ')))
    )


def test_row(row, check):
    check(row, READ)
