"""Average precision of boxes and masks: COCO, OV-COCO, LVIS and PASCAL VOC."""
