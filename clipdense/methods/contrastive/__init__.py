"""methods/contrastive."""
