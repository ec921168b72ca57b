"""Training and testing on MMEngine: runner, loops, training steps, checkpoints, optimizer and hooks."""

from .checkpoint_hook import CheckpointHook
from .ema import EMAHook
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
from .parallel import DistributedModel, Parallel, run_pass, unwrapped
from .profiling import ProfileHook
from .resume import Position, ResumableSampler, random_state_kept
from .runner import Runner
from .train_step import cached_step, split_batch

__all__ = [
    'CheckpointHook',
    'DecayGroupsConstructor',
    'DistributedModel',
    'EMAHook',
    'EpochCosine',
    'EvaluationHook',
    'Parallel',
    'Position',
    'PrecisionOptimWrapper',
    'ProfileHook',
    'ProgressHook',
    'ResumableSampler',
    'Runner',
    'TrainLoop',
    'VocabularyHook',
    'WarmupCosine',
    'cached_step',
    'parameter_groups',
    'random_state_kept',
    'run_pass',
    'split_batch',
    'test',
    'train',
    'unwrapped',
]
