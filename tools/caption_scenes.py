"""What captions of scenes say, against what the scenes show: of a BLIP, or a GLIPv2 that describes images.

    python tools/caption_scenes.py glip.safetensors blip.safetensors

Images are those of validation, of the classes of one split.  A row for each file and split:

* ``named``: of images of one object, the share whose caption has its name, such as "red striped star";
* ``right``: of images of one to three objects, the share whose caption names objects, and only those there;
* ``objects``: the share of all objects that are named;
* ``CIDEr``, ``BLEU-4``: against the one caption that the scene comes with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from capfilt_scenes import PHRASE, SPLITS, says_what_is_there


def measure(captioner: Any, split: str, count: int, image_size: int) -> dict[str, float]:
    """The numbers of a split.

    Args:
        captioner: a ``Captioner``.
        split: 'base', 'novel' or 'unseen'.
        count: images.
        image_size: of the scenes, in pixels.
    """
    from clipdense.data.scenes import SceneCaptions, SceneLabels
    from clipdense.evaluation.captioning import bleu, cider, words_of

    def texts(dataset: Any) -> list[str]:
        images = (dataset[index]['images'].permute(1, 2, 0).numpy() for index in range(count))
        return [caption.text for _, caption in captioner.stream(images, batch_size=32)]

    labels = SceneLabels(split, count, image_size=image_size)
    names = [labels.class_names[labels[index]['labels']] for index in range(count)]
    named = [name in text for name, text in zip(names, texts(labels), strict=True)]
    scenes = SceneCaptions(count, splits=(split,), stream='val', vary_captions=False, image_size=image_size)
    written = texts(scenes)
    there = [
        [scenes.scenes.class_names[at] for at in scenes.scenes.draw(index, (split,), stream='val').class_ids]
        for index in range(count)
    ]
    said = [{' '.join(match.groups()) for match in PHRASE.finditer(text)} for text in written]
    objects = [name in phrases for own, phrases in zip(there, said, strict=True) for name in own]
    words = [words_of(text) for text in written]
    known = [[words_of(text) for text in scenes.captions_of(index)] for index in range(count)]
    return {
        'named': sum(named) / count,
        'right': sum(map(says_what_is_there, written, there)) / count,
        'objects': sum(objects) / len(objects),
        'CIDEr': cider(words, known),
        'BLEU-4': bleu(words, known)[-1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('weights', nargs='+', help='of models that describe images')
    parser.add_argument('--search', default='greedy', help='greedy, beam or nucleus')
    parser.add_argument('--prompt', default='a picture of ')
    parser.add_argument('--images', type=int, default=320, help='of each split and kind')
    parser.add_argument('--image-size', type=int, default=96, help='of the scenes, in pixels')
    given = parser.parse_args(arguments)

    from clipdense.inference.captioner import Captioner
    from clipdense.tasks.captioning import CaptionRules

    columns: list[str] = []
    for weights in given.weights:
        captioner = Captioner.from_pretrained(weights, CaptionRules(given.search, given.prompt))
        for split in SPLITS:
            found = measure(captioner, split, given.images, given.image_size)
            if not columns:
                columns = ['weights', 'split', *found]
                print(f'| {" | ".join(columns)} |', f'|{"---|" * len(columns)}', sep='\n')
            print(f'| {weights} | {split} |', *(f'{value:.3f} |' for value in found.values()), flush=True)


if __name__ == '__main__':
    main()
