"""One door for values: every entry takes NumPy's, torch's and JAX's arrays and plain numbers, or says what is wrong."""

from __future__ import annotations

import functools

import gymnasium
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

import reverie as rv
import reverie.gymnasium

# Every kind of value says the two numbers 1.5 and -2, which all floating types hold.
NUMBERS = [1.5, -2.0]
VECTOR, SCALAR = rv.Field((2,), "float32"), rv.Field((), "float32")


def tensor(**options) -> torch.Tensor:
    return torch.tensor(NUMBERS, **options)


def read_only() -> np.ndarray:
    array = np.array(NUMBERS, np.float32)
    array.setflags(write=False)
    return array


def deleted() -> jax.Array:
    array = jnp.array(NUMBERS) + 0
    array.delete()
    return array


TAKEN = {
    "float32": lambda: np.array(NUMBERS, np.float32),
    "read-only": read_only,
    "strided": lambda: np.array([1.5, 0, -2.0, 0], np.float32)[::2],
    "other byte order": lambda: np.array(NUMBERS, ">f4"),
    "float16": lambda: np.array(NUMBERS, np.float16),
    "bfloat16": lambda: np.array(NUMBERS, ml_dtypes.bfloat16),
    "float8": lambda: np.array(NUMBERS, ml_dtypes.float8_e4m3fn),
    "list": lambda: NUMBERS,
    "tuple": lambda: tuple(NUMBERS),
    "list of NumPy scalars": lambda: [np.float32(1.5), np.float64(-2.0)],
    "list of integer and float": lambda: [1.5, -2],
    "tensor": tensor,
    "tensor with gradient": lambda: tensor(requires_grad=True),
    "result with gradient": lambda: tensor(requires_grad=True) * 1,
    "parameter": lambda: torch.nn.Parameter(tensor()),
    "strided tensor": lambda: torch.tensor([1.5, 0, -2.0, 0])[::2],
    "negated view": lambda: torch.complex(torch.zeros(2), -tensor()).conj().imag,
    "bfloat16 tensor": lambda: tensor(dtype=torch.bfloat16),
    "bfloat16 tensor with gradient": lambda: tensor(dtype=torch.bfloat16, requires_grad=True),
    "float16 tensor": lambda: tensor(dtype=torch.float16),
    "float8 tensor": lambda: tensor().to(torch.float8_e4m3fn),
    "list of tensors with gradient": lambda: list(tensor(requires_grad=True)),
    "list of tensor and number": lambda: [tensor(dtype=torch.bfloat16)[0], -2.0],
    "JAX": lambda: jnp.array(NUMBERS, jnp.float32),
    "JAX bfloat16": lambda: jnp.array(NUMBERS, jnp.bfloat16),
    "list of JAX scalars": lambda: list(jnp.array(NUMBERS)),
}
REFUSED = {
    "no data": lambda: tensor(device="meta"),
    "sparse": lambda: tensor().to_sparse(),
    "complex tensor": lambda: tensor(dtype=torch.complex64),
    "deleted": deleted,
    "random key": lambda: jax.random.key(0),
    "complex": lambda: np.array(NUMBERS, complex),
    "objects": lambda: np.array(NUMBERS, object),
    "text": lambda: "1.5",
    "None": lambda: None,
    "list with None": lambda: [1.5, None],
    "ragged": lambda: [[1.5], -2.0],
    "ragged tensors": lambda: [tensor(), tensor()[:1]],
    "masked": lambda: np.ma.masked_equal(np.array(NUMBERS, np.float32), 1.5),
    "structured": lambda: np.zeros(2, [("a", "f4")]),
    "an object of one's own": lambda: object(),
    "three numbers": lambda: torch.tensor([1.5, -2.0, 0.0]),
}
# In a float32 field; priorities and rewards are rounded.
DOUBLES = {
    "float64": lambda: np.array(NUMBERS),
    "float64 tensor": lambda: tensor(dtype=torch.float64),
    "float64 tensor with gradient": lambda: tensor(dtype=torch.float64, requires_grad=True),
}


