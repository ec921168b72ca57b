"""Every config can be read and its model built; on the meta device, the largest is 10 GB."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, TimmSize, VitSize
from clipdense.config import load_config
from clipdense.engine.launch import check_config, read_config
from clipdense.engine.logs import config_text
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.sizes import BlipSize, MedSize
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

FOLDER = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(path for path in FOLDER.rglob('*.py') if not path.parent.name.startswith('_'))
TINY_TEXT = TextSize(32, 9, 1, 32, 16)  # MaPLe: 9 blocks
TINY = ClipSize(VitSize(32, 8, 32, 9, 1, 32, 16), TINY_TEXT)
TINY_EMBEDDED = ClipSize(TimmSize('test_efficientnet', 32, 16), TINY_TEXT)
TINY_BLIP = BlipSize(VitSize(32, 8, 24, 1, 2, 32, 16), MedSize(24, 1, 2, 32), embed_dim=16)

TINY_WORDS = replace(TINY_BLIP, text=replace(TINY_BLIP.text, words=('a', 'red')))


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(''))


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_the_model_is_built(path):
    cfg = load_config(path)
    model = cfg.model
    clip = model.get('clip')
    for part in (model, model.get('teacher', {}), clip if isinstance(clip, dict) else {}):
        part.get('image', {}).pop('pretrained', None)
        if isinstance(part.get('clip'), str):  # named weights, which are not here
            part.clip = build_clip(TINY_EMBEDDED if part.clip == 'embedded' else TINY)
    blip = model.get('blip')
    if isinstance(blip, str):
        model.blip = build_blip(TINY_WORDS if 'words' in model else TINY_BLIP)
    elif blip is not None:
        model.blip = {name: part for name, part in blip.items() if not name.endswith('_weights')}
    model.pop('start', None)  # nor those that training starts from
    if 'learner' in model or 'adapter' in model:
        model.pop('class_names', None)  # nor the dataset that names the classes
    if isinstance(model.get('adapter'), str):  # a cache, which is not here
        model.adapter = {'type': ClipAdapter}
    if 'proxy' in model:
        model.proxy.weights = False
    with torch.device('cpu' if 'learner' in model else 'meta'):  # contexts start from embeddings
        assert sum(parameter.numel() for parameter in build_module(model).parameters()) > 0


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_the_checks_of_configs_pass(path):
    """No false alarm: those that ``train`` and ``test`` make before they build anything."""
    cfg = load_config(path)
    check_config(cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_the_docstring_says_what_it_costs_and_gives(path):
    """The command, the cost, and the measured score or, in one line, what a run needs that is not here."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert re.search(rf'(tools/train\.py|clipdense (train|test)) \S*{path.stem}\b', docstring), 'no command'
    lines = docstring.splitlines()
    assert sum(line.startswith('Cost: ') for line in lines) == 1
    obstacles = [line for line in lines if re.match('not run', line, re.IGNORECASE)]
    assert all(re.fullmatch(r'Not run here: needs .+\.', line) for line in obstacles)
    assert any(line.startswith('Score: ') for line in lines) or obstacles
    assert len(obstacles) <= 1
    assert not re.search(r'not (measured|run) (here|by us)|recipe', docstring.replace('Not run here:', ''))


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_parts_that_people_change_have_names(path):
    """Not positions: ``-o custom_hooks.evaluation.interval=100``."""
    cfg = load_config(path)
    hooks = cfg.get('custom_hooks', {})
    assert isinstance(hooks, dict)
    assert all(isinstance(hook.get('evaluations', {}), dict) for hook in hooks.values())
    assert isinstance(cfg.get('param_scheduler') or {}, dict)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_options_of_the_docstring_fit(path):
    """Every ``-o NAME=VALUE`` that the docstring shows is accepted."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    options = re.findall(r"(?:-o|--cfg-options) ('[^']+'|[^\s`)]+)", docstring.replace('\\\n', ' '))
    values = [option.strip("'") for option in options]
    by_name = {value.partition('=')[0]: value for value in values}  # a docstring shows alternatives too
    for given in (list(by_name.values()), *([value] for value in values)):
        read_config(path, given)


def test_a_config_left_by_a_run_reads_the_same(tmp_path):
    """Names of evaluations hold a slash: 'zero_shot/base'."""
    cfg = load_config('contrastive/clip_scenes_quickstart')
    (tmp_path / 'left.py').write_text(config_text(cfg))
    hooks = load_config(tmp_path / 'left.py').custom_hooks
    assert list(hooks.evaluation.evaluations) == list(cfg.custom_hooks.evaluation.evaluations)


FEW_SHOT = {  # epochs, learning rate, batch size, classes that are learned, parts that are tested
    'prompt_learning/coop_folder': (50, 2e-3, 32, 'all', ['test']),
    'prompt_learning/cocoop_folder': (10, 2e-3, 1, 'all', ['test']),
    'prompt_learning/maple_base_to_new': (5, 3.5e-3, 4, 'base', ['base', 'new']),
    'prompt_learning/coop_base_to_new': (50, 2e-3, 32, 'base', ['base', 'new']),
    'prompt_learning/maple_cross_dataset': (2, 2.6e-3, 4, 'all', ['source']),
    'adapters/clip_adapter_base_to_new': (20, 1e-3, 256, 'base', ['base', 'new']),
    'adapters/tip_f_folder': (20, 1e-3, 256, 'all', ['test']),
    'adapters/tip_f_base_to_new': (20, 1e-3, 256, 'base', ['base', 'new']),
}


@pytest.mark.parametrize('config', FEW_SHOT)
def test_few_shot_configs_have_their_recipe(config):
    """The last base decides, and bases are in alphabetical order."""
    cfg = load_config(config)
    evaluation = next(iter(cfg.custom_hooks.evaluation.evaluations.values()))
    loader = cfg.train_dataloader
    found = (
        cfg.train_cfg.max_epochs,
        cfg.optim_wrapper.optimizer.lr,
        loader.batch_size,
        loader.dataset.classes,
    )
    assert (*found, list(evaluation.parts)) == FEW_SHOT[config]
    assert cfg.model.class_names.classes == loader.dataset.classes


@pytest.mark.parametrize('path', sorted((FOLDER / '_base_').glob('*.py')), ids=name)
def test_bases_have_no_bases(path):
    assert 'read_base' not in path.read_text()


DOCS = Path(__file__).parents[1] / 'docs'
PAGES = [path for path in sorted(DOCS.glob('train_on_*.md')) if 'read_base' in path.read_text()]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_a_config_of_one_s_own_begins_with_one_of_ours(tmp_path, page):
    """As the documentation shows it, wherever it lies, in a checkout as well as with the wheel."""
    shown = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
    (text,) = (block for block in shown if 'read_base' in block)
    (tmp_path / 'own.py').write_text(text)
    ours = re.search(r'from clipdense\.configs\.(\S+) import', text)[1].replace('.', '/')
    cfg, base = load_config(tmp_path / 'own.py'), load_config(ours)
    assert (cfg.model, cfg.default_hooks) == (base.model, base.default_hooks)
    assert cfg.train_dataloader.dataset != base.train_dataloader.dataset
    assert 'mine' in str(cfg.train_dataloader.dataset)


def test_a_copied_config_is_told_how_to_name_its_bases(tmp_path):
    (tmp_path / 'copied.py').write_text((FOLDER / 'groupvit' / 'groupvit_gcc_yfcc.py').read_text())
    with pytest.raises(InputError, match=r'says `from clipdense\.configs\.FOLDER\.NAME import \*`'):
        load_config(tmp_path / 'copied.py')
