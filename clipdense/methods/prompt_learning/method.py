"""Entry of prompt learning in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method

OWN_PARTS = {  # first parts of the names of learned tensors
    'ctx',
    'meta_net',
    'proj',
    'compound_prompts_text',
    'compound_prompt_projections',
    'own_image_prompts',
}
_FIXED = {'token_prefix', 'token_suffix'}  # in official files: embeddings of the classes of the training
_CLIP = {'image_encoder', 'text_encoder', 'logit_scale', 'dtype'}  # in official files of MaPLe
_BARE = {'tensor'}  # as ``weights.io`` calls a tensor that is all a file has: DetPro


def own_name(name: str) -> str:
    """A tensor name without the name of the learner in its model."""
    return name.removeprefix('prompt_learner.').removeprefix('learner.')


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of learned prompts: ours, CoOp's, CoCoOp's, MaPLe's or DetPro's."""
    parts = {own_name(key).split('.')[0] for key in keys}
    if parts == _BARE:
        return True
    return bool(parts & {'ctx', 'own_image_prompts'}) and parts <= OWN_PARTS | _FIXED | _CLIP


METHOD = Method(
    name='prompt_learning',
    task='classification',
    summary='learned context of class names (CoOp, CoCoOp, MaPLe), for classifiers, segmenters and detectors',
    learns_from='a few labeled images',
    paper='Zhou et al. 2022 (arXiv 2109.01134, 2203.05557), Khattak et al. 2023 (arXiv 2210.03117)',
    recognize=recognize,
    layout='prompts of CoOp, CoCoOp, MaPLe and DetPro',
    load='clipdense.methods.prompt_learning.checkpoint:refuse_as_weights',
    embedder='clipdense.methods.prompt_learning.embedder:from_file',
    starters={
        'coop': 'clipdense.methods.prompt_learning.starter:coop',
        'cocoop': 'clipdense.methods.prompt_learning.starter:cocoop',
        'maple': 'clipdense.methods.prompt_learning.starter:maple',
    },
    commands={
        'prompts': 'clipdense.methods.prompt_learning.commands:prompts',
        'region-features': 'clipdense.methods.prompt_learning.detpro_commands:region_features',
        'detpro': 'clipdense.methods.prompt_learning.detpro_commands:detpro',
    },
)
