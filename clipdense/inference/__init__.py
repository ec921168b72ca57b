"""Images in, checked results out."""
