"""Detection datasets: COCO, LVIS and PASCAL VOC, with optional region embeddings of a teacher."""

from clipdense.mmcv_ops import install

install()  # before any import of mmdet
