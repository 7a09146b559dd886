"""Settings for the tests of IRIS: one thread, and models small enough to train in seconds."""

from __future__ import annotations

import pytest
import torch

from reverie.iris.config import TokenizerConfig, WorldModelConfig
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.world_model import WorldModel

ACTIONS = 3


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A tokenizer of 16×16 frames with 2×2 tokens out of 32."""
    sizes = TokenizerConfig(
        frame=(3, 16, 16), patch=4, channels=32, levels=2, res_blocks=1, attention_at=(2,),
        codebook_size=32, token_dim=16,
    )  # fmt: skip
    return Tokenizer(sizes)


@pytest.fixture
def world_model(tokenizer: Tokenizer) -> WorldModel:
    """A world model of at most 6 blocks of 4 + 1 tokens."""
    sizes = WorldModelConfig(blocks=6, layers=2, heads=2, width=32, dropout=0.1)
    return WorldModel(sizes, tokens_per_frame=4, codebook_size=32, actions=ACTIONS)
