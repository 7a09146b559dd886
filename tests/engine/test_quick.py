"""Steps that are stored by the short way leave what the long way leaves, bit for bit, whatever comes between."""

import sys
from contextlib import suppress

import numpy as np
import pytest

import reverie as rv
from reverie.engine import quick as ways
from reverie.index import native
from support.faults import Lines

SPEC = rv.StepSpec(rv.Field((3,), "float32"), rv.Field((2,), "float32"))
INTEGERS = ("head", "tail", "episode_of_slot", "open_episode", "front_episode", "front_stop", "begun", "dropped",
            "start", "stop", "settled", "final_slot", "stream", "ordinal", "order", "ended", "total")  # fmt: skip


@pytest.fixture(autouse=True, params=["NumPy"] if native is None else ["C", "NumPy"])
def way(request, monkeypatch):
    """Store what most steps are in the C kernel, and without it."""
    if request.param == "NumPy":
        monkeypatch.setattr(ways, "native", None)
    return request.param


def never(*step):
    """Store nothing: the long way has to."""
    return False


def pair(spec=SPEC, capacity=40, streams=1):
    """Return a buffer, and one that always goes the long way."""
    quick, slow = (rv.ReplayBuffer(spec, capacity, streams=streams, seed=0) for _ in range(2))
    slow._quick = slow._quick_lanes = never
    return quick, slow


def check_equal(quick, slow):
    """Compare every integer and every byte, and the next batch."""
    one, other = quick.engine, slow.engine
    for name in INTEGERS:
        assert np.array_equal(getattr(one.index, name), getattr(other.index, name)), name
    assert one.index.free == other.index.free
    for name, column in one.store.columns.items():
        assert column.tobytes() == other.store.columns[name].tobytes(), name
    for length in (1, 4):
        assert one.index.count_windows(length) == other.index.count_windows(length)
        if one.index.count_windows(length):
            batch, twin = quick.sample(8, length), slow.sample(8, length)
            assert batch.obs.tobytes() == twin.obs.tobytes()
            assert np.array_equal(batch.anchor, twin.anchor)
    assert np.array_equal(quick.episodes["return"], slow.episodes["return"])


def random_step(rng, ends=0.1):
    """Return a step whose values come in one of the forms that users have."""
    reward = float(rng.normal())
    forms = (reward, np.float32(reward), np.float64(reward), 3.0, 2, np.float16(0.5), np.array(reward))
    ended = rng.random() < ends
    flags = [ended and rng.random() < 0.5, ended]
    if rng.random() < 0.5:
        flags = [np.bool_(flag) for flag in flags]
    obs = rng.random(3, np.float32)
    wide = rng.random() < 0.1
    step = {
        "obs": obs.tolist() if wide else obs,
        "action": rng.random(2, np.float32),
        "reward": forms[rng.integers(len(forms))],
        "terminated": flags[0],
        "truncated": flags[1],
    }
    return step | ({"final_obs": rng.random(3, np.float32)} if ended and rng.random() < 0.5 else {})


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("ends", [0.5, 0.1, 0.01])
def test_both_ways_leave_the_same(streams, ends):
    """Ends, cuts, full rings, discarded episodes, and every form of a number."""
    rng = np.random.default_rng(int(ends * 100) + streams)
    quick, slow = pair(capacity=40 * streams, streams=streams)
    for number in range(300):
        step, stream = random_step(rng, ends), int(rng.integers(streams))
        if number % 40 == 39:
            quick.cut(stream)
            slow.cut(stream)
        for buffer in (quick, slow):
            buffer.add(**step, stream=stream)
        if number % 30 == 29:
            check_equal(quick, slow)


def test_the_short_way_is_taken():
    """Of a long episode all steps but the first are stored by it, and those after the ring is full."""
    quick, _ = pair(capacity=16)
    stored, short = [], quick._quick
    quick._quick = lambda *step: stored.append(short(*step)) or stored[-1]
    for number in range(40):
        zeros = np.zeros(3, np.float32)
        quick.add(
            obs=zeros, action=zeros[:2], reward=np.float32(number), terminated=np.False_, truncated=False
        )
    assert stored == [False] + [True] * 39