def buffer_of(obs=VECTOR, action=VECTOR, streams=1, **extras) -> rv.ReplayBuffer:
    return rv.ReplayBuffer(rv.StepSpec(obs, action, extras), 8, streams=streams, seed=0)


def add(buffer, name, value):
    zero = np.zeros(2, np.float32)
    fields = {column.name.split("/")[-1]: zero for column in buffer.spec.columns()}
    step = fields | {"reward": 0.0, "terminated": True, "truncated": False} | {name: value}
    buffer.add(**step)
    return buffer.sample(1, 1)


def lanes(buffer, name, value):
    zero = np.zeros(2, np.float32)
    step = {
        "obs": zero,
        "action": zero,
        "reward": zero,
        "terminated": np.ones(2, bool),
        "truncated": np.zeros(2, bool),
    }
    buffer.add_batch(**step | {name: value})
    batch = buffer.sample(2, 1, sampler=rv.Shuffled())
    order = np.argsort(batch.stream)
    return batch.obs[order], batch.action[order, 0], batch.reward[order, 0]


def cut(value):
    buffer = buffer_of()
    buffer.add(obs=[0.0, 0.0], action=[0.0, 0.0], reward=0.0, terminated=False, truncated=False)
    buffer.cut(final_obs=value)
    return buffer.sample(1, 1).obs[0, 1]


def write_back(value):
    buffer = buffer_of(note=SCALAR)
    for _ in range(2):
        add_note = {"obs": [0.0, 0.0], "action": [0.0, 0.0], "note": 0.0}
        buffer.add(**add_note, reward=0.0, terminated=False, truncated=False)
    buffer.cut()
    batch = buffer.sample(1, 2)
    buffer.write_back(batch, note=[value] if isinstance(value, (list, tuple, str)) else batched(value))
    return buffer.sample(1, 2).extras["note"][0]


def batched(value):
    """A value with a batch axis, which not everything can have."""
    return value[None] if getattr(value, "shape", None) == (2,) and not is_odd(value) else [value]


def is_odd(value) -> bool:
    return isinstance(value, jax.Array) and value.is_deleted()


def update_priorities(value):
    buffer, sampler = buffer_of(), rv.Prioritized(alpha=1.0, epsilon=0.0)
    add(buffer, "reward", 0.0)
    add(buffer, "reward", 0.0)
    batch = buffer.sample(2, 1, sampler=rv.Shuffled())
    batch = buffer.sample(200, 1, sampler=sampler)
    pair = [batch.anchor.tolist().index(step) for step in (0, 1)]
    small = buffer.sample(2, 1, sampler=sampler)
    small.anchor[...], small.start[...] = batch.anchor[pair], batch.start[pair]
    buffer.update_priorities(small, value)
    return sampler.save()["steps"]["weights"][:2] * np.sign(NUMBERS)  # priorities have no sign


class One(gymnasium.Env):
    """Shows, and asks for, what the test says."""

    observation_space = action_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)

    def __init__(self, shown):
        self.shown, self.given = shown, []

    def reset(self, *, seed=None, options=None):
        return self.shown, {}

    def step(self, action):
        self.given.append(action)
        return self.shown, 0.0, True, False, {}


