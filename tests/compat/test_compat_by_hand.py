"""The on-policy lists changed by hand, and values that go out of the drop-in classes and in again."""

import copy
import pickle

import numpy as np
import pytest
from test_compat import SHAPE, frame, make, numbers
from test_compat_on_policy import LISTS, add, contents, engine_buffer, trajectory, windows

import reverie as rv
from support.buffers import interrupted

TARGETS = pytest.mark.parametrize("target", [lambda: make(40), engine_buffer],
                                  ids=["IRISReplayBuffer", "ReplayBuffer"])  # fmt: skip


def lists(buffer: rv.IRISOnPolicyBuffer) -> list[list]:
    return [getattr(buffer, name) for name in LISTS]


@TARGETS
def test_steps_may_be_appended_by_hand(target):
    """A step that was appended to the four lists is one like the others, however its values are spelled."""
    buffer = trajectory(2, end="")
    for values, value in zip(
        lists(buffer), (frame(102).tolist(), np.int16(2), np.float64(0.25), True), strict=True
    ):
        values.append(value)
    assert len(buffer) == 3
    observations, actions, rewards, terminals = buffer.get_arrays()
    assert numbers(observations).tolist() == [100, 101, 102]
    assert actions.tolist() == [1, 2, 2]
    assert (rewards.tolist(), terminals.tolist()) == ([25.0, 25.25, 0.25], [0.0, 0.0, 1.0])
    buffer.add(frame(103), 1, 0.0, False)
    target = target()
    buffer.move_to(target)
    assert windows(target, 3) == {(100, 101, 102, 102)}
    assert len(target) == 4


CHANGES = {
    "pop": lambda values: values.pop(), "pop the first": lambda values: values.pop(0), "reverse": list.reverse,
    "every other": lambda values: values.__delitem__(slice(None, None, 2)), "clear": list.clear,
    "twice": lambda values: values.extend(list(values)),
}  # fmt: skip


@TARGETS
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_all_four_lists_is_done_to_the_steps(target, change):
    """Steps that were taken out, moved or repeated take their ends and final observations with them."""
    buffer = rv.IRISOnPolicyBuffer()
    steps = [(number, number % 2 == 1, frame(number + 500) if number % 2 else None) for number in range(6)]
    for number, end, final in steps:
        buffer.add(frame(number), number % 3, 0.0, end and number != 3, truncated=end, final_obs=final)
    for values in (*lists(buffer), steps):
        CHANGES[change](values)
    left = [number for number, *_ in steps]
    assert numbers(buffer.get_arrays()[0]).tolist() == left
    target = target()
    buffer.move_to(target)
    assert len(target) == len(left)
    # After an end comes its final observation; else the next step, or the step again where there is none.
    after = [number + 500 if number % 2 else following
             for number, following in zip(left, [*left[1:], *left[-1:]], strict=True)]  # fmt: skip
    assert windows(target, 1) == set(zip(left, after, strict=True))


@TARGETS
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("change", ["pop", "append", "clear", "no list"])
def test_lists_of_unequal_length_are_refused(target, name, change):
    """Whatever needs the steps says which list has how many entries, and nothing is moved or lost."""
    buffer, target = trajectory(3), target()
    add(target, 0)
    if change == "no list":
        setattr(buffer, name, np.zeros(3))
    else:
        values = getattr(buffer, name)
        {"pop": values.pop, "append": lambda: values.append(values[0]), "clear": values.clear}[change]()
    before = [list(values) for values in lists(buffer)]
    for call in (
        buffer.get_arrays,
        lambda: buffer.move_to(target),
        lambda: buffer.add(frame(1), 0, 0.0, False),
    ):
        with pytest.raises(rv.BadSetting, match=rf"{name}|lists: wanted one entry per step.*\d {name}"):
            call()
    assert len(target) == 1
    assert [len(values) for values in lists(buffer)] == [len(values) for values in before]
    buffer.clear()
    buffer.add(frame(1), 0, 0.0, False)
    assert len(buffer.get_arrays()[0]) == 1


WRONG = {
    "observations": [frame(1) / 255, frame(1)[0], None, "frame", np.full(SHAPE, 256)],
    "actions": [1.5, [0.0, 1.0], True, None, "left", np.nan, 2**70],
    "rewards": [np.nan, None, "1", 1e39],
    "terminals": [0.5, np.nan, None, "yes", 2],
}


@TARGETS
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values],
                         ids=lambda value: repr(value)[:20])  # fmt: skip
@pytest.mark.parametrize("place", [1, 2])
def test_a_wrong_value_written_into_a_list_is_named(target, name, value, place):
    """get_arrays and move_to say which entry of which list does not fit; nothing is moved."""
    buffer, target = trajectory(3), target()
    getattr(buffer, name)[place] = value
    for call in (buffer.get_arrays, lambda: buffer.move_to(target)):
        with pytest.raises(rv.SpecMismatch, match=rf"field '{name}\[{place}\]': wanted"):
            call()
    assert (len(buffer), len(target)) == (3, 0)


def test_an_end_written_by_hand_into_the_list_counts():
    """1 ends the episode there, and 0 takes an end with its final observation away."""
    buffer, target = trajectory(4), make(40)
    buffer.terminals[1] = 1
    buffer.terminals[3] = 0
    buffer.move_to(target)
    assert windows(target, 2) == {(100, 101, 101), (102, 103, 103)}
    assert target.episodes == 1


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
                         ids=["deepcopy", "pickle"])  # fmt: skip