@pytest.mark.parametrize("action", [5, np.int64(5), np.array(5)])
def test_a_discrete_action_takes_the_short_way(action):
    """As a Python integer, as a NumPy one, which spaces sample, and as an array."""
    quick, slow = pair(rv.StepSpec(rv.Field((3,), "float32"), rv.Field((), "int64")))
    stored, short = [], quick._quick
    quick._quick = lambda *step: stored.append(short(*step)) or stored[-1]
    for number in range(5):
        obs = np.full(3, number, np.float32)
        for buffer in (quick, slow):
            buffer.add(obs=obs, action=action, reward=0.5, terminated=False, truncated=False)
    assert stored == [False] + [True] * 4
    check_equal(quick, slow)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("obs", np.zeros(4, np.float32)),
        ("obs", np.zeros(3, np.float64) + 1e300),
        ("action", np.zeros((1, 2), np.float32)),
        ("reward", float("nan")),
        ("reward", np.float32("inf")),
        ("reward", 1e39),
        ("reward", True + 2**24),
        ("terminated", 1),
        ("stream", True),
        ("stream", 1),
    ],
)
def test_what_does_not_fit_is_refused(name, value):
    """With the error of the long way; and nothing is stored."""
    quick, slow = pair()
    step = {"obs": np.zeros(3, np.float32), "action": np.zeros(2, np.float32), "reward": 0.0,
            "terminated": False, "truncated": False}  # fmt: skip
    said = []
    for buffer in (quick, slow):
        buffer.add(**step)
        with pytest.raises(rv.SpecMismatch) as caught:
            buffer.add(**{**step, name: value})
        said.append(str(caught.value))
    assert said[0] == said[1]
    check_equal(quick, slow)


def test_a_finite_field_is_looked_at():
    """NaN is refused where the field refuses it."""
    spec = rv.StepSpec(rv.Field((3,), "float32", finite=True), rv.Field((2,), "float32"))
    buffer = rv.ReplayBuffer(spec, 10, seed=0)
    step = {"action": np.zeros(2, np.float32), "reward": 0.0, "terminated": False, "truncated": False}
    buffer.add(obs=np.zeros(3, np.float32), **step)
    with pytest.raises(rv.SpecMismatch, match="finite"):
        buffer.add(obs=np.full(3, np.nan, np.float32), **step)


def test_whole_actions_are_stored():
    """A Python integer of the field's range, and no other one."""
    spec = rv.StepSpec(rv.Field((3,), "float32"), rv.Field((), "uint8"))
    quick, slow = pair(spec)
    step = {"obs": np.zeros(3, np.float32), "reward": 0.0, "terminated": False, "truncated": False}
    for buffer in (quick, slow):
        for action in (0, 255, np.uint8(7), np.array(3, np.uint8)):
            buffer.add(action=action, **step)
        for action in (256, -1, 0.5):
            with pytest.raises(rv.SpecMismatch):
                buffer.add(action=action, **step)
    check_equal(quick, slow)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_the_limits_of_whole_actions(kind):
    """The smallest and the largest one are stored, and none beyond."""
    limits = np.iinfo(kind)
    quick, slow = pair(rv.StepSpec(rv.Field((3,), "float32"), rv.Field((), kind)))
    step = {"obs": np.zeros(3, np.float32), "reward": 0.0, "terminated": False, "truncated": False}
    for buffer in (quick, slow):
        for action in (0, limits.max, limits.min, 1, limits.max - 1, limits.min + 1):
            buffer.add(action=int(action), **step)
        for action in (int(limits.max) + 1, int(limits.min) - 1, 2**64, -(2**63) - 1):
            with pytest.raises(rv.SpecMismatch):
                buffer.add(action=action, **step)
    check_equal(quick, slow)
    assert quick.engine.store.columns["action"][:3].tolist() == [0, limits.max, limits.min]


