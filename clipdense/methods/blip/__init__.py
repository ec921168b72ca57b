"""BLIP: captions, image-text matching and retrieval by one model.

Li et al., arXiv 2201.12086.  One text transformer encodes a text alone (contrastive loss), reads an image
(matching), or generates (language modeling) with the same layers.  Differences from the release: images are
read once for all beams of the generation, and the padding of questions is masked where answers are decoded.
NLVR2, which compares two images, is left out.
"""
