"""`record` stores what truly happened: every transition, every final observation, nothing else."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.gymnasium import record
from support.envs import BOTH, TERMINATED, TRUNCATED, Scripted, contents, plain, truth

MODES = list(AutoresetMode)
SCRIPTS = [
    [(3, TERMINATED), (1, TERMINATED), (2, TRUNCATED)],
    [(1, TRUNCATED)],
    [(5, TERMINATED), (4, BOTH)],
    [(40, TERMINATED)],
]


def buffer_for(env: Any, capacity: int = 1_200) -> rv.ReplayBuffer:
    lanes = getattr(env, "num_envs", 1)
    return rv.ReplayBuffer(rv.StepSpec.from_env(env), capacity - capacity % lanes, streams=lanes, seed=0)


def lanes_of(
    mode: AutoresetMode, scripts: Any = SCRIPTS, *, copy: bool = True, cls: Any = SyncVectorEnv, **toy: Any
) -> Any:
    row_resets = mode is AutoresetMode.NEXT_STEP
    makers = [
        lambda lane=lane, script=script: Scripted(lane, script, row_resets=row_resets, **toy)
        for lane, script in enumerate(scripts)
    ]
    return cls(makers, copy=copy, autoreset_mode=mode)


def logs_of(env: Any) -> list[Any]:
    return [lane.log for lane in env.envs]


def ends(buffer: rv.ReplayBuffer, stream: int = 0) -> list[tuple[int, str]]:
    rows = buffer.episodes
    return [(int(row["length"]), str(row["ended"])) for row in rows if row["stream"] == stream]


# --- one environment ---------------------------------------------------------------------------------


def test_single_env_matches_its_own_log() -> None:
    """A single environment's steps, ends and final observations are stored exactly, and the last is cut."""
    env = Scripted(0, SCRIPTS[0])
    buffer = buffer_for(env)
    result = record(env, buffer, steps=11, seed=1)
    assert contents(buffer) == truth([env.log], 11)
    assert ends(buffer) == [(3, "terminated"), (1, "terminated"), (2, "truncated"), (3, "terminated"),
                            (1, "terminated"), (1, "cut")]  # fmt: skip
    assert (result.steps, result.episodes, result.lengths) == (11, 5, (3, 1, 2, 3, 1))
    assert result.returns == (1.0 + 2 + 3, 101.0, 201.0 + 202, 301.0 + 302 + 303, 401.0)
    assert result.duration_s > 0
    assert result.steps_per_s == result.steps / result.duration_s


def test_single_env_resets_no_more_than_needed() -> None:
    """A run that stops exactly at an end neither resets again nor cuts anything."""
    env = Scripted(0, [(3, TERMINATED)])
    buffer = buffer_for(env)
    record(env, buffer, steps=6)
    assert env.resets == 2
    assert ends(buffer) == [(3, "terminated")] * 2


@pytest.mark.parametrize("nested", [False, True])
def test_single_env_may_change_its_array_in_place(nested: bool) -> None:
    """An environment that returns one array each time, changed in place, is recorded as it was seen."""
    env = Scripted(0, SCRIPTS[0], reuse=True, nested=nested)
    buffer = buffer_for(env)
    record(env, buffer, steps=20)
    assert contents(buffer) == truth([env.log], 20)


def test_policy_may_scribble_on_what_it_sees_and_reuse_its_action() -> None:
    """Observations and actions are copied, so a policy that writes into both changes nothing stored."""
    env = Scripted(0, SCRIPTS[0])
    action = np.array(10)

    def policy(obs: Any) -> Any:
        obs[:] = -1
        action[...] = 10 + (int(action) + 1) % 5
        return action

    buffer = buffer_for(env)
    record(env, buffer, policy, 20)
    assert contents(buffer) == truth([env.log], 20)
    assert len({told[1] for told in contents(buffer)[0]}) == 5


class ScribblesOnActions(gym.ActionWrapper):
    """Hands a copy of the action inwards, then spoils the one it was given."""

    def action(self, action: Any) -> Any:
        inner = action.copy()
        action[...] = 14
        return inner


class LanesScribbleOnActions(gym.vector.VectorActionWrapper):
    """The same for a vector environment."""

    actions = ScribblesOnActions.action


