"""Datasets, what is done to their images, and the preprocessor on the model's side: one folder per task."""
