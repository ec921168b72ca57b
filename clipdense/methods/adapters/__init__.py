"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544) and Tip-Adapter (Zhang et al. 2022, arXiv 2207.09519).

A few labeled images, boxes or masks change a frozen CLIP.  CLIP-Adapter is a small residual network on
embeddings; Tip-Adapter is a cache of embeddings with their classes.

Changed: caches serve any vocabulary by class name, may have another number of keys for each class, and grow;
they work on pixels and regions.  Written from the formulas of the papers; the official code has no license.
"""
