"""Files of learned prompts: ours, and those of CoOp, CoCoOp, MaPLe and DetPro.

K: classes, n: context tokens, C: width of the text tower.

Ours are safetensors with the learned tensors, the arguments of the learner, its last classes, and digests of
the towers that the prompts belong to.  Official files also have embeddings of the fixed tokens of the classes
they were trained on (``token_prefix``, ``token_suffix``): these are made anew from the class names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.checkpoint.layouts import LAYOUTS
from clipdense.clip.class_embeddings import module_digest
from clipdense.clip.model import CLIP
from clipdense.utils.errors import CheckpointError, InputError, refuse_unknown
from clipdense.utils.json_files import parse_json
from clipdense.weights.io import BARE, WeightsFile, read_weights, weights_digest, write_weights
from clipdense.weights.key_map import to_ours
from clipdense.weights.strict import first_names, load_strict

from .cocoop import CoCoOp
from .learner import CoOp, PromptLearner
from .maple import MaPLe
from .method import OWN_PARTS, own_name
from .texts import WithText, start_tokens, text_tower

FORMAT = 'clipdense prompts 1'
LEARNERS: dict[str, type[PromptLearner]] = {one.__name__: one for one in (CoOp, CoCoOp, MaPLe)}
_PLACES = re.compile(r'(?:^|_)ctp(end|middle|front)(?:_|$)')  # in the folders of the official program
_TOLERANCE = 2e-3  # of values that were rounded to half precision
_OFFICIAL_TOWERS = {'image_encoder.': 'visual.', 'text_encoder.': ''}


def save_prompts(learner: PromptLearner, path: str | Path) -> Path:
    """Write the learned tensors and what is needed to use them with the same CLIP.

    Args:
        learner: its current classes are recorded; class-specific contexts record theirs.
        path: a ``.safetensors`` file.

    Raises:
        InputError: another suffix, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix != '.safetensors':
        raise InputError(f'{path}: prompts are written as safetensors; use {path.stem}.safetensors')
    tensors = {name: x.detach() for name, x in learner.state_dict().items()}
    write_weights(path, tensors, {**describe(learner), 'sha256': weights_digest(tensors)})
    return path


def describe(learner: PromptLearner) -> dict[str, str]:
    """The metadata of prompts; in a training checkpoint they are ``meta['prompts']``."""
    return {
        'format': FORMAT,
        'learner': json.dumps({'type': type(learner).__name__, **learner.config}, ensure_ascii=False),
        'class_names': json.dumps(list(learner.class_names), ensure_ascii=False),
        'clip': json.dumps(_digests(learner)),
    }


def load_prompts(
    source: str | Path | WeightsFile,
    clip: WithText,
    position: str | None = None,
    class_names: Sequence[str] | None = None,
) -> PromptLearner:
    """The learner of a file of prompts, for the CLIP that they were learned for.

    Args:
        source: ours, a checkpoint of the training, or an official file of CoOp, CoCoOp, MaPLe or DetPro.
        clip: a CLIP; a ``FrozenText`` if only texts have prompts.
        position: of the context, 'end', 'middle' or 'front', for official files of CoOp, which do not record
            it.
        class_names: the K classes of an official file with class-specific contexts, in its order.

    Raises:
        CheckpointError: a file without prompts, a damaged one, or prompts of another CLIP.
        InputError: a setting that the file does not record, or one that it does.
    """
    file = source if isinstance(source, WeightsFile) else read_weights(source)
    meta = file.extra.get('meta')
    recorded = meta.get('prompts') if isinstance(meta, dict) else file.metadata
    if isinstance(recorded, dict) and recorded.get('format') == FORMAT:
        for name, value in (('position', position), ('class_names', class_names)):
            if value is not None:
                raise InputError(f'{file.path} is self-describing: remove {name}')
        return _load_ours(file, clip, recorded)
    return _load_official(file, clip, position, class_names)


