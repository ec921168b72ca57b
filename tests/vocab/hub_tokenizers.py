"""Tiny tokenizers of each family in the files of the published ones, trained when a test asks for them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

tokenizers = pytest.importorskip('tokenizers')

# SentencePiece's compiled normalization of 15 characters (ligatures, wide digits, spaces, e with an accent),
# as its ``precompiled_charsmap`` holds some thousands.
CHARSMAP = zlib.decompress(
    base64.b85decode(
        'c-kG)d618F7y$6+_nT$1BQs_ie>8<r<0v+AC3ht$MTHO&wY3`LE+xC=NTRTcN~qj&<;c~p*4enKC1+?gG=ox(lG5kxo%zi3%'
        '=dX_-gn;b^F&5ORE{W9CL*&`Bv0<nNJrlF5f$XK%10EaT_?YR+}i0F-!yc{Gt!Y;N1~obIjQ#CNzPUbh?t^p^2-sWon=y%8@'
        '=FWZlV$uSzMToxyvJNkyl~%UlF&8)u>7hs&hNHQHz?~K^7Z|(@|Tj%bnDx9t~+gBkrOxcjL373C(FnOImO*_t1*_XwCh!;Q='
        '1vK^~?p?RbPoY0u+4Mn^jE1fA$YXP%@h-RZ_t^x$cF(wkm9%QHMjHaR@c3-qCH(vzQ#{$fA;>Ufbs3}gs{8OBgtLA=B(3}*z'
        'dGLqNGOD>%^c%9LVVk~1A$D54jEhg|b?=X=`yvr0OGnIVa=RKw~jSu;N8GOV{K2GkNS$xVT%;7WUF_#6*XAukeJee7mvIL_O'
        '%lLv7tYRf=Sj}3#WIgNHn9K|Xe8naTDdKCku$gUaWe3}n+R9XXBkoFiPN!mzxSMa;%lCZ8K8pE){T$=~hdIPij&O`0Il*yC_'
        '=%r6$tiwaoQhw>(@AYqDoXNGaaMjNsd0|;{Kg;r&P6V8nM+uw_>;f6!arQ)8vp*k{#jXBQOEAowF}wVk)30fiWbCwf{>hG'
    )
)
CORPUS = [
    'a photo of a cat.',
    'two black dogs on a red sofa',
    'the bus stops at the station',
    "don't look at 12 cars",
    'ein Foto einer Katze über der Straße',
    "une photo d'un élève à l'école",
    '一张猫的照片',
    '犬の写真',
    'фото кота',
    'Tall buildings, trees; sky!',
] * 3
ANGLES = {
    'bos_token': '<s>',
    'cls_token': '<s>',
    'eos_token': '</s>',
    'mask_token': '<mask>',
    'pad_token': '<pad>',
    'sep_token': '</s>',
    'unk_token': '<unk>',
}
SQUARES = {f'{role}_token': f'[{role.upper()}]' for role in ('cls', 'mask', 'pad', 'sep', 'unk')}
LANGUAGES = ['eng_Latn', 'deu_Latn', 'zho_Hans', 'fra_Latn']


def write(folder: Path, made: Any, model_type: str, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    (folder / 'config.json').write_text(json.dumps({'model_type': model_type}))
    return folder


def ended(made: Any, template: str, *names: str) -> Any:
    """With a template such as '<s> $A </s>'."""
    ids = [(name, made.token_to_id(name)) for name in names]
    made.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=ids)
    return made


def add(made: Any, *names: str) -> None:
    made.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])


def trained(made: Any, trainer: str, size: int, special: list[str], **options: Any) -> Any:
    kind = getattr(tokenizers.trainers, f'{trainer}Trainer')
    made.train_from_iterator(
        CORPUS, kind(vocab_size=size, special_tokens=special, show_progress=False, **options)
    )
    return made


def bert(folder: Path, **config: Any) -> Path:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token='[UNK]', max_input_chars_per_word=100))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    trained(made, 'WordPiece', 200, ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'])
    ended(made, '[CLS] $A [SEP]', '[CLS]', '[SEP]')
    named = config or {'tokenizer_class': 'BertTokenizer', **SQUARES}
    return write(folder, made, 'bert', do_lower_case=True, model_max_length=512, **named)


def roberta(folder: Path, **config: Any) -> Path:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trained(made, 'Bpe', 400, ['<s>', '<pad>', '</s>', '<unk>'], initial_alphabet=alphabet)
    made.add_special_tokens([tokenizers.AddedToken('<mask>', lstrip=True, special=True, normalized=False)])
    made.post_processor = tokenizers.processors.RobertaProcessing(
        ('</s>', 2), ('<s>', 0), trim_offsets=True, add_prefix_space=False
    )
    named = config or {'tokenizer_class': 'RobertaTokenizer', 'add_prefix_space': False, **ANGLES}
    return write(folder, made, 'roberta', model_max_length=512, **named)


def sentencepiece(model: Any) -> Any:
    """As SentencePiece: its normalization, and words that begin with a mark of the space before them."""
    steps = tokenizers.normalizers
    made = tokenizers.Tokenizer(model)
    spaces = steps.Replace(tokenizers.Regex(' {2,}'), ' ')
    made.normalizer = steps.Sequence([steps.Precompiled(CHARSMAP), spaces])
    marks = tokenizers.pre_tokenizers.Metaspace('▁', 'always')
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), marks]
    )
    made.decoder = tokenizers.decoders.Metaspace('▁', 'always')
    return made


def xlm_roberta(folder: Path, **config: Any) -> Path:
    made = sentencepiece(tokenizers.models.Unigram())
    trained(made, 'Unigram', 250, ['<s>', '<pad>', '</s>', '<unk>'], unk_token='<unk>')
    made.add_special_tokens([tokenizers.AddedToken('<mask>', lstrip=True, special=True, normalized=False)])
    ended(made, '<s> $A </s>', '<s>', '</s>')
    named = config or {'tokenizer_class': 'XLMRobertaTokenizer', **ANGLES}
    return write(folder, made, 'xlm-roberta', model_max_length=512, **named)


def nllb(folder: Path, **config: Any) -> Path:
    made = sentencepiece(tokenizers.models.BPE(unk_token='<unk>', fuse_unk=True))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace('▁', 'always')
    trained(made, 'Bpe', 250, ['<s>', '<pad>', '</s>', '<unk>'])
    add(made, *LANGUAGES)
    ended(made, '$A </s> eng_Latn', '</s>', 'eng_Latn')  # as published; the class replaces it
    languages = {'additional_special_tokens': LANGUAGES, 'src_lang': None}
    named = {'tokenizer_class': 'NllbTokenizer', **ANGLES, 'mask_token': '<unk>', **languages}
    return write(folder, made, 'm2m_100', model_max_length=1024, **{**named, **config})


def t5(folder: Path, pad_token: str = '<pad>') -> Path:
    """mT5; SigLIP's pads with </s>."""
    made = sentencepiece(tokenizers.models.Unigram())
    trained(made, 'Unigram', 250, ['<pad>', '</s>', '<unk>'], unk_token='<unk>')
    ended(made, '$A </s>', '</s>')
    roles = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': pad_token, 'extra_ids': 0}
    return write(folder, made, 'mt5', tokenizer_class='T5Tokenizer', **roles)


