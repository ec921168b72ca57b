"""The embedded model: a dual encoder whose weights come from installed Python packages.

An ImageNet classifier (EfficientNet-Lite2) and a sentence encoder (MiniLM) are joined without training, see
``clip.conse``.  It is small and works offline; published CLIPs are far more accurate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.utils.errors import CheckpointError
from clipdense.utils.files import digest
from clipdense.vocab.class_names import imagenet_names
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict
from clipdense.weights.zoo import Entry

from .model import CLIP, build_clip
from .preprocess import Preprocess
from .sizes import HF_TEXT_MODELS, ClipSize, HFTextSize, TimmSize
from .tokenizers import FolderTokenizer, TokenizerRules

TEMPLATE = 'a photo of a {}.'
CONTEXT_LENGTH = 128  # of the training of the sentence encoder
_VERSION = '1'  # to be changed with what is built here
_MODEL_TYPE, _OPTIONS = HF_TEXT_MODELS['sentence-transformers/all-MiniLM-L6-v2']
SIZE = ClipSize(
    TimmSize(
        'tf_efficientnet_lite2',
        image_size=260,
        embed_dim=384,
        projection='conse',
        options={'num_classes': 1000, 'output_stride': 16},  # the last stage dilated: finer maps
    ),
    HFTextSize(_MODEL_TYPE, 384, 'mean_pooler', 'centered', CONTEXT_LENGTH, _OPTIONS),
)


def identity(entry: Entry) -> str:
    """Digest of the parts and of how they are joined, for the name of the file in the cache."""
    return digest(_VERSION, *(part.sha256 for part in entry.parts.values()))


@torch.no_grad()
def build_embedded(entry: Entry) -> CLIP:
    """Join the two networks, in evaluation mode.

    Args:
        entry: of the zoo, with the parts 'image', 'text' and 'tokenizer'.

    Raises:
        InputError: a package is missing or of another version; or transformers is not installed.
        CheckpointError: tensors that do not match the networks.
    """
    files = {role: part.find() for role, part in entry.parts.items()}
    rules = TokenizerRules('none', 'bert')
    tokenizer = FolderTokenizer(files['tokenizer'].parent, SIZE.text, rules)
    clip = build_clip(SIZE, Preprocess.named('half', SIZE.image.image_size), tokenizer)
    trunk, encoder = clip.image.trunk, clip.text.transformer
    image = read_weights(files['image']).tensors
    load_strict(trunk, _in_order(image, trunk.state_dict(), entry.name), files['image'])
    text = read_weights(files['text']).tensors
    used = {
        name: x for name, x in text.items() if not name.startswith(('pooler.', 'embeddings.position_ids'))
    }
    load_strict(encoder, used, files['text'])

    clip.eval()
    prompts = [TEMPLATE.format(name) for name in imagenet_names()]
    unit = F.normalize(
        torch.cat([clip.text(tokenizer(batch)) for batch in _batches(prompts)]), dim=-1
    )  # (N, D)
    clip.text.proj.mean.copy_(unit.mean(dim=0))
    clip.image.head.conse.embeddings.copy_(unit - unit.mean(dim=0))
    return clip


def _in_order(tensors: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under the names of timm, whose modules are in the same order.

    Raises:
        CheckpointError: another number of tensors, or other shapes.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        import timm

        raise CheckpointError(
            f'{name}: the tensors of tf_efficientnet_lite2 in timm {timm.__version__} do not match the '
            'weights; install another release of timm, such as 1.0.31'
        )
    return dict(zip(expected, tensors.values(), strict=True))


def _batches(prompts: list[str], size: int = 100) -> list[list[str]]:
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]
