"""Learning: real games fill a replay, the models train on batches of it, and a run keeps all of that in a folder.

The trainings are generators that yield after each update. A run survives being killed: its folder always holds a
whole checkpoint, and it goes on as if nothing had happened. Nothing here prints or draws; a run reports to whoever
watches it.
"""

from reverie.iris.learning.collect import Collector, Played, evaluate, interval
from reverie.iris.learning.folder import CHECKPOINT, kept_epochs, read_checkpoint
from reverie.iris.learning.games import Games, Lane, games
from reverie.iris.learning.learner import Metrics
from reverie.iris.learning.players import Team, team_of
from reverie.iris.learning.run import SHARDS, Run
from reverie.iris.learning.tokens import TOKENS, mirror_tokens
from reverie.iris.learning.train import (
    History,
    Progress,
    to_frames,
    train_actor_critic,
    train_tokenizer,
    train_world_model,
)

__all__ = [
    "CHECKPOINT",
    "SHARDS",
    "TOKENS",
    "Collector",
    "Games",
    "History",
    "Lane",
    "Metrics",
    "Played",
    "Progress",
    "Run",
    "Team",
    "evaluate",
    "games",
    "interval",
    "kept_epochs",
    "mirror_tokens",
    "read_checkpoint",
    "team_of",
    "to_frames",
    "train_actor_critic",
    "train_tokenizer",
    "train_world_model",
]
