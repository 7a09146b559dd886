"""A `Recorder` plays in pieces what one `record` plays at once; extra fields come from policies and infos."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import reverie as rv
from reverie.gymnasium import Recorder, record
from support.envs import TERMINATED, TRUNCATED, Scripted, contents, truth

MODES = list(AutoresetMode)
SCRIPTS = [[(3, TERMINATED), (1, TERMINATED), (2, TRUNCATED)], [(1, TRUNCATED)], [(5, TERMINATED)]]


class Tells(gym.Wrapper[Any, Any, Any, Any]):
    """Tells in each info how many steps its lane has played since its reset, plus 100 for each lane."""

    def reset(self, **options: Any) -> Any:
        obs, _ = super().reset(**options)
        return obs, {"clock": self.told(obs)}

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"clock": self.told(obs)}

    def told(self, obs: Any) -> int:
        return int(100 * obs[0] + obs[2])


def one(tells: bool = False) -> Any:
    env = Scripted(0, SCRIPTS[0])
    return Tells(env) if tells else env


def three(mode: AutoresetMode, tells: bool = False) -> Any:
    next_step = mode is AutoresetMode.NEXT_STEP
    envs = [Scripted(lane, script, row_resets=next_step) for lane, script in enumerate(SCRIPTS)]
    return SyncVectorEnv([lambda env=env: Tells(env) if tells else env for env in envs], autoreset_mode=mode)


def buffer_for(env: Any, **extras: rv.Field) -> rv.ReplayBuffer:
    lanes = getattr(env, "num_envs", 1)
    return rv.ReplayBuffer(rv.StepSpec.from_env(env, extras), 60 * lanes, streams=lanes, seed=0)


def envs_of(kind: AutoresetMode | None, tells: bool = False) -> Any:
    return one(tells) if kind is None else three(kind, tells)


@pytest.mark.parametrize("kind", [None, *MODES])
@pytest.mark.parametrize("pieces", [(1,) * 17, (4, 1, 7, 5), (16, 1)])
def test_pieces_are_what_one_run_is(kind: AutoresetMode | None, pieces: tuple[int, ...]) -> None:
    """Steps, episodes, returns and lengths of a run in pieces are those of one run with the same seed."""
    whole, parts = envs_of(kind), envs_of(kind)
    at_once, in_pieces = buffer_for(whole), buffer_for(parts)
    expected = record(whole, at_once, steps=17, seed=5)
    done = []
    with Recorder(parts, in_pieces, seed=5) as recorder:
        for piece in pieces:
            done.append(recorder.step(n=piece))
            assert len(in_pieces) == sum(each.steps for each in done)
    assert contents(in_pieces) == contents(at_once)
    assert in_pieces.episodes.tolist() == at_once.episodes.tolist()
    assert sum((each.returns for each in done), ()) == expected.returns
    assert sum((each.lengths for each in done), ()) == expected.lengths


def test_the_environment_is_not_reset_between_pieces() -> None:
    """An episode goes on over calls; `close` cuts it with what came last, and a closed recorder is refused."""
    env = Scripted(0, [(9, TERMINATED)])
    buffer = buffer_for(env)
    recorder = Recorder(env, buffer)
    recorder.step(lambda obs: 10, 2)
    recorder.step(lambda obs: 11, 3)
    assert env.resets == 1
    assert buffer.episodes["ended"].tolist() == ["running"]
    recorder.close()
    recorder.close()
    assert buffer.episodes["ended"].tolist() == ["cut"]
    assert contents(buffer) == truth([env.log], 5)
    with pytest.raises(rv.BadSetting, match="wanted an open one"):
        recorder.step(n=1)


@pytest.mark.parametrize("kind", [None, *MODES])
def test_a_policy_that_raises_cuts_and_the_next_call_resets(kind: AutoresetMode | None) -> None:
    """After an error nothing runs; the next call starts with a reset and adds what it is asked for."""
    env = envs_of(kind)
    buffer = buffer_for(env)

    def broken(obs: Any) -> Any:
        raise RuntimeError("enough")

    with Recorder(env, buffer) as recorder:
        recorder.step(n=4)
        with pytest.raises(RuntimeError, match="enough"):
            recorder.step(broken, 4)
        assert "running" not in buffer.episodes["ended"]
        assert recorder.step(n=5).steps == 5
    # Steps of the second row, added before the policy was asked again; one lane may have had its reset there.
    waiting = {None: 0, AutoresetMode.NEXT_STEP: 1}.get(kind, 2)
    assert len(buffer) == 4 + waiting + 5


@pytest.mark.parametrize("kind", [None, *MODES])
def test_extra_fields_come_from_the_info_of_their_step(kind: AutoresetMode | None) -> None:
    """The info stored with a step is the one that came with it, at an end too."""
    env = envs_of(kind, tells=True)
    buffer = buffer_for(env, clock=rv.Field((), "int64"))
    record(env, buffer, steps=20)
    batch = buffer.sample_steps(300)
    assert batch.extras["clock"].tolist() == (100 * batch.obs[:, 0] + batch.obs[:, 2] + 1).tolist()


@pytest.mark.parametrize("kind", [None, *MODES])
def test_a_policy_may_take_the_info_and_give_extras(kind: AutoresetMode | None) -> None:
    """A policy of (obs, info) sees the info of its observation, and its extras are stored with its action."""
    env = envs_of(kind, tells=True)
    buffer = buffer_for(env, logits=rv.Field((2,), "float64"))

    def policy(obs: Any, info: Any) -> Any:
        told = info.get("_clock", True)  # a reset of some lanes tells nothing of the others
        assert np.array_equal(info["clock"] * told, (100 * obs[..., 0] + obs[..., 2]) * told)
        return np.full(obs.shape[:-1], 12), {"logits": np.stack([obs[..., 1], obs[..., 2]], -1) / 2}

    record(env, buffer, policy, 20)
    batch = buffer.sample_steps(300)
    assert batch.action.tolist() == [12] * 300
    assert np.array_equal(batch.extras["logits"], batch.obs[:, 1:] / 2)


@pytest.mark.parametrize("kind", [None, *MODES])
def test_an_extra_field_that_nobody_gives_is_refused(kind: AutoresetMode | None) -> None:
    """A field that neither policy nor info has is named, and nothing is stored."""
    env = envs_of(kind, tells=True)
    buffer = buffer_for(env, logits=rv.Field((2,), "float32"))
    with pytest.raises(rv.SpecMismatch, match=r"'logits': wanted it in the info.*let the policy return"):
        record(env, buffer, steps=5)
    assert len(buffer) == 0


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_spec_may_leave_out_keys_of_the_observation(lanes: int) -> None:
    """Only the keys that the buffer has fields for are stored, as first, next and final observations."""
    makers = [lambda lane=lane: Scripted(lane, SCRIPTS[0], nested=True) for lane in range(lanes)]
    env = makers[0]() if lanes == 1 else SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    spec = rv.StepSpec({"in": {"time": rv.Field((2,), "int64")}}, rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 60, streams=lanes, seed=0)
    record(env, buffer, steps=10)
    batch = buffer.sample_steps(100)
    assert np.array_equal(batch.next_obs["in"]["time"], batch.obs["in"]["time"] + [0, 1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_episode_names_its_environment_and_its_seed(mode):
    """The seed is that of the reset: later episodes of a lane begin with none. An episode of one step has them, too."""
    single = gym.make("CartPole-v1", max_episode_steps=3)
    with rv.ReplayBuffer(rv.StepSpec.from_env(single), 40, seed=0) as buffer:
        record(single, buffer, steps=7, seed=5)
        assert buffer.episodes.metadata == [
            {"env": "CartPole-v1", "seed": 5},
            {"env": "CartPole-v1"},
            {"env": "CartPole-v1"},
        ]
    lanes = gym.make_vec(
        "CartPole-v1",
        2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        max_episode_steps=1,
    )
    with rv.ReplayBuffer(rv.StepSpec.from_env(lanes), 40, streams=2, seed=0) as buffer:
        record(lanes, buffer, steps=6, seed=5)
        table = buffer.episodes
        seeds = [
            [
                label.get("seed")
                for label, row in zip(table.metadata, table, strict=True)
                if row["stream"] == lane
            ]
            for lane in (0, 1)
        ]
        assert seeds == [[5, None, None], [6, None, None]]
        assert all(label["env"] == "CartPole-v1" for label in table.metadata)


@pytest.mark.parametrize("kind", [None, *MODES])
def test_a_transform_makes_extra_fields_of_whole_steps(kind: AutoresetMode | None) -> None:
    """It sees what is stored, what came next, also at an end, and the step's own info; its word is the last."""
    env = envs_of(kind, tells=True)
    fields = {
        "next": rv.Field((3,), "int64"),
        "seen": rv.Field((7,), "float64"),
        "clock": rv.Field((), "int64"),
    }
    buffer = buffer_for(env, **fields)

    def transform(step: dict[str, Any]) -> dict[str, Any]:
        assert set(step) == {"obs", "action", "reward", "terminated", "truncated", "next_obs", "info"}
        flags = [step["terminated"], step["truncated"]]
        seen = [*step["obs"], step["action"], step["reward"], *flags]
        return {"next": step["next_obs"], "seen": seen, "clock": -step["info"]["clock"]}

    def policy(obs: Any) -> Any:
        return np.full(obs.shape[:-1], 12), {"clock": np.full(obs.shape[:-1], 5)}

    record(env, buffer, policy, 20, transform=transform)
    assert len(buffer) == 20
    ended = 0
    for episode in buffer.read_episodes():
        after = [*episode.obs[1:].tolist(), episode.final_obs.tolist()]
        assert episode.extras["next"].tolist() == after
        assert episode.extras["clock"].tolist() == [-(100 * lane + clock) for lane, _, clock in after]
        seen = episode.extras["seen"]
        assert np.array_equal(seen[:, :3], episode.obs)
        assert np.array_equal(seen[:, 3], episode.action)
        assert np.array_equal(seen[:, 4], episode.reward)
        assert seen[-1, 5:].tolist() == [episode.terminated, episode.truncated]
        assert not seen[:-1, 5:].any()
        ended += episode.terminated + episode.truncated
    assert ended > 2


@pytest.mark.parametrize("kind", [None, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda step: None, "transform: wanted a dict of extra fields by name, got None"),
        (lambda step: {"more": 1}, "'more'"),
    ],
)
def test_a_transform_that_is_none_is_refused(kind: AutoresetMode | None, transform: Any, words: str) -> None:
    env = envs_of(kind)
    buffer = buffer_for(env)
    with pytest.raises(rv.SpecMismatch, match=words):
        record(env, buffer, steps=5, transform=transform)
    assert len(buffer) == 0


def test_a_transform_gives_a_field_for_all_lanes_or_for_none() -> None:
    env = three(AutoresetMode.SAME_STEP)
    buffer = buffer_for(env, odd=rv.Field((), "int64"))
    with pytest.raises(
        rv.SpecMismatch, match="wanted field 'odd' for every lane, got it for some; return it always"
    ):
        record(env, buffer, steps=9, transform=lambda step: {"odd": 1} if step["obs"][0] % 2 else {})
