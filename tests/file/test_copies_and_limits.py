"""What a copy notes of itself, also where it is written again, and the limits of a connection."""

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

import reverie as rv
from reverie.file.connection import limit_row
from reverie.file.replay import ReplayFile
from reverie.file.verify import verify_file
from support.buffers import scalar_spec


@pytest.mark.parametrize("filed", [False, True], ids=["memory", "file"])
def test_a_copy_is_a_file_that_was_closed(filed, tmp_path):
    """The first time and each time that it is written again: whoever opens it finds an episode that may go on."""
    path, copy = tmp_path / "a.replay" if filed else None, tmp_path / "copy.replay"
    with rv.ReplayBuffer(scalar_spec(), 40, path=path, seed=0) as buffer:
        for number in range(3):
            for step in range(5):
                buffer.add(obs=5 * number + step, action=0, reward=0.0, terminated=False, truncated=False)
            buffer.save_as(copy)
            with closing(ReplayFile.open(copy, "r")) as file:
                assert file.meta("clean") is True
            with rv.open(copy, mode="r") as again:
                assert again.episodes["stop"].tolist() == [5 * (number + 1)]


@pytest.mark.parametrize("nbytes", [0, 10**6, 2**31, 2**40])
def test_a_row_may_be_as_long_as_sqlite_allows(nbytes):
    """A limit beyond that is that of SQLite; below, a longer text is refused, and a named value has room in any case."""
    with closing(sqlite3.connect(":memory:")) as connection:
        most = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        limit_row(connection, nbytes)
        limit = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        assert limit <= most
        assert limit == most or nbytes < 2**31
        assert limit >= 10_000
        if nbytes == 0:
            with pytest.raises((sqlite3.DataError, sqlite3.OperationalError, sqlite3.DatabaseError)):
                connection.execute(f"SELECT length(zeroblob({limit + 1}))").fetchall()


def test_closing_moves_the_log_into_the_file_beside_a_reader(tmp_path):
    """The file alone holds everything then, and the reader goes on."""
    path, alone = tmp_path / "a.replay", tmp_path / "alone.replay"
    writer = rv.ReplayBuffer(scalar_spec(), 40, path=path, seed=0)
    for step in range(5):
        writer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False)
    writer.flush()
    with rv.open(path, mode="r") as reader:
        writer.add(obs=5, action=0, reward=0.0, terminated=True, truncated=False)
        writer.close()
        shutil.copy(path, alone)
        with rv.open(alone, mode="r") as again:
            assert again.episodes["ended"].tolist() == ["terminated"]
        assert reader.episodes["length"].tolist() == [6]


@pytest.mark.parametrize("steps", [1, 5, 32, 33, 70, 130])
def test_a_stretch_is_in_the_file_at_once(steps, tmp_path):
    """Sealed runs, and every step after the last of them: a reader sees all that the ring has room for."""
    path, number = tmp_path / "a.replay", np.arange(steps)
    ends = number % 9 == 8
    with rv.ReplayBuffer(scalar_spec(), 100, path=path, durability="step", seed=0) as buffer:
        buffer.extend(
            obs=number, action=-number, reward=number * 0.5, terminated=ends, truncated=ends & False
        )
        with rv.open(path, mode="r") as reader:
            assert len(reader) == min(steps, 100)
            shown = [reader.episode(place) for place in range(len(reader.episodes))]
        assert np.concatenate([episode.obs for episode in shown]).tolist() == number[-100:].tolist()
        assert (
            np.concatenate([episode.reward for episode in shown]).tolist() == (number[-100:] * 0.5).tolist()
        )
        assert [line for line, wrong in verify_file(path) if wrong] == []


def test_closing_moves_what_was_written_into_the_file(tmp_path):
    """Also where nothing was flushed before, beside somebody who has the file open."""
    path, alone = tmp_path / "a.replay", tmp_path / "alone.replay"
    rv.ReplayBuffer(scalar_spec(), 40, path=path, seed=0).close()
    with closing(ReplayFile.open(path, "r")):
        writer = ReplayFile.open(path, "r+")
        with writer.db.writing():
            writer.put_meta("note", 7)
        writer.close()
        shutil.copy(path, alone)
        with closing(ReplayFile.open(alone, "r")) as file:
            assert file.meta("note") == 7


def test_a_new_table_leaves_the_number_of_a_log_odd(tmp_path):
    """SQLite counts one for the table; one more is added, so that an odd number stays odd, and an even one even."""
    path = tmp_path / "a.replay"
    rv.ReplayBuffer(scalar_spec(), 40, path=path, seed=0).close()
    with closing(ReplayFile.open(path, "r+")) as file, file.db.writing():
        before = file.db.one("PRAGMA schema_version")
        file.db.add_table("CREATE TABLE extra (number INTEGER)")
        assert file.db.one("PRAGMA schema_version") == before + 2


def test_what_was_discarded_is_not_in_a_copy_of_another_size(tmp_path):
    """Its steps lie in the ring as before, and hold zeros; the steps beside them hold what they held."""
    path, copy = tmp_path / "a.replay", tmp_path / "larger.replay"
    with rv.ReplayBuffer(scalar_spec(), 100, path=path, seed=0) as buffer:
        for step in range(100):
            buffer.add(obs=1000 + step, action=5, reward=1.0, terminated=step % 10 == 9, truncated=False)
        buffer.discard([0, 4, 7])
        buffer.flush()
        buffer.save_as(copy, capacity=130)
    gone = [step for step in range(100) if step // 10 in (0, 4, 7)]
    with rv.open(copy, mode="r", residency="ram") as again:
        kept = again.engine.store.columns["obs"][:100].tolist()
        assert [step for step in range(100) if kept[step] == 0] == gone
        assert all(kept[step] == 1000 + step for step in range(100) if step not in gone)
        assert again.episodes.ids.tolist() == [1, 2, 3, 5, 6, 8, 9]
