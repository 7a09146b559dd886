"""What is trained: tokenizer, world model, actor-critic, and their dreams."""

from reverie.iris.models.actor_critic import (
    ActorCritic,
    ActorCriticLosses,
    Memory,
    actor_critic_losses,
    lambda_returns,
)
from reverie.iris.models.agent import Agent, Rollout
from reverie.iris.models.chance import draw
from reverie.iris.models.graphs import Imagine
from reverie.iris.models.imagination import Imagination
from reverie.iris.models.tokenizer import Perceptual, Tokenizer, TokenizerLosses, tokenizer_losses
from reverie.iris.models.world_model import WorldModel, WorldModelLosses

__all__ = [
    "ActorCritic",
    "ActorCriticLosses",
    "Agent",
    "Imagination",
    "Imagine",
    "Memory",
    "Perceptual",
    "Rollout",
    "Tokenizer",
    "TokenizerLosses",
    "WorldModel",
    "WorldModelLosses",
    "actor_critic_losses",
    "draw",
    "lambda_returns",
    "tokenizer_losses",
]