@pytest.mark.parametrize("lanes", [1, 4])
def test_an_environment_may_scribble_on_the_action_it_is_given(lanes: int) -> None:
    """The stored action is what the policy chose, whatever the environment does to its array."""
    env = (
        ScribblesOnActions(Scripted())
        if lanes == 1
        else LanesScribbleOnActions(lanes_of(AutoresetMode.SAME_STEP))
    )
    buffer = buffer_for(env)
    record(env, buffer, lambda obs: np.full((4,) if lanes == 4 else (), 11), 20)
    assert set(buffer.sample_steps(100).action.tolist()) == {11}


def test_policy_gets_the_observation_that_is_stored_beside_its_action() -> None:
    """The policy is asked once per step, with the observation stored for that step."""
    env = Scripted(0, SCRIPTS[0])
    seen = []

    def policy(obs: Any) -> int:
        seen.append(plain(obs))
        return 12

    buffer = buffer_for(env)
    record(env, buffer, policy, 9)
    assert seen == [told[0] for told in contents(buffer)[0]]


def test_discrete_observations_and_offset_actions_are_stored_as_given() -> None:
    """Plain integers are fine as observations, and Discrete(start=10) actions keep their numbers."""
    inner = Scripted(0, SCRIPTS[0])
    env = gym.wrappers.TransformObservation(
        inner, lambda obs: int(1000 * obs[1] + obs[2]), gym.spaces.Discrete(10**6)
    )
    buffer = buffer_for(env)
    record(env, buffer, steps=30, seed=0)
    batch = buffer.sample_steps(500)
    assert set(batch.action.tolist()) == {10, 11, 12, 13, 14}
    truly = {(1000 * told[0][1] + told[0][2], told[1]) for _, told in inner.log}
    assert set(zip(batch.obs.tolist(), batch.action.tolist(), strict=True)) == truly


# --- vector environments -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 3, 4, 37, 160])
def test_every_autoreset_mode_matches_the_log(mode: AutoresetMode, steps: int) -> None:
    """Each autoreset mode stores exactly `steps` true transitions, with every true final observation."""
    env = lanes_of(mode)
    buffer = buffer_for(env)
    result = record(env, buffer, steps=steps, seed=3)
    assert len(buffer) == result.steps == steps
    stored = contents(buffer)
    assert stored == truth(logs_of(env), steps)
    finished = [told for lane in stored.values() for told in lane if told[3] or told[4]]
    assert result.episodes == len(finished)
    assert sum(result.lengths) == sum(
        length for lane in range(4) for length, ended in ends(buffer, lane) if ended != "cut"
    )


def test_lanes_reset_no_more_than_needed() -> None:
    """With autoreset disabled, a run that stops exactly at an end does not reset again."""
    env = lanes_of(AutoresetMode.DISABLED, [[(3, TERMINATED)]] * 2)
    record(env, buffer_for(env), steps=12)
    assert [lane.resets for lane in env.envs] == [2, 2]


