"""Class embeddings of prompts, moved by one learned offset.  D: joint space."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import WeightsFile


class Moved:
    """Adds ``offset`` (D,) to what another embedder gives."""

    def __init__(self, prompts: ClassEmbedder, offset: Tensor) -> None:
        self.prompts, self.offset = prompts, offset

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The embeddings of a vocabulary, of unit length."""
        found = self.prompts.embed(vocabulary)
        queries = found.queries + self.offset.to(found.queries)
        return replace(found, queries=F.normalize(queries, dim=-1))


def from_file(file: WeightsFile, prompts: ClassEmbedder) -> Moved:
    """The embedder of a weights file, on top of the prompts that the model would use otherwise."""
    return Moved(prompts, file.tensors['synonyms.weight'])
