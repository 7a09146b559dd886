"""The index's arithmetic beside plain loops: episodes by length, runs of slots, a stream that is replaced."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import NO_FINAL, RUN, RUNNING, TERMINATED, Runs, replacement
from reverie.index.lengths import LengthTable
from support.buffers import scalar_spec


@pytest.mark.parametrize("seed", range(4))
def test_windows_by_rank_are_all_windows_of_the_episodes(seed):
    """Each window of each episode that is long enough has one rank, whatever came and went before."""
    rng, table, lengths = np.random.default_rng(seed), LengthTable(), {}
    order = rng.permutation(40)
    for episode in range(40):
        lengths[episode] = int(rng.integers(1, 9))
        table.add(lengths[episode], episode)
        if episode % 3 == 2:
            gone = int(rng.choice(list(lengths)))
            table.remove(lengths.pop(gone), gone)
    assert table.longest() == max(lengths.values())
    for length in range(1, 10):
        wanted = [
            (episode, offset) for episode, steps in lengths.items() for offset in range(steps - length + 1)
        ]
        assert table.count_windows(length) == len(wanted)
        if wanted:
            episodes, offsets = table.window_at_rank(length, np.arange(len(wanted)), order)
            assert sorted(zip(episodes.tolist(), offsets.tolist(), strict=True)) == sorted(wanted)


def test_windows_of_one_length_follow_the_order_of_their_episodes():
    """Episodes of one length stand in the order that is given, not in that of their numbers."""
    table = LengthTable()
    for episode in (0, 1, 2):
        table.add(2, episode)
    episodes, offsets = table.window_at_rank(1, np.arange(6), np.array([5, 3, 4]))
    assert episodes.tolist() == [1, 1, 2, 2, 0, 0]
    assert offsets.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("capacity", [1, RUN - 1, RUN, RUN + 1, 3 * RUN, 3 * RUN + 5])
def test_runs_tile_the_slots_of_every_stream(capacity):
    """Each slot lies in one run, at one position; runs do not cross streams, and the last one may be shorter."""
    runs, streams = Runs(3, capacity), 3
    number, position = runs.of_slots(np.arange(streams * capacity))
    covered = []
    for run in range(runs.count):
        covered += range(runs.slots(run).start, runs.slots(run).stop)
        assert runs.steps(run) == runs.slots(run).stop - runs.slots(run).start == (number == run).sum()
    assert covered == list(range(streams * capacity))
    np.testing.assert_array_equal(
        runs.steps_of(np.arange(runs.count)), [runs.steps(run) for run in range(runs.count)]
    )
    for stream in range(streams):
        for step in range(2 * capacity + 1):
            slot = stream * capacity + step % capacity
            assert runs.of_id(stream, step) == (number[slot], position[slot])
            assert runs.first_of(step) == step - position[slot]


def test_a_stream_that_is_replaced_goes_on_after_its_new_episodes():
    """The numbers of new episodes follow those that were there; other streams keep theirs."""
    buffer = rv.ReplayBuffer(scalar_spec(), 40, streams=2, seed=0)
    for step in range(17):
        for stream in (0, 1):
            buffer.add(
                obs=step, action=0, reward=1.0, terminated=step % 5 == 4, truncated=False, stream=stream
            )
    index = buffer.engine.index
    begun = index.begun.tolist()
    numbers = index.order[index.live_episodes()].tolist()

    replacement(index, 0, 9, 2, [(2, 4, TERMINATED, NO_FINAL, 2.5), (4, 9, RUNNING, NO_FINAL, 5.0)])()
    assert index.begun.tolist() == [begun[0] + 2, begun[1]]
    rows = np.asarray(buffer.episodes)
    mine = rows[rows["stream"] == 0]
    assert mine["start"].tolist() == [2, 4]
    assert mine["stop"].tolist() == [4, 9]
    assert mine["return"].tolist() == [2.5, 5.0]
    assert mine["ended"].tolist() == ["terminated", "running"]
    assert rows[rows["stream"] == 1]["length"].tolist() == [5, 5, 5, 2]
    new = index.order[index.live_episodes()].tolist()
    assert len(set(new)) == len(new)
    assert max(new) > max(numbers)
    buffer.add(obs=9, action=0, reward=1.0, terminated=True, truncated=False, stream=0)
    assert np.asarray(buffer.episodes)["return"][-1] == 6.0
    assert buffer.count_windows(6) == 1, "the running episode went on"
