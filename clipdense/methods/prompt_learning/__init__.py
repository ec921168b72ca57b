"""Prompt learning: token embeddings that are trained on a few labeled images, beside a frozen CLIP.

* CoOp, Zhou et al. 2022 (arXiv 2109.01134): a context that all classes share, or one for each class.
* CoCoOp, Zhou et al. 2022 (arXiv 2203.05557): the context is shifted by a network that sees the image.
* MaPLe, Khattak et al. 2023 (arXiv 2210.03117): prompts in the first blocks of both towers, those of the
  image tower computed from those of the text tower.  Without the coupling it is independent vision-language
  prompting, and with one tower it is deep visual or deep language prompting (arXiv 2203.12119).

Changes: texts are cut after their end-of-text token, which is exact in a causal tower; the tokens of the
image tower stand before the patches instead of after them, which is the same for attention; towers of any
width.
"""
