"""The config of GLIP on boxes of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.data.detection.starting import BoxTraining

from .text import text_of

if TYPE_CHECKING:
    from clipdense.data.starting import Start


def glip(start: Start) -> str:
    """The text of the config: a small detector from scratch, which reads names with the CLIP's text tower."""
    training = BoxTraining(start, epochs=20, most=6000)
    text_of(start.clip)  # refuses weights that have no text tower before a training does
    model = f"""
weights = {start.weights!r}  # CLIP whose text tower reads the class names

model.merge(
    dict(
        clip='{{{{weights}}}}',
        head=dict(size=dict(anchor_scale={4.0 if max(training.scale) <= 160 else 8.0})),
        prompts=dict(negatives=None),  # all names, as many as fit
    )
)
"""
    return training.page('glip', 'A detector that reads class names, on boxes of your own.', model)
