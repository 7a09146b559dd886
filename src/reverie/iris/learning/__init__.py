"""How it is trained: games, collecting, updates, runs."""

from reverie.iris.learning.collect import Collector, Played, evaluate, interval
from reverie.iris.learning.devices import usable_device
from reverie.iris.learning.folder import CHECKPOINT, kept_epochs, read_checkpoint
from reverie.iris.learning.games import games
from reverie.iris.learning.run import Metrics, Run
from reverie.iris.learning.train import (
    TOKENS,
    History,
    Progress,
    mirror_tokens,
    to_frames,
    train_actor_critic,
    train_tokenizer,
    train_world_model,
)

__all__ = [
    "CHECKPOINT",
    "TOKENS",
    "Collector",
    "History",
    "Metrics",
    "Played",
    "Progress",
    "Run",
    "evaluate",
    "games",
    "interval",
    "kept_epochs",
    "mirror_tokens",
    "read_checkpoint",
    "to_frames",
    "train_actor_critic",
    "train_tokenizer",
    "train_world_model",
    "usable_device",
]
