"""Inference: load models, classify, segment and detect; results are validated dataclasses."""
