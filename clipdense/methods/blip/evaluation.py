"""Evaluations of a BLIP.  B: images, K: classes, S: image tokens, W: their width, D: joint space."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.captioning import CaptionRules
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.modules import evaluating

from .model import Blip
from .sizes import split_words

By = Literal['itc', 'itm', 'caption']


@EVALUATIONS.register_module()
class BlipClassification:
    """Accuracy of a BLIP on labeled images, by one of its three answers.

    Args:
        dataset: items with ``images`` uint8 and ``labels``, K ``class_names``; or its config.
        by: 'itc', the class whose text is most similar to the image; 'itm', the class whose text matches the
            image best; 'caption', whether a generated caption contains the name of the class.
        template: text of a class, with ``{}`` for its name; not used by 'caption'.
        rules: how captions are generated, ``CaptionRules`` or their dict; greedy by default.
        batch_size: images per batch.
        name: of the result, ``NAME/top1``.

    Raises:
        InputError: an unknown value of ``by``, or a template without ``{}``.
    """

    whole_model = True

    def __init__(
        self,
        dataset: Any,
        by: By = 'itc',
        template: str = 'a {}',
        rules: CaptionRules | dict | None = None,
        batch_size: int = 64,
        name: str = 'blip',
    ) -> None:
        if by not in get_args(By):
            raise InputError(
                f'by must be one of {", ".join(get_args(By))}, got {by!r}.{nearest(by, get_args(By))}'
            )
        if template.count('{}') != 1:
            raise InputError(f"template must have '{{}}' once, for the class name, got {template!r:.80}")
        self.dataset = build(dataset, DATASETS)
        self.by, self.template, self.batch_size, self.name = by, template, batch_size, name
        self.rules = (
            CaptionRules(**(rules or {'search': 'greedy'})) if not isinstance(rules, CaptionRules) else rules
        )

    def check(self, model: Any) -> None:
        """Refuse a model that cannot answer.

        Raises:
            InputError: not a BLIP, or one without the part that answers.
        """
        blip = blip_of(model)
        if self.by == 'caption':
            blip.need_decoder()
        else:
            blip.need_encoder()

    @torch.no_grad()
    def __call__(self, model: Any) -> dict[str, float]:
        """The share of images whose class is found."""
        self.check(model)
        blip, right, count = blip_of(model), 0, 0
        prepare = ImagePreprocessor(blip.preprocess.mean, blip.preprocess.std)
        prepare.to(next(blip.parameters()).device)
        with evaluating(blip):
            answer = {'itc': self._similar, 'itm': self._matching, 'caption': self._captions}[self.by](blip)
            for start in range(0, len(self.dataset), self.batch_size):
                items = [
                    self.dataset[at] for at in range(start, min(start + self.batch_size, len(self.dataset)))
                ]
                labels = torch.tensor([int(item['labels']) for item in items])
                images = prepare({'images': torch.stack([item['images'] for item in items])})['images']
                right += int(answer(images, labels).sum())
                count += len(labels)
        return {f'{self.name}/top1': right / count}

    def _texts(self, blip: Blip, first: Literal['cls', 'enc']) -> Any:
        names = [self.template.replace('{}', name) for name in self.dataset.class_names]
        device = next(blip.parameters()).device
        return [part.to(device) for part in blip.tokenizer(names, first)]

    def _similar(self, blip: Blip) -> Any:
        texts = blip.embed_text(*self._texts(blip, 'cls'))  # (K, D)

        def answer(images: Tensor, labels: Tensor) -> Tensor:
            found = blip.embed_image(blip.encode_image(images)) @ texts.mT  # (B, K)
            return found.argmax(dim=1).cpu() == labels

        return answer

    def _matching(self, blip: Blip) -> Any:
        ids, keep = self._texts(blip, 'enc')  # (K, L)

        def answer(images: Tensor, labels: Tensor) -> Tensor:
            tokens, classes = blip.encode_image(images), len(ids)
            context = blip.need_encoder().read(tokens)
            scores = blip.match(context, ids.repeat(len(tokens), 1), keep.repeat(len(tokens), 1))
            margin = (scores[:, 1] - scores[:, 0]).view(len(tokens), classes)
            return margin.argmax(dim=1).cpu() == labels

        return answer

    def _captions(self, blip: Blip) -> Any:
        names = [' '.join(split_words(name)) for name in self.dataset.class_names]

        def answer(images: Tensor, labels: Tensor) -> Tensor:
            texts = [f' {" ".join(split_words(one.text))} ' for one in blip.caption(images, self.rules)]
            return torch.tensor(
                [f' {names[label]} ' in text for text, label in zip(texts, labels.tolist(), strict=True)]
            )

        return answer


def blip_of(model: Any) -> Blip:
    """The BLIP, or that of its training.

    Raises:
        InputError: another model.
    """
    blip = getattr(model, 'blip', model)
    if not isinstance(blip, Blip):
        raise InputError(f'this evaluation is of a BLIP, got {type(model).__name__}')
    return blip
