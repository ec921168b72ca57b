"""5,000 classes on 512 x 512 pixels stay far below the 5 GB that their logits are, whatever the method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipdense.methods.dense_clip.functions import DENSE_METHODS

LIMIT = 1 << 30
MORE = {'window': 224, 'area_threshold': 0.001, 'refine': True}
CODE = """
import json, sys, torch
sys.path.insert(0, {tools!r})
from benchmarks.vocabulary_memory import peak_memory, start_watching
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.refine import PAMR
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

torch.set_num_threads(1)
tower = VitSize(224, 16, 64, 2, 1, 128, 32)
proxy = torch.nn.Conv2d(3, 8, 16, 16)
settings = json.loads(sys.argv[1])
refiner = PAMR(1) if settings.pop('refine', False) else None
model = DenseCLIP(build_clip(ClipSize(tower, TextSize(64, 1, 1, 64, 32))), proxy=proxy, refiner=refiner,
                  slide=Slide(window=settings.pop('window', None)), **settings).eval()
names = Vocabulary(tuple(f'class {{index}}' for index in range(5000)), background='class 0')
queries = torch.nn.functional.normalize(torch.randn(5000, 32), dim=-1)
model.set_vocabulary(names, ClassEmbeddings(queries, torch.arange(5000), 5000))
image = torch.randn(3, 512, 512)
before = start_watching('cpu')
model.segment(image)
print(peak_memory('cpu') - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [{'method': name} for name in DENSE_METHODS]
    + [{'method': 'maskclip', more: value} for more, value in MORE.items()],
    ids=lambda settings: '-'.join(map(str, settings.values())),
)
def test_peak(settings):
    if not Path('/proc/self/clear_refs').exists():
        pytest.skip('only Linux tells the peak of resident memory')
    tools = str(Path(__file__).parents[3] / 'tools')
    command = [sys.executable, '-c', CODE.format(tools=tools), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    print(settings, f'{peak / 2**20:.0f} MiB')
    assert peak < LIMIT
