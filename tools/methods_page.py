"""Write docs/methods.md, the page that lists all methods, from the table of methods.

python tools/methods_page.py
"""

from __future__ import annotations

from pathlib import Path

from clipdense.methods import Method, list_methods

PAGE = Path(__file__).parents[1] / 'docs/methods.md'
HEAD = """# Methods

All methods of this package, as `clipdense.methods.list_methods()` returns them. `clipdense methods NAME`
prints the options of one. This page is written by `python tools/methods_page.py`.

| method | task | what it does | learns from | paper |
|---|---|---|---|---|
"""
TAIL = """
Training-free methods work on CLIP weights: `--method NAME` on the command line, `method='NAME'` in Python.
`gem`, `resclip` and `sc_clip` need a ViT of CLIP; the others work on its ResNets too. `vanilla`, `maskclip`
and `maskclip_no_residual` also work on the image towers of timm (ConvNeXt, EVA, ViTamin, MobileCLIP, PE).
`proxyclip` needs a second backbone: `-o proxy=NAME` (`bench` and `reproduce`: `-o proxyclip.proxy=NAME`).
Weights of the other methods are recognized; for them no method is named.

Methods in other installed packages appear in `clipdense methods` too; [CONTRIBUTING.md](../CONTRIBUTING.md)
says how to write one.
"""


def page_of(method: Method) -> str:
    """Name of the page in docs/methods: the method's own, or the one of its folder."""
    parts = (method.build or method.load or method.adapt or '').split('.')
    return method.name if (PAGE.parent / f'methods/{method.name}.md').is_file() else parts[2]


def row(method: Method) -> str:
    """A line of the table."""
    name = f'[`{method.name}`](methods/{page_of(method)}.md)'
    learns_from = method.learns_from or 'nothing (training-free)'
    return f'| {name} | {method.task} | {method.summary} | {learns_from} | {method.paper} |'


def page() -> str:
    """The whole page."""
    return HEAD + ''.join(f'{row(method)}\n' for method in list_methods()) + TAIL


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
    print(PAGE)
