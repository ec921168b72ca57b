"""Weights of any official format, completed: what the tensors do not tell is looked up or asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights import zoo
from clipdense.weights.configs import Recorded, TowerFacts, from_huggingface, from_open_clip, read_json
from clipdense.weights.formats import Recognised, infer_size, recognise
from clipdense.weights.io import WeightsFile, read_weights

from .preprocess import STATISTICS, Preprocess
from .sizes import PUBLISHED, Activation, ClipSize
from .tokenizers import find_tokenizer

_OPEN_CLIP_CONFIG = 'open_clip_config.json'
_FOLDER_FILES = {  # config: weights that belong to it, best first
    _OPEN_CLIP_CONFIG: (
        'open_clip_model.safetensors',
        'open_clip_pytorch_model.safetensors',
        'open_clip_pytorch_model.bin',
    ),
    'config.json': (
        'model.safetensors',
        'model.safetensors.index.json',
        'pytorch_model.bin',
        'pytorch_model.bin.index.json',
    ),
}
_SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin', '.ckpt', '.npz', '.pkl')
_OPENAI = Recorded("OpenAI's archive", TowerFacts('quick_gelu'), TowerFacts('quick_gelu'))
_SLIP = Recorded(
    "SLIP's layout", TowerFacts('gelu'), TowerFacts('quick_gelu')
)  # facebookresearch/SLIP models.py


@dataclass(frozen=True)
class Overrides:
    """What weights may leave open; an answer that contradicts what they record is refused.

    Args:
        activation: of both towers: 'quick_gelu', 'gelu' or 'gelu_tanh'.
        text_activation: of the text tower, where it differs.
        num_heads, text_heads: attention heads of the image tower and of the text tower.
        preprocess: how the weights want their pictures, or a name of ``Preprocess.named``; this one wins.
    """

    activation: Activation | None = None
    text_activation: Activation | None = None
    num_heads: int | None = None
    text_heads: int | None = None
    preprocess: Preprocess | str | None = None


@dataclass(frozen=True)
class ClipWeights:
    """Everything about a CLIP but its modules.

    Args:
        path: of the file.
        tensors: under our names, in the file's dtypes.
        leftover: names in the file that have no place with us.
        size, preprocess, tokenizer: as the model will have them; a tokenizer of None is OpenAI's.
    """

    path: Path
    tensors: dict[str, Tensor]
    leftover: list[str]
    size: ClipSize
    preprocess: Preprocess
    tokenizer: Callable[..., Any] | None


def read_clip(weights: str | Path, overrides: Overrides) -> ClipWeights:
    """Find, read and recognise weights: everything that ``load`` does short of building the model.

    Raises:
        CheckpointError, InputError: as ``load``.
    """
    path, recorded = _locate(weights)
    file = read_weights(path)
    try:
        found = recognise(file.tensors, file.metadata)
        own = _own_facts(file)
        if own:
            size, preprocess, recorded = own
            _check_overrides(recorded, overrides)
        else:
            recorded = recorded or _beside(path, found)
            size = _complete(infer_size(found.tensors), recorded, overrides)
            fields = recorded.preprocess
            preprocess = Preprocess.from_dict(fields) if fields else _default_preprocess(size)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    asked = overrides.preprocess
    if asked is not None:
        preprocess = Preprocess.named(asked, size.image.image_size) if isinstance(asked, str) else asked
    tokenizer = find_tokenizer(size.text, path, recorded.clean)
    return ClipWeights(path, found.tensors, found.leftover, size, preprocess, tokenizer)


def describe(size: ClipSize, preprocess: Preprocess) -> dict[str, str]:
    """What our format says beside the tensors; in a training checkpoint it stands as ``meta['clip']``."""
    return {
        'format': 'clipdense',
        'version': '1',
        'size': json.dumps(size.to_dict()),
        'preprocess': json.dumps(preprocess.to_dict()),
    }


def check_fit(weights: ClipWeights, clip: nn.Module) -> None:
    """Names and shapes must match exactly.

    Raises:
        CheckpointError: counts and first ten names of missing, unexpected and mis-shaped tensors.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in clip.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    shapes = [
        f'{name} is {found[name]}, not {shape}'
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    problems = {
        'missing': [name for name in expected if name not in found],
        'without a place': [*weights.leftover, *(name for name in found if name not in expected)],
        'of another shape': shapes,
    }
    told = [f'{len(names)} {what} ({_first(names)})' for what, names in problems.items() if names]
    if told:
        raise CheckpointError(f'{weights.path} does not fit its model; tensors: {"; ".join(told)}')


def _first(names: Iterable[str], limit: int = 10) -> str:
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _locate(weights: str | Path) -> tuple[Path, Recorded | None]:
    """The file to read, and what the zoo records about it."""
    path = Path(weights).expanduser()
    if path.is_dir():
        return _in_folder(path), None
    text = str(weights)
    if path.exists() or isinstance(weights, Path) or path.suffix in _SUFFIXES or text[:1] in ('/', '.', '~'):
        return path, None
    try:
        entry = zoo.find(text)
    except InputError as error:
        raise InputError(f'{text} is no file here, and {error}') from None
    return zoo.fetch(entry), entry.recorded()


def _in_folder(folder: Path) -> Path:
    for config, names in _FOLDER_FILES.items():
        for name in names:
            if (folder / config).is_file() and (folder / name).is_file():
                return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(files) == 1:
        return files[0]
    held = f'several weights files: {_first(path.name for path in files)}' if files else 'no weights file'
    raise CheckpointError(f'{folder} holds {held}; name the file')


def _beside(path: Path, found: Recognised) -> Recorded:
    """What the layout implies, or the config file in the same folder says."""
    if found.openai:
        return _OPENAI
    if found.layout == 'slip':
        return _SLIP
    if found.layout.startswith('huggingface'):
        config = path.with_name('config.json')
        return (
            from_huggingface(path.parent)
            if config.is_file()
            else Recorded(f'no config.json beside {path.name}')
        )
    config = path.with_name(_OPEN_CLIP_CONFIG)
    if found.layout.startswith('openclip') and config.is_file():
        return from_open_clip(read_json(config), str(config))
    return Recorded(f'no {_OPEN_CLIP_CONFIG} beside {path.name}')


def _own_facts(file: WeightsFile) -> tuple[ClipSize, Preprocess, Recorded] | None:
    """What our own format says: in the metadata, or in the ``meta`` of a training checkpoint."""
    meta = file.extra.get('meta')
    own: Mapping[str, Any] = file.metadata
    if isinstance(meta, dict) and isinstance(meta.get('clip'), dict):
        own = meta['clip']
    if own.get('format') != 'clipdense':
        return None
    try:
        size = ClipSize.from_dict(json.loads(own['size']))
        preprocess = Preprocess.from_dict(json.loads(own['preprocess']))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'its size or preprocessing cannot be read ({error})') from error
    image = TowerFacts(getattr(size.image, 'activation', None), size.image.heads)
    recorded = Recorded('the file itself', image, TowerFacts(size.text.activation, size.text.heads))
    return size, preprocess, recorded


