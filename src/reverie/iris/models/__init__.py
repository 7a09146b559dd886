"""Models: tokenizer, world model and actor-critic, the agent that they make up, and the games that it imagines.

Frames are float32 in 0..1, shaped (…, C, H, W). Each model has a function of losses; nothing here updates weights or
knows of a replay. Imagining never waits for the device, and `Imagine` can replay it as one CUDA graph. The names
of the weights are written down in `docs/iris.md`.
"""

from reverie.iris.models.actor_critic import (
    ActorCritic,
    ActorCriticLosses,
    Memory,
    actor_critic_losses,
    lambda_returns,
    lessons_of,
)
from reverie.iris.models.agent import Agent, Imagine, Rollout
from reverie.iris.models.device import usable_device
from reverie.iris.models.imagination import Imagination, draw
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
    "lessons_of",
    "tokenizer_losses",
    "usable_device",
]
