"""A training-free method, as the table of methods has it."""

from clipdense.methods import Method, Option

METHOD = Method(
    name='smoothed',
    task='segmentation',
    summary='dense CLIP embeddings averaged over neighboring patches',
    build='toymethods.smoothed.segmenter:build',
    options=(Option('radius', 1, 'how many patches to each side are averaged'),),
    any_clip=True,
)