@pytest.mark.parametrize("kind", ["bool", "float16", "float64", "int16"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_fields_of_every_kind(shape, kind):
    """Contiguous values, strided ones, and values in the other byte order."""
    quick, slow = pair(rv.StepSpec(rv.Field(shape, kind), rv.Field(shape, kind)))
    rng = np.random.default_rng(len(shape))
    for number in range(12):
        values = rng.integers(0, 2 if kind == "bool" else 99, (2, *shape[::-1])).astype(kind)
        if number % 3 == 1:
            values = values.astype(values.dtype.newbyteorder(">"))
        obs, action = (np.asarray(value).T for value in values)
        for buffer in (quick, slow):
            buffer.add(obs=obs, action=action, reward=0.5, terminated=False, truncated=False)
    check_equal(quick, slow)


def test_the_table_of_episodes_grows():
    """Steps go on being stored where the table lies then."""
    quick, slow = pair(capacity=600)
    zeros = np.zeros(3, np.float32)
    for number in range(700):
        for buffer in (quick, slow):
            buffer.add(obs=zeros + number, action=zeros[:2], reward=float(number), terminated=number % 3 == 2,
                       truncated=False)  # fmt: skip
    assert len(quick.engine.index.start) > 200
    check_equal(quick, slow)


def test_rows_of_a_megabyte():
    """They are copied while other threads go on."""
    quick, slow = pair(rv.StepSpec(rv.Field((1 << 20,), "uint8"), rv.Field((), "int64")), capacity=4)
    for number in range(6):
        for buffer in (quick, slow):
            buffer.add(obs=np.full(1 << 20, number, np.uint8), action=number, reward=0.0, terminated=False,
                       truncated=False)  # fmt: skip
    check_equal(quick, slow)


def test_the_kernel_stores_most_steps(way, monkeypatch):
    """What it stores never comes to NumPy's way; a step is stored by one of them, never by both."""
    left = []
    for kind in (ways.Quick, ways.QuickLanes):
        add = kind.add
        monkeypatch.setattr(kind, "add", lambda self, *step, add=add: left.append(0) or add(self, *step))
    buffer = rv.ReplayBuffer(SPEC, 20, streams=2, seed=0)
    zeros = np.zeros((2, 3), np.float32)
    flags = np.zeros(2, np.bool_)
    for number in range(30):
        rewards = np.full(2, number, (np.float32, np.float64)[number % 2])
        buffer.add_batch(obs=zeros, action=zeros[:, :2].copy(), reward=rewards, terminated=flags, truncated=flags,
                         final_obs=(None, zeros)[number % 2])  # fmt: skip
        buffer.add(obs=zeros[0], action=zeros[0, :2], reward=rewards[0], terminated=False, truncated=flags[0])
    assert len(left) == (1 if way == "C" else 60)
    assert buffer.engine.index.head.tolist() == [60, 30]


@pytest.mark.parametrize("stream", [None, -1, 1, 2**70, np.int64(0), 0.0])
def test_a_stream_that_is_none(stream):
    """Is refused, or means what it means the long way."""
    quick, slow = pair()
    step = {"obs": np.zeros(3, np.float32), "action": np.zeros(2, np.float32), "reward": 0.0,
            "terminated": False, "truncated": False}  # fmt: skip
    said = []
    for buffer in (quick, slow):
        buffer.add(**step)
        try:
            said.append(buffer.add(**step, stream=stream))
        except rv.ReplayError as error:
            said.append(str(error))
    assert said[0] == said[1]
    check_equal(quick, slow)


def test_after_close_nothing_is_stored():
    """The short way asks, too."""
    buffer, _ = pair()
    step = {"obs": np.zeros(3, np.float32), "action": np.zeros(2, np.float32), "reward": 0.0,
            "terminated": False, "truncated": False}  # fmt: skip
    buffer.add(**step)
    buffer.add(**step)
    buffer.close()
    with pytest.raises(rv.BufferClosed):
        buffer.add(**step)


@pytest.mark.parametrize("capacity", [6, 8, 40])  # the ring is full; it drops an episode; it has room
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_all_or_nothing(error, capacity, monkeypatch):
    """At whatever line it comes: the step is there once, or it is not there."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    steps = [random_step(np.random.default_rng(seed), 0.0) for seed in range(20)]
    for step in steps:
        step["obs"], step["reward"] = np.asarray(step["obs"], np.float32), 0.1
    stored, line = set(), 0
    while True:
        quick, slow = pair(capacity=capacity)
        for buffer in (quick, slow):
            for number, step in enumerate(steps[:-2]):
                buffer.add(**{**step, "terminated": number == 10})
        line += 1
        watch = Lines(lambda: error, line)
        with suppress(error):
            watch.run(lambda buffer=quick: buffer.add(**steps[-2]))
        if watch.left:
            break
        quick.add(**steps[-1])
        done = quick.engine.index.head.item(0) == len(steps)
        stored.add(done)
        for step in steps[-2:] if done else steps[-1:]:
            slow.add(**step)
        check_equal(quick, slow)
    assert stored == {False, True}
    assert line > 12


# --- lanes -------------------------------------------------------------------------------------------------------------


def random_lanes(rng, lanes, ends):
    """Return a step for each lane, in one of the forms that users have."""
    ended = rng.random(lanes) < ends
    rewards = rng.normal(size=lanes)
    forms = (
        rewards.astype(np.float32),
        rewards,
        rewards.tolist(),
        np.arange(lanes),
        -np.ones(lanes, np.float32),
    )
    obs = rng.random((lanes, 3), np.float32)
    final = (None, rng.random((lanes, 3), np.float32), np.asfortranarray(obs))[rng.integers(3)]
    return {
        "obs": obs.tolist() if rng.random() < 0.1 else obs,
        "action": rng.random((2, lanes), np.float32).T,
        "reward": forms[max(int(rng.integers(12)) - 7, 0)],
        "terminated": ended,
        "truncated": ended & (rng.random(lanes) < 0.5),
        **({} if final is None else {"final_obs": final}),
    }


@pytest.mark.parametrize("lanes", [1, 5, 200])
@pytest.mark.parametrize("ends", [0.2, 0.01, 0.0])
def test_both_ways_of_lanes_leave_the_same(lanes, ends):
    """Ends, cuts, full rings, dropped episodes; also when single lanes go ahead, and all come together again."""
    rng = np.random.default_rng(int(ends * 100) + lanes)
    quick, slow = pair(capacity=24 * lanes, streams=lanes)
    for number in range(150):
        step, one = random_lanes(rng, lanes, ends), random_step(rng)
        for buffer in (quick, slow):
            buffer.add_batch(**step)
            if number % 40 == 39:
                buffer.cut(int(number) % lanes)
            if number % 50 == 49:  # one goes ahead
                buffer.add(**one, stream=lanes - 1)
            if number % 50 == 1 and number > 1:  # the others follow
                for stream in range(lanes - 1):
                    buffer.add(**one, stream=stream)
            if number == 100:
                buffer.discard(buffer.episodes.ids[buffer.episodes["ended"] != "running"][:1])
        if number % 15 == 14 or number % 50 in (0, 2):
            check_equal(quick, slow)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_short_way_of_lanes_is_taken(dtype):
    """By all steps but those that begin or end an episode, also when the ring drops its oldest episodes."""
    quick, slow = pair(capacity=2 * 16, streams=2)
    stored, short = [], quick._quick_lanes
    quick._quick_lanes = lambda *step: stored.append(short(*step)) or stored[-1]
    for number in range(40):
        zeros = np.full((2, 3), number, np.float32)
        step = {"obs": zeros, "action": zeros[:, :2], "reward": zeros[:, 0].astype(dtype), "final_obs": zeros + 1,
                "terminated": np.array([False, number == 9]), "truncated": np.zeros(2, np.bool_)}  # fmt: skip
        for buffer in (quick, slow):
            buffer.add_batch(**step)
    assert [number for number, short in enumerate(stored) if not short] == [0, 9, 10]
    check_equal(quick, slow)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("obs", np.zeros((2, 4), np.float32)),
        ("obs", np.zeros((3, 3), np.float32)),
        ("action", np.zeros(2, np.float32)),
        ("reward", np.array([0.0, np.nan], np.float32)),
        ("reward", np.array([np.inf, -np.inf], np.float32)),
        ("reward", np.array([0.0, 1e39])),
        ("reward", np.array([0.0, np.nan])),
        ("reward", np.zeros((2, 1), np.float32)),
        ("terminated", np.zeros(2, np.int8)),
        ("truncated", np.zeros((2, 1), np.bool_)),
        ("final_obs", np.zeros(3, np.float32)),
    ],
)
def test_lanes_that_do_not_fit_are_refused(name, value):
    """With the error of the long way; and nothing is stored."""
    quick, slow = pair(streams=2)
    step = {"obs": np.zeros((2, 3), np.float32), "action": np.zeros((2, 2), np.float32),
            "reward": np.zeros(2, np.float32), "terminated": np.zeros(2, np.bool_),
            "truncated": np.zeros(2, np.bool_)}  # fmt: skip
    said = []
    for buffer in (quick, slow):
        buffer.add_batch(**step)
        with pytest.raises(rv.SpecMismatch) as caught:
            buffer.add_batch(**{**step, name: value})
        said.append(str(caught.value))
    assert said[0] == said[1]
    check_equal(quick, slow)


@pytest.mark.parametrize("numbers", [100, 300])
def test_rewards_of_many_lanes_are_looked_at(numbers):
    """One that is not finite is found among few and among many; the largest ones do not add up to infinity."""
    buffer = rv.ReplayBuffer(SPEC, 4 * numbers, streams=numbers, seed=0)
    rewards = np.full(numbers, np.finfo(np.float32).max)
    step = {"obs": np.zeros((numbers, 3), np.float32), "action": np.zeros((numbers, 2), np.float32),
            "terminated": np.zeros(numbers, np.bool_), "truncated": np.zeros(numbers, np.bool_)}  # fmt: skip
    for _ in range(3):
        buffer.add_batch(reward=rewards, **step)
    for wrong in (np.nan, 1e39, -np.inf):
        for dtype in (np.float64, np.float32):
            with np.errstate(over="ignore"):
                rewards = np.append(np.zeros(numbers - 1), wrong).astype(dtype)
            with pytest.raises(rv.SpecMismatch):
                buffer.add_batch(reward=rewards, **step)
    assert buffer.engine.index.head.tolist() == [3] * numbers


@pytest.mark.parametrize("capacity", [6, 11, 40])  # the rings are full; they drop an episode; they have room
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_of_lanes_leaves_all_or_nothing(error, capacity, monkeypatch):
    """At whatever line it comes: the steps are there once, or they are not there."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    steps = []
    for number in range(22):
        values = np.random.default_rng(number).random((2, 6), np.float32)
        ends = np.array([number == 10, number == 9])
        steps.append({"obs": values[:, :3], "action": values[:, 3:5], "reward": values[:, 5], "terminated": ends,
                      "truncated": ~ends & False, "final_obs": values[:, 3:]})  # fmt: skip
    stored, line = set(), 0
    while True:
        quick, slow = pair(capacity=2 * capacity, streams=2)
        for buffer in (quick, slow):
            for step in steps[:-2]:
                buffer.add_batch(**step)
        line += 1
        watch = Lines(lambda: error, line)
        with suppress(error):
            watch.run(lambda buffer=quick: buffer.add_batch(**steps[-2]))
        if watch.left:
            break
        quick.add_batch(**steps[-1])
        done = quick.engine.index.head.item(0) == len(steps)
        stored.add(done)
        for step in steps[-2:] if done else steps[-1:]:
            slow.add_batch(**step)
        check_equal(quick, slow)
    assert stored == {False, True}
    assert line > 12
