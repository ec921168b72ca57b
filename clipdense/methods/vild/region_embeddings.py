"""Compute the teacher's embeddings of proposed regions before training: ``clipdense embed regions``.

B: images, R: regions of an image, S: side of the teacher's input, D: joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from mmdet.structures import DetDataSample
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from clipdense.clip.class_embeddings import image_tower_digest, module_digest
from clipdense.clip.model import CLIP
from clipdense.config import config_name, load_config
from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.store import Regions, RegionStore, StoreFacts, images_digest
from clipdense.data.transforms import CenterCrop
from clipdense.registry import DATASETS, build, build_module
from clipdense.utils.dist import is_main, processes_of_torchrun, rank, world_size
from clipdense.utils.errors import InputError
from clipdense.utils.files import digest
from clipdense.utils.image_io import read_image
from clipdense.utils.jobs import Job, Part, refuse_parts
from clipdense.utils.progress import track

from .crops import crop_regions
from .detector import PROPOSER, ViLD

_FLUSH = 32  # images per write


class Proposed(NamedTuple):
    """Proposed regions of an image and their crops."""

    image_id: int
    boxes: NDArray[np.float32]  # (R, 4), original pixels
    crops: Tensor  # (factors, R, 3, S, S) uint8


@torch.no_grad()
def embed_crops(clip: CLIP, crops: Tensor, batch: int = 256) -> Tensor:
    """(factors, R, 3, S, S) uint8 -> (R, D) unit rows, fp32: the sum over the factors, normalized.

    Source: dyabel/detpro ``standard_roi_head.py``, which adds the embeddings without normalizing them first.
    """
    factors, regions = crops.shape[:2]
    if not regions:
        return torch.zeros(0, clip.embed_dim)
    parameter = next(clip.parameters())
    embeddings = [
        clip.encode_image(clip.preprocess.normalize(part.to(parameter.device)).to(parameter.dtype))
        for part in crops.flatten(0, 1).split(batch)
    ]
    summed = torch.cat(embeddings).float().unflatten(0, (factors, regions)).sum(dim=0)  # (R, D)
    return F.normalize(summed, dim=-1).cpu()


@torch.no_grad()
def propose(model: ViLD, dataset: CocoDetection, index: int, most: int) -> NDArray[np.float32]:
    """(R, 4) boxes of an image in original pixels, by decreasing score; R <= ``most``."""
    item = dataset[index]
    data = model.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]})
    sample: DetDataSample = data['data_samples'][0]
    found = model.propose(model.extract_feat(data['inputs']), [sample])[0]
    boxes = found.bboxes[:most].cpu()
    boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    height, width = sample.ori_shape
    boxes = boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height, width, height]))
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)].numpy()


class _Crops(Dataset):
    """Crops of images with known boxes, for reading in the workers of a data loader."""

    def __init__(
        self, dataset: CocoDetection, boxes: dict[int, NDArray[np.float32]], crop: CenterCrop, factors: Any
    ) -> None:
        self.dataset, self.boxes, self.crop, self.factors = dataset, boxes, crop, factors
        self.indices = list(boxes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> Proposed:
        index = self.indices[at]
        image = self.dataset.images[index]
        boxes = self.boxes[index]
        return Proposed(
            image.image_id, boxes, crop_regions(read_image(image.path), boxes, self.crop, self.factors)
        )


def embed_dataset(
    model: ViLD,
    dataset: CocoDetection,
    folder: str | Path,
    regions: int = 300,
    factors: Sequence[float] = (1.0, 1.5),
    workers: int = 0,
    batch: int = 256,
    part: Part | None = None,
) -> RegionStore:
    """Propose, crop and embed the regions of each image that is not in the store yet.

    The images are distributed over the processes of a process group.

    Args:
        model: the detector; its RPN proposes regions, its ``clip`` is the teacher.
        dataset: images with the detector's test transforms; without random transforms.
        folder: folder of the store; an incomplete store is completed.
        regions: maximum number of regions per image.
        factors: scale factors of the crops.
        workers: processes that read and crop images; 0: none.
        batch: crops per batch of the teacher.
        part: embed only the images of this part, into a store of their own; the part that ends last joins
            them.

    Returns:
        The store, or that of the part while others are missing.

    Raises:
        InputError: no teacher, or a store of another teacher, detector, dataset or number of parts.
    """
    clip = model.clip
    if not isinstance(clip, CLIP):
        raise InputError('the detector has no teacher with an image tower: set model.clip in the config')
    model.eval()
    images = dataset.images
    facts = StoreFacts(
        teacher=image_tower_digest(clip),
        proposals=digest(*(module_digest(getattr(model, part)) for part in PROPOSER)),
        crops=tuple(map(float, factors)),
        images=images_digest((one.image_id, *one.size[::-1]) for one in images),
        regions=regions,
        width=clip.embed_dim,
    )
    every = [one.image_id for one in images]
    if part is None or part.count == 1:
        refuse_parts(folder)
        return _fill(model, dataset, Path(folder), facts, every, range(len(images)), workers, batch)
    places = part.of(range(len(images)), 'image')
    job = Job(folder, 'embed regions', asdict(facts), part)
    parts = [Path(folder) / f'part-{number}' for number in range(1, part.count + 1)]
    with job.running() if is_main() else nullcontext():
        _wait()
        if not job.complete:
            ids = [every[place] for place in places]
            _fill(model, dataset, parts[part.number - 1], facts, ids, places, workers, batch)
            if is_main():
                job.finish({'images': len(places)}, lambda: RegionStore.merge(folder, parts, every))
    _wait()
    return RegionStore(folder if job.complete else parts[part.number - 1])


def _fill(
    model: ViLD,
    dataset: CocoDetection,
    folder: Path,
    facts: StoreFacts,
    image_ids: Sequence[int],
    places: Sequence[int],
    workers: int,
    batch: int,
) -> RegionStore:
    """Complete a store of the images at these places of the dataset."""
    if is_main():
        RegionStore.create(folder, facts, image_ids)
    _wait()
    store, clip, images = RegionStore.create(folder, facts, []), model.clip, dataset.images
    assert isinstance(clip, CLIP)  # ``embed_dataset`` has checked it
    left = set(store.unfinished)
    mine = [at for at in places[rank() :: world_size()] if images[at].image_id in left]
    crop = CenterCrop.of(clip.preprocess)
    for first in track(range(0, len(mine), _FLUSH), 'embedding regions'):
        boxes = {at: propose(model, dataset, at, facts.regions) for at in mine[first : first + _FLUSH]}
        loader = DataLoader(
            _Crops(dataset, boxes, crop, facts.crops), batch_size=None, num_workers=min(workers, len(boxes))
        )
        store.write(
            {
                one.image_id: Regions(
                    one.boxes, embed_crops(clip, one.crops, batch).numpy().astype(np.float16)
                )
                for one in loader
            }
        )
    _wait()
    return store


def _wait() -> None:
    if world_size() > 1:
        dist.barrier()


def embed_regions(
    config: str | Path | Config,
    checkpoint: str | Path,
    out: str | Path,
    options: Sequence[str] = (),
    regions: int = 300,
    factors: Sequence[float] = (1.0, 1.5),
    workers: int = 0,
    device: torch.device | str = 'cpu',
    part: Part | None = None,
) -> RegionStore:
    """Embed the regions of the ``proposal_dataset`` of a config.

    Under torchrun, the images are distributed over the processes.

    Args:
        config: a file, the name of a config or a config object, with ``model`` and ``proposal_dataset``.
        checkpoint: weights of the detector; only backbone, neck and RPN are used.
        out: folder of the store.
        options: ``key.of.entry=value``: config settings to override.
        regions, factors, workers, part: as in ``embed_dataset``.
        device: device of the models.

    Raises:
        InputError: an invalid config, checkpoint or store.
    """
    cfg = load_config(config, options)
    if cfg.get('proposal_dataset') is None:
        raise InputError(
            f'{config_name(config)} has no proposal_dataset: add one, the training images '
            'without random transforms'
        )
    model = build_module(cfg.model)
    if not isinstance(model, ViLD):
        raise InputError(f'{config_name(config)} is not the config of a detector')
    model.take_proposer(checkpoint)
    dataset = build(cfg.proposal_dataset, DATASETS)
    with processes_of_torchrun():
        model.to(device)
        if model.clip is not None:
            model.clip.to(device)
        return embed_dataset(model, dataset, out, regions, factors, workers, part=part)
