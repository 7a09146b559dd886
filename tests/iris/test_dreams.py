"""Dreams in pictures: the rows there are, and who acts in them."""

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.iris.agent import Agent
from reverie.iris.dreams import ACTED, IMAGINED, REAL, RECONSTRUCTED, dream
from reverie.iris.imagination import Imagination, Imagined


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
    rows = dream(agent.tokenizer, agent.world_model, buffer, 0, actor_critic=agent.actor_critic)
    assert list(rows) == [REAL, RECONSTRUCTED, IMAGINED, ACTED]
    assert {frames.shape for frames in rows.values()} == {(17, 3, 16, 16)}
    for name in (IMAGINED, ACTED):
        # One frame alone is added up in another order than sixteen are.
        assert np.abs(rows[name][0].astype(int) - rows[RECONSTRUCTED][0]).max() <= 1
    assert ACTED not in dream(agent.tokenizer, agent.world_model, buffer, 0)


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
    rows = dream(agent.tokenizer, agent.world_model, buffer, 0, actor_critic=agent.actor_critic)
    assert taken[16:] == [2] * 4  # sixteen actions of the window came first
    shown = rows[ACTED][1:].reshape(16, -1)
    assert (shown == shown[:, :1]).all()
    assert shown[:, 0].tolist() == [17, 18, 19, *([20] * 13)]
