"""Small helpers that know nothing of CLIP: errors, files, progress, processes, images."""
