"""How good is a model?  Evaluations take a CLIP and return numbers; metrics belong to MMEngine's test loop.

Importing it registers everything, so that configs may use names.
"""

from . import classification, mean_iou, retrieval

__all__ = ['classification', 'mean_iou', 'retrieval']
