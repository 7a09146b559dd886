"""Rows of the table of episodes: the first one is like any other, and those that a file names may be none."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import (
    Anchors,
    Choice,
    EpisodeColumns,
    EpisodeIndex,
    TableRows,
    anchors_of,
    check_table_rows,
    choice_of_kept,
    most_episodes,
    rebuild,
    table_rows,
)
from support.buffers import scalar_spec


def add_to(buffer: rv.ReplayBuffer, streams: list[int]) -> None:
    """Add one step that ends nothing to each of these streams, in one call."""
    several = np.zeros(len(streams))
    buffer.add_batch(obs=several.astype(np.uint8), action=several.astype(np.int64), reward=several + 1,
                     terminated=several > 1, truncated=several > 1, streams=streams)  # fmt: skip


def test_the_episode_in_the_first_row_goes_on():
    """Only a stream that has no running episode begins one, whichever row its episode has."""
    buffer = rv.ReplayBuffer(scalar_spec(), 16, streams=2, seed=0)
    index = buffer.engine.index
    assert [index.begins(0), index.begins(1)] == [True, True]
    add_to(buffer, [0, 1])
    assert index.open_episode.tolist() == [0, 1]
    assert [index.begins(0), index.begins(1)] == [False, False]


def test_a_seam_in_one_stream_leaves_the_episode_of_another_alone():
    """Where one stream's recording goes on after a break, another's running episode goes on, in the first row, too."""
    buffer = rv.ReplayBuffer(scalar_spec(), 16, streams=2, seed=0)
    add_to(buffer, [0, 1])
    buffer.engine.index.seams = {1}
    add_to(buffer, [0, 1])
    rows = np.asarray(buffer.episodes)
    assert sorted(zip(rows["stream"].tolist(), rows["start"].tolist(), rows["stop"].tolist(), strict=True)) == [
        (0, 0, 2), (1, 0, 1), (1, 1, 2),
    ]  # fmt: skip
    assert rows["return"].tolist() == [2.0, 1.0, 1.0]


def rows_of(stream: object, row: object, free: object) -> TableRows:
    """Rows of episodes 0, 1, … of a stream."""
    return TableRows(*(np.array(one, np.int64) for one in (stream, range(len(stream)), row, free)))


@pytest.mark.parametrize(
    ("row", "free"),
    [([], []), ([0], []), ([], [0]), ([1, 0], [3, 2]), (range(66), [])],
    ids=["none", "one", "a free one", "some of each", "the most"],
)
def test_rows_that_can_be_are_taken(row, free):
    """Every row once, from 0 on; 66 is the most for a stream of 32 steps."""
    index = EpisodeIndex(1, 32)
    assert most_episodes(1, 32) == 66
    check_table_rows(rows_of([0] * len(row), row, free), index)


@pytest.mark.parametrize(
    ("row", "free", "message"),
    [
        ([-1, 1], [], "no rows"),
        ([0, 2], [], "no rows"),
        ([0], [0], "no rows"),
        ([], [1], "no rows"),
        (range(66), [66], "too many"),
        (range(67), [], "no such arrays"),
    ],
    ids=["below", "above", "twice", "the one after", "too many", "too many in one"],
)
def test_rows_that_cannot_be_are_refused(row, free, message):
    """A file that is not trusted may name any: such rows would be read where there is nothing."""
    with pytest.raises(ValueError, match=message):
        check_table_rows(rows_of([0] * len(row), row, free), EpisodeIndex(1, 32))


def test_rows_of_another_kind_or_number_are_refused():
    """Each array is one of int64, in one dimension, and there is a row for each episode."""
    index, good = EpisodeIndex(1, 32), rows_of([0, 0], [0, 1], [2])
    for name, values in good._asdict().items():
        for other in (values.astype(np.int32), values[None]):
            with pytest.raises(ValueError, match="no such arrays"):
                check_table_rows(good._replace(**{name: other}), index)
        if name != "free":
            with pytest.raises(ValueError, match="not as many as its episodes"):
                check_table_rows(good._replace(**{name: values[:1]}), index)


def test_episodes_that_had_no_row_get_the_lowest_that_no_other_has():
    """An index is made again with the rows that are known, and the other episodes find theirs between these."""
    index, four = EpisodeIndex(1, 8), np.arange(4)
    ones = np.full(4, 1)
    columns = EpisodeColumns(stream=0 * four, ordinal=four, start=four, stop=four + 1, ended=ones.astype(np.int8),
                             final_slot=0 * four - 1, total=ones.astype(float), order=four)  # fmt: skip
    before = TableRows(*(np.array(one, np.int64) for one in ([0, 0], [1, 2], [0, 2], [])))
    rebuild(index, np.array([4]), np.array([0]), columns, before)
    rows = table_rows(index)
    assert (rows.ordinal.tolist(), rows.row.tolist()) == ([0, 1, 2, 3], [1, 0, 2, 3])


def ended_episodes(count: int, finals: bool, capacity: int = 8) -> rv.ReplayBuffer:
    """A buffer of episodes of one step; every second one has a final observation if `finals`."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, seed=0)
    for step in range(count):
        final = step if finals and step % 2 else None
        buffer.add(obs=step, action=0, reward=0.0, terminated=True, truncated=False, final_obs=final)
    return buffer


