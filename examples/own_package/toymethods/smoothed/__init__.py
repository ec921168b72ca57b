"""One method; method.py describes it."""
