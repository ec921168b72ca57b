"""Detect what words name.  n: detections, (H, W): pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from clipdense.clip import self_describing as portable
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.config import load_config, part_class
from clipdense.data.detection.transforms import PackDetection
from clipdense.methods.vild import checkpoint as detpro
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.postprocess import threshold_of_each_class
from clipdense.methods.vild.prompts import VILD, embed_words
from clipdense.registry import TRANSFORMS, build, build_module
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict

from .load import as_vocabulary, choose_device, load_clip
from .results import Detections

Words = Vocabulary | str | list[str] | tuple[str, ...]

_GIVE = "give what training a detector has left, such as vild.safetensors, or DetPro's weights"


class Detector:
    """A ViLD detector and the text tower that gives it its words.

    Args:
        model: the detector.
        clip: the CLIP that it was taught by, or the text half of it.
        transforms: mmdet's, such as a resize; what its config does to test images.
        templates: 'vild', the name of another set of prompt templates, or the templates.
        cache: whether class embeddings are kept on disk.
    """

    def __init__(
        self,
        model: ViLD,
        clip: CLIP | FrozenText,
        transforms: Sequence[Any] = (),
        templates: str | Sequence[str] = VILD,
        cache: bool = True,
    ) -> None:
        self.model, self.clip = model.eval(), clip.eval()
        self.transforms = [build(one, TRANSFORMS) for one in transforms]
        self.templates, self.cache = templates, cache
        self._threshold = float(model.roi_head.test_cfg.score_thr)  # of classes without one of their own

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        *,
        clip: str | Path | CLIP | None = None,
        templates: str | Sequence[str] = VILD,
        device: str | None = None,
        cache: bool = True,
    ) -> Detector:
        """A detector out of one file: what training has left, or DetPro's weights.

        Args:
            weights: ``vild.safetensors``, which training exports, a checkpoint beside it, or DetPro's file.
            clip: a CLIP to read the words, where it is not the text tower in the file; DetPro's weights bring
                none, and were taught by ViT-B/32 of OpenAI.
            templates, cache: see the class.
            device: see ``load.choose_device``.

        Raises:
            InputError: weights that need a config, are damaged or are not finite.
        """
        file = read_weights(weights)
        if config := portable.read_config(file):
            model, transforms = portable.build(file, config), config.get('transforms') or ()
            teacher = model.clip if clip is None else clip
        elif detpro.recognise(file.tensors):
            model, transforms = detpro.from_official(file.tensors), detpro.TRANSFORMS
            teacher = detpro.TEACHER if clip is None else clip
        elif not any(name.startswith('roi_head.') for name in file.tensors):
            raise InputError(f'{weights} holds no detector: {_GIVE}')
        else:
            raise InputError(
                f'{weights} does not tell its detector: give its config too (--config, Detector.from_config)'
            )
        if not isinstance(model, ViLD):
            raise InputError(f'{weights} ({type(model).__name__}) is no detector: {_GIVE}')
        return cls._ready(model, teacher, transforms, templates, device, cache, weights)

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config,
        weights: str | Path,
        *,
        clip: str | Path | CLIP | None = None,
        templates: str | Sequence[str] = VILD,
        device: str | None = None,
        cache: bool = True,
    ) -> Detector:
        """A detector out of its config and its weights.

        Args:
            config: a file, the name of a config, or a config object; its ``test_dataloader`` says what is
                done to images.
            weights: a training checkpoint, or any file of weights that fits.
            clip: the teacher, where it is not the one of the config.
            templates, cache: see the class.
            device: see ``load.choose_device``.

        Raises:
            InputError: no config of a detector, or weights that do not fit or are not finite.
        """
        cfg = load_config(config)
        if part_class(cfg.get('model')) is not ViLD:
            raise InputError(f'{config} is not the config of a detector')
        teacher = clip if clip is not None else cfg.model.get('clip')
        if teacher is None:
            raise InputError(f'{config} names no teacher: give clip, the CLIP that the detector learned from')
        cfg.model['clip'] = None
        model = build_module(cfg.model)
        load_strict(model, portable.own_tensors(model, read_weights(weights).tensors), weights)
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        teacher = build_module(teacher) if isinstance(teacher, dict) else teacher
        return cls._ready(model, teacher, dataset.get('transforms') or (), templates, device, cache, weights)

    @classmethod
    def _ready(
        cls,
        model: ViLD,
        teacher: Any,
        transforms: Sequence[Any],
        templates: str | Sequence[str],
        device: str | None,
        cache: bool,
        weights: str | Path,
    ) -> Detector:
        """With all weights finite, and detector and words in one place."""
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise InputError(f'{weights} holds numbers that are not finite: take an earlier checkpoint')
        place = choose_device(device)
        clip: Any = teacher.to(place) if isinstance(teacher, nn.Module) else load_clip(teacher, str(place))
        return cls(model.to(place), clip, transforms, templates, cache)

    def set_vocabulary(self, words: Words) -> Vocabulary:
        """Choose the words for the images to come; they are embedded once."""
        vocabulary = as_vocabulary(words)
        if vocabulary != self.model.vocabulary:
            cache = 'default' if self.cache else None
            self.model.set_vocabulary(vocabulary, embed_words(self.clip, vocabulary, self.templates, cache))
            self.model.roi_head.test_cfg.score_thr = self._threshold
        return vocabulary

    def set_rules(
        self,
        threshold: float | None = None,
        special: Mapping[str | int, float] | None = None,
        overlap: float | None = None,
        agnostic: bool | None = None,
        most: int | None = None,
    ) -> None:
        """What becomes a detection; what is left out stays as it was.

        Args:
            threshold: least score.
            special: other thresholds, by class name or index; they go when other words come.
            overlap: IoU above which the weaker of two boxes goes.
            agnostic: whether boxes of different classes compete.
            most: detections of an image.

        Raises:
            InputError: numbers out of range; thresholds of classes before there are words, or of others than
                those.
        """
        for name, value in {'threshold': threshold, 'overlap': overlap}.items():
            if value is not None and not 0 <= value <= 1:
                raise InputError(f'{name} lies between 0 and 1, got {value}')
        if most is not None and most < 1:
            raise InputError(f'most counts detections, at least 1, got {most}')
        rules, own = self.model.roi_head.test_cfg, self._by_index(special or {})
        self._threshold = self._threshold if threshold is None else threshold
        if own:
            rules.score_thr = threshold_of_each_class(self._threshold, own, self.model.num_classes)
        elif threshold is not None:
            rules.score_thr = threshold
        if overlap is not None:
            rules.nms.iou_threshold = overlap
        if agnostic is not None:
            rules.nms.class_agnostic = agnostic
        if most is not None:
            rules.max_per_img = most

    def _by_index(self, special: Mapping[str | int, float]) -> dict[int, float]:
        vocabulary = self.model.vocabulary
        if special and vocabulary is None:
            raise InputError('thresholds of classes need words: call set_vocabulary first')
        found: dict[int, float] = {}
        for key, value in special.items():
            assert vocabulary is not None
            index = vocabulary.index(key) if isinstance(key, str) else key
            if not 0 <= index < len(vocabulary):
                raise InputError(f'a threshold for class {index} of {len(vocabulary)}: there is none')
            found[index] = value
        return found

    def __call__(self, image: str | Path | Image.Image | Any, words: Words | None = None) -> Detections:
        """Detect in one image.

        Args:
            image: a file, a PIL image or an array (H, W, 3).
            words: class names; those of the last call where left out.

        Raises:
            InputError: an unreadable image, or no words at all.
        """
        return next(self.many([image], words))[1]

    @torch.no_grad()
    def many(
        self,
        images: Iterable[Any],
        words: Words | None = None,
        batch_size: int = 1,
        skip: Callable[[InputError], None] | None = None,
    ) -> Iterator[tuple[int, Detections]]:
        """Detect in a stream of images, in batches.

        Args:
            images: files, PIL images or arrays.
            words: class names; those of the last call where left out.
            batch_size: images that go through together.
            skip: is told of images that cannot be read, which are then left out.

        Yields:
            Place in the stream, and what was found.

        Raises:
            InputError: no words at all; an unreadable image, or, with ``skip``, none that is readable.
        """
        if batch_size < 1:
            raise InputError(f'batch_size counts images, got {batch_size}')
        if words is not None:
            self.set_vocabulary(words)
        if self.model.vocabulary is None:
            raise InputError('no vocabulary yet: pass words, or call set_vocabulary first')
        stream, seen = iter(enumerate(images)), 0
        while batch := list(islice(stream, batch_size)):
            read: list[tuple[int, Image.Image]] = []
            for index, image in batch:
                try:
                    read.append((index, read_image(image)))
                except InputError as error:
                    if skip is None:
                        raise
                    skip(error)
            seen += len(read)
            yield from zip(
                [index for index, _ in read], self._detect([image for _, image in read]), strict=True
            )
        if not seen:
            raise InputError('none of the images could be read')

    def _detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """Images of one size go together: padding would change what is found in the smaller ones."""
        items = [self._prepared(image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            by_size[tuple(item['inputs'].shape)].append(place)
        found: dict[int, Detections] = {}
        for places in by_size.values():
            data = {key: [items[place][key] for place in places] for key in ('inputs', 'data_samples')}
            for place, sample in zip(places, self.model.test_step(data), strict=True):
                found[place] = self._result(sample.pred_instances.cpu(), images[place])
        return [found[place] for place in range(len(images))]

    def _result(self, one: Any, image: Image.Image) -> Detections:
        vocabulary = self.model.vocabulary
        assert vocabulary is not None
        masks = one.masks.numpy() if 'masks' in one else None
        return Detections(
            one.bboxes.numpy(), one.scores.numpy(), one.labels.numpy(), vocabulary, masks, image
        )

    def _prepared(self, image: Image.Image) -> dict[str, Any]:
        pixels = np.asarray(image)
        results: dict[str, Any] = {
            'img': pixels,
            'ori_shape': pixels.shape[:2],
            'img_shape': pixels.shape[:2],
        }
        for transform in self.transforms:
            results = transform(results)
        return PackDetection()(results)
