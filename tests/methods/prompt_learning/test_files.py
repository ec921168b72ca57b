"""Files of prompts: ours, official ones, and those that belong to another CLIP or are damaged."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import clipdense
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import build_clip
from clipdense.methods.prompt_learning.checkpoint import load_prompts, save_prompts
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.utils.errors import InputError
from clipdense.weights.key_map import from_ours

from .conftest import learned

NAMES = ['cat', 'traffic_light', 'hot dog']
LEARNERS = {
    'coop': lambda clip: CoOp(clip, 4, position='front'),
    'coop of words': lambda clip: CoOp(clip, init='a photo of a'),
    'class-specific': lambda clip: CoOp(clip, 4, class_specific=True, class_names=NAMES),
    'cocoop': CoCoOp,
    'maple': lambda clip: MaPLe(clip, depth=3),
    'independent': lambda clip: MaPLe(clip, depth=2, coupled=False),
    'image': lambda clip: MaPLe(clip, depth=2, text=False),
    'text': lambda clip: MaPLe(clip, 3, depth=2, image=False, init=None),
}


@pytest.mark.parametrize('kind', LEARNERS)
def test_ours_are_read_as_they_were_written(clip, tmp_path, kind):
    learner = learned(LEARNERS[kind](clip))
    learner.set_classes(NAMES)
    file = save_prompts(learner, tmp_path / 'prompts.safetensors')
    read = load_prompts(file, clip)
    assert (type(read), read.config, read.class_names) == (type(learner), learner.config, tuple(NAMES))
    assert_close(dict(read.state_dict()), dict(learner.state_dict()))
    images = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
    assert_close(read(images), learner(images))
    assert_close(read.image_prompts(), learner.image_prompts())


def test_a_shared_context_is_a_small_file(clip, tmp_path):
    file = save_prompts(CoOp(clip, 16), tmp_path / 'prompts.safetensors')
    assert file.stat().st_size < 16 * 64 * 4 + 1024
    assert set(load_file(file)) == {'ctx'}


@pytest.mark.parametrize('kind', ['coop', 'class-specific', 'text'])
def test_the_text_tower_is_enough(clip, tmp_path, kind):
    learner = learned(LEARNERS[kind](clip))
    learner.set_classes(NAMES)
    file = save_prompts(learner, tmp_path / 'prompts.safetensors')
    assert_close(load_prompts(file, FrozenText.of(clip))(), learner())


def changed(clip, name):
    """The same CLIP with another number somewhere."""
    other = build_clip(clip.size)
    other.load_state_dict(clip.state_dict())
    with torch.no_grad():
        dict(other.named_parameters())[name].view(-1)[0] += 1
    return other


@pytest.mark.parametrize(
    ('kind', 'name', 'refused'),
    [
        ('coop', 'text.blocks.0.norm1.weight', True),
        ('coop', 'image.blocks.0.norm1.weight', False),
        ('cocoop', 'image.blocks.0.norm1.weight', True),
        ('maple', 'image.blocks.0.norm1.weight', True),
        ('text', 'image.blocks.0.norm1.weight', False),
        ('coop', 'logit_scale', False),
    ],
)
def test_prompts_of_another_clip(clip, tmp_path, kind, name, refused):
    file = save_prompts(LEARNERS[kind](clip), tmp_path / 'prompts.safetensors')
    other = changed(clip, name)
    if not refused:
        load_prompts(file, other)
        return
    with pytest.raises(InputError, match=rf'learned for another CLIP: the digest of its {name[:4]}'):
        load_prompts(file, other)


def test_a_model_in_half_precision_is_not_compared(clip, tmp_path):
    file = save_prompts(CoOp(clip, 4), tmp_path / 'prompts.safetensors')
    half = build_clip(clip.size)
    half.load_state_dict(clip.state_dict())
    learner = load_prompts(file, half.to(torch.bfloat16))
    learner.set_classes(NAMES)
    assert learner().isfinite().all()


def fixed_tokens(clip, learner, ids=None):
    """``token_prefix`` and ``token_suffix`` of official files, here of classes that nobody asks for."""
    embeddings = clip.text.token_embed(
        clip.tokenizer(['x x x x zebra.', 'x x x x tree.']) if ids is None else ids
    )
    return {'token_prefix': embeddings[:, :1], 'token_suffix': embeddings[:, 1 + learner.n_ctx :]}


def write_official(clip, learner, path, prefix='', **extra):
    """A file of the official programs: half precision, inside a training checkpoint."""
    state = {**learner.state_dict(), **fixed_tokens(clip, learner), **extra}
    tensors = {f'{prefix}{name}' if '_encoder' not in name else name: x.half() for name, x in state.items()}
    torch.save({'state_dict': tensors, 'epoch': 50, 'optimizer': {}, 'val_result': None}, path)
    return path


def assert_same(read, learner):
    assert_close(dict(read.state_dict()), {n: x.half().float() for n, x in learner.state_dict().items()})


@pytest.mark.parametrize('position', ['end', 'middle', 'front'])
def test_official_coop(clip, tmp_path, position):
    learner = learned(CoOp(clip, 4, position=position))
    file = write_official(clip, learner, tmp_path / 'model.pth.tar-50')
    read = load_prompts(file, clip, position=position)
    assert_same(read, learner)
    assert read.position == position
    with pytest.raises(InputError, match='does not record where its context stands: pass position='):
        load_prompts(file, clip)


def test_the_folder_of_the_official_program_tells_the_position(clip, tmp_path):
    folder = tmp_path / 'nctx4_cscFalse_ctpmiddle' / 'seed1' / 'prompt_learner'
    folder.mkdir(parents=True)
    file = write_official(clip, CoOp(clip, 4), folder / 'model.pth.tar-50')
    assert load_prompts(file, clip).position == 'middle'


def test_official_class_specific_coop(clip, tmp_path):
    learner = learned(CoOp(clip, 4, class_specific=True, class_names=NAMES))
    file = write_official(clip, learner, tmp_path / 'model.pth.tar-50')
    assert_same(load_prompts(file, clip, 'end', NAMES), learner)
    with pytest.raises(InputError, match='a context for each of 3 classes, and not their names'):
        load_prompts(file, clip, 'end')
    with pytest.raises(InputError, match='contexts of 3 classes, but 1 names are given'):
        load_prompts(file, clip, 'end', ['cat'])


def test_official_cocoop(clip, tmp_path):
    learner = learned(CoCoOp(clip))
    file = write_official(clip, learner, tmp_path / 'model.pth.tar-10', prefix='prompt_learner.')
    assert_same(load_prompts(file, clip), learner)


def official_towers(clip):
    """The whole CLIP in a file of MaPLe, without the table of tokens."""
    names = {'visual.': 'image_encoder.', '': 'text_encoder.'}
    found = {}
    for name, x in from_ours(clip.state_dict(), 'openclip_vit').items():
        start = 'visual.' if name.startswith('visual.') else ''
        if name not in ('token_embedding.weight', 'logit_scale'):
            found[names[start] + name.removeprefix(start)] = x
    return found


def test_official_maple(clip, tmp_path):
    learner = learned(MaPLe(clip, depth=3))
    towers = official_towers(clip)
    file = write_official(clip, learner, tmp_path / 'model.pth.tar-5', 'prompt_learner.', **towers)
    read = load_prompts(file, clip)
    assert_same(read, learner)
    assert (read.depth, read.n_ctx, read.init) == (3, 2, 'a photo of a')
    with pytest.raises(InputError, match=r'1 of \d+ tensors of the CLIP in it differ'):
        load_prompts(file, changed(clip, 'image.blocks.0.norm1.weight'))
    with pytest.raises(InputError, match='need a CLIP with an image tower'):
        load_prompts(file, FrozenText.of(clip))


def test_detpro(clip, tmp_path):
    context = torch.randn(8, 64)
    torch.save(context, tmp_path / 'iou_prompt.pth')
    read = load_prompts(tmp_path / 'iou_prompt.pth', clip)
    assert torch.equal(read.ctx, context)
    assert read.position == 'end'


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        ({'ctx': torch.zeros(4, 32)}, 'have width 32, the text tower 64'),
        ({'ctx': torch.zeros(4)}, r'its ctx is \(4,\)'),
        ({'ctx': torch.zeros(4, 64, dtype=torch.int64)}, 'is not a file of learned prompts'),
        (
            {'ctx': torch.zeros(4, 64), 'token_prefix': torch.ones(2, 1, 64)},
            'start-of-text token has another',
        ),
        ({'ctx': torch.full((4, 64), torch.nan)}, 'not finite|NaN'),
        ({'ctx': torch.zeros(4, 64), 'meta_net.linear1.weight': torch.zeros(2, 32)}, '3 missing'),
        (
            {'proj.weight': torch.zeros(2, 32)},
            'is not a file of learned prompts: it has no ctx, but proj.weight',
        ),
        ({'ctx': torch.zeros(80, 64)}, 'n_ctx=80 leaves no room'),
    ],
)
def test_files_that_do_not_fit(clip, tmp_path, tensors, message):
    save_file(tensors, tmp_path / 'prompts.safetensors')
    with pytest.raises(InputError, match=message):
        load_prompts(tmp_path / 'prompts.safetensors', clip, position='end')


def test_damaged_and_changed_files(clip, tmp_path):
    file = save_prompts(CoOp(clip, 4), tmp_path / 'prompts.safetensors')
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match='is damaged: checksum mismatch'):
        load_prompts(file, clip)
    file.write_bytes(data[:-5])
    with pytest.raises(InputError, match=r'truncated|damaged'):
        load_prompts(file, clip)
    with pytest.raises(InputError, match=r'does not exist|not found|no file'):
        load_prompts(tmp_path / 'nowhere.safetensors', clip)


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'position': 'end'}, 'remove position'), ({'class_names': NAMES}, 'remove class_names')],
)
def test_settings_that_the_file_records(clip, tmp_path, options, message):
    file = save_prompts(CoOp(clip, 4), tmp_path / 'prompts.safetensors')
    with pytest.raises(InputError, match=f'is self-describing: {message}'):
        load_prompts(file, clip, **options)


def test_another_suffix(clip, tmp_path):
    with pytest.raises(InputError, match=r'use prompts.safetensors'):
        save_prompts(CoOp(clip, 4), tmp_path / 'prompts.pth')


def test_prompts_are_not_the_weights_of_a_model(clip, tmp_path):
    file = save_prompts(CoOp(clip, 4), tmp_path / 'prompts.safetensors')
    torch.save(torch.zeros(8, 64), tmp_path / 'context.pth')
    with pytest.raises(InputError, match='has learned prompts, not a model'):
        clipdense.load(file)
    with pytest.raises(InputError, match=r'is one tensor \(8, 64\)'):
        clipdense.load(tmp_path / 'context.pth')
