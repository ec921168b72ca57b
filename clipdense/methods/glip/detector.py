"""The detector: levels of an image and the text of the class names meet in the head.

B: images, (H, W): pixels of the network's input, K: classes, Q: names and synonyms, T: tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.models import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from clipdense.clip.checkpoint import load
from clipdense.data.detection.inference import test_transforms
from clipdense.data.detection.trained_sizes import KEY, TrainedSizes
from clipdense.registry import MODELS, TRANSFORMS, build, build_module
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.detection import DetectionRules
from clipdense.utils.errors import InputError
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict

from . import parts
from .assignment import assign
from .class_text import ClassText, EncodedChunk, named_prompts
from .criterion import grounding_losses
from .head import GLIPHead
from .inference import Reading, best_of, distinct, instances, no_class_twice, search, suppress_early
from .prompts import PromptRules
from .released import state_of
from .scores import CandidateRules, Candidates
from .structures import HeadOutput
from .text import EncodedPrompts, GroundingText, text_of
from .training import TrainingBatch, counted_tokens, targets_of
from .training_prompts import TrainingText, training_prompts

_PARTS = [getattr(parts, name) for name in parts.__all__]


@MODELS.register_module()
class GLIP(BaseDetector):
    """Detection as grounding: every box is matched to the tokens of a text.

    Args:
        backbone, neck: parts of mmdet, or configs of any others; the neck gives the levels of the head.
        head: a ``GLIPHead`` or its config, in which ``text_width`` may be left out.
        clip: the text tower, which is trained with the detector: a CLIP, a ``GroundingText``, the config of
            one of them, or weights as ``clipdense.load`` takes them.
        data_preprocessor: mmdet's.
        prompts: how class names become texts; or a dict with the fields of ``PromptRules``.
        candidates: which boxes are considered; or a dict with the fields of ``CandidateRules``.
        detection: default detection rules; or a dict with the fields of ``DetectionRules``.
        frozen: names of parts that are not trained, such as ('backbone', 'clip').
        start: weights of a GLIP of these sizes, such as a released file, that training begins with.

    Attributes:
        transforms: mmdet transforms, such as a resize, applied to images before ``test_step``.
        trained_sizes: of the images of the training, so far.

    Raises:
        InputError: an unknown part among ``frozen``, a text tower that cannot be loaded, or one of another
            width than the head.
    """

    method = 'glip'
    reads_names = True  # no class embeddings
    portable_name = 'glip'
    portable_types: Mapping[str, Any] = {
        **{f'{part.__module__}.{part.__qualname__}': part for part in _PARTS},
        **{part.__name__: part for part in _PARTS},
        **{name: name for name in parts.FOUND_BY_MMDET},
    }

    def __init__(
        self,
        backbone: nn.Module | dict,
        neck: nn.Module | dict,
        head: GLIPHead | dict,
        clip: nn.Module | dict | str | Path,
        data_preprocessor: Any = None,
        prompts: PromptRules | dict | None = None,
        candidates: CandidateRules | dict | None = None,
        detection: DetectionRules | dict | None = None,
        frozen: Sequence[str] = (),
        start: str | Path | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.backbone, self.neck = build_module(backbone), build_module(neck)
        self.clip: GroundingText = text_of(_loaded(clip))
        self.head: GLIPHead = build_module(_sized(head, self.clip.width))
        if self.clip.width != self.head.size.text_width:
            raise InputError(
                f'the text tower has width {self.clip.width}, the head text_width='
                f'{self.head.size.text_width}: set head.size.text_width={self.clip.width}'
            )
        self.prompts = _made(PromptRules, prompts)
        self.candidates = _made(CandidateRules, candidates)
        self.detection = _made(DetectionRules, detection)
        self.frozen, self.start = tuple(frozen), start
        for name in self.frozen:
            if name not in dict(self.named_children()):
                known = sorted(dict(self.named_children()))
                raise InputError(f'frozen contains unknown parts {[name]}: use names from {known}')
            getattr(self, name).requires_grad_(False)
        self.class_text = ClassText(self.clip, self.prompts)
        self.dataset_meta: dict[str, Any] = {}
        self.transforms: list[Any] = []
        self.trained_sizes = TrainedSizes()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The current vocabulary."""
        return self.class_text.vocabulary

    @property
    def embedder(self) -> ClassText:
        """What embeds class names: their features before the head."""
        return self.class_text

    @property
    def portable_clip(self) -> GroundingText:
        """The text tower, which is part of the detector."""
        return self.clip

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Config for a self-describing file: the detector, and what is known of images."""
        model = {**cfg['model'], 'start': None}
        return {'model': model, 'transforms': test_transforms(cfg), **self.trained_sizes.entry()}

    def apply_portable_config(self, config: Mapping[str, Any]) -> None:
        """Apply the entries of ``portable_config`` other than the model."""
        self.transforms = [build(one, TRANSFORMS) for one in config.get('transforms') or ()]
        self.trained_sizes = TrainedSizes(config.get(KEY))

    def init_weights(self) -> None:
        """Initialize the parts as they specify; then load ``start``."""
        super().init_weights()
        if self.start is not None:
            state = state_of(read_weights(self.start).tensors)
            load_strict(self, self._own_state() | state, self.start)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings | None = None) -> None:
        """Set the vocabulary, before training or at any time after it.  Weights do not change.

        Args:
            vocabulary: the class names.
            embeddings: not used: the head reads the tokens of the names.
        """
        self.class_text.set_vocabulary(vocabulary)
        self.dataset_meta = {'classes': vocabulary.class_names, 'vocabulary': vocabulary}

    def train(self, mode: bool = True) -> GLIP:
        """Frozen parts stay in evaluation mode; encoded class names are forgotten."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        self.class_text.forget()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GLIP:
        self.class_text.forget()
        return super()._apply(fn, recurse)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As in torch; encoded class names are forgotten."""
        self.class_text.forget()
        return super().load_state_dict(*arguments, **options)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> levels, which depend on no text."""
        return tuple(self.neck(self.backbone(batch_inputs)))

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """Normalized images and their annotations -> losses."""
        self.trained_sizes.note(batch_data_samples)
        return self.losses_of(self.extract_feat(batch_inputs), batch_data_samples)

    def losses_of(self, levels: Sequence[Tensor], samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """The levels of images and their annotations -> losses."""
        texts = self.training_texts(samples)
        encoded = self.read_training(texts)
        output = self.head(levels, encoded.features)
        targets = targets_of(samples, texts, encoded)
        anchors = self.head.anchors(levels)
        owner = torch.stack([assign(anchors, one.boxes) for one in targets])  # (B, A)
        losses = grounding_losses(output, anchors, targets, counted_tokens(texts, encoded), owner)
        return losses | self.more_losses(
            TrainingBatch(levels, texts, encoded, output, targets, owner, samples)
        )

    def training_texts(self, samples: Sequence[DetDataSample]) -> list[TrainingText]:
        """The text of each image of a training batch."""
        return training_prompts(samples, self.vocabulary, self.prompts, self.clip)

    def read_training(self, texts: Sequence[TrainingText]) -> EncodedPrompts:
        """The texts of a training batch, encoded."""
        return self.clip([one.prompt for one in texts], self.prompts.per_phrase, self.prompts.last_token)

    def _own_state(self) -> dict[str, Tensor]:
        """Tensors that weights to start from may lack."""
        return {}

    def more_losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Losses of further objectives, by name."""
        return {}

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Normalized images -> the samples with ``pred_instances``, in pixels of the images."""
        metas = [sample.metainfo for sample in batch_data_samples]
        if all('caption' in meta for meta in metas):
            images, place = distinct(batch_inputs, metas)
            levels = tuple(level[place] for level in self.extract_feat(batch_inputs[images]))
            found = self.detect_captions(levels, metas, self.detection, rescale)
        else:
            found = self.detect(self.extract_feat(batch_inputs), metas, self.detection, rescale)
        return self.add_pred_to_datasample(list(batch_data_samples), found)

    def detect(
        self,
        levels: Sequence[Tensor],
        metas: Sequence[Mapping[str, Any]],
        rules: DetectionRules,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """Detections of each image in its levels, for the vocabulary; prompts are read one after another.

        Raises:
            InputError: no vocabulary is set.
        """
        if self.vocabulary is None:
            raise InputError('no vocabulary is set: call set_vocabulary(vocabulary) first')
        found: list[list[Candidates]] = [[] for _ in metas]
        chunks = self.class_text.encoded()
        apart = not rules.class_agnostic and no_class_twice(chunks)
        output: HeadOutput | None = None
        for turn, chunk in enumerate(chunks):
            new, output = search(self.head, levels, metas, [chunk] * len(metas), self.candidates, turn)
            for own, more in zip(found, new, strict=True):
                own.append(more)
            if apart:  # no box of another text changes what is left, and memory does not grow with texts
                found = [suppress_early(own, rules, self.vocabulary) for own in found]
        texts = [chunks] * len(metas)
        best = best_of(found, [self.vocabulary] * len(metas), rules)
        return self.instances(
            best, Reading(levels, metas, texts, output if len(chunks) == 1 else None, rescale)
        )

    def detect_captions(
        self,
        levels: Sequence[Tensor],
        metas: Sequence[Mapping[str, Any]],
        rules: DetectionRules,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """The phrases of the caption of each image, as ``GroundingDetection`` has them; labels count them."""
        numbers = torch.zeros(0, 2, dtype=torch.int64, device=levels[0].device)
        nothing = Candidates(levels[0].new_zeros(0, 4), levels[0].new_zeros(0), numbers[:, 0], numbers)
        none = Reading(levels, metas, [[] for _ in metas], rescale=rescale)
        found = self.instances([nothing] * len(metas), none)
        images = [image for image, meta in enumerate(metas) if meta['phrases']]
        if images:
            asked = [Sentence.of(metas[image]['caption'], metas[image]['phrases']) for image in images]
            own = [level[images] for level in levels]
            of_images = self.detect_each(own, [metas[image] for image in images], asked, rules, rescale)
            for image, one in zip(images, of_images, strict=True):
                found[image] = one
        return found

    def detect_each(
        self,
        levels: Sequence[Tensor],
        metas: Sequence[Mapping[str, Any]],
        vocabularies: Sequence[Vocabulary],
        rules: DetectionRules,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """As ``detect``, with a vocabulary for each image; the texts of a batch are read together."""
        prompts = [named_prompts(one, self.clip, self.prompts) for one in vocabularies]
        found: list[list[Candidates]] = [[] for _ in metas]
        texts: list[list[EncodedChunk]] = [[] for _ in metas]
        output: HeadOutput | None = None
        for turn in range(max(map(len, prompts))):
            images = [image for image, own in enumerate(prompts) if turn < len(own)]
            chunks = self.class_text.encode([prompts[image][turn] for image in images])
            own, sizes = [level[images] for level in levels], [metas[image] for image in images]
            new, output = search(self.head, own, sizes, chunks, self.candidates, turn)
            for image, more, chunk in zip(images, new, chunks, strict=True):
                found[image].append(more)
                texts[image].append(chunk)
        once = all(len(one) == 1 for one in prompts)
        best = best_of(found, vocabularies, rules)
        return self.instances(best, Reading(levels, metas, texts, output if once else None, rescale))

    def instances(self, best: Sequence[Candidates], reading: Reading) -> list[InstanceData]:
        """What was found in each image, as detections."""
        return [instances(one, meta, reading.rescale) for one, meta in zip(best, reading.metas, strict=True)]

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> HeadOutput:
        """Outputs of the head for the first prompt of the vocabulary."""
        chunk = next(iter(self.class_text.encoded()))
        return self.head(self.extract_feat(batch_inputs), chunk.features_for(len(batch_inputs)))


def _sized(head: GLIPHead | dict, text_width: int) -> GLIPHead | dict:
    """The head for a text tower of this width, unless it says another."""
    if not isinstance(head, dict) or not isinstance(head.get('size'), dict):
        return head
    return {**head, 'size': {'text_width': text_width, **head['size']}}


def _made(kind: type, given: Any) -> Any:
    """An object of a dataclass from its fields.

    Raises:
        InputError: a field that it does not have.
    """
    if isinstance(given, kind):
        return given
    try:
        return kind(**(given or {}))
    except TypeError as error:
        raise InputError(f'{kind.__name__}: {error}') from error


def _loaded(clip: nn.Module | dict | str | Path) -> nn.Module | dict:
    if not isinstance(clip, str | Path):
        return clip
    try:
        return load(clip)
    except InputError as error:
        raise InputError(f'cannot load the text tower, model.clip: {error}') from error
