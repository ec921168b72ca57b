"""The tables below "Learned prompts" of docs/input_contract.md."""

from __future__ import annotations

import json
from functools import cache

import torch
from safetensors.torch import load_file, safe_open, save_file

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.classifier import Classifier
from clipdense.methods.prompt_learning.checkpoint import load_prompts, save_prompts
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.vocab.vocabulary import Vocabulary

SECTION = 'Learned prompts'
NAMES = ['cat', 'hot_dog']


@cache
def clip(seed=0):
    torch.manual_seed(seed)
    return build_clip(ClipSize(VitSize(16, 8, 32, 2, 1, 32, 16), TextSize(32, 2, 1, 32, 16))).eval()


def ours(make=None, model=None, position=None, **changes):
    """Reads a file of ours for a CLIP, with some metadata changed."""

    def read(folder):
        file = save_prompts(make() if make else CoOp(clip(), 4, class_names=NAMES), folder / 'p.safetensors')
        if changes:
            with safe_open(file, 'pt') as opened:
                told = opened.metadata()
            save_file(load_file(file), file, {**told, **changes})
        found = load_prompts(file, model() if model else clip(), position)
        assert found.class_names == tuple(NAMES)

    return read


def official(specific=False, position=None, names=None, bare=False, folder_name='', **changes):
    """Reads a file of the official programs: two classes, a context of four tokens in half precision."""

    def read(folder):
        start = clip().text.token_embed.weight[49406]
        shape = (2, 4, 32) if specific else (4, 32)
        state = {
            'ctx': torch.ones(shape).half(),
            'token_prefix': start.detach().expand(2, 1, -1).half(),
            'token_suffix': torch.zeros(2, 72, 32).half(),
            **changes,
        }
        place = folder / folder_name if folder_name else folder
        place.mkdir(exist_ok=True)
        torch.save(state['ctx'] if bare else {'state_dict': state, 'epoch': 50}, place / 'model.pth.tar-50')
        found = load_prompts(place / 'model.pth.tar-50', clip(), position, names)
        assert (found.ctx == 1).all()
        assert found.position == (position or 'end')

    return read


def embed(learner, *names):
    """Embeds class names with a learner."""

    def run(folder):
        file = save_prompts(learner(), folder / 'p.safetensors')
        classifier = Classifier.from_pretrained(clip(), embedder=file, device='cpu', cache=False)
        classifier.set_vocabulary(Vocabulary(names))
        assert classifier.embeddings.queries.shape == (len(names), 16)

    return run


def build(learner):
    """Builds a learner."""

    def run(folder):
        made = learner()
        assert made().shape == (2, 16)

    return run


def specific():
    return CoOp(clip(), 4, class_specific=True, class_names=[*NAMES, 'cow'])


def maple(**options):
    return MaPLe(clip(), depth=2, class_names=NAMES, **options)


READ = {
    'a file of ours, for its CLIP': ours(),
    'a file of ours, for another CLIP': ours(model=lambda: clip(1)),
    'prompts of the image tower, for another CLIP': ours(maple, lambda: clip(1)),
    'a file of ours with `position=`': ours(position='end'),
    'a changed tensor': ours(sha256='0'),
    'settings that are not JSON': ours(learner='CoOp'),
    'an unknown learner': ours(learner=json.dumps({'type': 'CoOpp'})),
    'settings that the learner does not have': ours(learner=json.dumps({'type': 'CoOp', 'n': 3})),
    'CoOp with `position=`': official(position='middle'),
    'CoOp without it': official(),
    'CoOp in a folder of the official program, such as `nctx4_cscFalse_ctpend`': official(
        folder_name='nctx4_cscFalse_ctpend'
    ),
    'class-specific contexts with class names': official(specific=True, position='end', names=['cat', 'dog']),
    'class-specific contexts without class names': official(specific=True, position='end'),
    'class-specific contexts with another number of names': official(True, 'end', ['cat']),
    'a context alone, `[8, 512]` (DetPro)': official(bare=True),
    'a context of another width': official(position='end', ctx=torch.ones(4, 48)),
    'fixed tokens of another CLIP': official(position='end', token_prefix=torch.ones(2, 1, 32)),
    'values that are not finite': official(position='end', ctx=torch.full((4, 32), torch.nan)),
    'CoCoOp with another position than the end': official(
        position='front', **{'meta_net.linear1.weight': torch.zeros(1, 16)}
    ),
    'a context that classes share, with class names': official(position='end', names=['cat', 'dog']),
    'a context with the wrong number of dimensions': official(position='end', ctx=torch.ones(32)),
    'any class names, for a context that classes share': embed(
        lambda: CoOp(clip(), 4), 'zebra', 'Traffic_Light'
    ),
    'some of the classes, for class-specific contexts': embed(specific, 'cow', 'Hot Dog'),
    'other classes, for class-specific contexts': embed(specific, 'cat', 'zebra'),
    'a name that leaves no room': embed(lambda: CoOp(clip(), 70), 'a name of quite a few words'),
    'class embeddings of prompts that depend on the image': embed(lambda: CoCoOp(clip()), 'cat'),
    '`n_ctx` too large for a text': build(lambda: CoOp(clip(), 75, class_names=NAMES)),
    '`n_ctx` 0, negative or not a whole number': build(lambda: CoOp(clip(), 0, class_names=NAMES)),
    'words with another number of tokens than `n_ctx`': build(lambda: CoOp(clip(), 3, 'a photo of a')),
    'an odd `n_ctx` in the middle': build(lambda: CoOp(clip(), 3, position='middle', class_names=NAMES)),
    'words with underscores': build(lambda: CoOp(clip(), init='a_photo_of_a', class_names=NAMES)),
    'more prompts than words (MaPLe)': build(lambda: maple(n_ctx=5)),
    'a `depth` that a tower does not have': build(lambda: MaPLe(clip(), class_names=NAMES)),
}


def test_row(row, check):
    check(row, READ)
