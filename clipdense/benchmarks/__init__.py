"""Published protocols and numbers, and what measures a model under them.

Segmentation: ``presets`` (settings), ``published`` (numbers), ``measure`` (one number, with everything that
it depends on), ``grid`` (methods x datasets), ``reproduce`` (one published number) and ``tables``.
Methods are named here as data only; what builds their models is passed in.
"""
