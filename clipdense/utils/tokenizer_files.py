"""Names of the files of tokenizers in the format of Hugging Face."""

from __future__ import annotations

# Files that hold a vocabulary, preferred first; without the first, transformers reads the folder.
TABLES = (
    'tokenizer.json',
    'vocab.json',
    'spiece.model',
    'tokenizer.model',
    'sentencepiece.bpe.model',
    'vocab.txt',
)
# All files of a tokenizer.
FILES = (*TABLES, 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json')
