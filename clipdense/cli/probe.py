"""``clipdense probe``: how well the image tower of a CLIP classifies, with labels to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError

from .early import check_choice, check_device, check_weights
from .options import DEFAULT_WEIGHTS, Activation, AsJson, Device, Override, Weights, grouped, weight_overrides
from .output import print_json

if TYPE_CHECKING:
    from clipdense.data.classification.datasets import LabeledImages

KINDS = ('linear', 'knn', 'finetune')


@dataclass(frozen=True)
class LabeledArguments:
    """Labeled images to learn from, and to test on."""

    data: Annotated[
        Path,
        typer.Argument(
            help='A folder of class folders, or of train, val and test with such; or a split file of CoOp.',
            show_default=False,
        ),
    ]
    test: Annotated[
        Path | None,
        typer.Option(
            '--test', help='Other data of the same classes to test on [default: the test images of DATA].'
        ),
    ] = None
    shots: Annotated[
        int | None, typer.Option(min=1, help='Training images of each class [default: all].')
    ] = None
    seed: Annotated[int, typer.Option(min=0, help='Random seed, of shots and of fine-tuning.')] = 0

    def check(self) -> None:
        """Check the paths before anything heavy is imported.

        Raises:
            InputError: one does not exist.
        """
        for path in (self.data, self.test):
            if path is not None and not path.expanduser().exists():
                raise InputError(f'{path} does not exist')

    def read(self) -> tuple[LabeledImages, LabeledImages]:
        """Training and test images.

        Raises:
            InputError: as ``FewShotImages``.
        """
        from clipdense.data.classification.few_shot import FewShotImages
        from clipdense.data.classification.splits import has_parts

        own = has_parts(self.data) or self.test is None
        train = FewShotImages(self.data, 'train' if own else 'all', self.shots, seed=self.seed)
        source = self.data if self.test is None else self.test
        return train, FewShotImages(source, 'test' if self.test is None or has_parts(source) else 'all')


@dataclass(frozen=True)
class TowerArguments:
    """The CLIP whose image tower is tested."""

    weights: Weights = DEFAULT_WEIGHTS
    activation: Activation = None
    override: Override = None
    device: Device = None

    def load(self) -> Any:
        """The CLIP, on its device.

        Raises:
            InputError: weights of another model.
        """
        from clipdense.inference.load import load_clip

        return load_clip(self.weights, self.device, **weight_overrides(self.activation, self.override))


@grouped
def probe(
    data: LabeledArguments,
    tower: TowerArguments,
    how: Annotated[
        list[str] | None,
        typer.Option(
            '--how',
            help=f'{", ".join(KINDS)}; may be repeated [default: linear and knn].',
            show_default=False,
        ),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help='Neighbors of knn.')] = 20,
    epochs: Annotated[int, typer.Option(min=1, help='Epochs of finetune.')] = 20,
    lr: Annotated[float, typer.Option(help='Highest learning rate of finetune.')] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help='Images per batch.')] = 64,
    as_json: AsJson = False,
) -> None:
    """Accuracy of the image tower of a CLIP on labeled images: a linear classifier, k-NN, fine-tuning.

    Class names are not used; `clipdense test WEIGHTS --data DATA` measures zero-shot accuracy.

    Example: `clipdense probe flowers/ --weights runs/slip/clip.safetensors --how linear --how knn`
    """
    kinds = list(dict.fromkeys(how or ('linear', 'knn')))
    for kind in kinds:
        check_choice(kind, KINDS, '--how')
    data.check()
    check_weights(tower.weights)
    check_device(tower.device)
    train, test = data.read()
    clip = tower.load()
    from clipdense.evaluation.fine_tuning import FineTuning, Schedule
    from clipdense.evaluation.probing import LinearProbe, NearestNeighbors

    makers: dict[str, Any] = {
        'linear': lambda: LinearProbe(train, test, batch_size=batch_size, name='linear'),
        'knn': lambda: NearestNeighbors(train, test, k=k, batch_size=batch_size, name='knn'),
        'finetune': lambda: FineTuning(
            train, test, Schedule(epochs, batch_size, lr, seed=data.seed), name='finetune'
        ),
    }
    metrics: dict[str, float] = {}
    for probe_of_kind in [makers[kind]() for kind in kinds]:
        metrics |= probe_of_kind(clip)
    if as_json:
        print_json(metrics)
        return
    from clipdense.engine.hooks import grouped as lines

    print(lines(metrics))
