"""What training LSeg takes beside the model: two learning rates, and words from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

from clipdense.clip.text_embeddings import load_embeddings
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, parameter_groups
from clipdense.engine.train_step import unwrapped
from clipdense.registry import HOOKS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.class_names import named_vocabulary
from clipdense.vocab.vocabulary import Vocabulary, normalize


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ScratchFaster:
    """Optimizer and wrapper in which everything but the backbone learns faster.

    Args:
        optim_wrapper_cfg: ``dict(optimizer=dict(type=SGD, lr=...), ...)``; ``lr`` is the backbone's.
        paramwise_cfg: ``scratch_lr``, a factor, 10 in the release; ``decay_all=True`` decays gains and biases
            too, as the release does, instead of by ``engine.optimizer.parameter_groups``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        options = dict(paramwise_cfg or {})
        self.factor = options.pop('scratch_lr', 10.0)
        self.decay_all = options.pop('decay_all', False)
        if options:
            raise InputError(f'paramwise_cfg has scratch_lr and decay_all, not {sorted(options)}')

    def __call__(self, model: torch.nn.Module) -> OptimWrapper:
        """The optimizer wrapper of an ``LSeg``."""
        bare: Any = unwrapped(model)
        backbone = {id(parameter) for parameter in bare.backbone.parameters()}
        lr, decay = self.optimizer['lr'], self.optimizer.get('weight_decay', 0.0)
        groups = []
        for group in parameter_groups(bare, decay):
            if self.decay_all:
                group['weight_decay'] = decay
            for scratch in (False, True):
                chosen = [p for p in group['params'] if (id(p) not in backbone) == scratch]
                if chosen:
                    groups.append({**group, 'params': chosen, 'lr': lr * (self.factor if scratch else 1)})
        optimizer = OPTIMIZERS.build({'params': groups, **self.optimizer})
        return OPTIM_WRAPPERS.build({'type': PrecisionOptimWrapper, **self.wrapper, 'optimizer': optimizer})


@HOOKS.register_module()
class PrecomputedVocabularyHook(VocabularyHook):
    """Words from files of embeddings, where the weights of their text tower are not at hand.

    Args:
        embeddings: a file as ``text_embeddings.load_embeddings`` reads it.
        words: what its rows stand for, needed for ``.npy``: names, the name of a vocabulary such as 'coco', a
            vocabulary file, or the categories of COCO or LVIS as JSON.
        stand_ins: name in the dataset -> name in the file, for words that the file does not have.

    Raises:
        InputError: a class of the dataset that is not in the file.
    """

    def __init__(
        self,
        embeddings: str | Path,
        words: list[str] | str | Path | None = None,
        stand_ins: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.source = embeddings
        found, self.known = load_embeddings(embeddings, None if words is None else _named(words))
        self.rows = {normalize(word): row for row, (word, _) in reversed([*enumerate(self.known.queries)])}
        self.queries = found.queries
        self.stand_ins = {normalize(name): word for name, word in (stand_ins or {}).items()}

    def _set(self, runner: Any, loader: Any) -> None:
        vocabulary = loader.dataset.vocabulary
        unwrapped(runner.model).set_vocabulary(vocabulary, self.look_up(vocabulary))

    def look_up(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The rows of a vocabulary's words.

        Raises:
            InputError: a word that the file does not have.
        """
        rows = []
        for word, _ in vocabulary.queries:
            name = self.stand_ins.get(normalize(word), word)
            row = self.rows.get(normalize(name))
            if row is None:
                hint = nearest(name, [known for known, _ in self.known.queries])
                raise InputError(f'{self.source} has no row for {name!r}: give it a stand-in.{hint}')
            rows.append(row)
        query_class = torch.tensor([index for _, index in vocabulary.queries])
        return ClassEmbeddings(self.queries[rows], query_class, len(vocabulary))


def _named(words: list[str] | str | Path) -> Vocabulary:
    """The vocabulary that ``words`` speaks of."""
    if not isinstance(words, (str, Path)):
        return Vocabulary(tuple(words))
    path = Path(words)
    if not path.suffix:
        return named_vocabulary(str(words))
    if path.suffix == '.json' and path.is_file():
        found = json.loads(path.read_text('utf-8'))
        categories = found.get('categories', ()) if isinstance(found, dict) else found
        if categories and all(
            isinstance(item, dict) and {'id', 'name'} <= item.keys() for item in categories
        ):
            return Vocabulary(tuple(item['name'] for item in sorted(categories, key=lambda item: item['id'])))
    return Vocabulary.from_file(path)
