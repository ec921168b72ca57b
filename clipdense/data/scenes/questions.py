"""Questions about scenes, in natural wording, and the dataset that draws them.  S: side of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from ...registry import DATASETS, TRANSFORMS, build
from ..image_text.questions import Question, question_items
from .captions import with_article
from .combinations import Difficulty
from .datasets import SceneImages, image_tensor
from .rng import RandomStream
from .scene import Scene, Scenes

NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five')
Asked = tuple[str, str, str]  # question, answer, kind


def write_question(
    names: Sequence[str],
    ground: str,
    difficulty: Difficulty,
    rng: RandomStream,
    balanced: Sequence[str] = (),
) -> Question:
    """A question about an image, of one of the kinds that it allows.

    The color or texture of a shape and the shape of a color are asked where one object has it; whether there
    is an object is answered by yes and no alike, and the object that is not there differs from one that is
    in its color or shape; the number of objects and the texture of the ground are asked of every image.

    Args:
        names: class names of the objects.
        ground: name of the ground.
        difficulty: whose colors and shapes there may be.
        rng: random numbers for all choices.
        balanced: all class names there are, so that other attributes do not tell the answer: a color, texture
            or shape is asked where all its values occur with the other two, and the color and shape of an
            object that is not there are those of any class.  Empty: no such care.
    """
    objects = [tuple(name.split(' ')) for name in names]
    shapes, colors = [one[2] for one in objects], [one[0] for one in objects]
    kinds: list[Callable[[], Asked]] = [
        lambda: ('how many objects are there?', NUMBERS[len(objects)], 'number'),
        lambda: ('what is the ground like?', ground, 'ground'),
        lambda: _presence(colors, shapes, difficulty, rng, balanced),
    ]
    alone = [one for one in objects if shapes.count(one[2]) == 1]
    if alone:
        color, texture, shape = one = rng.choice(alone)
        if _any_value(one, 0, difficulty.colors, balanced):
            kinds.append(lambda: (f'what color is the {shape}?', color, 'color'))
        if _any_value(one, 1, difficulty.textures, balanced):
            kinds.append(lambda: (f'what texture has the {shape}?', texture, 'texture'))
    single = [one for one in objects if colors.count(one[0]) == 1]
    if single:
        hue, _, form = one = rng.choice(single)
        if _any_value(one, 2, difficulty.shapes, balanced):
            kinds.append(lambda: (f'what shape is the {hue} object?', form, 'shape'))
    text, answer, kind = rng.choice(kinds)()
    return Question(text, (answer,), kind=kind)


def _any_value(one: Sequence[str], place: int, values: Sequence[str], known: Sequence[str]) -> bool:
    """Whether each value of an attribute occurs with the other attributes of an object."""
    return not known or all(' '.join((*one[:place], value, *one[place + 1 :])) in known for value in values)


def _presence(
    colors: Sequence[str],
    shapes: Sequence[str],
    difficulty: Difficulty,
    rng: RandomStream,
    known: Sequence[str] = (),
) -> Asked:
    there = list(zip(colors, shapes, strict=True))
    color, shape = rng.choice(there)
    answer = 'yes'
    others = [(other, shape) for other in difficulty.colors] + [(color, other) for other in difficulty.shapes]
    if known:
        others = [(name.split(' ')[0], name.split(' ')[2]) for name in known]
    absent = [pair for pair in others if pair not in there]
    if absent and rng.uniform() < 0.5:
        (color, shape), answer = rng.choice(absent), 'no'
    return f'is there {with_article(f"{color} {shape}")}?', answer, 'yes/no'


@DATASETS.register_module()
class SceneQuestions(Dataset):
    """Images with a question and its answer, for visual question answering.

    Args:
        num_images: number of images, each with one question.
        difficulty, seed, image_size: as in ``Scenes``.
        splits: which classes occur.
        tokenizer: of questions and answers, such as BLIP's ``QuestionIds``; None for evaluation.
        stream: name of the random stream; different streams give independent images.
        keep: keep drawn images in memory.
        vary_questions: ask something else of each image in each epoch.
        balanced: ask such that the other attributes of an object do not tell the answer, see
            ``write_question``; what is asked in training only differs from what is asked by default.
    """

    def __init__(
        self,
        num_images: int,
        difficulty: str = 'standard',
        seed: int = 0,
        splits: Sequence[str] = ('base', 'novel'),
        tokenizer: Any = None,
        image_size: int | None = None,
        stream: str = 'train',
        keep: bool = True,
        vary_questions: bool = True,
        balanced: bool = False,
    ) -> None:
        self.scenes = Scenes(difficulty, seed, image_size)
        self.num_images, self.splits, self.stream = num_images, tuple(splits), stream
        self.vary_questions = vary_questions
        known = [name for one in self.splits for name in self.scenes.splits.get(one, (one,))]
        self._balanced = tuple(known) if balanced else ()
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # seen by workers that persist
        self.tokenizer = build(tokenizer, TRANSFORMS)
        self._images = SceneImages(self._draw, num_images, self.scenes, keep)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``images`` (3, S, S) uint8, and what the tokenizer gives, see ``question_items``."""
        image = image_tensor(self._images[index])
        return {'images': image, **question_items(self.tokenizer, self.question(index))}

    def question(self, index: int) -> Question:
        """The question of this epoch about an image."""
        scene = self._images[index]
        variant = int(self._epoch) if self.vary_questions else 0
        rng = RandomStream(self.scenes.seed, f'{self.stream}/question {variant}', index)
        names = [self.scenes.class_names[at] for at in scene.class_ids]
        return write_question(names, scene.ground, self.scenes.difficulty, rng, self._balanced)

    def set_epoch(self, epoch: int) -> None:
        """Select the questions of this epoch, also in running workers."""
        self._epoch.fill_(epoch)

    def _draw(self, index: int) -> Scene:
        return self.scenes.draw(index, self.splits, stream=self.stream)
