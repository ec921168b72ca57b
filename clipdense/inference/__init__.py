"""Pictures in, checked results out."""
