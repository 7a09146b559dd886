"""The on-policy buffer keeps one trajectory whole, and hands it over whole or not at all."""

import numpy as np
import pytest
from test_compat import SHAPE, Pair, frame, make, numbers

import reverie as rv

LISTS = ("observations", "actions", "rewards", "terminals")


def trajectory(steps: int, *, first: int = 100, end: str = "terminal", **settings) -> rv.IRISOnPolicyBuffer:
    """A buffer of steps whose frames count on from `first`; `end` is "", "terminal" or "truncated"."""
    buffer = rv.IRISOnPolicyBuffer(**settings)
    for number in range(first, first + steps):
        last = number == first + steps - 1
        buffer.add(frame(number), number % 3, number / 4, last and end == "terminal",
                   truncated=last and end == "truncated")  # fmt: skip
    return buffer


def contents(buffer: rv.IRISOnPolicyBuffer) -> list[list]:
    return [[np.asarray(value).tolist() for value in getattr(buffer, name)] for name in LISTS]


def windows(buffer, length: int) -> set[tuple[int, ...]]:
    """The frame numbers of the windows that the buffer gives, either class; empty when there is none."""
    try:
        if isinstance(buffer, rv.IRISReplayBuffer):
            batches = [buffer.sample_sequence(length)[0] for _ in range(8)]
        else:
            batches = [buffer.sample(64, length).obs for _ in range(8)]
    except rv.NotEnoughData:
        return set()
    return {tuple(row) for batch in batches for row in numbers(batch).tolist()}


def engine_buffer(size: int = 40, streams: int = 1, **extras) -> rv.ReplayBuffer:
    spec = rv.StepSpec(rv.Field(SHAPE, "uint8"), rv.Field((), "int8"), extras)
    return rv.ReplayBuffer(spec, size, streams=streams, seed=0)


def add(buffer, number: int, end: bool = False, stream: int = 0) -> None:
    """Add a step to a replay buffer of either class."""
    if isinstance(buffer, rv.IRISReplayBuffer):
        buffer.add(frame(number), 0, 0.0, end)
    else:
        buffer.add(obs=frame(number), action=0, reward=0.0, terminated=end, truncated=False, stream=stream)


TARGETS = pytest.mark.parametrize("target", [lambda: make(40), engine_buffer],
                                  ids=["IRISReplayBuffer", "ReplayBuffer"])  # fmt: skip


def test_it_is_a_list_based_store():
    """max_steps, the four lists, add, len and clear are there; there is one entry per step in each list."""
    buffer = rv.IRISOnPolicyBuffer()
    assert (buffer.max_steps, len(buffer)) == (1000, 0)
    buffer = rv.IRISOnPolicyBuffer(max_steps=5)
    buffer.add(frame(1), 2, 0.5, False)
    buffer.add(obs=frame(2), action=1, reward=1.5, terminal=True)
    assert all(type(getattr(buffer, name)) is list for name in LISTS)
    assert contents(buffer) == [[frame(1).tolist(), frame(2).tolist()], [2, 1], [0.5, 1.5], [0.0, 1.0]]
    assert len(buffer) == 2
    buffer.clear()
    assert len(buffer) == 0
    assert contents(buffer) == [[], [], [], []]


@pytest.mark.parametrize("max_steps", [0, -1, 2.5, 3.0, True, None, "5"])
def test_a_limit_that_is_none_is_refused(max_steps):
    """max_steps below one or not whole raises BadSetting at construction."""
    with pytest.raises(rv.BadSetting, match="max_steps: wanted"):
        rv.IRISOnPolicyBuffer(max_steps)


