"""The training-free methods, as the table of methods has them; they work on any CLIP."""

from __future__ import annotations

from clipdense.methods import Method, Option

_RESIDUAL = 'keep the residual and feed-forward of the last block'
_LAST_BLOCKS = 'how many of the last blocks have a second path'


def _method(name: str, summary: str, paper: str, *options: Option) -> Method:
    return Method(
        name=name,
        task='segmentation',
        summary=summary,
        paper=paper,
        build='clipdense.methods.dense_clip.segmenter:build',
        options=options,
        any_clip=True,
        default=name == 'maskclip',
    )


METHODS = (
    _method(
        'vanilla',
        'the patch tokens as the last block was trained',
        'Radford et al. 2021 (arXiv 2103.00020)',
        Option('residual', True, _RESIDUAL),
    ),
    _method(
        'maskclip',
        'each patch attends to itself alone in the last block',
        'Zhou et al. 2022 (arXiv 2112.01071)',
        Option('residual', True, _RESIDUAL),
    ),
    _method(
        'maskclip_no_residual',
        'each patch attends to itself alone, without residual and feed-forward',
        'Zhou et al. 2022 (arXiv 2112.01071), Lan et al. 2024 (arXiv 2407.12442)',
    ),
    _method(
        'maskclip_denoised',
        'maskclip with key smoothing and prompt denoising',
        'Zhou et al. 2022 (arXiv 2112.01071)',
        Option('residual', True, _RESIDUAL),
        Option(
            'ks_threshold',
            1.0,
            'probability below which a patch averages those with similar keys',
        ),
        Option('pd_threshold', 0.5, 'probability that a class must reach in some patch, or it is dropped'),
        Option('temperature', 100.0, 'factor on the cosines'),
    ),
    _method(
        'sclip',
        'attention of queries to queries plus keys to keys',
        'Wang et al. 2024 (arXiv 2312.01597)',
        Option('residual', True, _RESIDUAL),
    ),
    _method(
        'clearclip',
        'attention of queries to queries, without residual and feed-forward',
        'Lan et al. 2024 (arXiv 2407.12442)',
        Option('residual', False, _RESIDUAL),
    ),
    _method(
        'naclip',
        'attention of keys to keys, weighted by a Gaussian of the distance',
        'Hajimiri et al. 2025 (arXiv 2404.08181)',
        Option('std', 5.0, 'standard deviation of the Gaussian in patches; None for no Gaussian'),
        Option('keys', True, 'compare keys; otherwise the distance alone counts'),
        Option('residual', False, _RESIDUAL),
    ),
    _method(
        'gem',
        'a second path of self-self attention beside the last blocks',
        'Bousselham et al. 2024 (arXiv 2312.00878)',
        Option('blocks', 6, _LAST_BLOCKS),
        Option('residual', True, _RESIDUAL),
    ),
    _method(
        'clip_surgery',
        'a second path of value-value attention, and what all classes share subtracted',
        'Li et al. 2023 (arXiv 2304.05653)',
        Option('blocks', 6, _LAST_BLOCKS),
        Option('temperature', 2.0, 'of the weights of the classes'),
    ),
    _method(
        'sc_clip',
        'outlier patches repaired, patches averaged with similar ones of the middle layers',
        'Bai et al. 2024 (arXiv 2411.15869)',
        Option('neighbours', 30, 'neighbors that the outlier score looks at'),
        Option('outlier_share', 0.05, 'share of patches that are repaired'),
        Option('threshold', 0.4, 'cosine from which patches are averaged'),
        Option('class_share', 0.3, 'share of the class token that is added'),
    ),
    _method(
        'resclip',
        'attention of another method mixed with that of the middle layers, then a second round',
        'Yang et al. 2025 (arXiv 2411.15851)',
        Option('base', 'naclip', 'the other method: sclip, clearclip or naclip'),
        Option('std', 5.0, 'standard deviation of the Gaussian in patches'),
        Option('cross', (0.3, 2.0), 'share and gain of the attention of the middle layers'),
        Option('feedback', (0.7, 2.2), 'share and gain of the first answer'),
    ),
    _method(
        'proxyclip',
        'attention from the features of a self-supervised backbone',
        'Lan et al. 2024 (arXiv 2408.04883)',
        Option('proxy', '', 'the backbone: a timm name (vit_base_patch8_224.dino), NAME=FILE, or FILE'),
        Option('beta', 1.2, 'times the mean similarity, which is subtracted'),
        Option('gamma', 3.0, 'factor on the similarities'),
    ),
)
