"""Words: class names and synonyms, prompt templates, tokenizers.  Nothing here imports torch at the top."""
