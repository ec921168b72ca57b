"""Evaluations take a model and return scores; metrics are for MMEngine's test loop."""
