"""Images with one label each: folders and torchvision datasets."""