def test_the_lists_travel_whole(travel):
    """A copy of them has the same ends with the same final observations."""
    buffer, target = rv.IRISOnPolicyBuffer(), make(40)
    buffer.add(frame(1), 0, 0.0, False, truncated=True, final_obs=frame(9))
    buffer.add(frame(2), 0, 0.0, True, final_obs=frame(8))
    other = rv.IRISOnPolicyBuffer()
    for name in LISTS:
        setattr(other, name, travel(getattr(buffer, name)))
    other.move_to(target)
    assert windows(target, 1) == {(1, 9), (2, 8)}
    assert target.episodes == 1


@TARGETS
def test_an_interrupted_move_moves_no_step_twice(target):
    """After Ctrl-C before any line of the index, steps that the target has are gone from the lists; the others follow."""
    line, came, between = 0, True, 0
    while came:
        line += 1
        buffer, kept = trajectory(4, first=0, end=""), target()
        came = interrupted(lambda buffer=buffer, kept=kept: buffer.move_to(kept), line, ("episodes.py",),
                           ("_take_back", "_derive_anew"))  # fmt: skip
        assert len(kept) + len(buffer) == 4
        assert numbers(buffer.get_arrays()[0]).tolist() == [*range(len(kept), 4)]
        between += 0 < len(kept) < 4
        buffer.move_to(kept)
        kept.cut()
        assert (len(kept), len(buffer)) == (4, 0)
        assert {row[0] for row in windows(kept, 1)} == {0, 1, 2, 3}
    assert between > 5


def test_a_cut_that_is_refused_marks_nothing(monkeypatch):
    """The episode runs on, and so it does after its terminals were read again."""
    buffer = make(10)
    for number in range(4):
        buffer.add(frame(number), 0, 0.0, False)

    def refuse():
        raise rv.FileError("disk: wanted room, got none; make some")

    with monkeypatch.context() as patch:
        patch.setattr(buffer._buffer, "cut", refuse)
        with pytest.raises(rv.FileError):
            buffer.cut()
    buffer.steps = 4
    buffer.add(frame(4), 0, 0.0, False)
    assert windows(buffer, 4) == {(0, 1, 2, 3, 4)}


# --- out and in again ------------------------------------------------------------------------------------

ACTIONS = {
    "integer": (2, np.int64), "NumPy integer": (np.int8(2), np.int64), "0-d integer": (np.array(2), np.int64),
    "vector": ([0.5, -1.0, 2.0], np.float32), "one-hot of bools": (np.array([False, True, False]), np.float32),
    "one-hot of integers": ([0, 1, 0], np.float32), "float": (0.5, np.float32), "NumPy float": (np.float32(0.5), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_come_back_as_they_went_in(action):
    """What the lists, the arrays and the samples give back is taken by add of either class, and stays the same."""
    given, dtype = ACTIONS[action]
    size = 1 if "float" in action else 3
    first, again = rv.IRISOnPolicyBuffer(), rv.IRISOnPolicyBuffer()
    for number in range(3):
        first.add(frame(number), given, 0.5, number == 2)
    arrays = first.get_arrays()
    assert arrays[1].dtype == dtype
    np.testing.assert_array_equal(arrays[1], [given] * 3)
    for step in zip(*arrays, strict=True):
        again.add(*step)
    for step in zip(*(getattr(first, name) for name in LISTS), strict=True):
        again.add(*step)
    assert contents(again) == [values * 2 for values in contents(first)]
    buffer, twin = rv.IRISReplayBuffer(9, SHAPE, size), rv.IRISReplayBuffer(9, SHAPE, size)
    for step in zip(*arrays, strict=True):
        buffer.add(*step)
    again.clear()
    for _ in range(5):
        step = buffer.sample_single()
        twin.add(*step)
        again.add(*step)
    np.testing.assert_array_equal(twin.actions[:5], buffer.actions[[0] * 5])
    np.testing.assert_array_equal(again.get_arrays()[1], buffer.actions[[0] * 5])
    obs, actions, rewards, terminals = buffer.sample_sequence(2)
    twin.add(obs[0, 0], actions[0, 0], rewards[0, 0], terminals[0, 0])
    assert twin.steps == 6


def test_one_float_is_an_action_where_there_is_one_number():
    """With action_size=1 a float is stored as it is; with more, or as an integer, it means something else."""
    buffer = rv.IRISReplayBuffer(9, SHAPE, 1)
    for action in (0.5, np.float64(-2.0), np.array(0.25, np.float32), [0.125], np.array([7])):
        buffer.add(frame(1), action, 0.0, False)
    assert buffer.actions[:5, 0].tolist() == [0.5, -2.0, 0.25, 0.125, 7.0]
    buffer.add(frame(1), 0, 0.0, False)
    assert buffer.actions[5, 0] == 1.0, "the one-hot vector of the only index"
    for action in (1, np.nan, True):
        with pytest.raises(rv.SpecMismatch, match="field 'action': wanted"):
            buffer.add(frame(1), action, 0.0, False)
    with pytest.raises(
        rv.SpecMismatch, match=r"wanted an integer or shape \(3,\), got one number; pass int\(action\)"
    ):
        make(9).add(frame(1), 1.0, 0.0, False)


def test_a_trajectory_has_actions_of_one_kind():
    """An integer after a float would be an index: refused, as is a vector after a number."""
    for first, second in ((0.5, 1), (1, 0.5), ([0.5], 0.5), (1, [1.0])):
        buffer = rv.IRISOnPolicyBuffer()
        buffer.add(frame(1), first, 0.0, False)
        with pytest.raises(rv.SpecMismatch, match=r"field 'action': wanted .* as in the step before"):
            buffer.add(frame(1), second, 0.0, False)
        assert len(buffer) == 1
