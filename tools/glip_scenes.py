"""GLIP on scenes: boxes, captions with boxes, and pseudo-labels, in one table.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    python tools/glip_scenes.py runs/glip --clip clip.safetensors --seeds 0 1 2

Every run is a training of a config of ``configs/glip`` and its evaluations, without a GPU in one thread.  A
run that has a result is not repeated, so that the command may be interrupted and continued.  It ends with a
table in Markdown; ``--table`` prints that of the runs so far.

* ``boxes``: boxes of base classes.
* ``captions``: half of the images have captions with boxes of base classes instead.
* ``pseudo``: as ``captions``, and pseudo-labels that ``captions`` of the same seed made of captions, which
  also name novel classes.
* ``apart``, ``tokens``, ``joined``: as ``boxes``, without fusion, with all tokens of a name, and with all
  names in one text for the causal text tower.

Tasks: ``combinations`` (novel and unseen classes are new combinations of known words) and ``words`` (no box
and no caption with boxes has a class with "yellow" or "star").
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SPLITS = ('base', 'novel', 'unseen')
HELD_OUT = ('yellow', 'star')
TASKS = ('combinations', 'words')
CONFIGS = {
    'boxes': 'glip_scenes',
    'captions': 'glip_scenes_captions',
    'pseudo': 'glip_scenes_pseudo',
    'apart': 'glip_scenes',
    'tokens': 'glip_scenes',
    'joined': 'glip_scenes',
}
OPTIONS: dict[str, dict[str, Any]] = {
    'apart': {'model.head.size.fused': False},
    'tokens': {'model.prompts.last_token': False},
    'joined': {'model.prompts.per_phrase': False, 'model.prompts.last_token': False},
}
COLUMNS = {
    'combinations': (
        *(f'{split}, {asked}' for split in SPLITS for asked in ('own', 'all')),
        *(f'recall, {split}' for split in SPLITS),
    ),
    'words': ('seen words', 'new words'),
}


class Study:
    """The runs of a folder.

    Args:
        out: folder of the runs.
        data: folder of ``clipdense scenes``.
        clip: weights of a CLIP of scenes, whose text tower is used.
        steps: of each training.
        threshold: of pseudo-labels.
        shards: that pseudo-labels are made of.
    """

    def __init__(self, out: Path, data: Path, clip: str, steps: int, threshold: float, shards: str) -> None:
        self.out, self.data, self.clip, self.steps = out, data, clip, steps
        self.threshold, self.shards = threshold, shards

    def perform(self, task: str, name: str, seed: int) -> dict[str, Any]:
        """Train and evaluate; the result is also written to the folder of the run."""
        from clipdense.engine.launch import train

        folder = self.folder(task, name, seed)
        facts: dict[str, Any] = {'steps': self.steps}
        if name == 'pseudo':
            facts['pseudo'] = self.pseudo_labels(task, seed)
        cfg = self.config(task, name, seed)
        start = _processor_seconds()
        if not (folder / 'glip.safetensors').is_file():
            train(cfg, folder, seed=seed, resume=True)
        facts['cpu_seconds'] = _processor_seconds() - start
        result = {**facts, **self.scores(task, cfg, folder), **self.recalls(folder)}
        (folder / 'result.json').write_text(json.dumps(result, indent=1))
        return result

    def folder(self, task: str, name: str, seed: int) -> Path:
        """Of a run."""
        return self.out / task / name / str(seed)

    def config(self, task: str, name: str, seed: int) -> Any:
        """A config on these data."""
        from clipdense.config import load_config

        options = {'model.clip': self.clip, 'train_cfg.max_steps': self.steps, **OPTIONS.get(name, {})}
        cfg = load_config(f'glip/{CONFIGS[name]}', options)
        dataset, images = cfg.train_dataloader.dataset, str(self.data / 'coco/images')
        parts = dataset.get('datasets', {'boxes': dataset})
        parts['boxes'].annotations = self.annotations('instances_train')
        if task == 'words':
            parts['boxes'].classes = [one for one in self.classes('base') if not _is_held_out(one)]
        for one in parts.values():
            one.images = images
        if 'captions' in parts:
            parts['captions'].annotations = self.grounding(task)
        if name == 'pseudo':
            found = self.folder(task, 'captions', seed) / 'pseudo'
            parts['pseudo'].annotations = str(found / 'annotations.json')
            parts['pseudo'].images = str(found / 'images')
        cfg.test_dataloader.dataset.images = images
        return cfg

    def annotations(self, name: str) -> str:
        """A file of the scenes."""
        return str(self.data / f'coco/annotations/{name}.json')

    def classes(self, *splits: str) -> list[str]:
        """Names of the classes of some splits; of all where none is given."""
        categories = json.loads(Path(self.annotations('instances_val')).read_text())['categories']
        return [one['name'] for one in categories if not splits or one['split'] in splits]

    def grounding(self, task: str) -> str:
        """Captions with boxes; of the task ``words`` those without a word that is held out."""
        if task == 'combinations':
            return self.annotations('grounding_train')
        path = self.out / 'words/grounding_train.json'
        if not path.is_file():
            data = json.loads(Path(self.annotations('grounding_train')).read_text())
            data['images'] = [one for one in data['images'] if not _is_held_out(one['caption'])]
            known = {one['id'] for one in data['images']}
            data['annotations'] = [one for one in data['annotations'] if one['image_id'] in known]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data))
        return str(path)

    def pseudo_labels(self, task: str, seed: int) -> dict[str, Any]:
        """Label the captions with the teacher of this seed, unless it has been done."""
        from clipdense.inference.detector import Detector
        from clipdense.inference.pseudo_labels import PseudoLabelRules, pseudo_label

        folder = self.folder(task, 'captions', seed)
        teacher = Detector.from_pretrained(folder / 'glip.safetensors', device='cpu')
        rules = PseudoLabelRules(self.threshold)
        shards = [str(self.data / 'shards/train' / one) for one in self.shards.split(',')]
        found = pseudo_label(shards, folder / 'pseudo', teacher, rules)
        assert found is not None
        return {'images': found.images, 'boxes': found.boxes, **self.quality(folder / 'pseudo')}

    def quality(self, folder: Path) -> dict[str, Any]:
        """The share of pseudo-boxes of base and of novel names with an IoU of 0.5 with their object.

        The objects are drawn again: novel ones have no box in the annotations.
        """
        import torch
        from torchvision.ops import box_iou

        from clipdense.data.scenes import Scenes

        facts = json.loads((self.data / 'scenes.json').read_text())
        scenes = Scenes(facts['difficulty'], facts['seed'], facts['image_size'])
        data = json.loads((folder / 'annotations.json').read_text())
        images = {one['id']: one for one in data['images']}
        right: dict[str, list[bool]] = {'base': [], 'novel': []}
        for one in data['annotations']:
            image = images[one['image_id']]
            phrase = ' '.join(image['caption'][a:b] for a, b in one['tokens_positive'])
            scene = scenes.draw(int(Path(image['file_name']).stem.rpartition('_')[2]))
            for index, box in zip(scene.class_ids, scene.boxes, strict=True):
                if scenes.class_names[index] in phrase:
                    x, y, width, height = one['bbox']
                    found = torch.tensor([[x, y, x + width, y + height]])
                    split = 'base' if scenes.class_names[index] in scenes.base else 'novel'
                    right[split].append(bool(box_iou(found, torch.tensor(box)[None]) >= 0.5))
        return {
            f'{split} {what}': value
            for split, hits in right.items()
            for what, value in (('boxes', len(hits)), ('right', sum(hits) / max(len(hits), 1)))
        }

    def recalls(self, folder: Path) -> dict[str, float]:
        """Recall@1 of phrases of captions about objects of each split."""
        images = str(self.data / 'coco/images')
        return {
            f'recall, {split}': recall(
                folder / 'glip.safetensors', self.annotations(f'grounding_val_{split}'), images
            )
            for split in SPLITS
        }

    def scores(self, task: str, cfg: Any, folder: Path) -> dict[str, float]:
        """AP50: of each split among its own names and among all; or of seen and new words, among all."""
        from clipdense.engine.launch import test

        def measured(images: str, names: Sequence[str]) -> dict[str, float]:
            dataset = cfg.test_dataloader.dataset
            dataset.annotations, dataset.classes = self.annotations(f'instances_{images}'), list(names)
            dataset.novel = [name for name in names if _is_held_out(name)]
            return test(cfg, folder / 'glip.safetensors', folder / 'test')

        everything = self.classes()
        if task == 'words':
            found = measured('val', everything)
            return {'seen words': found['base/AP50'], 'new words': found['novel/AP50']}
        return {
            f'{split}, {asked}': measured(f'val_{split}', names)['all/AP50']
            for split in SPLITS
            for asked, names in (('own', self.classes(split)), ('all', everything))
        }


def recall(weights: Path, annotations: str, images: str) -> float:
    """Recall@1 of phrases: the share of which the best box has an IoU of 0.5 with one of their own."""
    from clipdense.data.dataset_parts import DataLayout, DatasetPart
    from clipdense.evaluation.own_data import OwnData, phrases
    from clipdense.inference.detector import Detector

    arguments = {'annotations': annotations, 'images': images}
    part = DatasetPart('clipdense.data.detection.grounding', 'GroundingDetection', arguments)
    own = OwnData(DataLayout(annotations, 'phrases', 'captions with boxes', part))
    return phrases(Detector.from_pretrained(weights, device='cpu'), own)['R@1']


def read(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The results in a folder, by task, name and seed."""
    return {
        (path.parts[-4], path.parts[-3], int(path.parts[-2])): json.loads(path.read_text())
        for path in sorted(out.glob('*/*/*/result.json'))
    }


