"""Table of the sizes of published CLIP models.

Names are those of open_clip.  Head counts are written out because weights do not record them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from clipdense.utils.errors import InputError

Activation = Literal['quick_gelu', 'gelu', 'gelu_tanh']


@dataclass(frozen=True)
class VitSize:
    """An image transformer; ``flavour`` names a row of ``flavours.VIT_FLAVOURS``."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    num_heads: int
    mlp_width: int
    embed_dim: int
    activation: Activation = 'quick_gelu'
    flavour: Literal['openai', 'slip', 'siglip', 'clipa', 'coca'] = 'openai'


@dataclass(frozen=True)
class ResNetSize:
    """OpenAI's ModifiedResNet; ``width`` is that of the stem; features have 32 times that width."""

    image_size: int
    width: int
    layers: tuple[int, int, int, int]
    num_heads: int
    embed_dim: int


@dataclass(frozen=True)
class TimmSize:
    """An image tower of timm with the pooling and projection of open_clip.

    Args:
        model: architecture, a name of timm.
        image_size: side of the images, in pixels.
        embed_dim: D.
        pool: 'avg', 'token', 'map', or '' for the pooling of the architecture.
        projection: 'linear', 'mlp', 'none', None for the classifier of the architecture, or 'conse' for that
            classifier followed by ``conse.ConvexCombination``; ``options['num_classes']`` is its width.
        projection_bias: of the last layer of 'linear' and 'mlp'.
        options: further arguments of ``timm.create_model``, such as ``depth``.
    """

    model: str
    image_size: int
    embed_dim: int
    pool: str = ''
    projection: Literal['linear', 'mlp', 'none', 'conse'] | None = None
    projection_bias: bool = False
    options: dict[str, Any] = field(default_factory=dict)


ImageSize = VitSize | ResNetSize | TimmSize


@dataclass(frozen=True)
class TextSize:
    """A text transformer; ``flavour`` names a row of ``flavours.TEXT_FLAVOURS``.

    The end-of-text token is the first with ``eos_token_id``, or where this is None the first with the largest
    id of the text (OpenAI).

    Raises:
        ValueError: ``eos_token_id`` is not an id of the vocabulary.
    """

    width: int
    layers: int
    num_heads: int
    mlp_width: int
    embed_dim: int
    vocab_size: int = 49408
    context_length: int = 77
    activation: Activation = 'quick_gelu'
    flavour: Literal['openai', 'mobileclip', 'clipa', 'siglip', 'siglip_plain', 'coca', 'glip'] = 'openai'
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        eos = self.eos_token_id
        if eos is not None and not (isinstance(eos, int) and 0 <= eos < self.vocab_size):
            raise ValueError(f'eos_token_id={eos!r} is not an id of the vocabulary of {self.vocab_size}')


@dataclass(frozen=True)
class HFTextSize:
    """A text encoder of Hugging Face's transformers with the pooling and projection of open_clip.

    Args:
        model_type: of transformers: 'roberta', 'xlm-roberta', 'm2m_100' (the encoder of NLLB), 'bert'.
        embed_dim: D.
        pooler: 'mean_pooler', 'cls_pooler' or 'cls_last_hidden_state_pooler'.
        projection: 'linear', 'mlp', 'centered' (``conse.Centered``) or None.
        context_length: L.
        options: arguments of the config of transformers, such as ``hidden_size``.
    """

    model_type: str
    embed_dim: int
    pooler: str
    projection: Literal['linear', 'mlp', 'centered'] | None = None
    context_length: int = 77
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """C."""
        return self.options.get('d_model') or self.options['hidden_size']

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.options.get('encoder_layers') or self.options['num_hidden_layers']

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.options['vocab_size']


AnyTextSize = TextSize | HFTextSize


def _bert(vocab_size: int, width: int = 768, layers: int = 12, **options: Any) -> dict[str, Any]:
    return {
        'vocab_size': vocab_size,
        'hidden_size': width,
        'num_hidden_layers': layers,
        'num_attention_heads': width // 64,
        'intermediate_size': 4 * width,
        **options,
    }


def _roberta(vocab_size: int, width: int = 768, layers: int = 12) -> dict[str, Any]:
    special = {'pad_token_id': 1, 'bos_token_id': 0, 'eos_token_id': 2}
    positions = {'max_position_embeddings': 514, 'type_vocab_size': 1}
    return _bert(vocab_size, width, layers, layer_norm_eps=1e-5, **positions, **special)