def test_arrays_have_a_leading_time_axis():
    """get_arrays gives uint8 frames as they came and float32 vectors, rewards and terminals."""
    buffer = rv.IRISOnPolicyBuffer()
    for number in range(4):
        buffer.add(frame(number * 100), np.array([number, 0.5], np.float64), number / 2, number == 3)
    observations, actions, rewards, terminals = buffer.get_arrays()
    assert [array.dtype for array in (observations, actions, rewards, terminals)] == [
        np.uint8, np.float32, np.float32, np.float32]  # fmt: skip
    np.testing.assert_array_equal(observations, [frame(0), frame(100), frame(200), frame(300)])
    np.testing.assert_array_equal(actions, [[0, 0.5], [1, 0.5], [2, 0.5], [3, 0.5]])
    np.testing.assert_array_equal(rewards, [0, 0.5, 1, 1.5])
    np.testing.assert_array_equal(terminals, [0, 0, 0, 1])
    observations[...] = 0
    np.testing.assert_array_equal(buffer.observations[3], frame(300))


def test_empty_arrays_have_the_right_rank():
    """Without steps the four arrays have the ranks and dtypes they have with steps, and no rows."""
    buffer = rv.IRISOnPolicyBuffer()
    shapes = [(array.shape, array.dtype) for array in buffer.get_arrays()]
    assert shapes == [((0, 0, 0, 0), np.uint8), ((0, 0), np.float32), ((0,), np.float32), ((0,), np.float32)]
    buffer.add(frame(1), [0.0, 1.0], 0.0, True)
    ranks = [array.ndim for array in buffer.get_arrays()]
    buffer.clear()
    assert [array.shape for array in buffer.get_arrays()] == [(0, *SHAPE), (0, 2), (0,), (0,)]
    assert [array.ndim for array in buffer.get_arrays()] == ranks
    buffer.add(frame(1), 1, 0.0, True)
    buffer.clear()
    assert [array.shape for array in buffer.get_arrays()] == [(0, *SHAPE), (0,), (0,), (0,)]


def test_add_keeps_copies():
    """An environment that uses its frame, action and final frame arrays again does not rewrite history."""
    shared, action, final = frame(1), np.array([1.0, 2.0, 3.0], np.float32), frame(9)
    buffer = rv.IRISOnPolicyBuffer()
    buffer.add(shared, action, 0.0, False)
    shared[...], action[...] = frame(2), 7.0
    buffer.add(shared, action, 0.0, True, final_obs=final)
    shared[...], action[...], final[...] = 0, 0.0, 0
    observations, actions, _, _ = buffer.get_arrays()
    np.testing.assert_array_equal(observations, [frame(1), frame(2)])
    np.testing.assert_array_equal(actions, [[1, 2, 3], [7, 7, 7]])
    target = make(10)
    buffer.move_to(target)
    assert windows(target, 2) == {(1, 2, 9)}


def test_a_full_buffer_refuses_a_step_and_loses_nothing():
    """Past max_steps, add raises BufferFull; what is held stays, and after move_to there is room again."""
    buffer = trajectory(3, end="", max_steps=3)
    before = contents(buffer)
    for _ in range(2):
        with pytest.raises(rv.BufferFull, match=r"all 3 taken; call move_to or clear"):
            buffer.add(frame(9), 0, 0.0, True)
    assert contents(buffer) == before
    target = make(10)
    buffer.move_to(target)
    buffer.add(frame(9), 0, 0.0, True)
    assert (len(target), len(buffer)) == (3, 1)


@pytest.mark.parametrize(("step", "what"), [
    ((np.zeros((1, 3, 2), np.uint8), 0, 0.0, False), "obs"), ((np.zeros((2, 2), np.uint8), 0, 0.0, False), "obs"),
    (([[[1, 2], [3]]], 0, 0.0, False), "obs"), ((frame(1) / 255, 0, 0.0, False), "obs"), ((None, 0, 0.0, False), "obs"),
    ((frame(1), [0.0, 1.0], 0.0, False), "action"), ((frame(1), 1.0, 0.0, False), "action"),
    ((frame(1), [[1.0]], 0.0, False), "action"), ((frame(1), True, 0.0, False), "action"),
    ((frame(1), 0, np.nan, False), "reward"), ((frame(1), 0, None, False), "reward"),
    ((frame(1), 0, 0.0, 2), "terminal"), ((frame(1), 0, 0.0, np.nan), "terminal"),
], ids=lambda value: value if isinstance(value, str) else "step")  # fmt: skip
def test_what_does_not_fit_the_trajectory_is_refused_by_add(step, what):
    """Ragged frames and actions, floats for frames, NaN and the like raise SpecMismatch; nothing is stored."""
    buffer = trajectory(2)
    before = contents(buffer)
    with pytest.raises(rv.SpecMismatch, match=f"field '{what}'"):
        buffer.add(*step)
    assert contents(buffer) == before
    target = make(10)
    buffer.move_to(target)
    assert len(target) == 2


