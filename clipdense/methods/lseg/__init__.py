"""LSeg (Li et al., arXiv 2201.03546): pixel embeddings compared with class embeddings.

A DPT decoder (Ranftl et al., arXiv 2103.13413) turns four stages of an image network into a map of pixel
embeddings; the logit of a class is the cosine with its text embedding, which CLIP's frozen text tower makes.
Differences from the official code: class names are embedded once per vocabulary instead of at each step, the
pixel map can be reused for several vocabularies, large vocabularies are processed in chunks, and images of
any size are padded internally.  Unused parameters of the official code are not created.
"""