def _check_overrides(recorded: Recorded, overrides: Overrides) -> None:
    """An own file is complete: overrides may only repeat it."""
    text_activation = overrides.text_activation or overrides.activation
    if recorded.image.activation:
        _choose('activation', recorded.image.activation, overrides.activation, recorded)
    _choose('text_activation', recorded.text.activation, text_activation, recorded)
    _choose('num_heads', recorded.image.heads, overrides.num_heads, recorded)
    _choose('text_heads', recorded.text.heads, overrides.text_heads, recorded)


def _complete(sizes: dict[str, Any], recorded: Recorded, overrides: Overrides) -> ClipSize:
    """Sizes from the tensors, with heads, activations and picture size from elsewhere."""
    image, text = dict(sizes['image']), dict(sizes['text'])
    for tower, facts in ((image, recorded.image), (text, recorded.text)):
        for key in ('width', 'layers'):
            told = getattr(facts, key)
            if told is not None and told != tower[key]:
                raise CheckpointError(
                    f'{recorded.source} describes {key}={told}, the tensors have {tower[key]}'
                )
    cell = image.get('patch_size', 32)
    told = recorded.image.image_size
    if told is not None:
        if told // cell != image['image_size'] // cell:
            side = image['image_size']
            raise CheckpointError(
                f'{recorded.source} describes pictures of {told} pixels, the tensors {side}'
            )
        image['image_size'] = told
    known = _published(image, text)
    if 'patch_size' in image:
        heads = _choose('num_heads', recorded.image.heads, overrides.num_heads, recorded)
        image['heads'] = heads or _usual_heads(image, 'num_heads')
        activation = _choose('activation', recorded.image.activation, overrides.activation, recorded)
        image['activation'] = (
            activation or getattr(known and known.image, 'activation', None) or _ask(recorded, image)
        )
    else:
        image['heads'] = image['width'] // 2  # 64 channels each (openai/CLIP build_model)
    heads = _choose('text_heads', recorded.text.heads, overrides.text_heads, recorded)
    text['heads'] = heads or _usual_heads(text, 'text_heads')
    asked = overrides.text_activation or overrides.activation
    activation = _choose('text_activation', recorded.text.activation, asked, recorded)
    text['activation'] = activation or (known and known.text.activation) or _ask(recorded, text)
    return ClipSize.from_dict({**sizes, 'image': image, 'text': text})


