"""Published protocols and scores, and measurement of models under them.

Segmentation: ``presets`` (settings), ``published`` (scores), ``measure`` (one score with its conditions),
``grid`` (methods x datasets), ``reproduce`` (one published score) and ``tables``.  Methods are named as data
only; functions that build their models are passed in.
"""