def _load_ours(file: WeightsFile, clip: WithText, recorded: Mapping[str, Any]) -> PromptLearner:
    if file.kind == 'safetensors' and recorded.get('sha256') != weights_digest(file.tensors):
        raise CheckpointError(f'{file.path} is damaged: checksum mismatch')
    config, names, towers = (
        parse_json(str(recorded.get(key, '')), f'{key} in {file.path}')
        for key in ('learner', 'class_names', 'clip')
    )
    if not isinstance(config, dict) or not isinstance(names, list) or not isinstance(towers, dict):
        raise CheckpointError(f'{file.path} is damaged: its metadata are not those of prompts')
    config = dict(config)
    kind = config.pop('type', '')
    refuse_unknown([kind], LEARNERS, f'{file.path}: unknown kind of prompts')
    _check_towers(file, clip, towers)
    try:
        learner = LEARNERS[kind](clip, **config)
    except TypeError as error:
        raise CheckpointError(f'{file.path} describes an invalid {kind}: {error}') from error
    load_strict(learner, {own_name(name): x for name, x in file.tensors.items()}, file.path)
    if names and not config.get('class_names'):
        learner.set_classes(names)
    return learner


def _digests(learner: PromptLearner) -> dict[str, str]:
    """SHA-256 of the towers that the prompts belong to; '' for a tower in another precision than fp32."""
    towers = {'text': text_tower(learner.clip)}
    if isinstance(learner.clip, CLIP) and (learner.changes_images or learner.conditional):
        towers['image'] = learner.clip.image  # type: ignore[assignment]
    return {name: _digest(tower) for name, tower in towers.items()}


def _digest(tower: Any) -> str:
    return module_digest(tower) if next(tower.parameters()).dtype == torch.float32 else ''


def _check_towers(file: WeightsFile, clip: WithText, expected: Mapping[str, Any]) -> None:
    """Refuse another CLIP than the one of the file.

    Raises:
        CheckpointError: another CLIP, or one without the tower that the prompts are for.
    """
    for name, wanted in expected.items():
        tower = getattr(clip, name, None)
        if tower is None:
            raise CheckpointError(
                f'{file.path}: these prompts depend on the {name} tower of their CLIP, and the model has none'
            )
        found = _digest(tower)
        if found and wanted and found != wanted:
            raise CheckpointError(
                f'{file.path}: these prompts were learned for another CLIP: the digest of its {name} tower '
                f'is {str(wanted)[:12]}, that of the given weights {found[:12]}; give the weights that they '
                'were trained with'
            )


def _load_official(
    file: WeightsFile, clip: WithText, position: str | None, class_names: Sequence[str] | None
) -> PromptLearner:
    tensors = {own_name(name): x for name, x in file.tensors.items()}
    fixed, own = tensors.get('token_prefix'), _learned(tensors)
    if BARE in tensors:  # DetPro
        _check_context(file, clip, tensors[BARE])
        own, position = {'ctx': tensors[BARE]}, position or 'end'
    context = own.get('ctx')
    dims = (2,) if BARE in tensors else (2, 3)
    if context is None:
        raise CheckpointError(
            f'{file.path} is not a file of learned prompts: it has no ctx, but {first_names(file.tensors, 3)}'
        )
    if context.ndim not in dims or not context.is_floating_point():
        raise CheckpointError(
            f'{file.path} is not a file of learned prompts: its ctx is {tuple(context.shape)}, not (n, C) or '
            '(K, n, C)'
        )
    _check_width(file, clip, context, fixed)
    learner: PromptLearner
    plain = {name.split('.')[0] for name in own} == {'ctx'}
    if not plain and position not in (None, 'end'):
        raise InputError(f'{file.path}: only prompts of CoOp have a position, not these: remove position')
    if class_names and not (plain and context.ndim == 3):
        raise InputError(
            f'{file.path} has no context of its own for each class, and serves any class names: remove '
            'class_names'
        )
    if 'meta_net.linear1.weight' in own:
        learner = CoCoOp(clip, n_ctx=context.shape[0], init=None)
    elif 'proj.weight' in own:
        learner = _maple(file, clip, own, tensors)
    else:
        learner = _coop(file, clip, context, position, class_names)
    load_strict(learner, {name: x.float() for name, x in own.items()}, file.path)
    return learner


def _check_context(file: WeightsFile, clip: WithText, tensor: Tensor) -> None:
    """Refuse class embeddings, which DetPro writes beside each context.

    Raises:
        InputError: more rows than a text has tokens, or (1, K, D).
    """
    rows = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if rows.ndim == 2 and (rows is not tensor or len(rows) > clip.text.size.context_length):
        raise InputError(
            f'{file.path} has embeddings of {len(rows)} classes (DetPro), not prompts, and not the class '
            'names: write a file with them (`clipdense embed detpro`), or pass StoredEmbeddings(file, names)'
        )


