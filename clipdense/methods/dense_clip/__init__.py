"""methods/dense_clip."""
