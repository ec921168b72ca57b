"""Masks of scenes under proposed names: ``python tools/auto_names.py clip.safetensors``.

Each scene is segmented under the names that ``clipdense segment --vocabulary auto`` proposes, under the names
of its objects, under those of its split and under all names, the background (its grounds) always beside them.
Prints the mIoU over the classes of the objects, and how many proposed names are right.  With ``--captioner``
names come from captions as well; with ``--matcher`` the maps of ``itm_cam`` are measured.  The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import clipdense
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.data.scenes import SPLITS, SceneSegmentation
from clipdense.evaluation.mean_iou import confusion_matrix, foreground_iou
from clipdense.inference.classifier import Classifier
from clipdense.inference.proposals import NamesFromCaption, NamesFromList
from clipdense.methods.blip.segmenter import ItmCam
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary

TEMPLATES = ('a {}', 'a picture of a {}')
GROUNDS = tuple(f'{ground} ground' for ground in ('plain', 'sandy', 'rough', 'cloudy', 'woven'))
BACKGROUND = 'background'


class Masks:
    """A model that segments under names that change from image to image.

    Args:
        model: a ``SegmentationModel``.
        embedder: of its class names.
        every: all classes, the background first.
    """

    def __init__(self, model: Any, embedder: Any, every: Sequence[str]) -> None:
        self.model, self.embedder = model.eval(), embedder
        self.index = {normalize(name): at for at, name in enumerate(every)}

    @torch.no_grad()
    def __call__(self, image: Tensor, lists: dict[str, Sequence[str]]) -> dict[str, Tensor]:
        """(3, H, W) uint8 -> labels (H, W) under each list, K where a name is not a class."""
        kept, found = self.model.encode_image(image), {}
        for source, listed in lists.items():
            names = (BACKGROUND, *listed)
            plain = Vocabulary(names, background=BACKGROUND)
            vocabulary = replace(plain, synonyms={BACKGROUND: GROUNDS})
            self.model.set_vocabulary(vocabulary, self.embedder.embed(vocabulary))
            labels = self.model.classify_image(kept, (image.shape[-2], image.shape[-1])).classes
            of_class = torch.tensor([self.index.get(normalize(name), len(self.index)) for name in names])
            found[source] = of_class[labels.long()]
        return found


class KeptEmbeddings:
    """Embeds each name once.

    Args:
        embedder: a ``PromptEnsemble``.
    """

    def __init__(self, embedder: PromptEnsemble) -> None:
        self.embedder = embedder
        self.rows: dict[str, Tensor] = {}

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """One embedding for each query of a vocabulary."""
        queries = [query for query, _ in vocabulary.queries]
        if missing := [query for query in dict.fromkeys(queries) if query not in self.rows]:
            self.rows |= zip(missing, self.embedder.embed(Vocabulary(tuple(missing))).queries, strict=True)
        classes = torch.tensor([index for _, index in vocabulary.queries])
        return ClassEmbeddings(torch.stack([self.rows[one] for one in queries]), classes, len(vocabulary))


class Proposals:
    """Proposed names by their source, and how many of them are right.

    Args:
        proposers: by name, see ``inference.proposals``.
        most: numbers of names of 'list', of which the first ones are taken.
    """

    def __init__(self, proposers: dict[str, Any], most: Sequence[int]) -> None:
        self.proposers = proposers
        lists = [(f', {count}', count) for count in most]
        self.cuts = {name: lists if name == 'list' else [('', None)] for name in proposers}
        sources = [f'{name}{end}' for name, cuts in self.cuts.items() for end, _ in cuts]
        self.counts = {source: [0, 0, 0] for source in sources}  # right, proposed, there

    def __call__(self, image: Image.Image, there: Sequence[str]) -> dict[str, Sequence[str]]:
        """The names for an image, which shows the classes ``there``; none where nothing is proposed."""
        found: dict[str, Sequence[str]] = {}
        for source, propose in self.proposers.items():
            try:
                names = propose(image).names
            except InputError:  # a caption without nouns
                names = ()
            found |= {f'{source}{end}': names[:count] for end, count in self.cuts[source]}
        for source, names in found.items():
            right = {normalize(name) for name in names} & {normalize(name) for name in there}
            for at, more in enumerate((len(right), len(names), len(there))):
                self.counts[source][at] += more
        return found

    def rates(self) -> dict[str, dict[str, float]]:
        """Share of the proposed names that are there, share of the names there that are proposed."""
        return {
            source: {'precision': right / max(1, proposed), 'recall': right / max(1, there)}
            for source, (right, proposed, there) in self.counts.items()
        }


def measure(
    split: str, options: argparse.Namespace, proposers: dict[str, Any], models: dict[str, Any]
) -> dict[str, Any]:
    """The mIoU of each model under each list, and the rates of the proposals."""
    count = options.images
    data = SceneSegmentation(split, count, all_names=True)
    every = data.vocabulary.class_names
    own = [name for name in SceneSegmentation(split, 1).vocabulary.class_names if name in every[1:]]
    proposals = Proposals(proposers, options.names)
    masks = {name: Masks(model, embedder, every) for name, (model, embedder) in models.items()}
    counts: dict[tuple[str, str], Tensor] = {}
    for at in track(range(count), split):
        image, truth = data[at]['images'], data[at]['samples'].mask
        there = [every[label] for label in truth.unique().tolist() if 0 < label < len(every)]
        photo = Image.fromarray(image.permute(1, 2, 0).numpy())
        lists = {'true': there, **proposals(photo, there), 'own': own, 'all': every[1:]}
        for name, segment in masks.items():
            for source, labels in segment(image, lists).items():
                found = confusion_matrix(labels, truth, len(every) + 1)
                counts[name, source] = counts.get((name, source), 0) + found
    scores: dict[str, Any] = {name: {} for name in masks}
    for (name, source), confusion in counts.items():
        scores[name][source] = foreground_iou(confusion, 0)
    return {'split': split, 'mIoU': scores, 'names': proposals.rates()}


def parts(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Proposers and models by name."""
    every = Vocabulary(SceneSegmentation('base', 1, all_names=True).vocabulary.class_names[1:])
    clip = clipdense.load(options.clip)
    prompts = PromptEnsemble(clip, TEMPLATES, cache=None)
    classifier = Classifier(clip, prompts)
    proposers: dict[str, Any] = {'list': NamesFromList(classifier, every, max(options.names))}
    models: dict[str, Any] = {
        name: (DenseCLIP(clip, method=name, slide=Slide()), KeptEmbeddings(prompts))
        for name in options.methods
    }
    if options.captioner:
        rules = clipdense.CaptionRules(prompt=options.prompt, min_length=0)
        captioner = clipdense.Captioner.from_pretrained(options.captioner, rules)
        proposers['caption'] = NamesFromCaption(captioner)
    if options.matcher:
        cam = ItmCam(clipdense.load(options.matcher), prompt='a {}')
        models['itm_cam'] = cam, cam.embedder
    return proposers, models


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each model and list: its mIoU on each split."""
    splits = [row['split'] for row in rows]
    lines = [f'{"mIoU":24}' + ''.join(f'{split:>9}' for split in splits)]
    for name, found in rows[0]['mIoU'].items():
        for source in found:
            cells = ''.join(f'{row["mIoU"][name][source]:9.3f}' for row in rows)
            lines.append(f'{name + ", " + source:24}{cells}')
    for source in rows[0]['names']:
        for kind in ('precision', 'recall'):
            cells = ''.join(f'{row["names"][source][kind]:9.3f}' for row in rows)
            lines.append(f'{source + ": " + kind:24}{cells}')
    return '\n'.join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('clip', help='weights of a CLIP that was pre-trained on captions of scenes')
    parser.add_argument('--captioner', help='a BLIP that was trained on captions of scenes, for their nouns')
    parser.add_argument('--prompt', default='', help='of the captions (none)')
    parser.add_argument('--matcher', help='a BLIP that was trained on captions of scenes, for itm_cam')
    parser.add_argument('--images', type=int, default=100, help='of each split (%(default)s)')
    parser.add_argument('--names', type=int, nargs='+', default=[2, 6], help='most proposed names')
    parser.add_argument('--methods', nargs='+', default=['maskclip', 'sc_clip'])
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=list(SPLITS))
    options = parser.parse_args()
    begin = time.process_time()
    proposers, models = parts(options)
    rows = [measure(split, options, proposers, models) for split in options.splits]
    print(table(rows))
    print(json.dumps({'rows': rows, 'cpu_seconds': round(time.process_time() - begin)}))


if __name__ == '__main__':
    main()