class Two(VectorEnv):
    """Two lanes that end with every step, and tell the last observations of both."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = single_action_space = gymnasium.spaces.Box(-9, 9, (), np.float32)
    observation_space = action_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    num_envs = 2

    def __init__(self, final, reward):
        self.final, self.reward = final, reward

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        ended = np.ones(2, bool)
        return np.zeros(2, np.float32), self.reward, ended, ~ended, {"final_obs": self.final}


def record_obs(value):
    buffer = buffer_of()
    reverie.gymnasium.record(One(value), buffer, lambda obs: np.zeros(2, np.float32), steps=1)
    batch = buffer.sample(1, 1)
    assert np.array_equal(batch.obs[0, 0], batch.obs[0, 1])
    return batch.obs[0, 1]


def record_action(value):
    buffer, env = buffer_of(), One(np.zeros(2, np.float32))
    reverie.gymnasium.record(env, buffer, lambda obs: value, steps=1)
    assert not hasattr(env.given[0], "dtype") or isinstance(env.given[0], np.ndarray)
    return buffer.sample(1, 1).action[0, 0]


def record_lanes(value, reward=0):
    buffer = buffer_of(SCALAR, SCALAR, streams=2)
    env = Two(value, np.zeros(2)) if not reward else Two(np.zeros(2, np.float32), value)
    reverie.gymnasium.record(env, buffer, lambda obs: np.zeros(2, np.float32), steps=2)
    batch = buffer.sample(2, 1, sampler=rv.Shuffled())
    order = np.argsort(batch.stream)
    return batch.reward[order, 0] if reward else batch.obs[order, 1]


def drop_in(value):
    buffer = rv.IRISReplayBuffer(4, (1, 2, 2), 2, seq_len=1)
    buffer.add(np.zeros((1, 2, 2), np.uint8), value, 0.0, False)
    return buffer.actions[0]


def on_policy(value):
    buffer = rv.IRISOnPolicyBuffer()
    buffer.add(np.zeros((1, 2, 2), np.uint8), value, 0.0, False)
    if np.shape(buffer.actions[0]) != (2,):
        raise rv.SpecMismatch("any vector is an action here: wanted two numbers, got another count; none")
    return buffer.actions[0]


FIELDS = {
    "add obs": lambda value: add(buffer_of(), "obs", value).obs[0, 0],
    "add action": lambda value: add(buffer_of(), "action", value).action[0, 0],
    "add extra": lambda value: add(buffer_of(note=VECTOR), "note", value).extras["note"][0, 0],
    "add final_obs": lambda value: add(buffer_of(), "final_obs", value if value is not None else [None]).obs[0, 1],
    "add obs in a dict": lambda value: add_dict(value),
    "add_batch obs": lambda value: lanes(buffer_of(SCALAR, SCALAR, 2), "obs", value)[0][:, 0],
    "add_batch action": lambda value: lanes(buffer_of(SCALAR, SCALAR, 2), "action", value)[1],
    "add_batch final_obs": lambda value: lanes(buffer_of(SCALAR, SCALAR, 2), "final_obs", value if value is not None else [None])[0][:, 1],
    "cut final_obs": lambda value: cut(value if value is not None else [None]),
    "write_back": write_back,
    "record obs": record_obs,
    "record action": record_action,
    "record final_obs": record_lanes,
}  # fmt: skip
ROUNDED = {
    "add_batch reward": lambda value: lanes(buffer_of(SCALAR, SCALAR, 2), "reward", value)[2],
    "record reward": functools.partial(record_lanes, reward=1),
    "update_priorities": update_priorities,
    "drop-in action": drop_in,
    "on-policy action": on_policy,
}


def add_dict(value):
    buffer = rv.ReplayBuffer(rv.StepSpec({"a": {"b": VECTOR}}, SCALAR), 4, seed=0)
    buffer.add(obs={"a": {"b": value}}, action=0.0, reward=0.0, terminated=True, truncated=False)
    return buffer.sample(1, 1).obs["a"]["b"][0, 0]


def assert_clear(error) -> None:
    message = str(error)
    assert "wanted" in message
    assert "got" in message.split("wanted", 1)[1]
    assert ";" in message.split("got", 1)[1]


# Under SAME_STEP a list, or an array of objects, has one value for each lane: there the first is a double, the second fits.
BY_LANE = {("record final_obs", "list of NumPy scalars"), ("record final_obs", "objects")}


def pairs(kinds) -> list:
    entries = [*FIELDS, *ROUNDED]
    return [(entry, kind) for entry in entries for kind in kinds if (entry, kind) not in BY_LANE]


@pytest.mark.parametrize(("entry", "kind"), pairs(TAKEN))
def test_every_entry_takes_every_kind_of_value(entry, kind):
    """What goes in as any array of any framework comes out as the numbers that it holds."""
    got = (FIELDS | ROUNDED)[entry](TAKEN[kind]())
    assert np.asarray(got).tolist() == NUMBERS


@pytest.mark.parametrize(("entry", "kind"), pairs(REFUSED))
def test_every_entry_refuses_what_holds_no_such_numbers(entry, kind):
    """What is no array of numbers is refused in reverie's words, never in a framework's."""
    with pytest.raises(rv.SpecMismatch) as caught:
        (FIELDS | ROUNDED)[entry](REFUSED[kind]())
    assert_clear(caught.value)


@pytest.mark.parametrize("kind", DOUBLES)
@pytest.mark.parametrize("entry", [*FIELDS, *ROUNDED])
def test_doubles_are_refused_by_fields_and_rounded_elsewhere(entry, kind):
    """A float64 array is refused by a float32 field; rewards, priorities and the drop-in classes round it."""
    if entry in ROUNDED:
        assert np.asarray(ROUNDED[entry](DOUBLES[kind]())).tolist() == NUMBERS
        return
    with pytest.raises(rv.SpecMismatch, match=r"wanted (dtype )?float32|and dtype float32") as caught:
        FIELDS[entry](DOUBLES[kind]())
    assert_clear(caught.value)


def test_final_observations_may_come_lane_by_lane():
    """infos["final_obs"] may be an array of objects, one for each lane, as Gymnasium makes it; doubles are refused."""
    assert record_lanes(REFUSED["objects"]()).tolist() == NUMBERS
    with pytest.raises(rv.SpecMismatch, match=r"float32 as in the observations, got .* float64"):
        record_lanes(TAKEN["list of NumPy scalars"]())


def test_a_traced_value_is_refused():
    """Inside a jitted function there are no numbers yet."""
    buffer = buffer_of()

    @jax.jit
    def step(obs):
        buffer.add(obs=obs, action=[0.0, 0.0], reward=0.0, terminated=False, truncated=False)
        return obs

    with pytest.raises(rv.SpecMismatch, match="got DynamicJaxprTracer") as caught:
        step(jnp.array(NUMBERS))
    assert_clear(caught.value)
    assert len(buffer) == 0


SCALARS = {
    "float": lambda: 1.5,
    "NumPy": lambda: np.float32(1.5),
    "double": lambda: np.float64(1.5),
    "0-d": lambda: np.array(1.5),
    "bfloat16": lambda: ml_dtypes.bfloat16(1.5),
    "tensor": lambda: torch.tensor(1.5),
    "tensor with gradient": lambda: torch.tensor(1.5, requires_grad=True),
    "bfloat16 tensor": lambda: torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True),
    "JAX": lambda: jnp.float32(1.5),
    "JAX bfloat16": lambda: jnp.bfloat16(1.5),
}
NO_SCALARS = {
    "NumPy (1,)": lambda: np.array([1.5]),
    "tensor (1,)": lambda: torch.tensor([1.5], requires_grad=True),
    "JAX (1,)": lambda: jnp.array([1.5]),
    "list": lambda: [1.5],
    "no data": lambda: torch.tensor(1.5, device="meta"),
    "NaN": lambda: torch.tensor(float("nan")),
    "text": lambda: "1.5",
    "None": lambda: None,
    "complex": lambda: 1.5j,
}


class Pays(One):
    """Pays what the test says."""

    def step(self, action):
        return np.zeros(2, np.float32), self.shown, True, False, {}

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}


def record_reward(value):
    buffer = buffer_of()
    reverie.gymnasium.record(Pays(value), buffer, steps=1)
    return buffer.sample(1, 1).reward[0, 0]


def drop_in_reward(value):
    buffer = rv.IRISReplayBuffer(4, (1, 2, 2), 2)
    buffer.add(np.zeros((1, 2, 2), np.uint8), 0, value, False)
    return buffer.rewards[0]


def on_policy_reward(value):
    buffer = rv.IRISOnPolicyBuffer()
    buffer.add(np.zeros((1, 2, 2), np.uint8), 0, value, False)
    return buffer.rewards[0]


REWARDS = {
    "add": lambda value: add(buffer_of(), "reward", value).reward[0, 0],
    "record": record_reward,
    "drop-in": drop_in_reward,
    "on-policy": on_policy_reward,
}


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("entry", REWARDS)
def test_a_reward_may_be_any_one_number(entry, kind):
    """A reward comes as a number or a scalar of any framework."""
    assert REWARDS[entry](SCALARS[kind]()) == 1.5


@pytest.mark.parametrize("kind", NO_SCALARS)
@pytest.mark.parametrize("entry", REWARDS)
def test_a_reward_that_is_not_one_finite_number_is_refused(entry, kind):
    """An array of one number is no number: it may be a batch of one, whose axis was forgotten."""
    with pytest.raises(rv.SpecMismatch, match="reward") as caught:
        REWARDS[entry](NO_SCALARS[kind]())
    assert_clear(caught.value)


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_flags_come_from_any_framework(name):
    """A flag is a bool, NumPy's, torch's or JAX's; numbers and arrays of one are refused."""
    other = {"terminated": "truncated", "truncated": "terminated"}[name]
    for value in (True, np.True_, np.array(True), torch.tensor(True), jnp.array(True)):
        buffer = buffer_of()
        buffer.add(obs=[0.0, 0.0], action=[0.0, 0.0], reward=0.0, **{name: value, other: False})
        assert getattr(buffer.sample(1, 1), name).all()
    for value in (np.array([True]), torch.tensor([True]), jnp.array([True]), torch.tensor(1), 1, [True],
                  torch.tensor(True, device="meta")):  # fmt: skip
        with pytest.raises(rv.SpecMismatch) as caught:
            buffer_of().add(obs=[0.0, 0.0], action=[0.0, 0.0], reward=0.0, **{name: value, other: False})
        assert_clear(caught.value)