def gemma(folder: Path) -> Path:
    """SigLIP 2's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token='<unk>', fuse_unk=True, byte_fallback=True))
    made.normalizer = tokenizers.normalizers.Replace(' ', '▁')
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(' ', 'merged_with_previous')
    parts = tokenizers.decoders
    made.decoder = parts.Sequence([parts.Replace('▁', ' '), parts.ByteFallback(), parts.Fuse()])
    special = ['<pad>', '<eos>', '<bos>', '<unk>', *(f'<0x{byte:02X}>' for byte in range(256))]
    trained(made, 'Bpe', 600, special)
    ended(made, '$A <eos>', '<eos>')
    roles = {f'{role}_token': f'<{role}>' for role in ('bos', 'eos', 'pad', 'unk')}
    kind = {'tokenizer_class': 'GemmaTokenizer', 'padding_side': 'right'}
    folder = write(folder, made, '', add_bos_token=False, add_eos_token=True, **roles, **kind)
    (folder / 'config.json').unlink()  # timm's repositories of SigLIP 2 have none
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    'bert': bert,
    'bert without a class': lambda folder: bert(folder, strip_accents=None),
    'roberta': roberta,
    'roberta without a class': lambda folder: roberta(folder, trim_offsets=True),
    'xlm-roberta': xlm_roberta,
    'xlm-roberta without a class': lambda folder: xlm_roberta(folder, sp_model_kwargs={}),
    'nllb': nllb,
    'nllb before 2023': lambda folder: nllb(folder, legacy_behaviour=True),
    'nllb of German': lambda folder: nllb(folder, src_lang='deu_Latn'),
    'mt5': t5,
    'siglip': lambda folder: t5(folder, '</s>'),
    'siglip2': gemma,
}


@pytest.fixture(scope='session')
def hub_tokenizers(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a family, built once."""
    root = tmp_path_factory.mktemp('hub_tokenizers')

    def folder(family: str) -> Path:
        place = root / family
        return place if place.is_dir() else FAMILIES[family](place)

    return folder
