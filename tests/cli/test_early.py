"""Wrong input is refused before PyTorch is imported, and lists are printed without it.

All commands run in one process of its own, which is asked after each whether it has imported PyTorch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = """
import contextlib, io, json, sys
from clipdense.cli.app import main
answers = []
for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(command)
        except SystemExit as ended:
            status = ended.code or 0
    answers.append([status, 'torch' in sys.modules, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""

LISTED = [
    '--help', '--version', 'segment --help', 'methods', 'methods naclip', 'methods --json', 'models',
    'models embedded', 'models --json', 'configs', 'configs lseg',
]  # fmt: skip

REFUSED = {
    'segment no.jpg -c a,b': 'no.jpg does not exist',
    'segment x.jpg': 'no classes given',
    'segment x.jpg -c a,b --vocab no.txt': 'cannot be combined',
    'segment x.jpg --vocab no.txt': 'no.txt',
    'segment x.jpg --class-list cocoo': "Did you mean 'coco'?",
    'segment x.jpg -c a,b -w no.safetensors': 'no.safetensors',
    'segment x.jpg -c a,b -w ViT-B-99/openai': "Did you mean 'ViT-B-32/openai'?",
    'segment x.jpg -c a,b -w https://example.org/a.pt': 'is a URL',
    'segment x.jpg -c a,b -w x.jpg --device gpu': "Did you mean 'cuda:0'?",
    'segment x.jpg -c a,b -w x.jpg --device cpuu': "Did you mean 'cpu'?",
    'segment x.jpg -c a,b -w x.jpg --precision half': 'precision must be one of',
    'segment x.jpg -c a,b -w x.jpg --method naclipp': "Did you mean 'naclip'?",
    'segment x.jpg -c a,b -w x.jpg --method naclip -o sdt=1': "Did you mean 'std'?",
    'segment x.jpg -c a,b -w x.jpg -o std': 'must have the form name=value',
    'segment x.jpg -c a,b -w x.jpg --templates imagenett': "Did you mean 'imagenet'?",
    'segment x.jpg -c a,b -w x.jpg --config lseg/lseg_vocc': 'does not exist',
    'segment x.jpg -c a,b -w x.jpg --config lseg': "'lseg' is a folder of configs",
    'segment x.jpg -c a,b -w x.jpg --override heads=3': 'weights have no override',
    'segment x.jpg -c a,b -w x.jpg --prompts no.safetensors': 'no.safetensors',
    'segment x.jpg -c a,b --colour red': 'No such option',
    'classify x.jpg -c a,b --weights nonsense': 'nonsense does not exist as a file',
    'classify x.jpg -c a,b -w x.jpg --adapter no.safetensors': 'no.safetensors',
    'detect x.jpg -c a,b -w no.safetensors': 'no.safetensors',
    'detect x.jpg -c a,b -w x.jpg --class-threshold cat': 'must be NAME=SCORE',
    'detect x.jpg -c a,b -w x.jpg --clip no.safetensors': 'no.safetensors',
    'embed -c a,b -w nonsense': 'nonsense does not exist as a file',
    'embed -c a,b -w x.jpg --out x.npz': 'written as safetensors',
    'adapt missing': 'missing does not exist',
    'adapt . --method tap': "Did you mean 'tip'?",
    'adapt . --labels words': '--labels must be one of images, masks, boxes',
    'train contrastive/clip_scene': "Did you mean 'contrastive/clip_scenes'?",
    'train contrastive/clip_scenes -o train_cfg': 'must have the form name=value',
    'test contrastive/clip_scenes no.safetensors': 'no.safetensors',
    'scenes out --difficulty har': "Did you mean 'hard'?",
    'nouns data out --kind verb': '--kind must be one of',
    'nouns data out --tagger hant': "Did you mean 'hanta'?",
    'prepare camvidd': 'unknown dataset',
    'prepare camvid . --source missing': 'missing does not exist',
    'bench --methods sclipp --datasets voc21': "Did you mean 'sclip'?",
    'bench --methods sclip --datasets voc22': 'unknown dataset',
    'reproduce sclip voc22': 'unknown dataset',
    'reproduce sclip voc21 --device gpu': "Did you mean 'cuda:0'?",
    'convert no.pt out.safetensors': 'no.pt',
    'convert x.jpg out --to onxx': '--to must be one of',
    'methods naclipp': "Did you mean 'naclip'?",
    'models nothing_like_it': 'no weights or method match',
    'segment x.jpg -c car road tree': "--classes 'car, road, tree'",
    'detect x.jpg --classes car, road -w x.jpg': "--classes 'car, road'",
    'configs lsegg': "Did you mean 'lseg'?",
    'search missing star': 'missing does not exist',
    'search . star -w nonsense': 'nonsense does not exist as a file',
    'search . star -w x.jpg --device gpu': "Did you mean 'cuda:0'?",
    'search .': 'give a text or --image FILE',
    'init lseg missing': 'missing does not exist',
    'init lseg . -w nonsense': 'nonsense does not exist as a file',
    'label missing -c a,b --to coco': 'missing does not exist',
    'label x.jpg -c a,b --to coco -w nonsense': 'nonsense does not exist as a file',
    'label x.jpg -c a,b --to coco -w x.jpg --method naclipp': "Did you mean 'naclip'?",
    'label x.jpg -c a,b --to cocoo': "Did you mean 'coco'?",
    'segment x.jpg -c a,b -w x.jpg --save yol': "Did you mean 'yolo'?",
    'detect x.jpg -c a,b -w x.jpg --save coco2': "Did you mean 'coco'?",
    'export no.safetensors e.pt2': 'no.safetensors does not exist',
    'export x.jpg e.pt2 --precision half': 'precision must be fp32 or fp16',
    'segment x.jpg -c a,b -w x.jpg --method naclip -o std=wide': 'std of naclip must be a number',
    'compare x.jpg -c a,b --method naclip': 'takes two methods or two weights',
    'compare x.jpg -c a,b --method naclip --method sclipp': "Did you mean 'sclip'?",
    'compare x.jpg -c a,b --method naclip --method sclip -w no.pt': 'no.pt',
    'vocab show no.txt': 'no.txt',
    'init lsegg .': "Did you mean 'lseg'?",
    'export nonsense out.onnx': 'nonsense does not exist as a file',
    'quickstart --photo no.jpg --classes a,b': 'no.jpg does not exist',
}


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    """Each command -> its status, whether PyTorch was imported, and what it printed."""
    folder = tmp_path_factory.mktemp('early')
    Image.new('RGB', (8, 8)).save(folder / 'x.jpg')
    commands = [*LISTED, *REFUSED]
    ended = subprocess.run(
        [sys.executable, '-c', SCRIPT],
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), 'CLIPDENSE_OFFLINE': '1'},
    )
    assert ended.returncode == 0, ended.stderr
    return dict(zip(commands, json.loads(ended.stdout), strict=True))


@pytest.mark.parametrize('command', LISTED)
def test_lists_need_no_torch(answers, command):
    status, torch, out, err = answers[command]
    assert (status, torch, bool(out)) == (0, False, True), err


@pytest.mark.parametrize(('command', 'message'), REFUSED.items())
def test_wrong_input_is_refused_without_torch(answers, command, message):
    status, torch, _, err = answers[command]
    assert (status, torch) == (2, False), err
    assert message in ' '.join(err.replace('│', ' ').split())
