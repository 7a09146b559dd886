"""The tables of a replay file by themselves: what is put is read again, and what is dropped is gone, and nothing else."""

import numpy as np
import pytest

import reverie as rv
from reverie.file import check_settings, make_file
from reverie.file.records import (
    MOST_COLUMNS,
    EpisodeRecord,
    RunRecord,
    StepRecord,
    check_names,
    checksums,
    wrong_checksums,
)

SPEC = rv.StepSpec(rv.Field((2,), "uint8"), rv.Field((), "uint8"))
VALUES = {"obs": b"\0ab", "action": b"\0c", "reward": b"\0defg"}


@pytest.fixture
def file(tmp_path):
    settings = check_settings(SPEC, 200, 2, "ram", tmp_path / "a.replay", None, None)
    made = make_file(tmp_path / "a.replay", settings, np.random.default_rng(np.random.Philox(0)))
    yield made
    made.close()


def episode(number: int, stream: int, ordinal: int, final=None) -> EpisodeRecord:
    return EpisodeRecord(number, stream, ordinal, 10 * ordinal, 10 * ordinal + 10, 1, 2.5, final)


def test_runs_are_read_as_they_were_put(file):
    """By number, each with its columns; a later one takes the place of the one before."""
    first, second, again = RunRecord(0, 0, 0, 32), RunRecord(5, 1, 32, 32), RunRecord(0, 0, 100, 32)
    for run in (second, first, again):
        file.put_run(run, VALUES)
    assert file.runs() == [
        (again, file.checksums_of(again, VALUES)),
        (second, file.checksums_of(second, VALUES)),
    ]
    assert file.run(5) == (second, VALUES)
    assert [file.chunk(name, 0) for name in VALUES] == list(VALUES.values())
    assert (file.has_run(0), file.has_run(1)) == (True, False)
    file.drop_run(0)
    assert [run for run, _ in file.runs()] == [second]
    with pytest.raises(rv.FileError, match="run 0 is missing"):
        file.run(0)


def test_newest_steps_are_read_by_stream_and_id(file):
    """32 of each stream have room: a step takes the place of the one 32 before it."""
    final = {"obs": b"\0xy"}
    steps = [
        StepRecord(0, 31, 0, VALUES, None),
        StepRecord(1, 0, 1, VALUES, final),
        StepRecord(0, 32, 0, VALUES, None),
    ]
    for step in [StepRecord(0, 0, 0, VALUES, None), *steps]:
        file.put_step(step)
    assert file.steps() == [steps[0], steps[2], steps[1]]


@pytest.mark.parametrize("stream", [0, 1])
def test_dropping_the_steps_of_a_stream_leaves_those_of_the_other(file, stream):
    """The first and the last place of each stream included."""
    for number in (0, 31):
        for of in (0, 1):
            file.put_step(StepRecord(of, number, 0, VALUES, None))
    file.drop_steps(stream)
    assert [(step.stream, step.id) for step in file.steps()] == [(1 - stream, 0), (1 - stream, 31)]


def test_stops_are_those_of_runs_and_of_steps(file):
    """One past the last id, for the streams that have any."""
    file.put_run(RunRecord(0, 0, 0, 32), VALUES)
    file.put_run(RunRecord(1, 0, 32, 32), VALUES)
    file.put_step(StepRecord(1, 4, 0, VALUES, None))
    assert file.stops() == ({0: 64}, {1: 5})


