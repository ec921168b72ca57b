"""Class names and synonyms, prompt templates, tokenizers, noun phrases.  Does not import torch at the top."""
