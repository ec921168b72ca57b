"""CLIP: two towers, their sizes, losses, weights and class embeddings.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020).
"""
