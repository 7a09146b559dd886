"""Ways of drawing: what comes of each, what a run remembers of them, and that a resumed run goes on with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reverie import Field, Mixture, ReplayBuffer, StepSpec, Union
from reverie.iris.config import Config, Optimisation, Sampling
from reverie.iris.learning import train
from reverie.iris.learning.drawing import Drawing
from reverie.iris.learning.train import train_actor_critic, train_world_model
from reverie.iris.models.actor_critic import lessons_of
from reverie.iris.models.agent import Agent
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import WorldModel


@pytest.fixture
def buffer() -> ReplayBuffer:
    """Eight episodes of ten steps, of which the number n has the return n."""
    spec = StepSpec(obs=Field((3, 16, 16), "uint8"), action=Field((), "int64"))
    buffer = ReplayBuffer(spec, 80, seed=0)
    for step in range(80):
        last = step % 10 == 9
        buffer.add(obs=np.full((3, 16, 16), 3 * step, np.uint8), action=step % 3, reward=step // 10 * float(last),
                   terminated=last, truncated=False)  # fmt: skip
    return buffer


def drawn(buffer: ReplayBuffer, sampling: Sampling, phase: str = "actor_critic") -> np.ndarray:
    sampler = Drawing(sampling).sampler(buffer, phase)
    return buffer.sample(4000, 1, boundary="pad_left", sampler=sampler).anchor


def test_the_best_quarter_of_the_episodes_alone(buffer: ReplayBuffer) -> None:
    """Of eight episodes the two with the highest returns are drawn from, each step alike; the newest add theirs."""
    alone = drawn(buffer, Sampling(starts="best"))
    assert set(alone.tolist()) == set(range(60, 80))
    assert np.bincount(alone).max() < 1.5 * 4000 / 20
    assert drawn(buffer, Sampling(starts="best"), "world_model").min() < 10
    assert drawn(buffer, Sampling(windows="best"), "world_model").min() == 60
    mixed = drawn(buffer, Sampling(starts="best", recent_starts=0.5))
    assert (mixed >= 70).mean() == pytest.approx(0.5 * 0.5 + 0.5 * 0.5, abs=0.04)
    assert mixed.min() == 60


def test_what_was_drawn_rarely(buffer: ReplayBuffer) -> None:
    """ "visits" draws steps far more evenly than chance does."""
    counts = np.bincount(drawn(buffer, Sampling(starts="visits")), minlength=80)
    by_chance = np.bincount(drawn(buffer, Sampling(over="steps")), minlength=80)
    drawing = Drawing(Sampling(starts="visits"))
    in_turn = np.zeros(80, np.int64)
    for _ in range(200):
        sampler = drawing.sampler(buffer, "actor_critic")
        in_turn += np.bincount(
            buffer.sample(20, 1, boundary="pad_left", sampler=sampler).anchor, minlength=80
        )
    assert counts.sum() == by_chance.sum() == in_turn.sum() == 4000
    assert in_turn.std() < 0.75 * by_chance.std()


def test_a_sampler_that_remembers_serves_a_whole_run(buffer: ReplayBuffer) -> None:
    """It is the same in every epoch, with the newest quarter of the steps as they are now; others are made anew."""
    drawing = Drawing(Sampling(windows="priority", starts="visits", recent_share=0.5))
    for phase in ("world_model", "actor_critic"):
        sampler = drawing.sampler(buffer, phase)
        assert drawing.sampler(buffer, phase) is sampler
        assert isinstance(sampler, Mixture)
        assert sampler.parts[1][0].newest == 20  # type: ignore[attr-defined]
    assert drawing.sampler(buffer, "tokenizer") is not drawing.sampler(buffer, "tokenizer")
    fuller = ReplayBuffer(buffer.spec, 400, seed=0)
    for step in range(160):
        fuller.add(obs=np.zeros((3, 16, 16), np.uint8), action=0, reward=0.0, terminated=step == 159,
                   truncated=False)  # fmt: skip
    sampler = drawing.sampler(fuller, "world_model")
    assert isinstance(sampler, Mixture)
    assert sampler.parts[1][0].newest == 40  # type: ignore[attr-defined]


@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_of_a_window_is_its_priority(
    buffer: ReplayBuffer, tokenizer: Tokenizer, config: Config, parts: int
) -> None:
    """Windows that the model foretells badly are drawn more often later, from one buffer and from several as one."""
    torch.manual_seed(0)
    model = WorldModel(replace(config.world_model, blocks=1), tokens_per_frame=4, codebook_size=32, actions=3)
    replay = buffer if parts == 1 else Union([buffer, ReplayBuffer(buffer.spec, 80, seed=1)])
    sampler = Drawing(Sampling(windows="priority")).sampler(replay, "world_model")
    settings = Optimisation(steps=6, batch_size=32, learning_rate=1e-9)

    def fixed(*batch: torch.Tensor) -> tuple[object, torch.Tensor]:
        losses, _ = judge(*batch)
        return losses, 1.0 * (batch[1][:, 0] == 2)  # one action in three

    judge = model.losses_by_window
    model.losses_by_window = fixed  # type: ignore[method-assign,assignment]
    list(train_world_model(model, tokenizer, replay, settings, sampler=sampler, ranked=True))
    action = replay.sample(4000, 1, sampler=sampler).action
    assert (action == 2).mean() > 0.6


def test_the_error_of_the_critic_is_the_priority_of_a_frame(
    agent: Agent, buffer: ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the distance of the critic's value at the start from the return that came, whatever its sign."""
    sampler = Drawing(Sampling(starts="priority")).sampler(buffer, "actor_critic")
    given: list[tuple[np.ndarray, np.ndarray]] = []
    lessons: list[torch.Tensor] = []

    def learned(*args: Any) -> Any:
        lessons.append((made := lessons_of(*args)).error)
        return made

    def taken(batch: Any, errors: np.ndarray) -> None:
        given.append((batch.anchor.copy(), errors))
        update(batch, errors)

    update = buffer.update_priorities
    monkeypatch.setattr(train, "lessons_of", learned)
    monkeypatch.setattr(buffer, "update_priorities", taken)
    settings = Optimisation(steps=20, batch_size=8, learning_rate=1e-9)
    list(train_actor_critic(agent, buffer, settings, sampler=sampler, ranked=True))
    assert len(given) == len(lessons) == 20
    for (_, errors), error in zip(given, lessons, strict=True):
        assert errors.tolist() == error[:, 0].abs().tolist()
    assert min(float(error.min()) for error in lessons) < 0
