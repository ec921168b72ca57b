"""Images with boxes: COCO, LVIS and PASCAL VOC, with the teacher's region embeddings beside them."""

from clipdense.mmcv_ops import install

install()  # before anything here imports mmdet
