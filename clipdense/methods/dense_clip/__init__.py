"""Training-free dense CLIP: what patches say when they are asked like the class token; and MaskCLIP+.

Each function in ``recipes`` names its paper.  What differs from the released codes:

* ProxyCLIP and SC-CLIP take the mean similarity of each image, not of the batch; SC-CLIP works on batches,
  on images that are not square, and takes the layers of deeper towers at the same depth.
* CLIPSurgery and GEM take images of any shape; CLIPSurgery's maps are not stretched from 0 to 1.
* MaskCLIP's keys are normalized over their width; an image of which no class is sure keeps all classes.
* ResCLIP takes its first answer patch by patch, without PAMR or threshold, and checks the whole line between
  two patches.
* PAMR, thresholds and sliding windows are every segmenter's (``tasks``), in chunks of classes, with the same
  result.
"""