def _choose(name: str, told: Any, asked: Any, recorded: Recorded) -> Any:
    if told is not None and asked is not None and told != asked:
        raise CheckpointError(
            f'{recorded.source} records {name}={told!r}, but {asked!r} was asked for: leave it out'
        )
    return told if asked is None else asked


def _usual_heads(tower: Mapping[str, Any], option: str) -> int:
    """As a published tower of this width has, or 64 channels each."""
    for size in PUBLISHED.values():
        for known in (size.image, size.text):
            keys = ('width', 'layers', 'mlp_width', 'flavour')
            if all(getattr(known, key, None) == tower[key] for key in keys):
                return known.heads
    if tower['width'] % 64:
        raise CheckpointError(
            f'a tower of width {tower["width"]} is unknown: say how many heads with {option}='
        )
    return tower['width'] // 64


def _published(image: Mapping[str, Any], text: Mapping[str, Any]) -> ClipSize | None:
    """The published SigLIP of these sizes; other flavours were published with several activations."""
    for size in PUBLISHED.values():
        towers = (
            (size.image, image, ('flavour', 'width', 'layers', 'patch_size')),
            (size.text, text, ('flavour', 'width', 'layers', 'vocab_size')),
        )
        same = all(
            getattr(known, key, None) == tower.get(key) for known, tower, keys in towers for key in keys
        )
        if same and text['flavour'] == 'siglip':
            return size
    return None


def _ask(recorded: Recorded, tower: Mapping[str, Any]) -> str:
    choices = (
        "activation='gelu' (open_clip) or 'gelu_tanh' (Hugging Face)"
        if tower['flavour'] == 'siglip'
        else "activation='quick_gelu' (OpenAI, MetaCLIP, DFN) or activation='gelu' (LAION, DataComp)"
    )
    raise CheckpointError(f'nothing tells the activation ({recorded.source}): say {choices}')


def _default_preprocess(size: ClipSize) -> Preprocess:
    flavour = getattr(size.image, 'flavour', 'openai')
    if flavour == 'slip':  # torchvision's defaults (facebookresearch/SLIP main.py)
        return Preprocess(size.image.image_size, *STATISTICS['imagenet'], interpolation='bilinear')
    return Preprocess.named(flavour, size.image.image_size)
