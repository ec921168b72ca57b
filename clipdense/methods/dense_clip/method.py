"""Entries of the training-free methods in the table of methods; they work on CLIP weights."""

from __future__ import annotations

from clipdense.methods import Method, Option

_RESIDUAL = 'keep the residual connection and the feed-forward of the last block'
_ANY = ('vit', 'resnet', 'timm')
_LAST_BLOCKS = 'number of last blocks that have a second path'


def _method(
    name: str,
    summary: str,
    paper: str,
    *options: Option,
    towers: tuple[str, ...] = ('vit', 'resnet'),
    no_graph: str = '',
) -> Method:
    return Method(
        name=name,
        task='segmentation',
        summary=summary,
        paper=paper,
        build='clipdense.methods.dense_clip.segmenter:build',
        graph=None if no_graph else 'clipdense.methods.dense_clip.graph:graph',
        no_graph=no_graph,
        tests={'masks': 'clipdense.evaluation.own_data:segmentation'},
        options=options,
        any_clip=True,
        towers=towers,
        default=name == 'maskclip',
    )


METHODS = (
    _method(
        'vanilla',
        'patch tokens of the unmodified last block',
        'Radford et al. 2021 (arXiv 2103.00020)',
        Option('residual', True, _RESIDUAL),
        towers=_ANY,
    ),
    _method(
        'maskclip',
        'each patch attends to itself only in the last block',
        'Zhou et al. 2022 (arXiv 2112.01071)',
        Option('residual', True, _RESIDUAL),
        towers=_ANY,
    ),
    _method(
        'maskclip_no_residual',
        'each patch attends to itself only, without residual and feed-forward',
        'Zhou et al. 2022 (arXiv 2112.01071), Lan et al. 2024 (arXiv 2407.12442)',
        towers=_ANY,
    ),
    _method(
        'maskclip_denoised',
        'maskclip with key smoothing and prompt denoising',
        'Zhou et al. 2022 (arXiv 2112.01071)',
        Option('residual', True, _RESIDUAL),
        Option(
            'ks_threshold',
            1.0,
            'probability below which a patch is averaged with patches of similar keys',
        ),
        Option('pd_threshold', 0.5, 'classes whose highest patch probability is lower are dropped'),
        Option('temperature', 100.0, 'factor on the cosines'),
        no_graph='it compares probabilities with 1.0, so that rounding decides; use maskclip',
    ),
    _method(
        'sclip',
        'query-query attention plus key-key attention',
        'Wang et al. 2024 (arXiv 2312.01597)',
        Option('residual', True, _RESIDUAL),
    ),
    _method(
        'clearclip',
        'query-query attention, without residual and feed-forward',
        'Lan et al. 2024 (arXiv 2407.12442)',
        Option('residual', False, _RESIDUAL),
    ),
    _method(
        'naclip',
        'key-key attention with a Gaussian of the patch distance',
        'Hajimiri et al. 2025 (arXiv 2404.08181)',
        Option('std', 5.0, 'standard deviation of the Gaussian in patches; None for no Gaussian'),
        Option('keys', True, 'use key-key similarity; otherwise the distance only'),
        Option('residual', False, _RESIDUAL),
    ),
    _method(
        'gem',
        'a second path of self-self attention parallel to the last blocks',
        'Bousselham et al. 2024 (arXiv 2312.00878)',
        Option('blocks', 6, _LAST_BLOCKS),
        Option('residual', True, _RESIDUAL),
        towers=('vit',),
    ),
    _method(
        'clip_surgery',
        'a second path of value-value attention; the mean over the classes is subtracted',
        'Li et al. 2023 (arXiv 2304.05653)',
        Option('blocks', 6, _LAST_BLOCKS),
        Option('temperature', 2.0, 'factor on the image-text cosines that weight the classes'),
    ),
    _method(
        'sc_clip',
        'outlier patches replaced, patches averaged with patches similar in the middle layers',
        'Bai et al. 2024 (arXiv 2411.15869)',
        Option('neighbours', 30, 'number of neighbors of the outlier score'),
        Option('outlier_share', 0.05, 'fraction of patches that are replaced'),
        Option('threshold', 0.4, 'minimum cosine of patches that are averaged'),
        Option('class_share', 0.3, 'factor on the class token that is added'),
        towers=('vit',),
        no_graph='its outliers are ranked by distances that tie, so that rounding decides',
    ),
    _method(
        'resclip',
        'attention of a base method mixed with that of the middle layers, refined in a second pass',
        'Yang et al. 2025 (arXiv 2411.15851)',
        Option('base', 'naclip', 'base method: sclip, clearclip or naclip'),
        Option('std', 5.0, 'standard deviation of the Gaussian in patches'),
        Option('cross', (0.3, 2.0), 'weight and scale of the attention of the middle layers'),
        Option('feedback', (0.7, 2.2), 'weight and scale of the first prediction in the second pass'),
        towers=('vit',),
    ),
    _method(
        'proxyclip',
        'attention from the features of a self-supervised backbone',
        'Lan et al. 2024 (arXiv 2408.04883)',
        Option('proxy', '', 'the backbone: a timm name (vit_base_patch8_224.dino), NAME=FILE, or FILE', True),
        Option('beta', 1.2, 'factor on the mean similarity that is subtracted'),
        Option('gamma', 3.0, 'factor on the similarities'),
    ),
)