def test_episodes_are_dropped_up_to_an_ordinal(file):
    """Those of one stream alone, and not the one with that ordinal."""
    for number in range(6):
        file.put_episode(episode(number, number % 2, number // 2))
    file.drop_episodes(1, 2)
    assert [one.number for one in file.episodes()] == [0, 2, 4, 5]
    file.drop_other_episodes({2, 5})
    assert file.episodes() == [episode(2, 0, 1), episode(5, 1, 2)]


def test_the_final_observation_of_an_episode_is_read_by_column(file):
    """One that has none, and an episode that is not there, are damage."""
    file.put_episode(episode(0, 0, 0, {"obs": b"\0xy"}))
    file.put_episode(episode(1, 0, 1)._replace(ended=0))
    assert file.final("obs", 0) == b"\0xy"
    assert (file.has_ended(0), file.has_ended(1), file.has_ended(2)) == (True, False, False)
    for number in (1, 2):
        with pytest.raises(rv.FileError, match=f"the final observation of episode {number} is missing"):
            file.final("obs", number)


def test_named_values_and_arrays_are_read_as_they_were_put(file):
    """All arrays are replaced at once; a value that is not there is its default, or damage."""
    file.put_meta("notes", {"a": [1, 2.5, None]})
    assert file.meta("notes") == {"a": [1, 2.5, None]}
    assert file.meta("none of these", 7) == 7
    with pytest.raises(rv.FileError, match="meta 'none of these' is missing"):
        file.meta("none of these")
    file.put_arrays({"x": ("<i8 0", b"\0"), "y": ("|u1 1", b"\0a")})
    file.put_arrays({"z": ("|u1 1", b"\0b")})
    assert file.arrays() == {"z": ("|u1 1", b"\0b")}


def test_a_value_that_no_reader_would_take_is_refused(file):
    """It would make the file unreadable."""
    with pytest.raises(rv.BadSetting, match="wanted at most 4,194,304 characters of JSON, got 4,194,305"):
        file.put_meta("notes", "a" * (2**22 - 1))
    file.put_meta("notes", {"a": "a" * (2**22 - 9)})  # with its quotes and braces as long as may be
    assert len(file.meta("notes")["a"]) == 2**22 - 9


def test_checksums_tell_which_part_of_a_record_is_wrong():
    """0 for the numbers, then the blobs; a blob that belongs to other numbers is wrong, too."""
    good = checksums("<2q", (1, 2), [b"a", None, b"c"])
    assert wrong_checksums("<2q", (1, 2), good, [b"a", None, b"c"]) == set()
    assert wrong_checksums("<2q", (1, 2), good, [b"a", b"b", b"c"]) == {2}
    assert wrong_checksums("<2q", (1, 2), good, [b"a", None, None]) == {3}
    assert wrong_checksums("<2q", (1, 3), good, [b"a", None, b"c"]) == {0, 1, 2, 3}
    assert wrong_checksums("<2q", (1, 2), good, [b"c"], places=[2]) == set()
    assert wrong_checksums("<2q", (1, 2), good, [b"a"], places=[2]) == {1}
    assert wrong_checksums("<2q", (1, 2), good, places=()) == set()


def test_what_is_no_record_has_no_checksums():
    """A NULL where none may be, a text, a float, too few or too many checksums."""
    good = checksums("<2q", (1, 2), [b"a", None])
    assert wrong_checksums("<2q", (1, 2), good, [b"a", None], 1) == set()
    assert wrong_checksums("<2q", (1, 2), good, [b"a", None], 2) is None
    assert wrong_checksums("<2q", (1, 2), good, ["a", None]) is None
    assert wrong_checksums("<2q", (1, 2.5), good, [b"a", None]) is None
    assert wrong_checksums("<2q", (1, 2), good[:-4], [b"a", None]) is None
    assert wrong_checksums("<2q", (1, 2), good + b"1234", [b"a", None]) is None
    assert wrong_checksums("<2q", (1, 2), 5, [b"a", None]) is None


@pytest.mark.parametrize("extra", ["x", "_", "latent", "é2"])
def test_names_of_columns_are_those_of_fields(extra):
    """A tree's leaves, and the names of extras, which are identifiers of one letter or more."""
    names = ["obs/frame", "action", f"extras/{extra}", "reward"]
    assert check_names(names, ["obs/frame"]) == names


@pytest.mark.parametrize("names", [
    "reward", [], ["obs"], ["obs", "action", "reward", "reward"], ["obs", "action", "reward", "extras/1a"],
    ["obs", "action", "reward", "extras/"], ["obs", "action", "reward", "extras/a b"], ["obs", "action", "reward", 3],
    ["obs", "obs/low", "reward"], ["obs", *(f"extras/a{number}" for number in range(MOST_COLUMNS)), "reward"],
    ["action", "reward"], ["obs", "action", "reward", 'extras/a"'],
])  # fmt: skip
def test_other_names_of_columns_are_refused(names):
    """What is no list, no name, there twice, too much, or has other observations than those that are told."""
    with pytest.raises(ValueError, match=r"column|observations"):
        check_names(names, ["obs"])