def _nllb(layers: int, mlp_width: int) -> dict[str, Any]:
    """The encoder; transformers builds a decoder with it, which is dropped."""
    return {
        'vocab_size': 256206,
        'd_model': 1024,
        'encoder_layers': layers,
        'encoder_attention_heads': 16,
        'encoder_ffn_dim': mlp_width,
        'decoder_layers': 1,
        'max_position_embeddings': 1024,
        'scale_embedding': True,
        'pad_token_id': 1,
    }


# Text encoders of published CLIPs: model type of transformers, and what its config says.
HF_TEXT_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    'roberta-base': ('roberta', _roberta(50265)),
    'xlm-roberta-base': ('xlm-roberta', _roberta(250002)),
    'xlm-roberta-large': ('xlm-roberta', _roberta(250002, 1024, 24)),
    'facebook/nllb-200-distilled-600M': ('m2m_100', _nllb(12, 4096)),
    'facebook/nllb-200-distilled-1.3B': ('m2m_100', _nllb(24, 8192)),
    'bert-base-uncased': ('bert', _bert(30522)),
    'sentence-transformers/all-MiniLM-L6-v2': ('bert', _bert(30522, 384, 6, num_attention_heads=12)),
}


@dataclass(frozen=True)
class ClipSize:
    """Both towers, with the same ``embed_dim``.

    Raises:
        ValueError: towers of different ``embed_dim``.
    """

    image: ImageSize
    text: AnyTextSize
    logit_bias: bool = False

    def __post_init__(self) -> None:
        if self.image.embed_dim != self.text.embed_dim:
            raise ValueError(
                f'the towers have different embed_dim: image {self.image.embed_dim}, '
                f'text {self.text.embed_dim}'
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipSize:
        """The inverse of ``to_dict``; towers may also be given as their dataclasses."""
        image, text = values['image'], values['text']
        if isinstance(image, dict):
            image = image_size_of(image)
        if isinstance(text, dict):
            text = text_size_of(text)
        return cls(image, text, values.get('logit_bias', False))

    def with_activation(self, activation: Activation) -> ClipSize:
        """The same size with another activation (except in towers whose architecture has its own)."""
        image = self.image
        if isinstance(image, VitSize):
            image = replace(image, activation=activation)
        text = self.text
        if isinstance(text, TextSize):
            text = replace(text, activation=activation)
        return replace(self, image=image, text=text)


def _check_numbers(values: dict[str, Any], tower: str) -> None:
    kinds = (VitSize, ResNetSize, TextSize)
    whole = {one.name for kind in kinds for one in fields(kind) if one.type == 'int'}
    for name, value in values.items():
        if name in whole and isinstance(value, str):
            raise InputError(f'{name} of the {tower} tower must be a whole number, got {value!r:.60}')


def text_size_of(values: dict[str, Any]) -> AnyTextSize:
    """A text tower's size from its dict."""
    _check_numbers(values, 'text')
    return HFTextSize(**values) if 'model_type' in values else TextSize(**values)


def image_size_of(values: dict[str, Any]) -> ImageSize:
    """An image tower's size from its dict; each kind has a field that the others lack."""
    _check_numbers(values, 'image')
    if 'model' in values:
        return TimmSize(**values)
    if isinstance(values['layers'], int):
        return VitSize(**values)
    return ResNetSize(**{**values, 'layers': tuple(values['layers'])})


def vit(
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    embed_dim: int,
    *,
    text_width: int = 512,
    head_width: int = 64,
    mlp_width: int | None = None,
    text_layers: int = 12,
) -> ClipSize:
    """A CLIP of OpenAI's flavour with exact GELU; MLPs are four times as wide as their tower by default."""
    image = VitSize(
        image_size,
        patch_size,
        width,
        layers,
        width // head_width,
        mlp_width or 4 * width,
        embed_dim,
        activation='gelu',
    )
    return ClipSize(image, _text(text_width, text_layers, embed_dim, 'gelu'))


def resnet(
    image_size: int, width: int, layers: tuple[int, int, int, int], embed_dim: int, text_width: int = 512
) -> ClipSize:
    """A CLIP with a ModifiedResNet; the text tower has exact GELU."""
    image = ResNetSize(image_size, width, layers, width // 2, embed_dim)
    return ClipSize(image, _text(text_width, 12, embed_dim, 'gelu'))


def _text(width: int, layers: int, embed_dim: int, activation: Activation) -> TextSize:
    return TextSize(width, layers, width // 64, 4 * width, embed_dim, activation=activation)


def _slip(width: int, layers: int, num_heads: int) -> ClipSize:
    """Mu et al., SLIP (arXiv 2112.12750): timm towers with exact GELU, OpenAI's text tower."""
    image = VitSize(224, 16, width, layers, num_heads, 4 * width, 512, 'gelu', 'slip')
    return ClipSize(image, _text(512, 12, 512, 'quick_gelu'))


def _siglip(
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    *,
    num_heads: int | None = None,
    mlp_width: int | None = None,
    context_length: int = 64,
) -> ClipSize:
    """Zhai et al., Sigmoid Loss for Language Image Pre-Training (arXiv 2303.15343).

    Exact GELU, as open_clip uses for these weights; configs of Hugging Face specify 'gelu_tanh'.
    """
    num_heads, mlp_width = num_heads or width // 64, mlp_width or 4 * width
    image = VitSize(image_size, patch_size, width, layers, num_heads, mlp_width, width, 'gelu', 'siglip')
    text_layers = 27 if width == 1152 else layers if width == 1024 else 12
    text = TextSize(width, text_layers, num_heads, mlp_width, width, 32000, context_length, 'gelu', 'siglip')
    return ClipSize(image, text, logit_bias=True)


_GELU = {
    'RN50': resnet(224, 64, (3, 4, 6, 3), 1024),
    'RN101': resnet(224, 64, (3, 4, 23, 3), 512),
    'RN50x4': resnet(288, 80, (4, 6, 10, 6), 640, text_width=640),
    'RN50x16': resnet(384, 96, (6, 8, 18, 8), 768, text_width=768),
    'RN50x64': resnet(448, 128, (3, 15, 36, 10), 1024, text_width=1024),
    'ViT-B-32': vit(224, 32, 768, 12, 512),
    'ViT-B-32-256': vit(256, 32, 768, 12, 512),
    'ViT-B-16': vit(224, 16, 768, 12, 512),
    'ViT-B-16-plus-240': vit(240, 16, 896, 12, 640, text_width=640),
    'ViT-L-14': vit(224, 14, 1024, 24, 768, text_width=768),
    'ViT-L-14-336': vit(336, 14, 1024, 24, 768, text_width=768),
    'ViT-L-16': vit(224, 16, 1024, 24, 768, text_width=768),
    'ViT-H-14': vit(224, 14, 1280, 32, 1024, text_width=1024, head_width=80, text_layers=24),
    'ViT-H-14-378': vit(378, 14, 1280, 32, 1024, text_width=1024, head_width=80, text_layers=24),
    'ViT-g-14': vit(224, 14, 1408, 40, 1024, text_width=1024, head_width=88, mlp_width=6144, text_layers=24),
    'ViT-bigG-14': vit(
        224, 14, 1664, 48, 1280, text_width=1280, head_width=104, mlp_width=8192, text_layers=32
    ),
}

PUBLISHED: dict[str, ClipSize] = {
    **_GELU,
    **{f'{name}-quickgelu': size.with_activation('quick_gelu') for name, size in _GELU.items()},
    'ViT-S-16-SLIP': _slip(384, 12, 12),
    'ViT-B-16-SLIP': _slip(768, 12, 12),
    'ViT-L-16-SLIP': _slip(1024, 24, 16),
    'ViT-B-16-SigLIP': _siglip(224, 16, 768, 12),
    'ViT-B-16-SigLIP-256': _siglip(256, 16, 768, 12),
    'ViT-B-16-SigLIP-384': _siglip(384, 16, 768, 12),
    'ViT-B-16-SigLIP-512': _siglip(512, 16, 768, 12),
    'ViT-L-16-SigLIP-256': _siglip(256, 16, 1024, 24),
    'ViT-L-16-SigLIP-384': _siglip(384, 16, 1024, 24),
    'ViT-SO400M-14-SigLIP': _siglip(224, 14, 1152, 27, num_heads=16, mlp_width=4304, context_length=16),
    'ViT-SO400M-14-SigLIP-384': _siglip(384, 14, 1152, 27, num_heads=16, mlp_width=4304),
}
