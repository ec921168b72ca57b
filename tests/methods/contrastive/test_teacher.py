"""A teacher: its loss, what it reads, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

from clipdense.clip.losses import contrastive_loss, distillation_loss
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.contrastive.teacher import Teacher, cut_texts, for_teacher
from clipdense.utils.errors import InputError

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8)
LARGER = ClipSize(
    replace(IMAGE, image_size=24, width=48, embed_dim=24), replace(TEXT, width=48, embed_dim=24)
)


class KeepGradients(OptimWrapper):
    """Steps, and leaves the gradients to be compared."""

    def zero_grad(self, **_):
        pass


def models(**options) -> tuple[CLIP, ContrastivePretrainer]:
    torch.manual_seed(0)
    teacher = build_clip(LARGER, preprocess='half')
    student = build_clip(ClipSize(IMAGE, TEXT))
    return teacher, ContrastivePretrainer(student, teacher=Teacher(teacher, weight=0.5), **options).train()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, 49, (6, 8), generator=generator)
    ids[:, 5] = 49
    return {'images': images, 'token_ids': ids}


@pytest.mark.parametrize('micro_batch', [None, 2])
def test_the_loss_follows_the_teacher(micro_batch):
    teacher, model = models(micro_batch=micro_batch)
    data = batch()
    step = model.train_step(data, KeepGradients(torch.optim.SGD(model.parameters(), lr=0.0)))
    resized = torch.nn.functional.interpolate(
        data['images'] / 255, (24, 24), mode='bicubic', antialias=True, align_corners=False
    )
    with torch.no_grad():
        taught = teacher((resized - 0.5) / 0.5, data['token_ids'])
    images, texts = model.clip(model.data_preprocessor.normalize(data['images']), data['token_ids'])
    scale = model.clip.logit_scale.exp()
    expected = contrastive_loss(images, texts, scale) + 0.5 * distillation_loss(
        images, texts, scale, *taught, teacher.logit_scale.exp()
    )
    assert_close(step['loss'], expected.detach(), atol=1e-4, rtol=1e-4)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(expected, list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-2, msg=name)


def test_a_teacher_is_neither_trained_nor_saved():
    teacher, model = models()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model.train_step(batch(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert_close(teacher.state_dict(), before)
    assert not teacher.training
    assert not [name for name in model.state_dict() if 'teacher' in name]
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}


def test_a_perfect_student_costs_the_entropy_of_its_teacher():
    embeddings = torch.eye(4)
    same = distillation_loss(embeddings, embeddings, 3.0, embeddings, embeddings, 3.0)
    p = (3.0 * torch.eye(4)).softmax(dim=1)
    assert_close(same, -(p * p.log()).sum(dim=1).mean())
    other = distillation_loss(embeddings, embeddings.flip(0), 3.0, embeddings, embeddings, 3.0)
    assert other > same


def test_images_are_normalized_again():
    student, teacher = Preprocess.named('openai', 16), Preprocess.named('half', 16)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert_close(for_teacher(student.normalize(images), student, teacher), teacher.normalize(images))


@pytest.mark.parametrize(
    ('ids', 'length', 'expected'),
    [
        ([[8, 1, 2, 9, 0, 0]], 6, [[8, 1, 2, 9, 0, 0]]),
        ([[8, 1, 2, 9, 0, 0]], 4, [[8, 1, 2, 9]]),
        ([[8, 1, 2, 3, 4, 9]], 4, [[8, 1, 2, 9]]),
        ([[8, 1, 2, 3, 4, 9], [8, 1, 9, 0, 0, 0]], 5, [[8, 1, 2, 3, 9], [8, 1, 9, 0, 0]]),
    ],
)
def test_texts_that_are_cut_keep_their_end(ids, length, expected):
    assert cut_texts(torch.tensor(ids), length).tolist() == expected


def foreign_tokenizer() -> tuple[CLIP, CLIP]:
    teacher = build_clip(LARGER, tokenizer=lambda texts: texts)
    return teacher, build_clip(ClipSize(IMAGE, TEXT))


def other_vocabulary() -> tuple[CLIP, CLIP]:
    more_ids = replace(LARGER, text=replace(LARGER.text, vocab_size=60))
    return build_clip(more_ids), build_clip(ClipSize(IMAGE, TEXT))


@pytest.mark.parametrize(
    ('pair', 'message'),
    [
        (foreign_tokenizer, 'the teacher has a function; both need the tokenizer of OpenAI'),
        (other_vocabulary, 'vocabulary of 60 token ids, the model of 50'),
    ],
)
def test_teachers_that_read_other_ids_are_refused(pair, message):
    teacher, student = pair()
    with pytest.raises(InputError, match=message):
        ContrastivePretrainer(student, teacher=Teacher(teacher))


@pytest.mark.parametrize('weight', [0, -1, float('nan')])
def test_weights_that_teach_nothing_are_refused(weight):
    with pytest.raises(InputError, match='weight of Teacher must be positive'):
        Teacher(build_clip(LARGER), weight)
