"""The reference client: IRIS (Micheli, Alonso, Fleuret, ICLR 2023), whole, on reverie's replay."""

from reverie.iris.actor_critic import ActorCritic, lambda_returns
from reverie.iris.agent import Agent, Rollout
from reverie.iris.collect import Collector, evaluate
from reverie.iris.config import (
    ActorCriticConfig,
    ActorCriticLoss,
    Optimisation,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
)
from reverie.iris.graphs import Imagine
from reverie.iris.imagination import Imagination
from reverie.iris.settings import Collection, Config, Evaluation, Sampling, presets
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.train import train_actor_critic, train_tokenizer, train_world_model
from reverie.iris.world_model import WorldModel

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
