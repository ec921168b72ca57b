"""Images with pixel labels: PASCAL VOC folders, published datasets, few-shot folds, training crops."""
