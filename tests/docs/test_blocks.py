"""The code blocks of README and documentation run, page by page, in order, in an empty folder.

What a page expects of its reader is in ``PAGES``; it is made by ``things.py``, with tiny weights.  How blocks
run, what is shortened and what is compared is described in ``blocks.py``.
"""

from __future__ import annotations

from typing import Any

import pytest

from .blocks import ROOT, blocks_of

FOUND = ('README.md', 'CONTRIBUTING.md', 'examples/own_package/README.md')
ALL = {
    page: blocks
    for page in (*FOUND, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('docs/**/*.md')))
    if (blocks := blocks_of(page))
}
# What the reader of a page has (THINGS); `slow` pages train for more than 20 seconds.
PAGES = {
    'README.md': 'embedded street.jpg photo.jpg photos vild.safetensors',
    'CONTRIBUTING.md': '',
    'docs/classify.md': 'photos photo.jpg',
    'docs/data_at_scale.md': '',
    'docs/detect.md': 'photos street.jpg vild.safetensors',
    'docs/evaluate.md': 'data/mine lseg.safetensors',
    'docs/export.md': 'photo.jpg',
    'docs/few_shot.md': 'pets photos street.jpg photo.jpg',
    'docs/label.md': 'photos a.jpg b.jpg',
    'docs/methods/adapters.md': 'pets street cells street.jpg photos vild.safetensors keys_16shots.pt',
    'docs/methods/contrastive.md': '',
    'docs/methods/dense_clip.md': 'street.jpg',
    'docs/methods/glip.md': '',
    'docs/methods/groupvit.md': 'street.jpg data/mine group_vit_gcc_yfcc_30e-879422e0.pth',
    'docs/methods/lseg.md': 'street.jpg embedded work_dirs/lseg_scenes/lseg.safetensors',
    'docs/methods/prompt_learning.md': 'photos street.jpg photo.jpg pets vild.safetensors '
    'prompts.safetensors model.pth.tar-50',
    'docs/search.md': 'embedded photos example.jpg',
    'docs/segment.md': 'street.jpg photos a.jpg b.jpg drive.mp4 photos/a.png RUN/lseg.safetensors',
    'docs/start.md': 'embedded street.jpg',
    'docs/train_on_boxes.md': 'data/mine photos',
    'docs/train_on_captions.md': 'captions.csv photos data/mine',
    'docs/train_on_masks.md': 'embedded data/mine photos',
    'docs/weights.md': 'embedded photos photo.jpg ViT-B-16.pt text_folder image_folder '
    'runs/groups/clip.safetensors',
}
SLOW = {
    'docs/start.md',
    'docs/export.md',
    'docs/methods/contrastive.md',
    'docs/train_on_masks.md',
    'docs/methods/lseg.md',
}


def test_the_table_has_the_pages_whose_blocks_run():
    runs = {page for page, blocks in ALL.items() if any(block.reason is None for block in blocks)}
    assert runs == set(PAGES)


def test_blocks_that_do_not_run_say_why():
    reasons = [block.reason for blocks in ALL.values() for block in blocks if block.reason is not None]
    assert reasons
    assert all(len(reason.split()) > 1 for reason in reasons)


@pytest.mark.parametrize(
    'page', [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES]
)
def test_the_blocks_of_a_page_run_in_order(page, reader):
    reader(PAGES[page])
    names: dict[str, Any] = {'__name__': '__main__'}
    for block in ALL[page]:
        if block.reason is None:
            print(f'{page}, line {block.line}')
            block.run(names)
