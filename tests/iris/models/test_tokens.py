"""Tokens are made once for each frame, and anew when the tokenizer has learned."""

from pathlib import Path

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.iris.config import Config, Optimisation
from reverie.iris.learning.run import Run
from reverie.iris.learning.tokens import TOKENS, mirror_tokens
from reverie.iris.learning.train import to_frames, train_world_model
from reverie.iris.models.agent import Agent
from support.games import Lights

STEPS = 40


@pytest.fixture
def buffer() -> rv.ReplayBuffer:
    """Forty steps of noise in four episodes, with their final observations."""
    buffer = rv.ReplayBuffer(
        rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64")), STEPS, seed=0
    )
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        ends = step % 10 == 9
        buffer.add(obs=rng.integers(0, 256, (3, 16, 16), np.uint8), action=step % 3, reward=0.0, terminated=ends,
                   truncated=False, final_obs=rng.integers(0, 256, (3, 16, 16), np.uint8) if ends else None)  # fmt: skip
    return buffer


def encoded(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of frames whenever the tokenizer encodes some."""
    counts: list[int] = []
    encode = agent.tokenizer.encode

    def counted(frames: torch.Tensor) -> object:
        counts.append(frames[..., 0, 0, 0].numel())
        return encode(frames)

    monkeypatch.setattr(agent.tokenizer, "encode", counted)
    return counts


def test_no_frame_is_encoded_twice(
    agent: Agent, buffer: rv.ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many updates look at each frame many times; its tokens are made once, those of final observations too."""
    counts = encoded(agent, monkeypatch)
    settings = Optimisation(steps=30, batch_size=8)
    for _ in train_world_model(agent.world_model, agent.tokenizer, buffer, settings):
        pass
    assert sum(counts) == STEPS + 4


def test_the_world_model_sees_the_tokens_of_the_tokenizer_as_it_is(
    agent: Agent, buffer: rv.ReplayBuffer
) -> None:
    """After the tokenizer has changed and that was said, tokens are its new ones; until then they are not."""
    mirror = mirror_tokens(agent.tokenizer, buffer)

    def tokens() -> tuple[torch.Tensor, torch.Tensor]:
        batch = mirror.sample(16, 5, obs=TOKENS)
        frames = np.stack([[rows[step] for step in ids] for ids in batch.host.step_ids().tolist()])
        return batch.obs[:, :-1], agent.tokenizer.encode(to_frames(frames, agent.device)).tokens

    drawn = buffer.sample(400, 1, boundary="pad_right")
    rows = {int(start): obs[0] for start, obs in zip(drawn.start, drawn.obs, strict=True)}
    got, wanted = tokens()
    assert torch.equal(got, wanted)
    with torch.no_grad():
        agent.tokenizer.embedding.weight.copy_(agent.tokenizer.embedding.weight.flip(0))
    got, wanted = tokens()
    assert not torch.equal(got, wanted)
    mirror.touch(TOKENS)
    got, wanted = tokens()
    assert torch.equal(got, wanted)


def test_a_run_learns_from_tokens_of_the_tokenizer_as_it_is(config: Config, tmp_path: Path) -> None:
    """When the world model begins to learn, in every epoch, nothing is left of tokens made before."""
    run = Run.start(tmp_path / "run", config, lambda training: Lights(life=7, lives=2 if training else 1))
    versions: list[int] = []
    for _ in range(3):
        run.epoch(lambda phase, done, total: phase == "world_model" and versions.append(version(run)))
    run.close()
    assert versions == [2, 2, 2, 3, 3, 3]  # three updates in the second epoch and three in the third


def version(run: Run) -> int:
    """Return how often the run's tokens were given up."""
    assert run.learner.mirror is not None
    return run.learner.mirror._named(TOKENS).version
