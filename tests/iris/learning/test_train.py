"""Training on a replay buffer: what is drawn, what moves, what is reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from reverie import Field, NotEnoughData, ReplayBuffer, StepSpec
from reverie.iris.config import Config, Optimisation, TokenizerLoss
from reverie.iris.learning.train import History, new_optimiser, train_tokenizer, train_world_model
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import WorldModel, WorldModelLosses


@pytest.fixture
def buffer() -> ReplayBuffer:
    """Twelve episodes of ten steps: colour and action tell the time of the episode."""
    spec = StepSpec(obs=Field((3, 16, 16), "uint8"), action=Field((), "int64"))
    buffer = ReplayBuffer(spec, 120, seed=0)
    for step in range(120):
        frame = np.full((3, 16, 16), 25 * (step % 10), np.uint8)
        last = step % 10 == 9
        buffer.add(obs=frame, action=step % 10 % 3, reward=float(last), terminated=last, truncated=False,
                   final_obs=np.full((3, 16, 16), 250, np.uint8) if last else None)  # fmt: skip
    return buffer


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def learn_colours(tokenizer: Tokenizer) -> torch.Tensor:
    """Give each of the eleven colours a first token of its own, and return their tokens (11, 4)."""
    colours = (25 * torch.arange(11) / 255).view(11, 1, 1, 1).expand(11, 3, 16, 16)
    tokenizer.revive(torch.ones(32, dtype=torch.bool), tokenizer.encode(colours).z.detach()[..., :1, :1])
    return tokenizer.encode(colours).tokens


def test_the_tokenizer_learns_from_the_buffer(tokenizer: Tokenizer, buffer: ReplayBuffer) -> None:
    """Its losses fall, its history adds up, and it is left in evaluation mode."""
    settings = Optimisation(steps=40, batch_size=8, learning_rate=3e-3, final_learning_rate=1e-3)
    loss = TokenizerLoss(pixel_weight=1.0, revive_every=5)
    history = History()
    for progress in train_tokenizer(tokenizer, buffer, settings, loss):
        history.add(progress)
    assert len(history.losses["total"]) == 40
    assert history.recent("reconstruction", 5) < 0.5 * history.losses["reconstruction"][0]
    assert history.sequences == 320
    assert 0 < history.waiting_share < 1
    assert not tokenizer.training


def test_tokens_keep_their_meaning_from_call_to_call(tokenizer: Tokenizer, buffer: ReplayBuffer) -> None:
    """A new codebook is placed on what it sees; one that goes on from an earlier call stays where it is."""
    settings = Optimisation(steps=1, batch_size=8, learning_rate=1e-5)
    loss, optimiser = TokenizerLoss(revive_every=5), new_optimiser(tokenizer, settings)
    codes = [tokenizer.embedding.weight.detach().clone()]
    for _ in range(2):
        list(train_tokenizer(tokenizer, buffer, settings, loss, optimiser=optimiser))
        codes.append(tokenizer.embedding.weight.detach().clone())
    moves = [(after - before).abs().max() for before, after in pairwise(codes)]
    assert moves[0] > 0.01
    assert moves[1] < 1e-4


def test_averaged_codes_follow_their_outputs(config: Config, buffer: ReplayBuffer) -> None:
    """Each code goes to the moving average of the outputs that chose it; the others stay, and none has gradient."""
    tokenizer = Tokenizer(replace(config.tokenizer, codebook="average", average_decay=0.9))
    assert tokenizer.embedding.weight not in {
        p for g in new_optimiser(tokenizer, Optimisation()).param_groups for p in g["params"]
    }
    before = tokenizer.embedding.weight.clone()
    encoded = tokenizer.encode(torch.rand(6, 3, 16, 16))
    tokenizer.follow(encoded)
    outputs, tokens = encoded.z.movedim(1, -1).reshape(-1, 16), encoded.tokens.flatten()
    for code in range(32):
        mine = outputs[tokens == code]
        wanted = (0.9 * before[code] + 0.1 * mine.sum(0)) / (0.9 + 0.1 * len(mine))
        assert torch.allclose(tokenizer.embedding.weight[code], wanted, atol=1e-5)
    history = History()
    settings = Optimisation(steps=60, batch_size=8, learning_rate=3e-3)
    for progress in train_tokenizer(tokenizer, buffer, settings, TokenizerLoss(revive_every=5)):
        history.add(progress)
    assert history.recent("reconstruction", 5) < 0.5 * history.losses["reconstruction"][0]


def test_the_world_model_learns_from_the_buffer_and_leaves_the_tokenizer_alone(
    tokenizer: Tokenizer, world_model: WorldModel, buffer: ReplayBuffer
) -> None:
    """Its losses fall by half and more; not a weight of the tokenizer moves."""
    learn_colours(tokenizer)
    tokenizer.train()
    before = snapshot(tokenizer)
    settings = Optimisation(steps=60, batch_size=8, learning_rate=3e-3, weight_decay=0.01)
    history = History()
    for progress in train_world_model(world_model, tokenizer, buffer, settings, boundary="inside"):
        history.add(progress)
    assert history.recent("observation", 5) < 0.5 * history.losses["observation"][0]
    assert history.recent("reward", 5) < 0.5
    assert history.sequences == 480
    assert not world_model.training
    assert not tokenizer.training
    after = snapshot(tokenizer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_action_meets_the_frame_that_it_was_taken_in(
    tokenizer: Tokenizer, world_model: WorldModel, buffer: ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is shown step by step what was seen, done and earned, and whether the episode ended there."""
    known = learn_colours(tokenizer)
    assert len(known.unique(dim=0)) == 11
    shown: list[tuple[torch.Tensor, ...]] = []
    losses = world_model.losses

    def spy(*window: torch.Tensor) -> WorldModelLosses:
        shown.append(window)
        return losses(*window)

    monkeypatch.setattr(world_model, "losses", spy)
    next(train_world_model(world_model, tokenizer, buffer, Optimisation(batch_size=16), boundary="inside"))
    tokens, action, reward, end, mask = shown[0]
    time = (tokens.unsqueeze(2) == known).all(3).long().argmax(2)  # (B, L), the colour's number
    assert torch.equal(tokens, known[time])
    assert torch.equal(time[:, 1:], time[:, :-1] + 1)
    assert torch.equal(action, time % 3)
    assert torch.equal(reward, (time == 9).float())
    assert torch.equal(end, time == 9)
    assert end.any()
    assert mask.all()


