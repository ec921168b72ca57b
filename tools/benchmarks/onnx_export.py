"""An exported segmenter in onnxruntime beside the same model in torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import clipdense
from clipdense.clip.model import build_clip
from clipdense.inference.export.write import difference
from clipdense.inference.load import load_segmenter

from .harness import Found, Options, interleave, rate_rows

CLASSES = 20


def onnx_export(options: Options) -> Found:
    """naclip of ``--model`` on one window, 20 classes: onnxruntime (ours) against torch (peer), fp32."""
    import onnxruntime

    clip = build_clip(options.model).eval().requires_grad_(False)
    model = load_segmenter(clip, 'naclip', 'cpu')
    side = clip.image.size.image_size
    images, embeddings = torch.randn(options.batch, 3, side, side), torch.randn(CLASSES, clip.embed_dim)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        written = clipdense.export(model, Path(folder) / 'model.onnx')
        session = onnxruntime.InferenceSession(written.path, settings, providers=['CPUExecutionProvider'])
        size = written.path.stat().st_size
    feed = {'images': images.numpy(), 'class_embeddings': embeddings.numpy()}

    @torch.inference_mode()
    def in_torch() -> torch.Tensor:
        return model.pixel_logits(images, F.normalize(embeddings, dim=-1)) * model.logit_scale

    def in_onnxruntime() -> np.ndarray:
        return session.run(None, feed)[0]

    times = interleave(in_onnxruntime, in_torch, options)
    worst = difference('logits', in_torch(), torch.from_numpy(in_onnxruntime()))
    notes = {'largest relative difference': f'{worst:.1e}', 'MB': round(size / 1e6, 1)}
    return rate_rows('window', options.batch, 'img', times, 'cpu'), notes