def _learned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was learned, without embeddings of fixed tokens and without the CLIP."""
    return {name: x for name, x in tensors.items() if name.split('.')[0] in OWN_PARTS}


def _coop(
    file: WeightsFile,
    clip: WithText,
    context: Tensor,
    position: str | None,
    class_names: Sequence[str] | None,
) -> CoOp:
    found = [match[1] for part in file.path.resolve().parts for match in _PLACES.finditer(part)]
    position = position or (found[-1] if found else None)
    if position is None:
        raise InputError(
            f'{file.path} does not record where its context stands: pass position=... to load_prompts, or '
            "write a file that does, with `clipdense embed prompts FILE --position end` ('middle', 'front')"
        )
    specific = context.ndim == 3
    if specific and not class_names:
        raise InputError(
            f'{file.path} has a context for each of {len(context)} classes, and not their names: pass '
            'class_names to load_prompts, or write a file with them (`clipdense embed prompts`)'
        )
    if specific and len(class_names or ()) != len(context):
        raise InputError(
            f'{file.path} has contexts of {len(context)} classes, but {len(class_names or ())} names '
            'are given'
        )
    names = tuple(class_names or ()) if specific else ()
    return CoOp(clip, context.shape[-2], None, specific, position, names)  # type: ignore[arg-type]


def _maple(
    file: WeightsFile, clip: WithText, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> MaPLe:
    """The official program starts from "a photo of a" up to n = 4, of which it keeps what is not learned."""
    if not isinstance(clip, CLIP):
        raise CheckpointError(f'{file.path}: prompts of the image tower need a CLIP with an image tower')
    _check_same_clip(file, clip, tensors)
    n_ctx = own['ctx'].shape[0]
    depth = 1 + sum(name.startswith('compound_prompts_text.') for name in own)
    return MaPLe(clip, n_ctx, depth, 'a photo of a' if n_ctx <= 4 else None)


def _check_width(file: WeightsFile, clip: WithText, context: Tensor, fixed: Tensor | None) -> None:
    """Check by the width, and by the embedding of start-of-text in the file, that it belongs to the CLIP."""
    table = text_tower(clip).token_embed.weight
    if context.shape[-1] != table.shape[1]:
        raise CheckpointError(
            f'{file.path}: the prompts have width {context.shape[-1]}, the text tower {table.shape[1]}: they '
            'were learned for another CLIP'
        )
    if fixed is None or fixed.ndim != 3 or start_tokens(clip) != 1 or fixed.shape[-1] != table.shape[1]:
        return
    start = table[int(torch.as_tensor(clip.tokenizer(['a']))[0, 0])]
    if not torch.allclose(
        fixed[0, 0].float(), start.detach().float().cpu(), atol=_TOLERANCE, rtol=_TOLERANCE
    ):
        raise CheckpointError(
            f'{file.path}: these prompts were learned for another CLIP: its start-of-text token has another '
            'embedding; give the weights that they were trained with'
        )


def _check_same_clip(file: WeightsFile, clip: CLIP, tensors: Mapping[str, Tensor]) -> None:
    """Compare the CLIP in an official file of MaPLe with the one given.

    Raises:
        CheckpointError: they differ.
    """
    assert 'openclip_vit' in LAYOUTS  # registered by the import
    theirs = {
        prefix + name.removeprefix(start): x
        for name, x in tensors.items()
        for start, prefix in _OFFICIAL_TOWERS.items()
        if name.startswith(start)
    }
    ours, _ = to_ours(theirs, 'openclip_vit')
    known = clip.state_dict()
    different = [
        name
        for name, x in ours.items()
        if name not in known
        or known[name].shape != x.shape
        or not torch.allclose(x.float(), known[name].float().cpu(), atol=_TOLERANCE, rtol=_TOLERANCE)
    ]
    if different:
        raise CheckpointError(
            f'{file.path} was trained with another CLIP: {len(different)} of {len(ours)} tensors of the CLIP '
            f'in it differ from the given weights, such as {different[0]}; give the weights of the training'
        )


def refuse_as_weights(file: WeightsFile, **overrides: Any) -> Any:
    """Called where prompts are given as the weights of a model.

    Raises:
        InputError: always.
    """
    if BARE in file.tensors:
        raise InputError(
            f'{file.path} is one tensor {tuple(file.tensors[BARE].shape)}, not the weights of a model: if it '
            'is the context of learned prompts (DetPro), give it with --prompts (in Python embedder=...)'
        )
    raise InputError(
        f'{file.path} has learned prompts, not a model: give the weights of its CLIP, and the prompts with '
        '--prompts (in Python embedder=...)'
    )