def test_a_discrete_action_comes_from_any_framework():
    """One integer as a number or a scalar of any framework is an action; an array of one is refused."""
    for value in (3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), jnp.int32(3)):
        buffer = buffer_of(action=rv.Field((), "int64"))
        assert add(buffer, "action", value).action[0, 0] == 3
    for value in (np.array([3]), torch.tensor([3]), jnp.array([3]), [3], torch.tensor(3.0), 3.0):
        with pytest.raises(rv.SpecMismatch) as caught:
            add(buffer_of(action=rv.Field((), "int64")), "action", value)
        assert_clear(caught.value)


def test_an_environment_of_tensors_is_given_what_the_policy_chose():
    """Where observations are tensors the environment gets tensors back; where they are NumPy's it gets NumPy's."""
    chosen = torch.zeros(2, requires_grad=True) * 1
    for shown, kind in ((torch.zeros(2), torch.Tensor), (np.zeros(2, np.float32), np.ndarray)):
        env = One(shown)
        reverie.gymnasium.record(env, buffer_of(), lambda obs: chosen, steps=1)
        assert isinstance(env.given[0], kind)


def test_what_the_policy_changes_later_is_not_stored():
    """record copies tensors before the environment moves on."""
    shared = torch.zeros(2)

    class Moves(One):
        def step(self, action):
            shared.add_(1)
            return shared, 0.0, False, False, {}

    buffer = buffer_of()
    reverie.gymnasium.record(Moves(shared), buffer, lambda obs: obs, steps=3)
    batch = buffer.sample(1, 3)
    assert batch.obs[0, :, 0].tolist() == [0, 1, 2, 3]
    assert batch.action[0, :, 0].tolist() == [0, 1, 2]
