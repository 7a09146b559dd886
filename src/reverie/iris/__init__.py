"""The reference client: the whole of IRIS (Micheli, Alonso, Fleuret, ICLR 2023) on reverie's replay.

Its rooms are `config`, `models`, `learning` and `app`; each imports those before it. `bench` measures how fast it
trains. This door needs NumPy and PyTorch alone.
"""

from reverie.iris.config import (
    ActorCriticConfig,
    ActorCriticLoss,
    Collection,
    Config,
    Evaluation,
    Optimisation,
    Sampling,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
    presets,
)
from reverie.iris.learning import Collector, evaluate, train_actor_critic, train_tokenizer, train_world_model
from reverie.iris.models import (
    ActorCritic,
    Agent,
    Imagination,
    Imagine,
    Rollout,
    Tokenizer,
    WorldModel,
    lambda_returns,
)

__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "ActorCriticLoss",
    "Agent",
    "Collection",
    "Collector",
    "Config",
    "Evaluation",
    "Imagination",
    "Imagine",
    "Optimisation",
    "Rollout",
    "Sampling",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerLoss",
    "WorldModel",
    "WorldModelConfig",
    "evaluate",
    "lambda_returns",
    "presets",
    "train_actor_critic",
    "train_tokenizer",
    "train_world_model",
]
