"""Small parts of the file's room by hand: sizes, marks of logs, floors, what an error means, how steps are packed."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.file import check_settings, label_text
from reverie.file.failures import failure
from reverie.file.floors import checked_floors, floor_of
from reverie.file.log import LEAST_BASE, is_base, mark_on, new_base
from reverie.file.records import OBJECTS, EpisodeRecord, is_schema
from reverie.file.recovery import odd_episode, stray_episode
from reverie.file.stores import FileChunks
from reverie.index import CUT, RUNNING, Runs
from reverie.store import DELTA

WIDE = rv.StepSpec(rv.Field((300,), "uint8"), rv.Field((), "int64"))


@pytest.mark.parametrize(("residency", "times"), [("packed", 2), ("disk", 4)])
def test_the_bytes_of_a_run(residency, times):
    """A step takes 300 bytes of observation, 8 of action and 4 of reward; a run has 32, and lies there several times."""
    settings = check_settings(WIDE, 1_000, 2, residency, "a.replay", None, None)
    assert sum(column.field.nbytes for column in settings.stored) == 312
    assert (settings.each, settings.raw_run_bytes) == (500, times * 32 * 312)
    # A record may be a 64th larger than what it packs, and 1,000 bytes for each of three columns.
    large = check_settings(
        rv.StepSpec(rv.Field((3_000_000,), "uint8"), rv.Field((), "int64")),
        1_000,
        1,
        residency,
        "a.replay",
        None,
        None,
    )
    assert large.most_record_bytes == 32 * 3_000_012 + 32 * 3_000_012 // 64 + 3_000


def test_marks_of_logs():
    """A file whose log is empty has an even number, and a log that has begun the odd one after it."""
    assert (LEAST_BASE, is_base(LEAST_BASE), mark_on(LEAST_BASE)) == (65_536, True, 65_537)
    assert [is_base(number) for number in (0, 2, 65_534, 65_535, 65_537, 2**31 - 2)] == [*[False] * 5, True]
    assert (mark_on(65_537), mark_on(0), mark_on(2**31 - 2)) == (None, 1, 2**31 - 1)
    drawn = [new_base() for _ in range(200)]
    assert all(is_base(number) and number < 2**31 for number in drawn)
    assert len(set(drawn)) > 190


@pytest.mark.parametrize(
    ("tail", "head", "floor"),
    [(0, 64, 0), (32, 64, 32), (33, 64, 33), (63, 64, 63), (64, 64, 0), (32, 65, 0), (33, 65, 33), (50, 150, 0), (70, 150, 70), (64, 150, 0)],
)  # fmt: skip
def test_the_floor_of_a_stream(tail, head, floor):
    """A ring of 100 steps has runs of 32, 32, 32 and 4: the oldest live step is noted where the runs tell of an older one.

    The newest run tells of none: as long as a stream has only that, it is taken to begin at 0.
    """
    assert floor_of(Runs(1, 100), tail, head) == floor


def test_floors_of_a_file_are_checked():
    """One id for each stream; a file that has none has zeros."""
    assert (checked_floors([], 2), checked_floors(None, 3), checked_floors([5, 0], 2)) == (
        [0, 0],
        [0, 0, 0],
        [5, 0],
    )
    for wrong in ([1], [1, 2, 3], [1, -1], [1, 2.5]):
        with pytest.raises((TypeError, ValueError)):
            checked_floors(wrong, 2)


def said(
    name: str | None, *, reading: bool, is_open: bool = True, kind: type = sqlite3.OperationalError
) -> str:
    """What a user reads about an error of SQLite's."""
    error = kind("its words")
    if name is not None:
        error.sqlite_errorname = name
    return f"{type(error := failure(Path('a.replay'), error, is_open=is_open, reading=reading)).__name__}: {error}"


def test_what_an_error_means():
    """Only what is too large when it is read is damage; what is too large to be written is not, nor is a bad disk."""
    assert "damaged one" in said("SQLITE_TOOBIG", reading=True)
    assert "seal smaller runs" in said("SQLITE_TOOBIG", reading=False)
    for reading in (True, False):
        assert "damaged one" not in said("SQLITE_IOERR_READ", reading=reading)
        assert "damaged one" in said("SQLITE_CORRUPT", reading=reading)
        assert "damaged one" in said(None, reading=reading, kind=OverflowError)
    assert said(None, reading=True, is_open=False, kind=sqlite3.ProgrammingError).startswith("BufferClosed")
    assert said(None, reading=True, is_open=True, kind=sqlite3.ProgrammingError).startswith("FileError")


class Nothing:
    """A file that is asked for nothing."""