def test_a_vector_trajectory_takes_no_other_actions():
    """After a vector of two, a vector of three and an integer are refused."""
    buffer = rv.IRISOnPolicyBuffer()
    buffer.add(frame(1), [0.0, 1.0], 0.0, False)
    for action in ([0.0, 1.0, 2.0], 1):
        with pytest.raises(rv.SpecMismatch, match=r"field 'action': wanted shape \(2,\)"):
            buffer.add(frame(1), action, 0.0, False)
    assert [len(getattr(buffer, name)) for name in LISTS] == [1, 1, 1, 1]


def test_a_final_observation_needs_an_end_and_the_shape():
    """final_obs inside an episode or of another shape is refused by add; truncated has to be a bool."""
    buffer = trajectory(2, end="")
    for settings in ({"final_obs": frame(1)}, {"final_obs": frame(1)[0], "truncated": True}, {"truncated": 1},
                     {"final_obs": frame(1) / 255, "truncated": True}):  # fmt: skip
        with pytest.raises(rv.SpecMismatch, match=r"final_obs|truncated"):
            buffer.add(frame(1), 0, 0.0, False, **settings)
    assert [len(getattr(buffer, name)) for name in LISTS] == [2, 2, 2, 2]


@pytest.mark.parametrize("end", ["", "terminal", "truncated"])
def test_a_moved_trajectory_is_the_one_that_was_added(end):
    """All steps arrive with their ends and final frames, cut off from what was before and comes after."""
    pair = Pair(40)
    for _ in range(5):
        pair.add()
    buffer = rv.IRISOnPolicyBuffer()
    for number in range(5, 11):
        last = number == 10 and end
        step = {"terminal": last == "terminal", "truncated": last == "truncated",
                "final_obs": frame(99) if last else None}  # fmt: skip
        buffer.add(frame(number), number % 3, number / 4, **step)
        step["terminated"] = step.pop("terminal")
        if number == 5:
            pair.twin.cut()
        pair.twin.add(obs=frame(number), action=np.eye(3)[number % 3], reward=number / 4, **step)
    pair.twin.cut()
    buffer.move_to(pair.buffer)
    assert len(buffer) == 0
    assert (pair.buffer.steps, pair.buffer.episodes) == (11, end == "terminal")
    pair.check(1, 2, 5, 6)
    pair.number = 11
    for _ in range(4):
        pair.add()
    pair.check(1, 2, 3, 5, 6)


@TARGETS
@pytest.mark.parametrize("end", ["", "terminal", "truncated"])
def test_a_trajectory_joins_neither_neighbour(target, end):
    """The target's running episode is cut before the moved steps, and after them if they did not end."""
    target = target()
    for number in range(3):
        add(target, number)
    trajectory(3, end=end).move_to(target)
    for number in range(200, 204):
        add(target, number)
    assert windows(target, 3) == {(0, 1, 2, 2), (100, 101, 102, 102), (200, 201, 202, 203)}
    assert windows(target, 4) == set()
    assert len(target) == 10


