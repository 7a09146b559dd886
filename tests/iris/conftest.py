"""Settings for the tests of IRIS: one thread, and models small enough to train in seconds."""

from __future__ import annotations

import pytest
import torch

from reverie.iris.config import (
    ActorCriticConfig,
    ActorCriticLoss,
    Collection,
    Config,
    Evaluation,
    Optimisation,
    TokenizerConfig,
    WorldModelConfig,
)
from reverie.iris.models.agent import Agent
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import WorldModel

ACTIONS = 3


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def config() -> Config:
    """Frames of 16×16 with 2×2 tokens out of 32, six blocks of context, an LSTM of 16 numbers."""
    return Config(
        tokenizer=TokenizerConfig(
            frame=(3, 16, 16), patch=4, channels=32, levels=2, res_blocks=1, attention_at=(2,),
            codebook_size=32, token_dim=16,
        ),
        tokenizer_training=Optimisation(steps=3, batch_size=8, start_after=1),
        world_model=WorldModelConfig(blocks=6, layers=2, heads=2, width=32, dropout=0.1),
        world_model_training=Optimisation(steps=3, batch_size=4, start_after=1, weight_decay=0.01),
        actor_critic=ActorCriticConfig(channels=(4, 8), strides=(4, 2), width=16),
        actor_critic_loss=ActorCriticLoss(horizon=4, burn_in=3),
        actor_critic_training=Optimisation(steps=3, batch_size=4, start_after=2),
        collection=Collection(environments=2, steps=20, capacity=200),
        evaluation=Evaluation(every=2, episodes=3, environments=2),
        epochs=4,
    )  # fmt: skip


@pytest.fixture
def agent(config: Config) -> Agent:
    """An agent of that configuration, with opinions far from those of a fresh one."""
    agent = Agent(config, ACTIONS)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent.eval()


@pytest.fixture
def tokenizer(config: Config) -> Tokenizer:
    """A tokenizer of 16×16 frames with 2×2 tokens out of 32."""
    return Tokenizer(config.tokenizer)


@pytest.fixture
def world_model(config: Config) -> WorldModel:
    """A world model of at most 6 blocks of 4 + 1 tokens."""
    return WorldModel(config.world_model, tokens_per_frame=4, codebook_size=32, actions=ACTIONS)
