"""Open-vocabulary dense prediction on CLIP.

Names are imported when they are first used, so that ``import clipdense`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.utils.lazy import lazy_names

__version__ = '0.1.0'

_HOMES = {
    'export': 'clipdense.inference.export.write',
    'ExportOptions': 'clipdense.inference.export.options',
    'load': 'clipdense.inference.load',
    'create_model': 'clipdense.clip.factory',
    'get_tokenizer': 'clipdense.clip.factory',
    'list_models': 'clipdense.clip.listing',
    'list_methods': 'clipdense.methods',
    'Vocabulary': 'clipdense.vocab.vocabulary',
    'SegmentationOptions': 'clipdense.tasks.options',
    'DetectionRules': 'clipdense.tasks.detection',
    'AnswerRules': 'clipdense.tasks.answering',
    'Answerer': 'clipdense.inference.answerer',
    'CaptionRules': 'clipdense.tasks.captioning',
    'Captioner': 'clipdense.inference.captioner',
    'Classifier': 'clipdense.inference.classifier',
    'Detector': 'clipdense.inference.detector',
    'Segmenter': 'clipdense.inference.segmenter',
    'ImageIndex': 'clipdense.inference.image_index',
    'search': 'clipdense.inference.image_index',
    'segment': 'clipdense.inference.once',
    'classify': 'clipdense.inference.once',
    'detect': 'clipdense.inference.once',
    'LiveFrames': 'clipdense.utils.live',
}

__all__ = [
    'AnswerRules',
    'Answerer',
    'CaptionRules',
    'Captioner',
    'Classifier',
    'DetectionRules',
    'Detector',
    'ExportOptions',
    'ImageIndex',
    'LiveFrames',
    'SegmentationOptions',
    'Segmenter',
    'Vocabulary',
    '__version__',
    'classify',
    'create_model',
    'detect',
    'export',
    'get_tokenizer',
    'list_methods',
    'list_models',
    'load',
    'search',
    'segment',
]

if TYPE_CHECKING:
    from clipdense.clip.factory import create_model, get_tokenizer
    from clipdense.clip.listing import list_models
    from clipdense.inference.answerer import Answerer
    from clipdense.inference.captioner import Captioner
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.detector import Detector
    from clipdense.inference.export.options import ExportOptions
    from clipdense.inference.export.write import export
    from clipdense.inference.image_index import ImageIndex, search
    from clipdense.inference.load import load
    from clipdense.inference.once import classify, detect, segment
    from clipdense.inference.segmenter import Segmenter
    from clipdense.methods import list_methods
    from clipdense.tasks.answering import AnswerRules
    from clipdense.tasks.captioning import CaptionRules
    from clipdense.tasks.detection import DetectionRules
    from clipdense.tasks.options import SegmentationOptions
    from clipdense.utils.live import LiveFrames
    from clipdense.vocab.vocabulary import Vocabulary


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
