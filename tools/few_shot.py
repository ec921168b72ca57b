"""Few-shot learning on frozen weights: the table of base and new accuracy, over shots and seeds.

    python tools/few_shot.py DATA --weights CLIP --shots 1 4 16 --seeds 1 2 3 --out few_shot.json

DATA is a folder of class folders (or of train, val and test with such folders) or a split file of CoOp.
Every method learns from the same images of the first half of the classes and is tested on both halves, each
among its own names.  Images are encoded once, as in an evaluation, without random crops: prompts of the text
tower and adapters are trained on embeddings, MaPLe on images.  alpha and beta of caches are searched on
validation images of base classes; rates and epochs are to be chosen with ``--part val``, which tests there.
``--hits`` writes which images were right, for ``tools/few_shot_orderings.py``.  ``tools/few_shot_data.py``
writes folders of scenes, boxes and regions.

B: images, K: classes, S: side of an image, D: joint space.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clipdense.clip.checkpoint import load
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.data.batches import collate
from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.transforms import CenterCrop
from clipdense.evaluation.base_to_new import BaseToNew, FewShotRow, FewShotTable
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.methods.adapters.search import Grid, Validation, search
from clipdense.methods.adapters.train import adapted_logits, fit
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.cocoop import CoCoOp
from clipdense.methods.prompt_learning.learner import CoOp
from clipdense.methods.prompt_learning.maple import MaPLe
from clipdense.utils.files import atomic_write
from clipdense.vocab.vocabulary import Vocabulary

WARMUP_LR = 1e-5  # of the first epoch
VALIDATION_SHOTS = 4  # as in CoOp
COOP_EPOCHS = ((1, 50), (4, 100), (10**9, 200))  # of up to so many shots, as in CoOp
GRID = Grid(beta=50.0, alpha=50.0)  # the widest of the official configs


@dataclass(frozen=True)
class Part:
    """Images (B, 3, S, S), normalized, their unit embeddings (B, D), labels (B,) and the K class names."""

    images: Tensor
    embeddings: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def first(self, shots: int) -> Part:
        """The first images of each class, which are those of a draw of fewer shots."""
        chosen = torch.cat([(self.labels == label).nonzero()[:shots, 0] for label in range(len(self.names))])
        return replace(
            self, images=self.images[chosen], embeddings=self.embeddings[chosen], labels=self.labels[chosen]
        )


@dataclass(frozen=True)
class Task:
    """Images to learn from and to be tested on, of one seed."""

    clip: Any
    train: Part
    val: Part
    options: argparse.Namespace
    seed: int

    @property
    def shots(self) -> int:
        """Images of each class."""
        return len(self.train.labels) // len(self.train.names)

    @property
    def scale(self) -> float:
        """The factor on cosines."""
        return float(self.clip.logit_scale.detach().exp())

    def classes(self, part: Part) -> Any:
        """Class embeddings by the prompt templates."""
        return PromptEnsemble(self.clip, self.options.templates, cache=None).embed(Vocabulary(part.names))


Answer = Callable[[Part], Tensor]  # logits (B, K)


def zero_shot(task: Task) -> Answer:
    """Nothing is learned."""
    return lambda part: task.scale * part.embeddings @ task.classes(part).queries.mT


def coop(task: Task) -> Answer:
    """A context that all classes share."""
    options = task.options
    epochs = options.coop_epochs or next(epochs for most, epochs in COOP_EPOCHS if task.shots <= most)
    return _prompts(task, CoOp(task.clip, **_context(options)), 32, options.coop_lr, epochs)


def cocoop(task: Task) -> Answer:
    """A context that each image shifts."""
    options = task.options
    return _prompts(task, CoCoOp(task.clip, **_context(options)), 1, options.cocoop_lr, options.cocoop_epochs)


def maple(task: Task) -> Answer:
    """Prompts in both towers, in as many blocks as both have, up to 9."""
    depth = min(9, len(task.clip.image.blocks), len(task.clip.text.blocks))
    options = task.options
    learner = MaPLe(task.clip, n_ctx=2, depth=depth, init=_context(options).get('init'))
    return _prompts(task, learner, 4, options.maple_lr, options.maple_epochs)


def clip_adapter(task: Task) -> Answer:
    """A residual bottleneck on image embeddings."""
    adapter = ClipAdapter(task.train.embeddings.shape[1])
    _fit(task, adapter)
    return _adapted(task, adapter)


def tip(task: Task) -> Answer:
    """A cache of embeddings; nothing is trained."""
    cache = KeyValueCache(task.train.embeddings, task.train.labels, task.train.names)
    _search(task, cache)
    return _adapted(task, cache)


def tip_f(task: Task) -> Answer:
    """A cache whose keys are trained."""
    cache = KeyValueCache(task.train.embeddings, task.train.labels, task.train.names)
    _search(task, cache)
    _fit(task, cache.trainable())
    cache.requires_grad_(False)
    _search(task, cache)
    return _adapted(task, cache)


METHODS: dict[str, tuple[str, Callable[[Task], Answer]]] = {
    'zero_shot': ('zero-shot', zero_shot),
    'coop': ('CoOp', coop),
    'cocoop': ('CoCoOp', cocoop),
    'maple': ('MaPLe', maple),
    'clip_adapter': ('CLIP-Adapter', clip_adapter),
    'tip': ('Tip-Adapter', tip),
    'tip_f': ('Tip-Adapter-F', tip_f),
}


def _context(options: argparse.Namespace) -> dict[str, Any]:
    """What contexts start from."""
    return {'init': None, 'n_ctx': options.n_ctx} if options.n_ctx else {'init': options.words}


def _prompts(task: Task, learner: Any, batch: int, lr: float, epochs: int) -> Answer:
    """Train prompts with the published schedule: SGD, one warm-up epoch, then a cosine by epoch."""
    model = PromptClassifier(task.clip, learner, task.train.names).train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    rng = torch.Generator().manual_seed(task.seed)
    for epoch in range(epochs):
        rate = lr * (1 + cos(pi * epoch / epochs)) / 2 if epoch else WARMUP_LR
        for group in optimizer.param_groups:
            group['lr'] = rate
        for chosen in torch.randperm(len(task.train.labels), generator=rng).split(batch):
            loss = model.loss(_logits(model, task.train, chosen), task.train.labels[chosen])['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()

    @torch.no_grad()
    def answer(part: Part) -> Tensor:
        model.set_classes(part.names)
        chunks = torch.arange(len(part.labels)).split(64)
        return torch.cat([_logits(model, part, chosen) for chosen in chunks])

    return answer


def _logits(model: PromptClassifier, part: Part, chosen: Tensor) -> Tensor:
    """Logits of some images: from their embeddings, unless the image tower has prompts."""
    if model.learner.changes_images:
        return model.logits(part.images[chosen])
    embeddings = part.embeddings[chosen]
    classes = model.learner(embeddings)
    scale = model.clip.logit_scale.detach().exp()
    return scale * torch.einsum('bd,kd->bk' if classes.ndim == 2 else 'bd,bkd->bk', embeddings, classes)


def _fit(task: Task, adapter: Any) -> None:
    train = task.train
    vocabulary = Vocabulary(train.names)
    fit(
        adapter,
        train.embeddings,
        train.labels,
        task.classes(train),
        vocabulary,
        task.scale,
        epochs=task.options.adapter_epochs,
        lr=task.options.adapter_lr,
        seed=task.seed,
    )


def _search(task: Task, cache: KeyValueCache) -> None:
    val = task.val
    validation = Validation(val.embeddings, val.labels, zero_shot(task)(val), Vocabulary(val.names))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # an optimum at the end of the grid is no news in a table
        search(cache, validation, GRID)


def _adapted(task: Task, adapter: Any) -> Answer:
    """Logits with an adapter; a cache says nothing about classes without keys."""

    @torch.no_grad()
    def answer(part: Part) -> Tensor:
        known = getattr(adapter, 'class_names', part.names)
        if not set(known) & set(part.names):
            return zero_shot(task)(part)
        return adapted_logits(
            adapter, part.embeddings, task.classes(part), Vocabulary(part.names), task.scale
        )

    return answer


@torch.no_grad()
def encode(clip: Any, dataset: FewShotImages) -> Part:
    """Encode a dataset once; images that cannot be read are left out."""
    dataset.transform = CenterCrop.of(clip.preprocess)
    images, labels = [], []
    for batch in DataLoader(dataset, 64, collate_fn=collate):
        known = batch['labels'] >= 0
        images.append(clip.preprocess.normalize(batch['images'][known]))
        labels.append(batch['labels'][known])
    pixels = torch.cat(images)
    embeddings = torch.cat([clip.encode_image(chunk, normalize=True) for chunk in pixels.split(64)])
    return Part(pixels, F.normalize(embeddings.float(), dim=-1), torch.cat(labels), dataset.class_names)


def run(options: argparse.Namespace) -> FewShotTable:
    """All methods, shots and seeds, one row after another; rows so far are in ``options.out``."""
    clip = load(options.weights).requires_grad_(False).eval()
    halves = ('all',) if options.classes == 'all' else ('base', 'new')
    tests = {half: encode(clip, FewShotImages(options.data, options.part, classes=half)) for half in halves}
    tests = {'base' if half == 'all' else half: part for half, part in tests.items()}
    val = encode(clip, FewShotImages(options.data, 'val', VALIDATION_SHOTS, halves[0]))
    most = {
        seed: encode(clip, FewShotImages(options.data, 'train', max(options.shots), halves[0], seed))
        for seed in options.seeds
    }
    table, hits = FewShotTable(()), {}
    for name in options.methods:
        title, method = METHODS[name]
        for shots in (0,) if name == 'zero_shot' else options.shots:
            begin = time.process_time()
            found = []
            for seed in options.seeds[:1] if name == 'zero_shot' else options.seeds:
                torch.manual_seed(seed)
                answer = method(Task(clip, most[seed].first(shots or 1), val, options, seed))
                found.append({half: answer(part).argmax(1) == part.labels for half, part in tests.items()})
            table = FewShotTable((*table.rows, FewShotRow(title, shots, tuple(map(_result, found)))))
            hits |= {
                f'{title}|{shots}|{half}': torch.stack([one[half] for one in found]).numpy() for half in tests
            }
            print(f'{title}, {shots} shots: {time.process_time() - begin:.0f} CPU-seconds', flush=True)
            _write(options, table, hits)
    return table


def _result(hits: dict[str, Tensor]) -> BaseToNew:
    shares = {half: right.double().mean().item() for half, right in hits.items()}
    return BaseToNew(shares['base'], shares.get('new'))


def _write(options: argparse.Namespace, table: FewShotTable, hits: dict[str, np.ndarray]) -> None:
    if options.out:
        with atomic_write(options.out, 'w') as file:
            file.write(table.to_json())
    if options.hits:
        with atomic_write(options.hits, 'wb') as file:
            np.savez_compressed(file, **hits)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='folder or split file')
    parser.add_argument('--weights', required=True, help='a CLIP')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--shots', nargs='+', type=int, default=[1, 4, 16])
    parser.add_argument('--seeds', nargs='+', type=int, default=[1, 2, 3])
    parser.add_argument('--classes', choices=['base', 'all'], default='base', help='to learn (%(default)s)')
    parser.add_argument('--templates', nargs='+', default=['a photo of a {}.'], help='%(default)s')
    parser.add_argument('--words', default='a photo of a', help='that contexts start from (%(default)s)')
    parser.add_argument('--n-ctx', type=int, help='tokens that start from random numbers, instead of --words')
    for name, lr in (('coop', 2e-3), ('cocoop', 2e-3), ('maple', 3.5e-3), ('adapter', 1e-3)):
        parser.add_argument(f'--{name}-lr', type=float, default=lr, help='learning rate (%(default)s)')
    parser.add_argument('--coop-epochs', type=int, help='(50, 100, 200 for 1, up to 4, more shots)')
    parser.add_argument('--cocoop-epochs', type=int, default=10, help='(%(default)s)')
    parser.add_argument('--maple-epochs', type=int, default=5, help='(%(default)s)')
    parser.add_argument('--adapter-epochs', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--part', choices=['test', 'val'], default='test', help='to test on (%(default)s)')
    parser.add_argument('--out', type=Path, help='a JSON file with the table')
    parser.add_argument('--hits', type=Path, help='an .npz file with what was right, by image')
    return parser.parse_args(given)


def main() -> None:
    """Print the table."""
    print(run(arguments()).markdown())


if __name__ == '__main__':
    main()
