"""The table of episodes where there are many: it grows as far as it must, and comes back from a file as it was."""

import numpy as np
import pytest

import reverie as rv
from support.buffers import scalar_spec


def played(
    capacity: int, steps: int, streams: int = 1, length: int = 1, **settings: object
) -> rv.ReplayBuffer:
    """A buffer of episodes of `length` steps, `steps` of them added to each stream; a reward names its episode."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, streams=streams, seed=0, **settings)
    for step in range(steps):
        for stream in range(streams):
            ends = step % length == length - 1
            buffer.add(obs=np.uint8(step % 256), action=0, reward=float(step // length), terminated=ends,
                       truncated=False, stream=stream)  # fmt: skip
    return buffer


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_live_episode_has_a_row_of_its_own(length):
    """With hundreds of them, each is listed once, with its own steps, return and end."""
    buffer = played(300, 1_000, length=length)
    rows = np.asarray(buffer.episodes)
    first = (1_000 - 300) // length
    ordinals = np.arange(first, -(-1_000 // length))
    np.testing.assert_array_equal(rows["start"], ordinals * length)
    np.testing.assert_array_equal(rows["stop"], np.minimum((ordinals + 1) * length, 1_000))
    np.testing.assert_array_equal(rows["return"], ordinals * (rows["stop"] - rows["start"]))
    assert set(rows["ended"][:-1]) == {"terminated"}


def test_a_full_ring_needs_no_larger_table():
    """The oldest episode goes with the step that begins the next one: 64 places are enough for 64 of one step."""
    index = played(64, 64).engine.index
    before = index.by_ordinal.shape, len(index.start)
    assert before[0] == (1, 64)
    index = played(64, 640).engine.index
    assert (index.by_ordinal.shape, len(index.start)) == before


@pytest.mark.parametrize(("streams", "length"), [(1, 1), (3, 1), (2, 4)])
def test_an_index_comes_back_from_a_file_and_goes_on(streams, length, tmp_path):
    """What is live, begun and dropped is as it was, and the same steps after it make the same episodes."""
    kept = played(240 * streams, 505, streams, length, path=tmp_path / "a.replay")
    kept.close()
    whole = played(240 * streams, 505, streams, length)
    back = rv.open(tmp_path / "a.replay", episodes="continue")
    for name in ("head", "tail", "begun", "dropped"):
        np.testing.assert_array_equal(
            getattr(back.engine.index, name), getattr(whole.engine.index, name), name
        )
    for step in range(505, 800):
        for buffer in (back, whole):
            for stream in range(streams):
                ends = step % length == length - 1
                buffer.add(obs=np.uint8(step % 256), action=0, reward=float(step // length), terminated=ends,
                           truncated=False, stream=stream)  # fmt: skip
    np.testing.assert_array_equal(np.asarray(back.episodes), np.asarray(whole.episodes))
    assert back.count_windows(length) == whole.count_windows(length)
    back.close()
