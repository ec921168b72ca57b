"""GLIP: detection as grounding, where each box is matched to the tokens of a text.

Li et al., CVPR 2022 (arXiv 2112.03857), and Zhang et al., GLIPv2, NeurIPS 2022 (arXiv 2206.05836); facts
checked against microsoft/GLIP.  Differences from the official code: an anchor without a box has no positive
token (the official code makes the last token of the text its "no object" token, which is a real one in a
text that fills all tokens), images without boxes are trained on, and every image of a batch may have a text
of its own.
"""

from clipdense.mmcv_ops import install

install()  # before anything here imports mmdet
