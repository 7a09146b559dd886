"""The recovery rule by itself: what the records of one stream come to, and every way in which they may not fit."""

import math

import pytest

from reverie.file.records import EpisodeRecord, RunRecord, StepRecord
from reverie.file.recovery import (
    Noted,
    StreamRecords,
    noted_ends,
    odd_episode,
    stray_episode,
    stray_run,
    stray_step,
)
from reverie.index import CUT, RUNNING, TERMINATED, TRUNCATED, Runs
from reverie.values import MOST_ID

CUT_AT_40 = Runs(1, 40)  # runs of 32 and of 8 steps
RUN = RunRecord(0, 0, 0, 32)
FINAL = {"obs": b"\0."}
ENDED = EpisodeRecord(0, 0, 0, 0, 20, TERMINATED, 20.0, None)
OPEN = EpisodeRecord(1, 0, 1, 20, 32, RUNNING, 12.0, None)


def step(number: int, ended: int = RUNNING, final=None) -> StepRecord:
    return StepRecord(0, number, ended, {}, final)


def stream(runs=(RUN,), steps=range(32, 36), episodes=(ENDED, OPEN), noted=None) -> StreamRecords:
    """32 sealed steps and 4 newest ones in two episodes, the first of 20 steps, unless told otherwise."""
    steps = [one if isinstance(one, StepRecord) else step(one) for one in steps]
    return StreamRecords(0, CUT_AT_40, runs, steps, episodes, noted)


def findings(records: StreamRecords) -> list:
    return list(records.findings(lambda one: float(one.id)))


def test_newest_steps_complete_the_running_episode():
    """Each of them adds its reward and moves the stop; the ended episode stays as it is."""
    records = stream()
    assert findings(records) == []
    assert (records.tail, records.sealed, records.head) == (0, 32, 36)
    assert (records.begun, records.kept) == (2, 1)
    assert records.episodes == [ENDED, OPEN._replace(stop=36, total=12.0 + 32 + 33 + 34 + 35)]


def test_the_step_that_ends_an_episode_brings_its_end():
    """How it ended and its final observation come from the step's record, and the next episode begins there."""
    after = EpisodeRecord(2, 0, 2, 34, 34, RUNNING, 0.0, None)
    records = stream(steps=[32, step(33, TRUNCATED, FINAL), 34, 35], episodes=(after, ENDED, OPEN))
    assert findings(records) == []
    assert records.episodes[1] == OPEN._replace(stop=34, total=12.0 + 65, ended=TRUNCATED, final=FINAL)
    assert records.episodes[2] == after._replace(stop=36, total=69.0)
    assert (records.begun, records.kept) == (3, 1), "as the episodes' own records say"


def test_records_in_any_order_and_stale_steps_come_to_the_same():
    """A step that a sealed run holds by now does not count."""
    records = stream(steps=[35, 33, 31, 32, 7, 34], episodes=(OPEN, ENDED))
    assert findings(records) == []
    assert [one.id for one in records.newest] == [32, 33, 34, 35]


def test_a_full_ring_keeps_its_newest_steps():
    """The oldest run has steps that are not live any more; an episode that lies before the tail does not count."""
    runs = [RunRecord(0, 0, 40, 32), RunRecord(1, 0, 32, 8), RUN]
    gone = EpisodeRecord(0, 0, 0, 0, 35, TERMINATED, 0.0, None)
    long = EpisodeRecord(1, 0, 1, 35, 74, RUNNING, 0.0, None)
    records = stream(runs[:2], [72, 73, 74], (gone, long._replace(stop=72)))
    assert findings(records) == []
    assert (records.tail, records.head) == (35, 75)
    assert records.runs == [runs[1], runs[0]]
    assert records.live == [long._replace(stop=75, total=72.0 + 73 + 74)]


def test_a_budget_may_have_dropped_the_oldest_runs():
    """Then the stream begins with the oldest run that there is."""
    records = stream([RunRecord(1, 0, 32, 8)], [], [EpisodeRecord(3, 0, 3, 20, 40, CUT, 1.0, None)])
    assert findings(records) == []
    assert (records.tail, records.head, records.kept) == (32, 40, 4)