def test_a_replay_buffer_gets_how_each_step_ended():
    """Terminations, truncations and final frames arrive in the stream that was asked for, and no other."""
    target = engine_buffer(40, streams=2)
    add(target, 1, stream=0)
    add(target, 2, stream=1)
    buffer = trajectory(2, first=10, end="terminal")
    buffer.add(frame(12), 0, 0.0, False, truncated=True, final_obs=frame(77))
    buffer.add(frame(13), 0, 0.0, False)
    buffer.move_to(target, stream=1)
    assert target.episodes["stream"].tolist() == [0, 1, 1, 1, 1]
    assert target.episodes["ended"].tolist() == ["running", "cut", "terminated", "truncated", "cut"]
    assert target.episodes["length"].tolist() == [1, 1, 2, 1, 1]
    assert windows(target, 1) == {(2, 2), (10, 11), (11, 11), (12, 77), (13, 13)}
    add(target, 3, stream=0)
    assert (1, 3) in windows(target, 1)


BAD_LAST_STEPS = {
    "action": lambda buffer: buffer.add(frame(9), 1000, 0.0, True),
    "reward": lambda buffer: (buffer.add(frame(9), 0, 0.0, True), buffer.rewards.__setitem__(-1, np.inf)),
    "frame": lambda buffer: (buffer.add(frame(9), 0, 0.0, True), buffer.observations.__setitem__(-1, frame(9)[0])),
    "list": lambda buffer: (buffer.add(frame(9), 0, 0.0, True), buffer.rewards.pop()),
}  # fmt: skip


@TARGETS
@pytest.mark.parametrize("spoil", BAD_LAST_STEPS)
def test_if_a_step_is_refused_nothing_is_moved(target, spoil):
    """When the target refuses the last step, it holds what it held, uncut, and the trajectory stays."""
    target = target()
    add(target, 0)
    buffer = trajectory(3, end="")
    BAD_LAST_STEPS[spoil](buffer)
    before = contents(buffer)
    with pytest.raises(ValueError, match=r"wanted|zip"):
        buffer.move_to(target)
    assert contents(buffer) == before
    assert len(target) == 1
    assert windows(target, 1) == set(), "the running episode of the target was cut"


def test_a_target_that_cannot_take_it_leaves_all_as_it_was():
    """Frames of another shape, missing extras, a wrong stream, a closed target, no buffer at all: refused."""
    buffer = trajectory(3)
    before = contents(buffer)
    closed = engine_buffer()
    closed.close()
    for target, stream, error in (
        (rv.IRISReplayBuffer(10, (2, 2), 3), 0, rv.SpecMismatch), (make(10), 1, rv.SpecMismatch),
        (engine_buffer(clock=rv.Field((), "int64")), 0, rv.SpecMismatch), (engine_buffer(), -1, rv.SpecMismatch),
        (engine_buffer(), 0.0, rv.SpecMismatch), (closed, 0, rv.BufferClosed), ([], 0, rv.BadSetting),
        (None, 0, rv.BadSetting),
    ):  # fmt: skip
        with pytest.raises(error, match="wanted"):
            buffer.move_to(target, stream=stream)
        assert contents(buffer) == before
        assert not isinstance(target, (rv.IRISReplayBuffer, rv.ReplayBuffer)) or len(target) == 0


@TARGETS
def test_moving_nothing_changes_nothing(target):
    """An empty trajectory does not cut what the target is recording."""
    target = target()
    for number in range(4):
        add(target, number)
        rv.IRISOnPolicyBuffer().move_to(target)
    assert windows(target, 3) == {(0, 1, 2, 3)}


@TARGETS
def test_a_trajectory_longer_than_the_target_leaves_its_newest_steps(target):
    """The target keeps its newest steps, as if they had been added one by one."""
    target = target()
    trajectory(100, first=0).move_to(target)
    assert len(target) == 40
    assert windows(target, 40) == {(*range(60, 100), 99)}


def test_moving_into_a_restored_buffer_keeps_them_apart():
    """Counters that were set are acted upon before the trajectory comes, and both stand for themselves."""
    target = make(20)
    for number in range(6):
        target.add(frame(number), 0, 0.0, False)
    target.idx, target.full, target.steps, target.episodes = 4, False, 4, 0
    trajectory(3).move_to(target)
    assert (target.idx, target.steps, target.episodes, len(target)) == (7, 7, 1, 7)
    assert windows(target, 3) == {(0, 1, 2, 3), (1, 2, 3, 3), (100, 101, 102, 102)}
