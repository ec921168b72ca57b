"""Image-text pairs: tables, webdataset shards, COCO captions, and nouns of captions."""

from .datasets import CocoCaptions, CsvPairs
from .noun_prompts import NounPrompts
from .shards import ImageTextShards
from .sources import ShardSource

__all__ = ['CocoCaptions', 'CsvPairs', 'ImageTextShards', 'NounPrompts', 'ShardSource']