def test_the_slots_of_live_final_observations():
    """Each of the live episodes that have one holds a slot of its own."""
    index = ended_episodes(12, finals=True).engine.index
    slots = index.live_final_slots().tolist()
    assert (len(slots), len(set(slots)), min(slots) >= 0) == (4, 4, True)
    assert ended_episodes(12, finals=False).engine.index.live_final_slots().tolist() == []


def test_every_row_is_live_or_free_after_mending():
    """What an interrupt left is found anew: no row is lost, none is there twice, and none lies beyond the table."""
    index = ended_episodes(100, finals=False, capacity=70).engine.index
    for _ in range(2):
        index.mend()
        assert sorted([*index.free, *index.live_episodes().tolist()]) == list(range(len(index.start)))


def test_windows_end_before_a_discarded_episode():
    """Only an episode with a discarded one behind it in its stream is limited, and rows are counted with closing ones."""
    buffer = ended_episodes(5, finals=False)
    assert choice_of_kept(buffer.engine.index) is None
    buffer.discard(buffer.episodes.ids[2])
    index = buffer.engine.index
    choice = choice_of_kept(index)
    live = index.live_episodes().tolist()
    assert [choice.is_limited(episode) for episode in live] == [True, True, False, False, False]
    assert choice.limits[live[:2]].tolist() == [4, 4]  # two steps and two closing rows lie before it
    assert choice.chosen[live].tolist() == [True, True, False, True, True]
    everything = Choice(np.ones(len(index.start), bool))
    assert not everything.is_limited(live[0])
    both = choice & everything
    assert (both.limits is choice.limits, both.chosen.tolist()) == (True, choice.chosen.tolist())
    for length, kept, every in ((2, 4, 5), (3, 2, 4), (4, 2, 4), (5, 0, 3)):  # each has two rows
        assert anchors_of(index, "cross", length).count() == kept
        assert Anchors(index, "cross", length, everything).count() == every


def test_the_table_of_episodes_is_an_array_of_one_dimension():
    """As NumPy's arrays tell it."""
    episodes = ended_episodes(12, finals=False).episodes
    array = np.asarray(episodes)
    for name in ("ndim", "shape", "size", "dtype"):
        assert getattr(episodes, name) == getattr(array, name), name


def test_free_rows_are_taken_again_in_the_order_of_before():
    """A table that had grown is as large again, and its free rows lie as they did; those of new episodes are gone."""
    index, two = EpisodeIndex(1, 100), np.arange(2)
    columns = EpisodeColumns(stream=0 * two, ordinal=two, start=two, stop=two + 1, ended=np.ones(2, np.int8),
                             final_slot=0 * two - 1, total=np.zeros(2), order=two)  # fmt: skip
    free = [*range(99, 0, -2), *range(98, 1, -2)]
    rebuild(index, np.array([2]), np.array([0]), columns, rows_of([0], [0], free))
    assert (len(index.start), table_rows(index).row.tolist()) == (100, [0, 1])
    assert index.free == [row for row in free if row != 1]
