"""buffer.episodes is read like an array, tells of one moment, and costs what is read of it."""

import copy
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import reverie as rv
from reverie.index.table import EPISODE_DTYPE, FEW

ENDS = ("", "", "", "terminated", "truncated", "cut")


def make(capacity: int = 60, streams: int = 3) -> rv.ReplayBuffer:
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    return rv.ReplayBuffer(spec, capacity, streams=streams, seed=0)


class Told:
    """A buffer, and its episodes as plain lists: [stream, start, stop, return, ended], as they began."""

    def __init__(self, capacity: int, streams: int):
        self.buffer = make(capacity, streams)
        self.each = capacity // streams
        self.heads = [0] * streams
        self.rows: list[list] = []

    def add(self, stream: int, reward: float, end: str) -> None:
        self.buffer.add(obs=0, action=0, reward=reward, terminated=end == "terminated", truncated=end == "truncated",
                        stream=stream)  # fmt: skip
        row = next((row for row in self.rows if row[0] == stream and row[4] == "running"), None)
        if row is None:
            row = [stream, self.heads[stream], self.heads[stream], 0.0, "running"]
            self.rows.append(row)
        self.heads[stream] += 1
        row[2] += 1
        row[3] += reward
        row[4] = end or "running"
        if end == "cut":
            self.buffer.cut(stream)

    def table(self) -> list[tuple]:
        """What the structured array has to hold."""
        tails = [max(head - self.each, 0) for head in self.heads]
        return [(stream, start, stop, stop - start, stop - max(start, tails[stream]), total, ended)
                for stream, start, stop, total, ended in self.rows if stop > tails[stream]]  # fmt: skip


