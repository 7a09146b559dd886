"""Steps that are stored by the short way leave what the long way leaves, bit for bit, whatever comes between."""

import sys
from contextlib import suppress

import numpy as np
import pytest

import reverie as rv
from support.faults import Lines

SPEC = rv.StepSpec(rv.Field((3,), "float32"), rv.Field((2,), "float32"))
INTEGERS = ("head", "tail", "episode_of_slot", "open_episode", "front_episode", "front_stop", "begun", "dropped",
            "start", "stop", "settled", "final_slot", "stream", "ordinal", "order", "ended", "total")  # fmt: skip


def never(*step):
    """Store nothing: the long way has to."""
    return False


def pair(spec=SPEC, capacity=40, streams=1):
    """Return a buffer, and one that always goes the long way."""
    quick, slow = (rv.ReplayBuffer(spec, capacity, streams=streams, seed=0) for _ in range(2))
    slow._quick = never
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
    assert line > 20
