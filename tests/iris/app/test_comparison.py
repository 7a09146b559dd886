"""Dreams measured beside the game and beside two guesses."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

import reverie as rv
from reverie.iris.app.comparison import DREAM, FIRST, LAST, SIGHTS, TOKENS, Sight, compare, tables_of
from reverie.iris.app.demo import Bars
from reverie.iris.models.agent import Agent
from reverie.iris.models.imagination import Imagination, Imagined

SQUARE = {"square": Sight((0, 16), (0, 16))}


@pytest.fixture
def buffer() -> rv.ReplayBuffer:
    """Thirty steps of black in one episode, in which a white square of 2×2 goes right by the action's pixels."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64")), 30, seed=0)
    column = 0
    for step in range(30):
        action = step % 2
        buffer.add(obs=square(column), action=action, reward=0.0, terminated=False, truncated=False)
        column = min(14, column + action)
    return buffer


def square(column: int) -> np.ndarray:
    frame = np.zeros((3, 16, 16), np.uint8)
    frame[:, 4:6, column : column + 2] = 255
    return frame


def test_a_perfect_dream_is_nearer_than_every_guess(
    agent: Agent, buffer: rv.ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that moves the square as the game does is never wrong, and knows what came before."""
    columns: list[np.ndarray] = []

    def reset(
        self: Imagination, frame: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        assert before[0].shape[1:] == (3, 3, 16, 16)
        assert before[1].shape[1:] == (3,)
        columns.append(frame[:, 0, 4].argmax(1).numpy())
        return frame

    def step(self: Imagination, action: torch.Tensor) -> Imagined:
        columns.append(np.minimum(14, columns[-1] + action.numpy()))
        frames = torch.from_numpy(np.stack([square(column) for column in columns[-1]])).float() / 255
        return Imagined(frames, torch.zeros(len(frames)), torch.zeros(len(frames), dtype=torch.bool))

    monkeypatch.setattr(Imagination, "reset", reset)
    monkeypatch.setattr(Imagination, "step", step)
    found = compare(agent.tokenizer, agent.world_model, buffer, 0, windows=50, steps=4, sights=SQUARE)
    assert not found.wrong[DREAM].any()
    assert not found.distance[DREAM].any()
    assert found.worse_at(found.wrong) == found.worse_at(found.distance) == []
    assert (found.there["square"][DREAM] == 1).all()
    assert not found.off["square"][DREAM].any()
    told = tables_of(found)
    assert told.count("beats both guesses at every step") == 3
    assert "NOT" not in told
    assert max(map(len, told.splitlines())) <= 80


def test_guesses_are_measured_as_they_are(agent: Agent, buffer: rv.ReplayBuffer) -> None:
    """Repeating a frame is wrong by what moved since: here one column of two pixels for every step to the right."""
    found = compare(agent.tokenizer, agent.world_model, buffer, 0, windows=200, steps=4, sights=SQUARE)
    assert set(found.wrong) == {DREAM, FIRST, LAST, TOKENS}
    for guess, known in ((LAST, 0), (FIRST, 3)):
        # A square moves every second step, so every window's square has moved by half the steps on average.
        assert np.allclose(found.off["square"][guess], (np.arange(1, 5) + known) / 2, atol=0.3)
        moved = found.off["square"][guess]
        assert (found.wrong[guess] <= 4 * moved + 1e-9).all()
        assert (found.wrong[guess] > 0).all()
        assert np.allclose(found.distance[guess], found.wrong[guess] * 255 / 256)


def test_a_dream_of_an_untrained_model_is_told_to_be_worse(agent: Agent, buffer: rv.ReplayBuffer) -> None:
    """The verdict names the steps at which a guess is as near."""
    found = compare(agent.tokenizer, agent.world_model, buffer, 0, windows=20, steps=3)
    assert found.worse_at(found.wrong) == [1, 2, 3]
    assert "does NOT beat both guesses at steps 1, 2, 3" in tables_of(found)
    assert not found.there


def test_a_thing_is_where_its_light_is() -> None:
    """A sight finds a bright thing's centre in its region, and nothing where there is nothing bright."""
    frames = np.zeros((3, 3, 64, 64), np.uint8)
    frames[0, 0, 40, 20:22] = 200
    frames[1, 2, 57:59, 10:17] = 150
    frames[2, 1, 40, 20] = 50  # a shade
    ball, paddle = SIGHTS["breakout"]["ball"], SIGHTS["breakout"]["paddle"]
    there, place = ball.find(frames)
    assert there.tolist() == [True, False, False]
    assert place[0].tolist() == [10, 16.5]
    there, place = paddle.find(frames)
    assert there.tolist() == [False, True, False]
    assert place[1].tolist() == [0.5, 9]


def test_a_file_gets_lines_and_a_terminal_gets_bars() -> None:
    """Where nobody watches, each tenth of the work is a line; where somebody does, a bar grows."""
    file, screen = io.StringIO(), io.StringIO()
    for console in (Console(file=file), Console(file=screen, force_terminal=True, width=80)):
        with Bars(console) as reading:
            reading.begin("reading", 40)
            for done in range(1, 41):
                reading.show(done, f"page {done}")
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert [line.split("page ")[1] for line in lines] == [str(4 * tenth) for tenth in range(1, 11)]
    assert "\x1b" not in file.getvalue()
    assert "━" in screen.getvalue()
