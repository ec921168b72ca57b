"""DenseCLIP (Rao et al., arXiv 2112.01518): class embeddings that are adapted to each image.

A transformer decoder lets the class embeddings attend to the image; their cosines with the CLIP's local
embeddings, the score map, guide a Semantic FPN that is trained on masks.  Differences from the official
code: learned contexts take any class names that fit the text tower (the release truncates its positions
to 13), images of any size are padded internally, the loss is the mean over the labeled pixels, stochastic
depth is not applied, and the class token of a ViT is added once.  ``OpenContextAwareSegmenter`` is our own
variant, whose width does not depend on the number of classes.
"""
