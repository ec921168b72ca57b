"""General helpers, independent of CLIP: errors, files, images, drawing, progress, distributed processes."""
