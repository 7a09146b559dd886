"""reverie: a replay engine for world models. This page lists the public names.

`from reverie import *` brings all but `open`, which would hide Python's own: write `reverie.open`.
"""

from reverie.batch import RowBatch, SequenceBatch, StepBatch
from reverie.buffer import ReplayBuffer, compact
from reverie.buffer import open as open
from reverie.compat import IRISOnPolicyBuffer, IRISReplayBuffer
from reverie.engine import RateLimit
from reverie.episode import Episode
from reverie.errors import (
    BadSetting,
    BufferClosed,
    BufferFull,
    FieldNotRead,
    FileError,
    FileMissing,
    FileTaken,
    NoAnswer,
    NotEnoughData,
    NoWeight,
    RateLimited,
    ReplayError,
    SpecMismatch,
    TooLarge,
    WrongProcess,
)
from reverie.index import KERNEL as kernel
from reverie.nstep import NStep, n_step
from reverie.samplers import (
    EpisodeUniform,
    Fresh,
    Mixture,
    Prioritized,
    Recent,
    Sampler,
    Shuffled,
    Uniform,
    VisitBalanced,
)
from reverie.spec import Field, StepSpec
from reverie.union import Union

__version__ = "0.1.0"

__all__ = [
    "BadSetting",
    "BufferClosed",
    "BufferFull",
    "Episode",
    "EpisodeUniform",
    "Field",
    "FieldNotRead",
    "FileError",
    "FileMissing",
    "FileTaken",
    "Fresh",
    "IRISOnPolicyBuffer",
    "IRISReplayBuffer",
    "Mixture",
    "NStep",
    "NoAnswer",
    "NoWeight",
    "NotEnoughData",
    "Prioritized",
    "RateLimit",
    "RateLimited",
    "Recent",
    "ReplayBuffer",
    "ReplayError",
    "RowBatch",
    "Sampler",
    "SequenceBatch",
    "Shuffled",
    "SpecMismatch",
    "StepBatch",
    "StepSpec",
    "TooLarge",
    "Uniform",
    "Union",
    "VisitBalanced",
    "WrongProcess",
    "__version__",
    "compact",
    "kernel",
    "n_step",
]  # "open" is public, too, but would hide Python's own
