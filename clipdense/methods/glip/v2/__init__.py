"""GLIPv2: a GLIP that is trained with further objectives, of which some do more than find boxes.

Zhang et al., NeurIPS 2022 (arXiv 2206.05836); facts checked against the parts of it in microsoft/GLIP.
"""