@settings(max_examples=60, deadline=None, database=None)
@given(
    mode=st.sampled_from(MODES),
    scripts=st.lists(
        st.lists(
            st.tuples(st.integers(1, 4), st.sampled_from([TERMINATED, TRUNCATED, BOTH])),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    ),
    steps=st.integers(1, 40),
    nested=st.booleans(),
    copy=st.booleans(),
)
def test_any_script_matches_the_log(
    mode: AutoresetMode, scripts: Any, steps: int, nested: bool, copy: bool
) -> None:
    """Whatever the lengths, ends, lanes, mode and observation space: the buffer equals the log."""
    env = lanes_of(mode, scripts, nested=nested, copy=copy)
    buffer = buffer_for(env)
    record(env, buffer, steps=steps)
    assert contents(buffer) == truth(logs_of(env), steps)
    for lane, log in enumerate(logs_of(env)):
        stored = [told for _, told in log][: sum(length for length, _ in ends(buffer, lane))]
        names = ["terminated" if told[3] else "truncated" for told in stored if told[3] or told[4]]
        still_open = bool(stored) and not (stored[-1][3] or stored[-1][4])
        assert [ended for _, ended in ends(buffer, lane)] == names + ["cut"] * still_open


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("nested", [False, True])
def test_lanes_and_vector_env_may_reuse_their_arrays(mode: AutoresetMode, nested: bool) -> None:
    """With copy=False and lanes that change their arrays in place, what was seen is still what is stored."""
    env = lanes_of(mode, copy=False, reuse=True, nested=nested)
    buffer = buffer_for(env)
    record(env, buffer, steps=90)
    assert contents(buffer) == truth(logs_of(env), 90)


@pytest.mark.parametrize("nested", [False, True])
def test_overwritten_final_observations_are_refused(nested: bool) -> None:
    """Under SAME_STEP, a lane that resets into its final observation's array is refused at its first end."""
    env = lanes_of(AutoresetMode.SAME_STEP, reuse=True, nested=nested)
    buffer = buffer_for(env)
    with pytest.raises(rv.SpecMismatch, match="already overwritten; return a copy"):
        record(env, buffer, steps=90)
    assert len(buffer) == 0


def test_partial_last_row_adds_the_lowest_lanes_and_settles_the_others() -> None:
    """With 4 lanes and 6 steps, lanes 0 and 1 have two, lanes 2 and 3 one with its true successor."""
    env = lanes_of(AutoresetMode.DISABLED, [[(9, TERMINATED)]] * 4)
    buffer = buffer_for(env)
    record(env, buffer, steps=6)
    assert [ends(buffer, lane) for lane in range(4)] == [
        [(2, "cut")],
        [(2, "cut")],
        [(1, "cut")],
        [(1, "cut")],
    ]
    assert contents(buffer)[3][0][5:] == ((3, 0, 1), True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_async_lanes_match_their_logs(mode: AutoresetMode) -> None:
    """Lanes in other processes are recorded like lanes in this one."""
    env = lanes_of(mode, SCRIPTS[:2], cls=AsyncVectorEnv)
    try:
        buffer = buffer_for(env)
        record(env, buffer, steps=31, seed=0)
        assert contents(buffer) == truth(env.get_attr("log"), 31)
        record(env, buffer, steps=7)
        assert len(buffer) == 38
        stored = contents(buffer)
        for lane, log in enumerate(env.get_attr("log")):
            assert set(stored[lane]) <= {told for _, told in log}
    finally:
        env.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_async_without_shared_memory_is_refused_where_resets_leak() -> None:
    """An AsyncVectorEnv whose pending autoreset survives reset() is refused before anything is played."""
    env = AsyncVectorEnv([Scripted], shared_memory=False)
    try:
        with pytest.raises(rv.BadSetting, match="shared_memory=True"):
            record(env, buffer_for(env), steps=4)
    finally:
        env.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_starts_anew_and_joins_nothing(mode: AutoresetMode) -> None:
    """Two runs into one buffer: each starts from a reset, and no window spans both."""
    scripts = [[(4, TERMINATED)], [(6, TRUNCATED)]]
    env = lanes_of(mode, scripts)
    buffer = buffer_for(env)
    record(env, buffer, steps=9)
    record(env, buffer, steps=9)
    logged = [{told for _, told in log} for log in logs_of(env)]
    stored = contents(buffer)
    assert all(set(stored[lane]) <= logged[lane] for lane in range(2))
    batch = buffer.sample(400, 3)
    assert (batch.obs[:, 1:, 2] == batch.obs[:, :-1, 2] + 1).all()
    assert (batch.obs[:, :, 1] == batch.obs[:, :1, 1]).all()


def test_what_was_open_before_is_cut_first() -> None:
    """An episode that someone left open in the buffer is cut before the run adds to its stream."""
    env = Scripted(0, [(5, TERMINATED)])
    buffer = buffer_for(env)
    for t in range(2):
        buffer.add(obs=np.array([9, 9, t]), action=10, reward=0.0, terminated=False, truncated=False)
    record(env, buffer, steps=5)
    assert ends(buffer) == [(2, "cut"), (5, "terminated")]


def test_the_environments_own_mode_wins_over_shared_metadata() -> None:
    """Where class-wide metadata names another environment's mode, the lane's true transitions are kept."""
    env = lanes_of(AutoresetMode.SAME_STEP)
    env.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    buffer = buffer_for(env)
    record(env, buffer, steps=50)
    assert contents(buffer) == truth(logs_of(env), 50)


class Hides(gym.vector.VectorWrapper):
    """Passes infos on without, or with a doctored, final observation."""

    def __init__(self, env: Any, replace: Any = None) -> None:
        super().__init__(env)
        self._replace = replace

    def step(self, actions: Any) -> Any:
        *rest, infos = self.env.step(actions)
        if "final_obs" in infos:
            infos = {} if self._replace is None else {"final_obs": [self._replace] * self.num_envs}
        return *rest, infos


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (None, r"wanted infos\['final_obs'\] for lanes \[1\]"),
        (np.zeros(4, np.int64), r"'final_obs': wanted shape \(3,\) and dtype int64 .*, got \(4,\)"),
        (np.zeros(3), "got .* and float64"),
    ],
)
def test_missing_or_foreign_final_observations_are_refused(replace: Any, message: str) -> None:
    """A SAME_STEP environment that hides or distorts its final observation is refused, not half recorded."""
    env = Hides(lanes_of(AutoresetMode.SAME_STEP, SCRIPTS[:2]), replace)
    buffer = buffer_for(env)
    with pytest.raises(rv.SpecMismatch, match=message):
        record(env, buffer, steps=20)
    assert len(buffer) == 0


