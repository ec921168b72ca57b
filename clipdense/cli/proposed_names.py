"""``clipdense segment --vocabulary auto``: class names are proposed for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError, item_error, printable

from .early import check_choice, check_weights
from .images import each
from .options import VocabularyArguments, tell_precision

if TYPE_CHECKING:
    from clipdense.inference.proposals import Proposal, Proposer
    from clipdense.inference.results import Segmentation
    from clipdense.inference.segmenter import Segmenter
    from clipdense.vocab.vocabulary import Vocabulary

    Found = tuple[Segmentation, Proposal]

AUTO = 'auto'


@dataclass(frozen=True)
class ProposalArguments:
    """Class names that are proposed for each image instead of given."""

    source: Annotated[
        str | None,
        typer.Option(
            '--vocabulary',
            help='auto: propose class names for each image, from --class-list or --vocab [default: '
            'ade20k_full], or from a caption with --caption-weights.',
        ),
    ] = None
    caption_weights: Annotated[
        str | None,
        typer.Option('--caption-weights', help='Captioning model whose captions give the names of auto.'),
    ] = None
    most_names: Annotated[int, typer.Option('--names', min=1, help='Most names that auto proposes.')] = 6

    @property
    def asked(self) -> bool:
        """Whether names are proposed."""
        return self.source is not None

    def check(self, given: VocabularyArguments) -> None:
        """Check that the options fit together.

        Raises:
            InputError: they do not.
        """
        check_choice(self.source, (AUTO,), '--vocabulary')
        check_weights(self.caption_weights)
        if not self.asked:
            if self.caption_weights is not None:
                raise InputError('--caption-weights has an effect with --vocabulary auto only')
            return
        if given.classes is not None:
            raise InputError('--classes and --vocabulary auto cannot be combined: remove one')
        if self.caption_weights is not None and (given.vocab or given.class_list):
            raise InputError(
                'names are proposed from a caption (--caption-weights) or from a list (--vocab, '
                '--class-list): remove one'
            )

    def refuse_with(self, whole: bool, tiled: bool, videos: bool) -> None:
        """Refuse what needs the same class names in all images.

        Raises:
            InputError: naming the option.
        """
        if whole:
            raise InputError('proposed names differ from image to image: remove --explain and --save')
        if tiled or videos:
            what = 'videos' if videos else '--tiled'
            raise InputError(f'names are proposed for images that are read whole: {what} needs class names')

    def segment(
        self,
        given: VocabularyArguments,
        build: Callable[[], Segmenter],
        paths: list[Path],
        max_pixels: int,
        finish: Callable[..., str],
        out: Path,
        *,
        complete: Callable[[Vocabulary], Vocabulary],
        cache: bool,
    ) -> None:
        """Propose names for each image, segment it with them, and print both.

        Args:
            given: the list that names are chosen from.
            build: loads the segmenter.
            paths: the images.
            max_pixels: of an image.
            finish: segmenter, index, result and what was proposed -> writes the files; returns a line.
            out: the results are, for the summary.
            complete: adds what was asked for, such as a background, to the names.
            cache: whether to cache class embeddings on disk.

        Raises:
            InputError, typer.Exit: as ``each``; or no model that proposes names.
        """
        choices = self._choices(given)
        from clipdense.vocab.vocabulary import Vocabulary

        segmenter = build()
        tell_precision(segmenter.precision)
        propose = self._proposer(segmenter, choices, cache)

        def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, Found]]:
            for index, path in enumerate(paths):
                try:
                    proposal = propose(path, max_pixels)
                    names = complete(Vocabulary(proposal.names))
                    _, result = next(iter(segmenter.stream([path], names, max_pixels=max_pixels)))
                except Exception as error:
                    failed(index, item_error(error, path))
                    continue
                yield index, (result, proposal)

        def done(index: int, found: Found) -> str:
            result, proposal = found
            line = finish(segmenter, index, result, proposed=proposal.to_dict())
            return f'{printable(paths[index])}: proposed {printable(proposal)}\n{line}'

        each(paths, predict, done, 'segmenting', out)

    def _choices(self, given: VocabularyArguments) -> Vocabulary | None:
        """The list that names are chosen from; None for names of captions.

        Raises:
            InputError: of the list.
        """
        from clipdense.inference.proposals import DEFAULT_LIST
        from clipdense.vocab.class_names import named_vocabulary

        if self.caption_weights is not None:
            return None
        if given.vocab is None and given.class_list is None:
            return named_vocabulary(DEFAULT_LIST)
        return given.read()

    def _proposer(self, segmenter: Segmenter, choices: Vocabulary | None, cache: bool) -> Proposer:
        """What proposes names, with the CLIP of the segmenter or with the captioning model.

        Raises:
            InputError: a segmenter without a CLIP that embeds whole images.
        """
        from clipdense.clip.model import CLIP
        from clipdense.inference.captioner import Captioner
        from clipdense.inference.classifier import Classifier
        from clipdense.inference.proposals import NamesFromCaption, NamesFromList

        if choices is None:
            assert self.caption_weights is not None
            captioner = Captioner.from_pretrained(self.caption_weights, device=str(segmenter.device))
            return NamesFromCaption(captioner, self.most_names)
        model: Any = segmenter.model
        clip = model if isinstance(model, CLIP) else getattr(model, 'clip', None)
        if not isinstance(clip, CLIP):
            raise InputError(
                f'a {type(model).__name__} has no CLIP that compares whole images with names: give '
                '--caption-weights, or class names'
            )
        return NamesFromList(Classifier.from_pretrained(clip, cache=cache), choices, self.most_names)
