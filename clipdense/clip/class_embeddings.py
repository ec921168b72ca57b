"""Class embeddings: embed the class names of a vocabulary in the joint space, and save and load the result.

Q: queries, D: joint space, T: templates, L: tokens.

Source: openai/CLIP notebooks/Prompt_Engineering_for_ImageNet.ipynb, ``zeroshot_classifier``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import no_autocast
from clipdense.registry import CLASS_EMBEDDERS, build
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import cache_folder, digest
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track
from clipdense.vocab.class_names import read_class_names
from clipdense.vocab.names import normalize, places
from clipdense.vocab.templates import Templates, TemplateSet, get_templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import weights_digest

from .embedding_files import FORMAT, checked_embeddings, load_embeddings, read_cached, write_cached
from .frozen_image import FrozenImage
from .frozen_text import FrozenText
from .model import CLIP
from .name_tokens import check_tokens, warn_of_unknown

_SORTED_BATCHES = 64  # number of batches whose prompts are sorted by length together


class ClassEmbedder(Protocol):
    """Embeds class names in the joint space; can replace the prompts and the text tower.

    An embedder may also have these, which ``inference`` asks for:

    * ``uses_templates = False``: prompt templates given with it are refused.
    * ``changes_images = True`` and ``image_prompts()``: tokens for ``VisionTransformer.prompted``, which the
      image tower of the CLIP gets with every image.
    * ``per_image = True``, ``embed_for(vocabulary, image)`` instead of ``embed``, and ``check(vocabulary)``:
      class embeddings that depend on the image.
    """

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """One embedding for each query of a vocabulary."""


@CLASS_EMBEDDERS.register_module()
class PromptEnsemble:
    """The default ``ClassEmbedder``: the mean over T prompts of each class name.

    Args:
        clip: encodes in evaluation mode without gradients; its mode is restored afterwards.
        templates: as ``get_templates`` takes them.
        cache: folder where embeddings are stored, keyed by weights, tokenizer, templates and names; 'default'
            for the user's cache folder; None for no cache, for weights that are being trained.
        batch_size: prompts per batch.
        keep_templates: whether ``ClassEmbeddings.templates`` keeps the embedding of each prompt.

    Raises:
        InputError: templates that ``get_templates`` refuses.
    """

    def __init__(
        self,
        clip: CLIP | FrozenText,
        templates: Templates = 'imagenet',
        cache: str | Path | Literal['default'] | None = 'default',
        batch_size: int = 256,
        keep_templates: bool = False,
    ) -> None:
        self.clip, self.templates, self.cache = clip, get_templates(templates), cache
        self.batch_size, self.keep_templates = batch_size, keep_templates

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The embeddings of a vocabulary, in fp32 on the model's device.

        Raises:
            InputError: the embeddings are not finite.
        """
        warn_of_unknown(self.clip.tokenizer, [name for name, _ in vocabulary.queries])
        file = self._cache_file(vocabulary)
        embeddings = read_cached(file, vocabulary) if file else None
        if embeddings is None:
            embeddings = self._encode(vocabulary)
            if file:
                write_cached(file, vocabulary, embeddings, self.templates)
        return embeddings.to(_device(self.clip))

    def with_templates(self, templates: Templates) -> PromptEnsemble:
        """The same with other templates."""
        return PromptEnsemble(self.clip, templates, self.cache, self.batch_size, self.keep_templates)

    def _encode(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        asked = [tuple(self.templates.prompts(name)) for name, _ in vocabulary.queries]
        firsts = zip(vocabulary.queries, asked, strict=True)
        check_tokens(self.clip.tokenizer, {name: prompts[0] for (name, _), prompts in firsts if prompts})
        names: dict[tuple[str, ...], str] = {}  # 'hot_dog' and 'hot dog' may have the same prompts
        for (name, _), sentences in zip(vocabulary.queries, asked, strict=True):
            names.setdefault(sentences, name)
        place = {sentences: index for index, sentences in enumerate(names)}
        queries, prompts = _encode_texts(
            self.clip, list(names.values()), self.templates, self.batch_size, self.keep_templates
        )  # (Q, D), (Q, T, D)
        rows = torch.tensor([place[sentences] for sentences in asked], device=queries.device)
        kept = None if prompts is None else prompts[rows]
        return checked_embeddings(queries[rows], vocabulary, 'the text tower', kept)

    def _cache_file(self, vocabulary: Vocabulary) -> Path | None:
        """The cache file of these embeddings; None without a cache."""
        clip, templates = self.clip, self.templates
        tokenizer = getattr(clip.tokenizer, 'identity', None)
        if self.cache is None or tokenizer is None:
            return None
        tower = clip.text if type(clip) in (CLIP, FrozenText) else clip
        prompts: Any = templates.formats
        if callable(templates.rule):
            prompts = [templates.prompts(name) for name, _ in vocabulary.queries]
        asked = json.dumps([vocabulary.queries, prompts, *(['templates'] if self.keep_templates else [])])
        key = digest(FORMAT, module_digest(tower), repr(getattr(tower, 'size', type(clip))), tokenizer, asked)
        try:
            folder = cache_folder() / 'text_embeddings' if self.cache == 'default' else Path(self.cache)
        except RuntimeError:  # the user has no home folder
            return None
        return folder / f'{key}.safetensors'


@CLASS_EMBEDDERS.register_module()
class StoredEmbeddings:
    """A ``ClassEmbedder`` that reads stored embeddings instead of running a text tower.

    Args:
        file: as ``load_embeddings`` reads it.
        class_names: class names of the rows, needed for arrays: names, the name of a class list such as
            'coco', a vocabulary file, or the categories of COCO or LVIS as JSON.
        stand_ins: name in the vocabulary -> name in the file to use instead, for names that the file lacks.
    """

    def __init__(
        self,
        file: str | Path,
        class_names: Sequence[str] | str | Path | None = None,
        stand_ins: Mapping[str, str] | None = None,
    ) -> None:
        self.file = file
        known = None if class_names is None else read_class_names(class_names)
        found, self.known = load_embeddings(file, known)
        self.rows = places(name for name, _ in self.known.queries)
        self.queries = found.queries
        self.stand_ins = {normalize(name): other for name, other in (stand_ins or {}).items()}

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The rows of a vocabulary's class names.

        Raises:
            InputError: the file lacks a class name.
        """
        rows = []
        for query, _ in vocabulary.queries:
            name = self.stand_ins.get(normalize(query), query)
            row = self.rows.get(normalize(name))
            if row is None:
                hint = nearest(name, [known for known, _ in self.known.queries])
                raise InputError(
                    f'{self.file} has no row for {name!r}: map it to another name (stand_ins), or write a '
                    f'file with this class (`clipdense embed`).{hint}'
                )
            rows.append(row)
        return checked_embeddings(self.queries[rows], vocabulary, Path(self.file))


def class_embedder(
    model: Any,
    embedder: ClassEmbedder | Mapping[str, Any] | None = None,
    templates: Templates | None = None,
    cache: str | Path | Literal['default'] | None = None,
) -> ClassEmbedder:
    """The ``ClassEmbedder`` of a model, or the one given instead of it.

    Args:
        model: a CLIP, or a model with a text tower as ``model.clip``.
        embedder: an object, or its config, to which ``clip`` is added if its class takes one.  None means
            ``model.embedder`` if the model has one, else a ``PromptEnsemble``.
        templates, cache: of the ``PromptEnsemble``; ``model.templates`` unless given.

    Raises:
        InputError: ``embedder`` has no ``embed``; or the model reads class names itself, or has no text
            tower and needs one.
    """
    clip = getattr(model, 'clip', model)
    own = getattr(model, 'embedder', None)
    replaced = templates is not None or embedder not in (None, own)
    if replaced and getattr(model, 'reads_names', False):
        raise InputError(
            f'a {type(model).__name__} reads class names together with the image: class embeddings, learned '
            'prompts and templates have no effect; remove them'
        )
    if embedder is None:
        embedder = own
    if embedder is None:
        if templates is None:
            templates = getattr(model, 'templates', 'imagenet')
        return PromptEnsemble(_needed(clip), cast('Templates', templates), cache)
    if isinstance(embedder, Mapping):
        kind = embedder.get('type')
        kind = CLASS_EMBEDDERS.get(kind) if isinstance(kind, str) else kind
        wanted = callable(kind) and 'clip' in inspect.signature(kind).parameters
        given = {'clip': _needed(clip)} if wanted and 'clip' not in embedder else {}
        embedder = build({**embedder, **given}, CLASS_EMBEDDERS)
    if not callable(getattr(embedder, 'embed', None)):
        raise InputError(
            f'a class embedder must have a method embed(vocabulary); {type(embedder).__name__} does not'
        )
    return cast('ClassEmbedder', embedder)


def _needed(clip: CLIP | FrozenText | None) -> CLIP | FrozenText:
    if clip is None:
        raise InputError(
            'the model has no text tower to embed class names: give the model a CLIP (clip=...) or pass an '
            'embedder'
        )
    if isinstance(clip, FrozenImage):
        raise InputError(
            'the weights have the image tower of a CLIP only, which cannot embed class names: write a '
            'file of embeddings with its text tower (`clipdense embed`), give it with --embedder or embedder='
        )
    return clip


def embed_texts(
    clip: CLIP | FrozenText,
    texts: Sequence[str],
    templates: Templates = 'name',
    batch_size: int = 256,
) -> Tensor:
    """Texts -> (Q, D) unit rows, fp32: the normalized mean over templates of normalized prompt embeddings.

    Prompt embeddings of a model whose ``unit_prompts`` is False are averaged without normalization.

    Prompts of similar length share a batch, which saves padding and does not change the result.

    Raises:
        InputError: templates that ``get_templates`` refuses, or no texts.
    """
    return _encode_texts(clip, texts, get_templates(templates), batch_size)[0]


@torch.no_grad()
def _encode_texts(
    clip: CLIP | FrozenText, texts: Sequence[str], templates: TemplateSet, batch_size: int, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(Q, D) unit rows, and if ``keep`` the embeddings of their prompts (Q, T, D)."""
    if not texts:
        raise InputError('no texts to embed: give at least one')
    device, count = _device(clip), len(templates.prompts(texts[0]))
    total = -(-len(texts) * count // batch_size)
    sums: Tensor | None = None
    prompts: Tensor | None = None
    with evaluating(clip), no_autocast(device):
        batches = _batches(clip.tokenizer, texts, templates, batch_size)
        for token_ids, rows, columns in track(batches, 'Embedding class names', total):
            embeddings = clip.encode_text(token_ids.to(device)).float()
            if clip.unit_prompts:
                embeddings = F.normalize(embeddings, dim=-1)
            if sums is None:
                sums = embeddings.new_zeros(len(texts), embeddings.shape[1])
                prompts = embeddings.new_zeros(len(texts), count, embeddings.shape[1]) if keep else None
            sums.index_add_(0, rows.to(device), embeddings)
            if prompts is not None:
                prompts[rows.to(device), columns.to(device)] = embeddings
    assert sums is not None
    return F.normalize(sums, dim=-1), prompts


def module_digest(module: nn.Module) -> str:
    """SHA-256 over a module's parameters and buffers.

    Cached until a checksum of the tensors, which costs a twentieth of it, changes.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    checksum = _checksum(list(tensors.values()))
    known = _digests.get(module)
    if known is None or known[0] != checksum:
        known = _digests[module] = checksum, weights_digest(tensors)
    return known[1]


def image_tower_digest(clip: CLIP) -> str:
    """Digest of the weights of the image tower and of its preprocessing."""
    return digest(module_digest(clip.image), repr(clip.preprocess))


_digests: WeakKeyDictionary[nn.Module, tuple[list[int], str]] = WeakKeyDictionary()


def _checksum(tensors: Sequence[Tensor]) -> list[int]:
    sums = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        whole = flat.numel() * flat.element_size() % 8 == 0 and flat.storage_offset() == 0
        sums.append(flat.view(torch.int64 if whole else torch.uint8).sum(dtype=torch.int64))
    return torch.stack(sums).tolist() if sums else []


def _batches(
    tokenizer: Callable[..., Any], texts: Sequence[str], templates: TemplateSet, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches sorted by length: token ids (<= batch_size, L), text index and template index of each row."""
    count = len(templates.prompts(texts[0]))
    step = max(1, _SORTED_BATCHES * batch_size // max(count, 1))
    for start in range(0, len(texts), step):
        prompts: list[str] = []
        for text in texts[start : start + step]:
            found = templates.prompts(text)
            if len(found) != count or not found:
                raise InputError(
                    f'the templates give {len(found)} prompts for {text!r} but {count} for {texts[0]!r}: '
                    'every class name needs the same number of prompts, at least one'
                )
            prompts += found
        token_ids = torch.as_tensor(np.asarray(tokenizer(prompts)))  # (step * T, L)
        places = torch.arange(len(prompts))
        by_length = token_ids.argmax(dim=-1).argsort()  # OpenAI's end-of-text id is the largest
        for chosen in by_length.split(batch_size):
            yield token_ids[chosen], start + places[chosen] // count, places[chosen] % count


def _device(clip: nn.Module) -> torch.device:
    return next(clip.parameters()).device
