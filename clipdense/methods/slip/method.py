"""Entry of SLIP in the table of methods."""

from clipdense.methods import Method

METHOD = Method(
    name='slip',
    task='pre-training',
    summary='CLIP together with self-supervision of its image tower',
    starters={'slip': 'clipdense.methods.slip.starter:slip'},
    learns_from='captions',
    paper='Mu et al. 2021 (arXiv 2112.12750)',
)
