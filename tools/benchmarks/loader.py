"""Reading shards for training: JPEGs to crops, captions to token ids, in one process."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from clipdense.clip.preprocess import STATISTICS
from clipdense.data.batches import collate
from clipdense.data.image_text import ImageTextShards
from clipdense.data.transforms import TrainCrop
from clipdense.utils import jpeg
from clipdense.utils.image_io import read_pixels

from .clip_pair import captions
from .harness import Found, Options, Row, interleave

_IMAGES, _SIZE, _QUALITY, _CROP = 256, (640, 480), 90, 224


def loader(options: Options) -> Found:
    """Shards of 640 x 480 JPEGs to 224-pixel crops and token ids, against open_clip's webdataset pipeline."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / '000.tar'
        encoded = write_shard(path)
        peer = _Peer(path, options.batch)
        sides = {
            'crops and token ids': _Ours(path, options.batch, 1.0),
            'the same, normalized in fp32': _Ours(path, options.batch, 1.0, normalize=True),
            'the same, JPEGs decoded at full size': _Ours(path, options.batch, None),
        }
        _check(sides['crops and token ids'], peer)
        rows = []
        for label, ours in sides.items():
            seconds = [median(side.cpu) for side in interleave(ours, peer, options)]
            rows.append(Row(label, *(_IMAGES / one for one in seconds), 'img/CPU-s', True))
        full, half = interleave(_decoder(encoded, 1), _decoder(encoded, 2), options)
    alone = {'full': _IMAGES / median(full.cpu), 'half': _IMAGES / median(half.cpu)}
    return rows, {
        'JPEG decoder of ours': 'Pillow' if jpeg.decode_jpeg(encoded[0], *_SIZE) is None else 'simplejpeg',
        'decoding alone': f'{alone["full"]:.0f} img/CPU-s at full size, {alone["half"]:.0f} at half of it',
        'its share of ours': round(rows[0].ours / alone['half'], 2),
        'its share of ours at full size': round(rows[2].ours / alone['full'], 2),
        'its share of the peer': round(rows[2].peer / alone['full'], 2),
        'bytes of a JPEG': round(sum(map(len, encoded)) / _IMAGES),
    }


def write_shard(path: Path) -> list[bytes]:
    """A shard of photographs with captions of 10 to 20 words; returns the JPEGs."""
    photos, encoded = _photographs(), []
    with tarfile.open(path, 'w') as tar:
        for number, text in enumerate(captions(_IMAGES)):
            file = io.BytesIO()
            turned = photos[number % len(photos)].rotate(number % 7, resample=Image.Resampling.BICUBIC)
            turned.save(file, 'JPEG', quality=_QUALITY)
            encoded.append(file.getvalue())
            for ending, data in (('jpg', encoded[-1]), ('txt', text.encode())):
                info = tarfile.TarInfo(f'{number:06}.{ending}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return encoded


def _photographs() -> list[Image.Image]:
    """Photographs of scikit-image, at one size."""
    from skimage import data

    found = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    return [Image.fromarray(one).resize(_SIZE, Image.Resampling.LANCZOS) for one in found]


def _decoder(encoded: list[bytes], factor: int) -> Callable[[], None]:
    def decode() -> None:
        for one in encoded:
            read_pixels(one, shrink=lambda width, height: factor)

    return decode


def _check(ours: _Ours, peer: _Peer) -> None:
    """Both give the same texts, and crops of one size."""
    (one, two) = (torch.cat([texts for _, texts in side.batches()]) for side in (ours, peer))
    shapes = [next(side.batches())[0].shape for side in (ours, peer)]
    if not torch.equal(one, two) or shapes[0] != shapes[1]:
        raise SystemExit(f'the two sides read different things: {shapes}')


class _Ours:
    """An epoch of ``ImageTextShards`` through a loader without workers; models normalize uint8 crops."""

    def __init__(self, path: Path, batch: int, reduce: float | None, normalize: bool = False) -> None:
        dataset = ImageTextShards(str(path), batch, TrainCrop(_CROP, reduce=reduce), shuffle=0)
        self.loader = DataLoader(dataset, batch, collate_fn=collate)
        mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in STATISTICS['openai'])
        self.statistics = (mean, std) if normalize else None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and token ids."""
        for batch in self.loader:
            images = batch['images']
            if self.statistics is not None:
                images = (images - self.statistics[0]).div_(self.statistics[1])
            yield images, batch['token_ids']

    def __call__(self) -> None:
        for _ in self.batches():
            pass


class _Peer:
    """The pipeline of open_clip_train 3.3.0 ``get_wds_dataset``, in its order, without shuffling."""

    def __init__(self, path: Path, batch: int) -> None:
        import open_clip
        import webdataset as wds
        from open_clip_train.data import filter_no_caption_or_no_image, log_and_continue

        transform = open_clip.image_transform(_CROP, is_train=True)
        tokenizer = open_clip.get_tokenizer('ViT-B-32')
        self.pipeline = wds.DataPipeline(
            wds.SimpleShardList([str(path)]),
            wds.tarfile_to_samples(handler=log_and_continue),
            wds.select(filter_no_caption_or_no_image),
            wds.decode('pilrgb', handler=log_and_continue),
            wds.rename(image='jpg;png;jpeg;webp', text='txt'),
            wds.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
            wds.to_tuple('image', 'text'),
            wds.batched(batch, partial=True),
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and token ids."""
        yield from self.pipeline

    def __call__(self) -> None:
        for _ in self.batches():
            pass
