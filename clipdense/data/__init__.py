"""Datasets (one folder per task), image transforms and the models' preprocessor."""