@pytest.mark.parametrize("streams", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_way_of_reading_gives_the_same_rows(streams, seed):
    """By number, name, slice, mask, list, iteration and as an array: what was added, as the episodes began."""
    told, rng = Told(60, streams), np.random.default_rng(seed)
    for _ in range(12):
        for _ in range(17):
            told.add(int(rng.integers(streams)), float(rng.integers(-3, 4)), str(rng.choice(ENDS)))
        wanted = told.table()
        assert len(told.buffer.episodes) == len(wanted)
        for number in (*range(len(wanted)), *range(-len(wanted), 0)):
            assert told.buffer.episodes[number].tolist() == wanted[number]
        assert told.buffer.episodes[np.int32(1)].tolist() == wanted[1]
        table = told.buffer.episodes
        assert [row.tolist() for row in table] == table.tolist() == np.asarray(table).tolist() == wanted
        assert table["return"].tolist() == [row[5] for row in wanted]
        assert table[["stop", "stream"]].tolist() == [(row[2], row[0]) for row in wanted]
        assert table[1:7:2].tolist() == wanted[1:7:2]
        assert table[table["stream"] == 0].tolist() == [row for row in wanted if row[0] == 0]
        assert table[[0, -1]].tolist() == [wanted[0], wanted[-1]]
        assert (table.shape, table.size, table.ndim, table.dtype.names) == (
            (len(wanted),), len(wanted), 1, ("stream", "start", "stop", "length", "live", "return", "ended"))  # fmt: skip


def test_it_compares_as_an_array_does():
    """== and != give one truth for each row, beside a table, an array, and NumPy's own comparison."""
    told = Told(12, 1)
    for step in range(9):
        told.add(0, 1.0, "terminated" if step % 3 == 2 else "")
    table = told.buffer.episodes
    told.add(0, 1.0, "")
    assert (table == np.asarray(table)).tolist() == [True, True, True]
    assert (table != np.asarray(table)).tolist() == [False, False, False]
    np.testing.assert_array_equal(table, told.buffer.episodes[:-1])
    assert table.tobytes() == np.asarray(told.buffer.episodes)[:-1].tobytes()
    assert "running" in repr(told.buffer.episodes)


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_it_travels_as_an_array(travel):
    """A copy and what comes out of a pickle are plain structured arrays with the same rows."""
    told = Told(12, 1)
    told.add(0, 1.0, "terminated")
    arrived = travel(told.buffer.episodes)
    assert type(arrived) is np.ndarray
    assert arrived.tolist() == told.table()


def test_an_empty_buffer_has_an_empty_table():
    """No rows, the dtype all the same, and IndexError for any number."""
    table = make().episodes
    assert (len(table), table.shape, table["return"].tolist(), list(table)) == (0, (0,), [], [])
    for number in (0, -1):
        with pytest.raises(IndexError):
            make().episodes[number]


@pytest.mark.parametrize("number", [3, -4])
def test_a_number_beyond_the_rows_is_an_index_error(number):
    """As with any sequence, so that loops over it end."""
    told = Told(12, 1)
    for _ in range(3):
        told.add(0, 0.0, "terminated")
    with pytest.raises(IndexError, match="3"):
        told.buffer.episodes[number]


@pytest.mark.parametrize("streams", [1, 3])
def test_it_tells_of_the_moment_when_it_was_asked_for(streams):
    """What is added, ended or cut later is not in it, whether it was looked at before or not."""
    told, rng = Told(3_000, streams), np.random.default_rng(0)
    for _ in range(800):
        told.add(int(rng.integers(streams)), 1.0, str(rng.choice(ENDS)))
    told.add(0, 1.0, "")
    assert len(told.table()) > FEW, "else they are copied at once"
    seen, unseen, wanted = told.buffer.episodes, told.buffer.episodes, told.table()
    assert seen.tolist() == wanted
    for _ in range(100):
        told.add(int(rng.integers(streams)), 1.0, str(rng.choice(ENDS)))
    assert told.table()[: len(wanted)] != wanted
    assert unseen[-1].tolist() == wanted[-1]
    assert len(unseen) == len(wanted)
    assert unseen.tolist() == seen.tolist() == wanted


def test_what_was_evicted_before_anybody_looked_is_left_out():
    """Of many episodes the rows left are those of the moment; a table that was looked at keeps all of them."""
    told = Told(3 * FEW + 9, 1)
    for step in range(3 * FEW + 9):
        told.add(0, 1.0, "terminated" if step % 3 == 2 else "")
    seen, unseen, late, wanted = (*(told.buffer.episodes for _ in range(3)), told.table())
    assert seen.tolist() == wanted
    for _ in range(7):
        told.add(0, 1.0, "")
    assert seen.tolist() == wanted
    assert unseen[0].tolist() == wanted[2]
    assert (len(unseen), unseen.tolist()) == (len(wanted) - 2, wanted[2:])
    for _ in range(3 * FEW + 9):
        told.add(0, 1.0, "")
    assert (len(late), late.tolist()) == (0, [])


def test_what_it_shows_cannot_be_changed():
    """It may be written into the array that np.asarray makes of it, not into the table."""
    told = Told(12, 1)
    told.add(0, 1.0, "")
    table = told.buffer.episodes
    array = np.asarray(table)
    array["return"] = 7.0
    with pytest.raises(ValueError, match="read-only"):
        table["return"][0] = 9.0
    assert told.buffer.episodes[-1]["return"] == table["return"][0] == 1.0


@pytest.mark.parametrize("streams", [1, 2, 16])
@pytest.mark.parametrize("read", [lambda table: table[0], lambda table: table[-1], lambda table: table[4321], len],
                         ids=["oldest", "newest", "middle", "len"])  # fmt: skip
def test_one_row_costs_no_look_at_the_others(streams, read):
    """One of ten thousand episodes takes less memory than 256 rows of the table, and few calls for each stream."""
    buffer = make(10_000, streams)
    one, zero = np.ones(streams, bool), np.zeros(streams, np.int64)
    for _ in range(10_016 // streams):
        buffer.add_batch(obs=zero, action=zero, reward=zero, terminated=one, truncated=~one)
    calls = 0

    def hook(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(hook)
    try:
        read(buffer.episodes)
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < FEW * EPISODE_DTYPE.itemsize
    assert calls < 1000 * streams


def test_it_may_be_read_beside_a_writer():
    """While a full ring evicts episodes, every table is whole: consecutive episodes, each of one step."""
    buffer, stop, problems = make(16, 1), threading.Event(), []

    def write():
        while not stop.is_set():
            buffer.add(obs=0, action=0, reward=1.0, terminated=True, truncated=False)

    def read():
        try:
            for _ in range(300):
                table = buffer.episodes
                newest = table[-1]
                assert (newest["length"], newest["return"], newest["ended"]) == (1, 1.0, "terminated")
                starts = table["start"]
                assert (np.diff(starts) == 1).all()
                assert (table["live"] == 1).all()
                assert len(table) == len(starts) <= 16
        except BaseException as error:
            problems.append(error)

    for _ in range(20):
        buffer.add(obs=0, action=0, reward=1.0, terminated=True, truncated=False)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    try:
        for thread in threads:
            thread.start()
        threads[0].join()
    finally:
        stop.set()
        threads[1].join()
        sys.setswitchinterval(interval)
    assert not problems
