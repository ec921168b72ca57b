"""Training-free segmentation methods for CLIP, and MaskCLIP+.

Each function in ``functions`` cites its paper.  Differences from the released code:

* ProxyCLIP and SC-CLIP use the mean similarity of each image, not of the batch.  SC-CLIP supports batches and
  images that are not square; for deeper towers it uses the layers at the same relative depth.
* CLIPSurgery and GEM support images of any shape; CLIPSurgery's maps are not rescaled to 0 .. 1.
* MaskCLIP's keys are normalized over their width; if all classes are below the threshold, all are kept.
* ResCLIP computes its first prediction per patch, without PAMR or thresholds, and checks the complete line
  between two patches.
* PAMR, thresholds and sliding windows are implemented once for all segmenters (``tasks``), in chunks of
  classes, with the same result.
"""
