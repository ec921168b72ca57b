"""Training of an adapter on stored embeddings: the frozen model runs once.  n: examples, D: joint space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary

BATCH = 256  # as in the released code of Tip-Adapter
EPS = 1e-4


def adapted_logits(
    adapter: Adapter, embeddings: Tensor, classes: ClassEmbeddings, vocabulary: Vocabulary, scale: float
) -> Tensor:
    """Unit embeddings (n, D) -> (n, K), the logits of a model with an adapter.

    Args:
        adapter: changes them.
        embeddings: of a frozen model.
        classes: class embeddings, not yet adapted.
        vocabulary: the classes.
        scale: factor on the cosines.
    """
    adapted = adapter.adapt_embeddings(embeddings)
    queries = adapter.adapt_queries(classes.queries.to(adapted))
    logits = classes.class_scores(scale * adapted @ queries.mT)
    added = adapter.scores(adapted, vocabulary)
    return logits if added is None else logits + added


def fit(
    adapter: Adapter,
    embeddings: Tensor,
    labels: Tensor,
    classes: ClassEmbeddings,
    vocabulary: Vocabulary,
    scale: float,
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train the parameters of an adapter that require gradients; returns the mean loss of each epoch.

    AdamW (eps 1e-4) with a cosine schedule per step and batches of 256, as the released code of Tip-Adapter.

    Args:
        adapter, classes, vocabulary, scale: see ``adapted_logits``.
        embeddings: (n, D) unit.
        labels: (n,) class indices.
        epochs: passes over the examples.
        lr: initial learning rate.
        seed: of the order.

    Raises:
        InputError: numbers out of range, nothing to train, or a loss that is not finite.
    """
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise InputError(f'epochs must be a whole number of at least 1, got {epochs!r}')
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 < lr < float('inf'):
        raise InputError(f'lr must be a number above 0, got {lr!r}')
    parameters = [one for one in adapter.parameters() if one.requires_grad]
    if not parameters:
        raise InputError('the adapter has nothing to train: call trainable() of a cache first')
    optimizer = torch.optim.AdamW(parameters, lr=lr, eps=EPS)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = torch.Generator().manual_seed(seed)
    losses = []
    for _ in track(range(epochs), 'Training the adapter'):
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=rng).split(BATCH):
            logits = adapted_logits(adapter, embeddings[chosen], classes, vocabulary, scale)
            loss = F.cross_entropy(logits, labels[chosen])
            if not loss.isfinite():
                raise InputError(f'the loss is not finite: lower the learning rate ({lr})')
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        losses.append(total / len(labels))
    return losses
