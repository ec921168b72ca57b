"""Random models of transformers in the released sizes, to clipdense and back.

Each step runs in a process of its own, so that two models are never in memory together.
"""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from clipdense.inference.convert import convert
from clipdense.methods.blip.checkpoint import load
from clipdense.methods.blip.sizes import BERT, PUBLISHED

pytest.importorskip('transformers')
KINDS = {
    'caption': ('BlipForConditionalGeneration', 'BLIP-B-caption'),
    'retrieval': ('BlipForImageTextRetrieval', 'BLIP-B-retrieval'),
    'vqa': ('BlipForQuestionAnswering', 'BLIP-B-vqa'),
}
MOST_MEMORY = 3000  # MiB
STATUS = Path('/proc/self/status')
QUESTION = torch.tensor([[BERT.enc, 2129, 2116, 3765, 1029, BERT.sep]])
TEXT = torch.tensor([[BERT.cls, 1037, 3861, 1997, 5055, BERT.sep]])
ANSWER = torch.tensor([[BERT.dec, 1037, 3861, 1997, 5055]])


def image_of(kind):
    side = PUBLISHED[KINDS[kind][1]].image.image_size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def config_of(kind):
    from transformers import BlipConfig

    size = PUBLISHED[KINDS[kind][1]]
    vision = {'image_size': size.image.image_size, 'layer_norm_eps': size.image_eps}
    text = {
        'vocab_size': size.text.vocab_size, 'num_attention_heads': size.text.num_heads,
        'bos_token_id': BERT.dec, 'sep_token_id': BERT.sep, 'eos_token_id': BERT.sep,
    }  # fmt: skip
    return BlipConfig(vision_config=vision, text_config=text, image_text_hidden_size=256)


@torch.no_grad()
def their_outputs(kind, model):
    images = image_of(kind)
    if kind == 'retrieval':
        return {
            'match': model(QUESTION, images).itm_score,
            'similarity': model(TEXT, images, use_itm_head=False).itm_score,
        }
    tokens = model.vision_model(images).last_hidden_state
    if kind == 'vqa':
        tokens = model.text_encoder(QUESTION, encoder_hidden_states=tokens).last_hidden_state
    return {'scores': model.text_decoder(ANSWER, encoder_hidden_states=tokens).logits}


@torch.no_grad()
def our_outputs(kind, model):
    tokens = model.encode_image(image_of(kind))
    if kind == 'retrieval':
        similarity = model.embed_image(tokens) @ model.embed_text(TEXT).mT
        return {'match': model.match(model.encoder.read(tokens), QUESTION), 'similarity': similarity}
    if kind == 'vqa':
        tokens = model.encoder(QUESTION, None, model.encoder.read(tokens))
    return {'scores': model.predict(model.decoder.read(tokens), ANSWER)}


def write_theirs(kind, folder):
    """A random model, with tokens that depend on the image, and its outputs."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, KINDS[kind][0])(config_of(kind)).eval()
    for parameter in model.vision_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    save_file(their_outputs(kind, model), folder / 'expected.safetensors')
    model.save_pretrained(folder / 'theirs')


def to_ours(kind, folder):
    convert(folder / 'theirs', folder / 'ours.safetensors')


def run_ours(kind, folder, name):
    return our_outputs(kind, load(folder / name))


def to_salesforce(kind, folder):
    convert(folder / 'ours.safetensors', folder / 'official.safetensors', 'salesforce')


def to_theirs(kind, folder):
    convert(folder / 'official.safetensors', folder / 'again', 'huggingface')


def run_theirs(kind, folder):
    import transformers

    model, notes = getattr(transformers, KINDS[kind][0]).from_pretrained(
        folder / 'again', output_loading_info=True
    )
    assert not any(notes[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), notes
    return their_outputs(kind, model.eval())


def measured(step, *arguments):
    """What a step returns, and the most memory in MiB, without the pages of mapped files."""
    torch.set_num_threads(1)
    most, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.02):
            lines = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
            most[0] = max(most[0], int(lines['RssAnon'].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return step(*arguments), most[0] / 1024
    finally:
        ended.set()
        watcher.join()


def apart(step, *arguments):
    """Run a step in a new process, and check the memory that it took."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        found, memory = pool.submit(measured, step, *arguments).result()
    print(f'{step.__name__}: {memory:.0f} MiB')
    assert memory < MOST_MEMORY, f'{step.__name__} took {memory:.0f} MiB'
    return found


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason='memory is measured on Linux only')
@pytest.mark.parametrize('kind', KINDS)
def test_to_clipdense_to_salesforce_and_back(tmp_path, kind):
    apart(write_theirs, kind, tmp_path)
    expected = load_file(tmp_path / 'expected.safetensors')
    apart(to_ours, kind, tmp_path)
    apart(to_salesforce, kind, tmp_path)
    apart(to_theirs, kind, tmp_path)
    for name in ('theirs', 'ours.safetensors'):
        found = apart(run_ours, kind, tmp_path, name)
        for output, value in expected.items():
            assert_close(found[output], value, atol=1e-5 * max(1, float(value.abs().max())), rtol=1e-5)
    for output, value in apart(run_theirs, kind, tmp_path).items():
        assert torch.equal(value, expected[output]), output
    stored = [safe_open(tmp_path / name / 'model.safetensors', 'pt') for name in ('theirs', 'again')]
    ours = set(stored[1].keys())
    for name in stored[0].keys():  # noqa: SIM118  # no dict
        assert name in ours, name
        assert torch.equal(*(file.get_tensor(name) for file in stored)), name
