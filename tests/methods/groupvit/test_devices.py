"""Nothing is left on the CPU when the model is on a GPU: torch's fake tensors check devices without one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary


class Call(nn.Module):
    """A method of a model as the forward of a module."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *tensors):
        return self.call(self.model, *tensors)


def on_a_gpu(model, call, *tensors):
    """Run with fake parameters, buffers and tensors on 'cuda'; operands on two devices are an error."""
    module, mode = Call(model, call), FakeTensorMode()
    with mode:
        state = {
            name: mode.from_tensor(value).to('cuda')
            for name, value in [*module.named_parameters(), *module.named_buffers()]
        }
        return functional_call(module, state, tuple(mode.from_tensor(one).to('cuda') for one in tensors))


@pytest.mark.parametrize(
    'threshold', [0.9, {'cat': 0.3, '': 0.5}, None], ids=['number', 'by class', 'learned']
)
def test_segmenting(tiny, threshold):
    model = GroupVitSegmenter(tiny(background=True), background_threshold=threshold).eval()
    words = Vocabulary(('background', 'cat', 'dog'), background='background')
    model.set_vocabulary(words, ClassEmbeddings(torch.randn(3, 8), torch.arange(3), 3))
    image, groups, owner = on_a_gpu(
        model, lambda model, images: model.encode_pixels(images), torch.rand(2, 3, 20, 24)
    )
    assert {one.device.type for one in (image, groups, owner)} == {'cuda'}
    embeddings = torch.randn(2, 8), torch.randn(2, 3, 8), torch.randn(3, 8)
    scores = on_a_gpu(model, lambda model, *given: model.class_scores(*given), *embeddings)
    assert scores.shape == (2, 3, 3)


def test_losses(tiny):
    options = {'background_weight': 1.0, 'balance_weight': 1.0, 'equal_texts_match': True}
    model = GroupVitPretrainer(tiny(background=True), **options)
    given = torch.randn(4, 8), torch.randn(4, 4, 8), torch.randn(4, 3, 8), torch.rand(4)
    numbers = torch.randint(0, 3, (4,)), torch.randint(0, 3, (4, 3))
    losses = on_a_gpu(model, lambda model, *tensors: model.loss(*tensors), *given, *numbers)
    assert {'contrastive_loss', 'multi_label_loss', 'background_loss', 'balance_loss'} == set(losses)
    assert {loss.device.type for loss in losses.values()} == {'cuda'}