def test_an_empty_stream_has_nothing_to_find():
    """No records at all."""
    records = stream([], [], [])
    assert findings(records) == []
    assert (records.tail, records.head, records.begun, records.kept) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "text", "damage"),
    [
        ({"runs": [RunRecord(1, 0, 32, 8)], "steps": [40], "noted": Noted(0, 41, True)}, "its steps begin at 32, at the last flush at 0", "its first or last steps are missing"),
        ({"noted": Noted(0, 37, False)}, "its steps stop at 36, at the last flush at 37", "its first or last steps are missing"),
        ({"noted": Noted(0, 35, True)}, "its steps stop at 36, at the last flush at 35", "its first or last steps are missing"),
        ({"steps": [33, 34]}, "steps 32 to 32 are missing", "a newest step of stream 0 is missing"),
        ({"steps": [32, 35]}, "steps 33 to 34 are missing", "a newest step of stream 0 is missing"),
        ({"runs": [RUN, RunRecord(0, 0, 40, 32)], "steps": []}, "steps 32 to 39 are missing", "the oldest run of stream 0 is missing"),
        ({"runs": [RunRecord(1, 0, 32, 8), RunRecord(0, 0, 80, 32)], "steps": []}, "steps 72 to 79 are missing", "the oldest run of stream 0 is missing"),
        ({"steps": range(32, 41)}, "its last sealed run is followed by 9 steps, of at most 8", "a run of stream 0 is missing"),
        ({"episodes": [ENDED]}, "step 32: it belongs to no episode", "step 32 of stream 0 belongs to no episode"),
        ({"episodes": [ENDED, OPEN._replace(start=33, stop=33)]}, "step 32: it belongs to no episode", "step 32 of stream 0 belongs to no episode"),
        ({"episodes": [OPEN._replace(start=33, stop=33)]}, "step 32: it belongs to no episode", "step 32 of stream 0 belongs to no episode"),
        ({"episodes": [ENDED, OPEN._replace(ended=CUT)]}, "step 32: it belongs to no episode", "step 32 of stream 0 belongs to no episode"),
        ({"episodes": [ENDED, OPEN._replace(stop=31)]}, "step 32: it belongs to no episode", "step 32 of stream 0 belongs to no episode"),
        ({"episodes": [ENDED, OPEN._replace(start=21)]}, "episode 1 does not begin where episode 0 stopped", "its episodes do not cover its steps"),
        ({"episodes": [ENDED, OPEN._replace(ordinal=2)]}, "episode 1 does not begin where episode 0 stopped", "its episodes do not cover its steps"),
        ({"episodes": [ENDED._replace(ended=RUNNING), OPEN]}, "episode 0 runs, and yet episode 1 came after it", "its episodes do not cover its steps"),
        ({"episodes": [OPEN]}, "steps 0 to 19 belong to no episode", "its episodes do not cover its steps"),
        ({"steps": [], "episodes": [ENDED]}, "its episodes stop at step 20, its steps at 32", "its episodes do not cover its steps"),
        ({"steps": [], "episodes": [ENDED, OPEN._replace(stop=33)]}, "its episodes stop at step 33, its steps at 32", "its episodes do not cover its steps"),
        ({"steps": [], "episodes": []}, "steps 0 to 31 belong to no episode", "its episodes do not cover its steps"),
        ({"steps": [step(32, TERMINATED)], "episodes": [ENDED, OPEN._replace(stop=33)]}, "step 32: it ends an episode, and episode 1 goes on", ""),
        ({"steps": [step(32, CUT), 33], "episodes": [ENDED, OPEN._replace(stop=34)]}, "step 32: it ends an episode, and episode 1 goes on", ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_found(changes, text, damage):
    """With its place for a report, and in words for the reader that refuses it; nothing else is wrong then."""
    found = findings(stream(**changes))
    assert any(one.text.endswith(text) and one.damage == damage for one in found), found
    assert all(one.text.startswith("stream 0") for one in found)


def test_a_gap_between_runs_is_found():
    """In a stream of many runs, of which one in the middle is gone."""
    runs = [RunRecord(0, 0, 0, 32), RunRecord(2, 0, 64, 32)]
    episode = EpisodeRecord(0, 0, 0, 0, 96, CUT, 0.0, None)
    records = StreamRecords(0, Runs(1, 200), runs, [], [episode], None)
    (found,) = findings(records)
    assert found == ("stream 0: steps 32 to 63 are missing", "a run of stream 0 is missing")


def test_a_cut_that_only_the_step_knows_is_no_finding():
    """With durability "chunk" the record of the episode may still say that it runs: it would be cut after a crash."""
    assert findings(stream(steps=[step(32, CUT)], episodes=[ENDED, OPEN._replace(stop=33)])) == []


def test_a_tail_may_be_older_than_noted_and_a_killed_writer_may_have_gone_on():
    """What came after the last flush moves both ends; a closed file has its head exactly."""
    assert findings(stream(noted=Noted(3, 36, True))) == []
    assert findings(stream(noted=Noted(0, 30, False))) == []
    assert findings(stream(noted=Noted(0, 36, False))) == []


def test_the_note_of_the_ends_is_taken_apart():
    """A tail and a head for each stream; no note is none, and a wrong one is refused."""
    assert noted_ends([], True, 2) is None
    assert noted_ends([[0, 5], [7, 9]], True, 2) == [(0, 7, True), (5, 9, True)]
    for wrong in ([[0], [7, 9]], [[0, 5]], [[0, -1], [7, 9]], [[0, 5], [7, MOST_ID]], 5, [1, 2]):
        with pytest.raises((TypeError, ValueError)):
            noted_ends(wrong, True, 2)


TWO = Runs(2, 40)


@pytest.mark.parametrize(
    ("run", "stray"),
    [
        (RunRecord(0, 0, 0, 32), False),
        (RunRecord(1, 0, 72, 8), False),
        (RunRecord(2, 1, 40, 32), False),
        (RunRecord(4, 2, 0, 32), True),
        (RunRecord(-2, -1, 0, 32), True),
        (RunRecord(0, 0, -40, 32), True),
        (RunRecord(0, 0, 40 * (MOST_ID // 40 + 1), 32), True),
        (RunRecord(0, 0, 1, 32), True),
        (RunRecord(1, 0, 0, 32), True),
        (RunRecord(0, 0, 0, 31), True),
        (RunRecord(1, 0, 32, 32), True),
    ],
)
def test_a_run_lies_where_its_stream_puts_it(run, stray):
    """Number, stream, first step and length go together."""
    assert bool(list(stray_run(run, TWO))) is stray


@pytest.mark.parametrize(
    ("number", "record", "stray"),
    [
        (3, StepRecord(0, 35, 0, {}, None), False),
        (34, StepRecord(1, 2, 4, {}, None), False),
        (64, StepRecord(2, 0, 0, {}, None), True),
        (-29, StepRecord(-1, 3, 0, {}, None), True),
        (31, StepRecord(0, -1, 0, {}, None), True),
        (0, StepRecord(0, MOST_ID, 0, {}, None), True),
        (4, StepRecord(0, 35, 0, {}, None), True),
        (3, StepRecord(0, 35, 5, {}, None), True),
        (3, StepRecord(0, 35, -1, {}, None), True),
    ],
)
def test_a_step_lies_where_its_stream_puts_it(number, record, stray):
    """So does a newest step, by its id; an end that means nothing is refused."""
    assert bool(list(stray_step(number, record, 2))) is stray


@pytest.mark.parametrize(
    ("changes", "stray"),
    [
        ({}, False),
        ({"start": 20, "stop": 20}, False),
        ({"stream": 1}, False),
        ({"stream": 2}, True),
        ({"stream": -1}, True),
        ({"start": 21}, True),
        ({"start": -1}, True),
        ({"stop": MOST_ID}, True),
        ({"number": -1}, True),
        ({"number": MOST_ID}, True),
        ({"ordinal": -1}, True),
        ({"ordinal": MOST_ID}, True),
    ],
)
def test_an_episode_has_numbers_that_can_be(changes, stray):
    """Of a stream that there is, and not beyond all bounds."""
    assert bool(list(stray_episode(ENDED._replace(**changes), 2))) is stray


def test_an_episode_ends_and_returns_what_can_be():
    """That a running one has a final observation is told, but no reason to refuse the file."""
    assert list(odd_episode(ENDED)) == []
    assert [one.damage for one in odd_episode(ENDED._replace(ended=5))] == ["episode 0 cannot be"]
    assert [one.damage for one in odd_episode(ENDED._replace(total=math.nan))] == ["episode 0 cannot be"]
    assert [one.damage for one in odd_episode(OPEN._replace(final=FINAL))] == [""]
    assert list(odd_episode(ENDED._replace(final=FINAL))) == []