def test_builtin_vector_env_is_recorded_without_dead_steps() -> None:
    """CartPole's own vector environment pays 1 for every true step and 0 for a reset: no 0 is stored."""
    env = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    buffer = buffer_for(env)
    record(env, buffer, steps=500, seed=0)
    batch = buffer.sample_steps(5_000)
    assert (batch.reward == 1).all()
    assert batch.next_obs_mask.all()
    tilted = (np.abs(batch.next_obs[:, 2]) > 12 * 2 * np.pi / 360) | (np.abs(batch.next_obs[:, 0]) > 2.4)
    assert (tilted == batch.terminated).all()


# --- stopping and failing ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("culprit", ["policy", "env", "on_step"])
def test_an_exception_cuts_what_is_open_and_passes_on(mode: AutoresetMode, culprit: str) -> None:
    """When policy, environment or on_step raises, what was added stays, is cut, and the error passes on."""
    calls = 0

    def fail_late(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("enough")
        return np.full(4, 11)

    env = lanes_of(mode, fail_at=5 if culprit == "env" else None)
    buffer = buffer_for(env)
    with pytest.raises(RuntimeError, match=r"enough|broke"):
        record(
            env,
            buffer,
            fail_late if culprit == "policy" else None,
            60,
            on_step=fail_late if culprit == "on_step" else None,
        )
    assert "running" not in buffer.episodes["ended"]
    stored = contents(buffer)
    logged = [{told[:5] for _, told in log} for log in logs_of(env)]
    assert len(buffer) > 0
    assert all({told[:5] for told in stored[lane]} <= logged[lane] for lane in range(4))


def test_a_refused_action_leaves_nothing_open() -> None:
    """An action that does not fit the spec is refused by the buffer, and the episode so far is cut."""
    env = Scripted(0, [(9, TERMINATED)])
    buffer = buffer_for(env)
    actions = iter([10, 11, 12.0])
    with pytest.raises(rv.SpecMismatch, match="'action'"):
        record(env, buffer, lambda obs: next(actions), 9)
    assert ends(buffer) == [(2, "cut")]


def test_on_step_hears_every_addition() -> None:
    """on_step gets the running number of steps, once for each row that added any."""
    heard: list[int] = []
    record(env := Scripted(), buffer_for(env), steps=4, on_step=heard.append)
    assert heard == [1, 2, 3, 4]
    heard.clear()
    record(env := lanes_of(AutoresetMode.SAME_STEP), buffer_for(env), steps=10, on_step=heard.append)
    assert heard == [4, 8, 10]


# --- seeds -------------------------------------------------------------------------------------------


class Dice(gym.Env[Any, Any]):
    """Observations are draws from the environment's own generator."""

    observation_space = gym.spaces.Discrete(2**40)
    action_space = gym.spaces.Discrete(2**40)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.integers(2**40), {}

    def step(self, action: Any) -> Any:
        return self.np_random.integers(2**40), 0.0, bool(self.np_random.random() < 0.2), False, {}


def numbers(seed: int | None, lanes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    env = Dice() if lanes == 1 else SyncVectorEnv([Dice] * lanes)
    buffer = buffer_for(env)
    record(env, buffer, steps=30, seed=seed)
    batch = buffer.sample_steps(1_000)
    order = {(int(s), int(i)): k for k, (s, i) in enumerate(zip(batch.stream, batch.id, strict=True))}
    keys = [order[key] for key in sorted(order)]
    return tuple(batch.obs[keys].tolist()), tuple(batch.action[keys].tolist())


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_seed_fixes_the_run_and_another_changes_it(lanes: int) -> None:
    """Equal seeds give equal runs, other seeds and None others, and actions are no echo of observations."""
    first = numbers(7, lanes)
    assert first == numbers(7, lanes)
    other, unseeded, again = numbers(8, lanes), numbers(None, lanes), numbers(None, lanes)
    for which in (0, 1):
        assert len({run[which] for run in (first, other, unseeded, again)}) == 4
    assert not set(first[0]) & set(first[1])


def test_random_actions_leave_the_environments_own_generator_alone() -> None:
    """policy=None draws from a copy of the action space, so the caller's later samples do not change."""
    env = Scripted()
    env.action_space.seed(3)
    before = env.action_space.np_random.bit_generator.state
    record(env, buffer_for(env), steps=5, seed=3)
    assert env.action_space.np_random.bit_generator.state == before


# --- what is refused up front ------------------------------------------------------------------------


def spec_with(**fields: rv.Field) -> rv.StepSpec:
    obs = fields.get("obs", rv.Field((3,), "int64"))
    extras = {key: field for key, field in fields.items() if key not in ("obs", "action")}
    return rv.StepSpec(obs, fields.get("action", rv.Field((), "int64")), extras)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            spec_with(obs=rv.Field((4,), "int64")),
            r"'obs': wanted Field\(\(3,\), 'int64'\).*got Field\(\(4,\)",
        ),
        (spec_with(obs=rv.Field((3,), "int32")), r"'obs': wanted .*'int64'.*from_env"),
        (spec_with(action=rv.Field((2,), "int64")), r"'action': wanted Field\(\(\), 'int64'\)"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_before_playing(spec: rv.StepSpec, message: str) -> None:
    """A buffer whose fields the environment cannot fill is refused before the first reset."""
    env = Scripted()
    with pytest.raises(rv.SpecMismatch, match=message):
        record(env, rv.ReplayBuffer(spec, 10), steps=5)
    assert env.resets == 0


def test_the_number_of_streams_must_be_the_number_of_lanes() -> None:
    """A buffer with more or fewer streams than lanes is refused before the first reset."""
    env = Scripted()
    two = rv.ReplayBuffer(rv.StepSpec.from_env(env), 10, streams=2)
    with pytest.raises(rv.BadSetting, match="wanted one stream per lane, 1 in all, got 2"):
        record(env, two, steps=5)
    lanes = lanes_of(AutoresetMode.SAME_STEP)
    with pytest.raises(rv.BadSetting, match="build it with streams=4"):
        record(lanes, two, steps=5)
    assert env.resets + sum(lane.resets for lane in lanes.envs) == 0


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 2.5}, {"steps": True}, {"seed": -1}, {"seed": "0"}])
def test_bad_numbers_are_refused_before_playing(bad: dict[str, Any]) -> None:
    """Steps below 1, fractions and bad seeds are refused before the first reset."""
    env = Scripted()
    with pytest.raises(rv.BadSetting, match=f"{next(iter(bad))}: wanted"):
        record(env, buffer_for(env), **{"steps": 5, **bad})
    assert env.resets == 0


def test_what_is_no_environment_is_refused() -> None:
    """Something that is no Gymnasium environment gets an error that says what is wanted."""
    buffer = buffer_for(Scripted())
    with pytest.raises(
        rv.BadSetting, match=r"wanted a gymnasium\.Env or gymnasium\.vector\.VectorEnv, got object"
    ):
        record(object(), buffer, steps=5)  # type: ignore[arg-type]


def test_a_vector_env_must_name_its_autoreset_mode() -> None:
    """A vector environment that does not say how it resets is refused: a guess would store dead steps."""
    env = lanes_of(AutoresetMode.SAME_STEP)
    env.autoreset_mode, env.metadata = None, {}
    with pytest.raises(rv.BadSetting, match="AutoresetMode, got None"):
        record(env, buffer_for(env), steps=5)
