"""Every recipe can be read and its model built; on the meta device, the largest is 10 GB."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.engine.launch import load_config
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

FOLDER = Path(__file__).parents[1] / 'configs'
RECIPES = sorted(path for path in FOLDER.rglob('*.py') if not path.parent.name.startswith('_'))
TINY = ClipSize(VitSize(32, 8, 32, 4, 1, 32, 16), TextSize(32, 1, 1, 32, 16))


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(''))


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_the_model_is_built(path):
    cfg = load_config(path)
    model = cfg.model
    for part in (model, model.get('teacher', {})):
        if isinstance(part.get('clip'), str):  # named weights, which are not here
            part.clip = build_clip(TINY)
    model.pop('start', None)  # nor those that training starts from
    if 'proxy' in model:
        model.proxy.weights = False
    with torch.device('meta'):
        assert sum(parameter.numel() for parameter in build_module(model).parameters()) > 0


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_the_recipe_says_what_it_costs_and_gives(path):
    """A docstring with the command, the cost and the score."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert any(word in docstring for word in ('tools/train.py', 'clipdense train', 'clipdense test'))
    assert 'Cost:' in docstring
    assert 'Score:' in docstring
    assert path.stem in docstring, 'the command must name this recipe'


@pytest.mark.parametrize('path', sorted((FOLDER / '_base_').glob('*.py')), ids=name)
def test_bases_have_no_bases(path):
    assert 'read_base' not in path.read_text()


DOCS = Path(__file__).parents[1] / 'docs'
PAGES = [path for path in sorted(DOCS.glob('*.md')) if 'read_base' in path.read_text()]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_a_config_of_one_s_own_begins_with_a_recipe(tmp_path, page):
    """As the documentation shows it, wherever it lies, in a checkout as well as with the wheel."""
    shown = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
    (text,) = (block for block in shown if 'read_base' in block)
    (tmp_path / 'own.py').write_text(text)
    recipe = re.search(r'from clipdense\.configs\.(\S+) import', text)[1].replace('.', '/')
    cfg, base = load_config(tmp_path / 'own.py'), load_config(recipe)
    assert (cfg.model, cfg.default_hooks) == (base.model, base.default_hooks)
    assert cfg.train_dataloader.dataset != base.train_dataloader.dataset
    assert 'mine' in str(cfg.train_dataloader.dataset)


def test_a_copied_recipe_is_told_how_to_name_its_bases(tmp_path):
    (tmp_path / 'copied.py').write_text((FOLDER / 'groupvit' / 'groupvit_gcc_yfcc.py').read_text())
    with pytest.raises(InputError, match=r'says `from clipdense\.configs\.FOLDER\.NAME import \*`'):
        load_config(tmp_path / 'copied.py')
