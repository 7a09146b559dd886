"""Codes that go unused find new work, and those in use keep theirs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import reverie as rv
from reverie import BadSetting
from reverie.iris.config import Optimisation, TokenizerConfig, TokenizerLoss
from reverie.iris.learning.train import new_optimiser, train_tokenizer
from reverie.iris.models.tokenizer import Tokenizer

COLUMNS = TokenizerConfig(frame=(3, 10, 10), patch=10, patch_width=1, local=True, lean=True, channels=32, levels=1,
                          attention_at=(), codebook_size=64, token_dim=8, codebook="average", average_decay=0.95,
                          bounded=True)  # fmt: skip


@pytest.fixture
def buffer() -> rv.ReplayBuffer:
    """Two hundred frames of black, with one white pixel that wanders."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((3, 10, 10), "uint8"), rv.Field((), "int64")), 200, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        frame = np.zeros((3, 10, 10), np.uint8)
        frame[:, rng.integers(10), rng.integers(10)] = 255
        buffer.add(obs=frame, action=0, reward=0.0, terminated=False, truncated=False)
    return buffer


@pytest.mark.parametrize(("beyond", "least", "most"), [(0.0, 0.5, 1.0), (0.01, 0.0, 0.1)])
def test_tokens_keep_their_meaning_when_training_goes_on(
    buffer: rv.ReplayBuffer, beyond: float, least: float, most: float
) -> None:
    """Within 150 more updates the common patch gets other codes time and again, unless only what is new gets one."""
    tokenizer = Tokenizer(COLUMNS)
    optimiser = new_optimiser(tokenizer, Optimisation())
    loss = TokenizerLoss(reconstruction="cross_entropy", reconstruction_weight=3.0, commitment=0.25, pixel_weight=5.0,
                         revive_every=25, revive_beyond=beyond)  # fmt: skip
    frames = torch.from_numpy(buffer.sample(200, 1, boundary="pad_right").obs[:, 0]).float() / 255

    def train(steps: int, rate: float) -> torch.Tensor:
        settings = Optimisation(steps=steps, batch_size=64, learning_rate=rate)
        for _ in train_tokenizer(tokenizer, buffer, settings, loss, optimiser=optimiser):
            pass
        return tokenizer.encode(frames).tokens

    tokens = [train(250, 2e-3), train(150, 2e-4), train(150, 2e-4)]
    changed = max((after != before).float().mean().item() for before, after in pairwise(tokens))
    assert least <= changed <= most


def test_only_what_lies_beyond_gets_a_code() -> None:
    """Outputs a little off a code get none, however common; far ones get one each, though they come twice."""
    tokenizer = Tokenizer(COLUMNS)
    before = tokenizer.embedding.weight.detach().clone()
    outputs = before[10].repeat(8, 1) + 0.01
    outputs[2:4], outputs[6:] = 3.0, -3.0
    dead = torch.zeros(64, dtype=torch.bool)
    dead[:4] = True
    tokenizer.revive(dead, outputs.view(2, 2, 2, 8).movedim(-1, 1), beyond=0.01)
    after = tokenizer.embedding.weight
    assert torch.equal(after[2:], before[2:])
    assert sorted(after[:2, 0].tolist()) == pytest.approx([-3.0, 3.0], abs=0.01)
    assert tokenizer.usage is not None
    assert tokenizer.usage[:4].tolist() == pytest.approx([0.2 * 8 / 64, 0.2 * 8 / 64, 1.0, 1.0])


def test_outputs_that_are_all_alike_get_one_code() -> None:
    """Where nothing varies there is no scale, and one code is enough."""
    tokenizer = Tokenizer(COLUMNS)
    tokenizer.revive(torch.ones(64, dtype=torch.bool), torch.full((2, 8, 2, 2), 3.0), beyond=0.01)
    assert int((tokenizer.embedding.weight[:, 0] > 2.9).sum()) == 1


def test_a_distance_is_not_negative() -> None:
    """It is refused when it is given."""
    with pytest.raises(BadSetting, match="revive_beyond: wanted at least 0"):
        TokenizerLoss(revive_beyond=-0.1)
