"""One function a benchmark: ``Options`` in, rows and notes out.

To add one, write ``def my_benchmark(options: Options) -> Found`` in a file of its own and name it in the
table below; the first line of its docstring is its help.  ``harness.interleave`` times two functions in turn,
and the first row that you return is the one that the JSON line reports::

    def matmul(options: Options) -> Found:
        \"\"\"A product of two matrices against itself.\"\"\"
        a = torch.randn(500, 500)
        ours, peer = interleave(lambda: a @ a, lambda: a @ a, options)
        return [Row('product', median(ours.wall), median(peer.wall), 's')], {}
"""

from __future__ import annotations

from collections.abc import Callable

from .blip_caption import blip_caption
from .clip_forward import clip_image, clip_text
from .clip_train import clip_train
from .convnext_dense import convnext_dense
from .ddp import ddp
from .dense_slide import dense_slide
from .folder import folder
from .glip import glip
from .groupvit_image import groupvit_image
from .harness import Found, Options
from .loader import loader
from .lseg import lseg
from .mean_iou import mean_iou
from .onnx_export import onnx_export
from .pixel_cache import pixel_cache
from .precision import precision
from .prompt_step import prompt_step
from .region_embeddings import region_embeddings
from .sigmoid_loss import sigmoid_loss
from .start_up import imports, start_up
from .vild import vild
from .vocabulary_memory import vocabulary_memory

BENCHMARKS: dict[str, Callable[[Options], Found]] = {
    'blip_caption': blip_caption,
    'clip_image': clip_image,
    'clip_text': clip_text,
    'clip_train': clip_train,
    'convnext_dense': convnext_dense,
    'ddp': ddp,
    'dense_slide': dense_slide,
    'folder': folder,
    'glip': glip,
    'groupvit_image': groupvit_image,
    'import': imports,
    'start_up': start_up,
    'precision': precision,
    'region_embeddings': region_embeddings,
    'vild': vild,
    'loader': loader,
    'lseg': lseg,
    'mean_iou': mean_iou,
    'export': onnx_export,
    'pixel_cache': pixel_cache,
    'prompt_step': prompt_step,
    'sigmoid_loss': sigmoid_loss,
    'vocabulary_memory': vocabulary_memory,
}
