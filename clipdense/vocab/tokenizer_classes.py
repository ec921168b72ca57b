"""What the tokenizer classes of transformers do, whatever the files of a folder say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipdense.utils.errors import InputError
from clipdense.utils.json_files import read_json

from .byte_pairs import END_OF_TEXT, START_OF_TEXT

Clean = Literal['canonicalize', 'no_punctuation', 'whitespace', 'whitespace_lower', 'lower', 'none']


@dataclass(frozen=True)
class TokenizerClass:
    """What a tokenizer class of transformers does, whatever the files say.

    Args:
        special: the default tokens of the roles 'bos_token', 'eos_token' and 'pad_token'.
        clean: preprocessing of texts.
        lower: whether texts are in lower case (unless ``do_lower_case`` is false).
        ends: whether each text is ended by the end token.
        starts: whether each text is begun by the start token.
        pads_left: the default of ``padding_side``.
        language: the default language, whose token begins each text; empty where texts have no language.
        english: whether the vocabulary is made of English texts, although it has all bytes.
    """

    special: Mapping[str, str]
    clean: Clean = 'none'
    lower: bool = False
    ends: bool = False
    starts: bool = False
    pads_left: bool = False
    language: str = ''
    english: bool = False


_OTHER = TokenizerClass({})
CLIP_CLASS = TokenizerClass(
    {'bos_token': START_OF_TEXT, 'eos_token': END_OF_TEXT, 'pad_token': END_OF_TEXT},
    lower=True,
    ends=True,
    starts=True,
    english=True,
)
_SIGLIP = TokenizerClass({'eos_token': '</s>', 'pad_token': '</s>'}, 'canonicalize', ends=True)
# SigLIP 2 was trained on lower case; transformers applies it in ``Siglip2Tokenizer``.
_SIGLIP2 = TokenizerClass({'eos_token': '<eos>', 'pad_token': '<pad>'}, lower=True, pads_left=True)
_NLLB = TokenizerClass({'eos_token': '</s>', 'pad_token': '<pad>'}, ends=True, language='eng_Latn')
_BERT = TokenizerClass({'pad_token': '[PAD]'})
_ROBERTA = TokenizerClass({'pad_token': '<pad>'}, english=True)
_SENTENCES = TokenizerClass({'pad_token': '<pad>'})
_CLASSES = {
    'BertTokenizer': _BERT,
    'CLIPTokenizer': CLIP_CLASS,
    'GemmaTokenizer': _SIGLIP2,
    'NllbTokenizer': _NLLB,
    'RobertaTokenizer': _ROBERTA,
    'Siglip2Tokenizer': _SIGLIP2,
    'SiglipTokenizer': _SIGLIP,
    'T5Tokenizer': _SENTENCES,
    'XLMRobertaTokenizer': _SENTENCES,
}
# Of folders that name no class: transformers' class for the ``model_type`` of config.json.
_TEXT_FAMILIES = {
    'bert': _BERT,
    'm2m_100': _NLLB,
    'mt5': _SENTENCES,
    'roberta': _ROBERTA,
    't5': _SENTENCES,
    'xlm-roberta': _SENTENCES,
}
_FAMILIES = {'clip': CLIP_CLASS, 'groupvit': CLIP_CLASS, 'siglip': _SIGLIP, **_TEXT_FAMILIES}


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a tokenizer, from ``special_tokens_map.json`` and ``tokenizer_config.json``.

    ``model_type`` is that of ``config.json`` if it is the folder of a text encoder such as 'bert'.

    Raises:
        InputError: a file that is not a JSON object.
    """
    config: dict[str, Any] = {}
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        if (folder / name).is_file():
            config.update({key: value for key, value in _entries(folder / name).items() if value is not None})
    file = folder / 'config.json'
    model_type = str(_entries(file).get('model_type')) if file.is_file() else ''
    return {**config, 'model_type': model_type if model_type in _TEXT_FAMILIES else ''}


def _entries(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise InputError(f'{file} is not a JSON object')
    return values


def class_of(config: Mapping[str, Any], family: str) -> TokenizerClass:
    """The class that the settings of a tokenizer name, else that of the family of the model."""
    name = config.get('tokenizer_class')
    if not isinstance(name, str):
        return _FAMILIES.get(family or config['model_type'], _OTHER)
    return _CLASSES.get(name.removesuffix('Fast'), _OTHER)


def cleaning(folder: Path, clean: Clean | None = None, family: str = '') -> Clean:
    """The preprocessing of texts: as given, else that of the tokenizer class.

    Raises:
        InputError: as ``read_config``.
    """
    config = read_config(folder)
    found = class_of(config, family).clean
    if clean is None and found == 'canonicalize' and config.get('do_lower_case') is False:
        return 'no_punctuation'
    return clean or found