def test_the_bytes_of_the_newest_runs():
    """Memory holds the newest run of each stream until the next one comes."""
    chunks = FileChunks(Nothing(), 3)
    for number, packed, nbytes in ((0, b"1234", 4), (4, b"12", 6), (1, b"123456789", 11), (1, b"1", 3)):
        chunks.put(number, {"obs": packed})
        assert chunks.nbytes == nbytes
    chunks.change(0, {"obs": b"12345"})  # which memory has no more
    assert chunks.nbytes == 3
    chunks.change(4, {"obs": b"12345"})
    assert chunks.nbytes == 6


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize(("count", "whole"), [(31, 0), (35, 32)])
def test_steps_are_written_as_changes_of_the_step_before(count, whole, streams, tmp_path):
    """From the second of a run on, whichever slot that one lies in; the first of a run tells all of itself."""
    picture = np.random.default_rng(0).integers(0, 256, 300, np.uint8)
    with rv.ReplayBuffer(WIDE, 80 * streams, streams=streams, path=tmp_path / "a.replay") as buffer:
        for _ in range(count):
            for stream in range(streams):
                buffer.add(
                    obs=picture, action=0, reward=0.0, terminated=False, truncated=False, stream=stream
                )
        buffer.flush()
        steps = sorted(buffer.engine.file.steps(), key=lambda step: (step.stream, step.id))
        first = [(step.stream, step.id) for step in steps if step.values["obs"][:1] != DELTA]
    assert first == [(stream, whole) for stream in range(streams)]


def episode(**other: object) -> EpisodeRecord:
    """A record in which nothing is odd."""
    return EpisodeRecord(5, 1, 3, 10, 20, CUT, 1.5, None)._replace(**other)


@pytest.mark.parametrize(
    ("other", "odd"),
    [({}, 0), ({"ended": 7}, 1), ({"ended": RUNNING}, 0), ({"ended": RUNNING, "final": {"obs": b""}}, 1),
     ({"final": {"obs": b""}}, 0), ({"total": np.inf}, 1), ({"total": np.nan, "ended": -1}, 2)],
)  # fmt: skip
def test_odd_episodes(other, odd):
    """An end that means nothing, a final observation of an episode that runs, a return that is no number."""
    assert len(list(odd_episode(episode(**other)))) == odd


@pytest.mark.parametrize(
    ("other", "stray"),
    [({}, 0), ({"stream": 0}, 0), ({"stream": 2}, 1), ({"stream": -1}, 1), ({"start": 20}, 0), ({"start": 21}, 1),
     ({"start": -1}, 1), ({"start": 0, "stop": 0}, 0), ({"number": -1}, 1), ({"number": 0}, 0), ({"ordinal": -1}, 1),
     ({"ordinal": 0}, 0), ({"stop": 2**63}, 1)],
)  # fmt: skip
def test_stray_episodes(other, stray):
    """Of two streams, with ids that can be, and no end before its beginning."""
    assert len(list(stray_episode(episode(**other), 2))) == stray


def test_whether_the_file_has_metadata_of_episodes(tmp_path):
    """All that it has an episode for has to be what it has; what it has no episode for does not count."""
    with rv.ReplayBuffer(WIDE, 10, path=tmp_path / "a.replay") as buffer:
        buffer.add(obs=np.zeros(300, np.uint8), action=0, reward=0.0, terminated=False, truncated=False)
        buffer.annotate(episode=0, seed=3)
        buffer.flush()
        file = buffer.engine.file
        text, other = label_text({"seed": 3}), label_text({"seed": 4})
        assert file.has_labelled({0: text, 7: other})
        assert not file.has_labelled({0: other})


@pytest.mark.parametrize("ask", ["rows", "each"])
def test_what_is_too_large_to_be_read_is_damage(ask, tmp_path):
    """SQLite holds no value of more than 1,000,000,000 bytes: none was ever written."""
    buffer = rv.ReplayBuffer(WIDE, 10, path=tmp_path / "a.replay")
    with pytest.raises(rv.FileError, match="damaged one"):
        list(getattr(buffer.engine.file.db, ask)("SELECT zeroblob(2000000000)"))
    buffer.close()


def test_a_schema_is_all_of_its_objects_made_by_its_own_statements():
    """The objects alone do not make it, nor do the statements."""
    statements = [f"CREATE TABLE {name}" for _, name, _ in OBJECTS]
    right = [(*each, statement) for each, statement in zip(OBJECTS, statements, strict=True)]
    assert is_schema(right, statements, labelled=False)
    assert is_schema(right, statements[:1], labelled=False)
    assert not is_schema(right, [*statements[:-1], "CREATE TABLE other"], labelled=False)
    assert not is_schema(right[:-1], statements[:1], labelled=False)
    assert not is_schema([("view", *each[1:]) for each in right], statements, labelled=False)
    assert not is_schema(right, statements, labelled=True)
    assert not is_schema([], statements, labelled=True)