def test_the_learning_rate_follows_its_line() -> None:
    """It is constant unless a final rate is given, to which it falls linearly."""
    assert Optimisation(learning_rate=1e-3).rates()[150] == 1e-3
    falling = Optimisation(steps=100, learning_rate=1e-3, final_learning_rate=2e-4)
    assert falling.rates()[0] == 1e-3
    assert falling.rates()[50] == pytest.approx(6e-4)


def test_a_warm_up_raises_the_rate_when_training_begins() -> None:
    """The first updates have a growing part of their rate; an epoch that goes on has none of that."""
    warm = Optimisation(steps=6, learning_rate=1.0, first_learning_rate=2.0, warm_up=4)
    assert warm.rates() == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm.rates(0.5, 1.0, first=True) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert warm.rates(0.5, 1.0) == 6 * [1.0]
    assert Optimisation(steps=2, learning_rate=1.0, warm_up=4).rates() == [0.25, 0.5]


def test_too_little_data_is_refused_by_the_buffer(tokenizer: Tokenizer, world_model: WorldModel) -> None:
    """Episodes shorter than the context give no window."""
    spec = StepSpec(obs=Field((3, 16, 16), "uint8"), action=Field((), "int64"))
    short = ReplayBuffer(spec, 8, seed=0)
    for _ in range(4):
        short.add(obs=np.zeros((3, 16, 16), np.uint8), action=0, reward=0.0, terminated=True, truncated=False)
    with pytest.raises(NotEnoughData):
        next(train_world_model(world_model, tokenizer, short, Optimisation(), boundary="inside"))
