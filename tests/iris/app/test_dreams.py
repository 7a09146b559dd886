"""Dreams in pictures: the rows there are, and who acts in them."""

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.iris.app.dreams import ACTED, DIFFERENCE, IMAGINED, REAL, RECONSTRUCTED, dream, visibly_wrong
from reverie.iris.models.agent import Agent
from reverie.iris.models.imagination import Imagination, Imagined


@pytest.fixture
def buffer() -> rv.ReplayBuffer:
    """Sixty steps of noise in one episode."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64")), 60, seed=0)
    rng = np.random.default_rng(0)
    for step in range(60):
        buffer.add(obs=rng.integers(0, 256, (3, 16, 16), np.uint8), action=step % 3, reward=0.0, terminated=False,
                   truncated=False)  # fmt: skip
    return buffer


def test_all_rows_begin_at_the_same_frame(agent: Agent, buffer: rv.ReplayBuffer) -> None:
    """What is imagined begins with the reconstruction of the first real frame, whoever acts."""
    dreamt = dream(agent.tokenizer, agent.world_model, buffer, 0, actor_critic=agent.actor_critic)
    rows = dreamt.rows
    assert list(rows) == [REAL, RECONSTRUCTED, IMAGINED, DIFFERENCE, ACTED]
    assert dreamt.actions.shape == dreamt.rewards.shape == dreamt.imagined_rewards.shape == (16,)
    assert {frames.shape for frames in rows.values()} == {(17, 3, 16, 16)}
    for name in (IMAGINED, ACTED):
        # One frame alone is added up in another order than sixteen are.
        assert np.abs(rows[name][0].astype(int) - rows[RECONSTRUCTED][0]).max() <= 1
    assert ACTED not in dream(agent.tokenizer, agent.world_model, buffer, 0).rows


def test_what_is_visibly_wrong_is_red(agent: Agent, buffer: rv.ReplayBuffer) -> None:
    """One row shows the game in grey, and in red the pixels of which the dream misses a channel by more than 32."""
    rows = dream(agent.tokenizer, agent.world_model, buffer, 0).rows
    wrong = np.abs(rows[IMAGINED].astype(int) - rows[REAL]).max(1) > 32
    assert 0 < wrong.mean() < 1
    assert np.array_equal(visibly_wrong(rows[IMAGINED], rows[REAL]), wrong)
    shown = rows[DIFFERENCE].transpose(0, 2, 3, 1)
    assert (shown[wrong] == (255, 0, 0)).all()
    grey = rows[REAL].mean(1)[~wrong] / 3
    assert np.abs(shown[~wrong] - grey[:, None]).max() <= 1


def test_a_dream_knows_three_steps_before_it(
    agent: Agent, buffer: rv.ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model gets the frames and actions just before the first frame shown."""
    known: list[tuple[torch.Tensor, torch.Tensor]] = []
    reset = Imagination.reset

    def watched(
        self: Imagination, frame: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        known.append(before)
        return reset(self, frame, before)

    monkeypatch.setattr(Imagination, "reset", watched)
    dreamt = dream(agent.tokenizer, agent.world_model, buffer, 0, steps=5)
    ((frames, actions),) = known
    rng = np.random.default_rng(0)
    noise = np.stack([rng.integers(0, 256, (3, 16, 16), np.uint8) for _ in range(60)])
    first = int((noise == dreamt.rows[REAL][0]).all((1, 2, 3)).argmax())
    assert np.array_equal((255 * frames[0]).round().numpy(), noise[first - 3 : first])
    # The actions of this buffer count to three.
    assert actions[0].tolist() == [(dreamt.actions[0] + late) % 3 for late in (-3, -2, -1)]
    assert len(dreamt.rows[REAL]) == 6


def test_short_games_have_short_dreams(agent: Agent) -> None:
    """Where no episode is long enough, a dream has fewer steps, and at last none before it."""
    spec = rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64"))
    for length, steps in ((8, 4), (2, 2)):
        buffer = rv.ReplayBuffer(spec, 40, seed=0)
        for step in range(40):
            ends = step % length == length - 1
            obs = np.full((3, 16, 16), step, np.uint8)
            buffer.add(
                obs=obs,
                action=0,
                reward=0.0,
                terminated=ends,
                truncated=False,
                final_obs=obs if ends else None,
            )
        assert len(dream(agent.tokenizer, agent.world_model, buffer, 0).actions) == steps


def test_the_agent_acts_until_an_imagined_end(
    agent: Agent, buffer: rv.ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its actions are those that its policy prefers; after the end the last frame stands."""
    taken: list[int] = []
    step = Imagination.step

    def watched(self: Imagination, action: torch.Tensor) -> Imagined:
        taken.append(int(action))
        seen = step(self, action)
        return seen._replace(
            frame=torch.full_like(seen.frame, len(taken) / 255), end=torch.tensor([len(taken) == 20])
        )

    monkeypatch.setattr(Imagination, "step", watched)
    with torch.no_grad():
        agent.actor_critic.actor.bias.copy_(torch.tensor([0.0, 0.0, 1000.0]))
    rows = dream(agent.tokenizer, agent.world_model, buffer, 0, actor_critic=agent.actor_critic).rows
    assert taken[16:] == [2] * 4  # sixteen actions of the window came first
    shown = rows[ACTED][1:].reshape(16, -1)
    assert (shown == shown[:, :1]).all()
    assert shown[:, 0].tolist() == [17, 18, 19, *([20] * 13)]
