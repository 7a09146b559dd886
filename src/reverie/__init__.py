"""reverie: a replay engine for world models. This page lists the public names."""

from reverie.batch import SequenceBatch, StepBatch
from reverie.buffer import ReplayBuffer
from reverie.compat import IRISOnPolicyBuffer, IRISReplayBuffer
from reverie.errors import (
    BadSetting,
    BufferClosed,
    BufferFull,
    NotEnoughData,
    ReplayError,
    SpecMismatch,
    TooLarge,
)
from reverie.spec import Field, StepSpec

__version__ = "0.1.0"

__all__ = [
    "BadSetting",
    "BufferClosed",
    "BufferFull",
    "Field",
    "IRISOnPolicyBuffer",
    "IRISReplayBuffer",
    "NotEnoughData",
    "ReplayBuffer",
    "ReplayError",
    "SequenceBatch",
    "SpecMismatch",
    "StepBatch",
    "StepSpec",
    "TooLarge",
    "__version__",
]
