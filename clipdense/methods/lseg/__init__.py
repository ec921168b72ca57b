"""LSeg (Li et al., arXiv 2201.03546): every pixel gets an embedding that is compared with embedded words.

A DPT decoder (Ranftl et al., arXiv 2103.13413) turns four stages of an image network into a map of pixel
embeddings; the logit of a class is the cosine with its text embedding, which CLIP's frozen text tower makes.
Ours differs from the release in what it costs: words are embedded once a vocabulary instead of at every step,
the pixel map is kept for any number of vocabularies, large ones go through in chunks, and images of any
size are padded inside.  Parameters that the release has and never uses are not made.
"""