def table(results: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> str:
    """Means over seeds, with half of their range where there are several."""
    return '\n\n'.join(_tables(results))


def _tables(results: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> Iterator[str]:
    for task, columns in COLUMNS.items():
        names = [name for name in CONFIGS if any(key[:2] == (task, name) for key in results)]
        if not names:
            continue
        lines = [
            f'| {task} | seeds | steps | CPU-s | {" | ".join(columns)} |',
            '|---' * (4 + len(columns)) + '|',
        ]
        for name in names:
            rows = [one for key, one in results.items() if key[:2] == (task, name)]
            cells = ' | '.join(_cell([row[one] for row in rows if one in row]) for one in columns)
            seconds = statistics.mean(row['cpu_seconds'] for row in rows)
            lines.append(f'| {name} | {len(rows)} | {rows[0]["steps"]} | {seconds:.0f} | {cells} |')
        yield '\n'.join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ''
    spread = f' ± {(max(values) - min(values)) / 2:.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.3f}{spread}'


def _is_held_out(text: str) -> bool:
    return any(word in text.split() for word in HELD_OUT)


def _processor_seconds() -> float:
    """Time of the processor of this process and its ended children."""
    return sum(os.times()[:4])


def main(given: Sequence[str] | None = None) -> None:
    """Run what has no result, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument(
        '--data', type=Path, default=Path('data/scenes_detection'), help='of clipdense scenes'
    )
    parser.add_argument('--clip', default='work_dirs/clip_scenes/clip.safetensors', help='a CLIP of scenes')
    parser.add_argument('--steps', type=int, default=1800, help='of each training, with 8 images')
    parser.add_argument('--threshold', type=float, default=0.5, help='lowest score of a pseudo-label')
    parser.add_argument('--shards', default='000000.tar,000001.tar,000002.tar,000003.tar', help='for them')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument(
        '--only', nargs='+', choices=list(CONFIGS), default=list(CONFIGS), help='names of runs'
    )
    parser.add_argument('--table', action='store_true', help='only print the table')
    options = parser.parse_args(given)
    study = Study(options.out, options.data, options.clip, options.steps, options.threshold, options.shards)
    results = read(options.out)
    for seed in [] if options.table else options.seeds:
        for task in options.tasks:
            for name in [one for one in CONFIGS if one in options.only]:
                if (task, name, seed) not in results:
                    results[task, name, seed] = study.perform(task, name, seed)
                    print(table(results), flush=True)
    print(table(results))


if __name__ == '__main__':
    main()
