"""Training and testing on MMEngine: runner, loops, training steps, checkpoints, optimizer and hooks."""

from .checkpointing import CheckpointHook
from .hooks import EvaluationHook, ProgressHook, VocabularyHook
from .launch import test, train
from .loops import TrainLoop
from .optimizer import (
    DecayGroupsConstructor,
    EpochCosine,
    PrecisionOptimWrapper,
    WarmupCosine,
    parameter_groups,
)
from .resume import Position, ResumableSampler, random_state_kept
from .runner import Runner
from .train_step import DistributedModel, average_gradients, cached_step, split_batch, unwrapped

__all__ = [
    'CheckpointHook',
    'DecayGroupsConstructor',
    'DistributedModel',
    'EpochCosine',
    'EvaluationHook',
    'Position',
    'PrecisionOptimWrapper',
    'ProgressHook',
    'ResumableSampler',
    'Runner',
    'TrainLoop',
    'VocabularyHook',
    'WarmupCosine',
    'average_gradients',
    'cached_step',
    'parameter_groups',
    'random_state_kept',
    'split_batch',
    'test',
    'train',
    'unwrapped',
]
