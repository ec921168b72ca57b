"""A detector on any CLIP, as the table of methods has it."""

from clipdense.methods import Method, Option

METHOD = Method(
    name='grid',
    task='detection',
    summary='each cell of a grid is a box, scored by its dense CLIP embedding',
    build='toymethods.grid.detector:build',
    options=(Option('cells', 2, 'boxes along each side of the image'),),
    any_clip=True,
    default=True,
)
