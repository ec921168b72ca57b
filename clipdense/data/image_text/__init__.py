"""Image-text pairs: tables, webdataset shards, COCO captions, and nouns of captions."""
