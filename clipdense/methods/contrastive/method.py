"""Entry of contrastive pre-training in the table of methods."""

from clipdense.methods import Method

METHOD = Method(
    name='contrastive',
    task='pre-training',
    summary='CLIP and SigLIP from image-text pairs; phrases on patches as an option',
    scorers={'clip': 'clipdense.methods.contrastive.scoring:clip_scorer'},
    starters={'clip': 'clipdense.methods.contrastive.starter:clip'},
    tests={
        'captions': 'clipdense.evaluation.own_data:retrieval',
        'images': 'clipdense.evaluation.own_data:classification',
    },
    learns_from='captions',
    paper='Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343)',
)
