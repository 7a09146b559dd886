"""Larger and smaller rings: what stays is the newest of each stream, bit for bit, with all that is known of it."""

import os
import re
import shutil
import sqlite3
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.compat import IRISReplayBuffer
from reverie.errors import FileTaken
from reverie.file import verify_file
from support.children import Child
from support.faults import Lines, SystemCalls
from support.recorder import library
from support.story import CUT, Story, check_batch, columns, heads, read_all, spec

RESIDENCIES = ("ram", "packed", "disk")
BOUNDARIES = ("inside", "pad_right", "pad_left", "cross")


def feed(buffer: rv.ReplayBuffer, story: Story, *counts: int) -> None:
    """Add so many steps to each stream, in turn, as the story has them."""
    left, at = list(counts), heads(buffer)
    while any(left):
        for stream in range(len(counts)):
            if left[stream]:
                buffer.add(**story.step(stream, at[stream]))
                if int(story.fates(stream, np.array([at[stream]]))[0]) == CUT:
                    buffer.cut(stream, final_obs=story.final(stream, at[stream]))
                at[stream] += 1
                left[stream] -= 1
    assert len(counts) <= buffer.streams


def made(path: Path, story: Story, *counts: int, **settings) -> Path:
    """A closed file of such a buffer."""
    with rv.ReplayBuffer(
        spec(), story.capacity, streams=story.streams, seed=3, path=path, **settings
    ) as buffer:
        feed(buffer, story, *counts)
    return path


def ends(buffer: rv.ReplayBuffer) -> list[tuple[int, int]]:
    """Tail and head of each stream."""
    with buffer.engine.turn:
        index = buffer.engine.index
        return list(zip(index.tail.tolist(), index.head.tolist(), strict=True))


def steps(buffer: rv.ReplayBuffer) -> dict[str, list[np.ndarray]]:
    """All columns of all live steps, by stream."""
    with buffer.engine.turn:
        engine, found = buffer.engine, {}
        for name, wanted in columns(0, np.arange(1), 0).items():
            found[name] = []
            for stream, (tail, head) in enumerate(ends(buffer)):
                values = np.zeros((head - tail, *wanted.shape[1:]), wanted.dtype)
                slots = engine.index.slots(np.array(stream), np.arange(tail, head))
                if len(slots):
                    engine.store.gather(name, slots, values)
                found[name].append(values)
        return found


def assert_told(buffer: rv.ReplayBuffer, story: Story) -> None:
    """Every live step is as the story has it, and so are some windows."""
    found = steps(buffer)
    for stream, (tail, head) in enumerate(ends(buffer)):
        if not head:
            continue
        for name, wanted in columns(stream, np.arange(tail, head), story.seed).items():
            np.testing.assert_array_equal(found[name][stream], wanted, f"{name} of stream {stream}")
    for length in (1, 4):
        if buffer.count_windows(length):
            check_batch(buffer.sample(16, length), story)
    read_all(buffer)


def assert_whole(path: Path) -> None:
    lines = list(verify_file(path))
    assert lines[-1] == ("nothing is wrong", False), lines


def same_batches(one: rv.ReplayBuffer, other: rv.ReplayBuffer, samplers) -> None:
    """For the same random numbers both give the same windows."""
    for boundary in BOUNDARIES:
        for sampler in samplers:
            batches = [
                buffer.sample(20, 3, boundary=boundary, sampler=make())
                for buffer, make in ((one, sampler), (other, sampler))
            ]
            for name in ("stream", "anchor", "obs", "reward", "mask", "is_first"):
                np.testing.assert_array_equal(*[np.asarray(getattr(batch, name)) for batch in batches], name)


# --- what stays --------------------------------------------------------------------------------------------

SIZES = [
    # capacity before, steps of the two streams, capacity after
    (200, (10, 0), 400),
    (200, (100, 40), 400),
    (200, (333, 130), 1000),  # the ring has come round: the oldest step lies within a run
    (200, (333, 130), 264),
    (200, (333, 130), 140),
    (200, (333, 130), 128),
    (128, (300, 64), 256),  # runs of both sizes are the same
    (10, (70, 3), 2000),  # all live steps are those of the newest run
    (10, (64, 3), 2000),  # and the oldest of them begins a run
    (10, (65, 3), 2000),
    (64, (64, 33), 66),
    (200, (333, 130), 10),
    (200, (330, 130), 2),
    (200, (0, 0), 20),
]


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize(("before", "counts", "after"), SIZES)
def test_the_newest_steps_stay(before, counts, after, residency, tmp_path):
    """With the same ids, in whatever size; the file is whole, goes on, and is whole again when it comes round."""
    story = Story(1, 2, before)
    durability = "chunk" if after % 3 else "step"
    path = made(tmp_path / "a.replay", story, *counts, residency=residency, durability=durability)
    with rv.open(path, mode="r") as buffer:
        old = ends(buffer)
    wanted = [(max(tail, head - after // 2), head) for tail, head in old]
    with rv.open(path, capacity=after, episodes="continue") as buffer:
        assert (buffer.capacity, buffer.streams, buffer.residency) == (after, 2, residency)
        assert ends(buffer) == wanted
        assert_told(buffer, story)
        with rv.open(path, mode="r") as reader:
            assert ends(reader) == wanted
    assert_whole(path)
    assert os.listdir(tmp_path) == ["a.replay"]
    for count in (1, 37, after):
        with rv.open(path, episodes="continue") as buffer:
            feed(buffer, story, count, min(count, 40))
            assert_told(buffer, story)
            now = [
                (max(tail, head - after // 2), head)
                for (tail, _), head in zip(wanted, heads(buffer), strict=True)
            ]
            assert ends(buffer) == now
        assert_whole(path)


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize(("before", "counts", "after"), [size for size in SIZES if size[0] > size[2]])
def test_a_smaller_ring_is_the_one_that_was_always_so_small(before, counts, after, residency, tmp_path):
    """Its twin got the same adds with the new capacity: episodes and windows are equal, for every kind of window."""
    one = made(tmp_path / "one.replay", Story(2, 2, before), *counts, residency=residency)
    other = made(tmp_path / "other.replay", Story(2, 2, after), *counts, residency=residency)
    with rv.open(one, capacity=after, seed=8) as small, rv.open(other, seed=8) as twin:
        assert ends(small) == ends(twin)
        for name, values in steps(twin).items():
            for mine, theirs in zip(steps(small)[name], values, strict=True):
                np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(np.asarray(small.episodes), np.asarray(twin.episodes))
        np.testing.assert_array_equal(small.episodes.ids, twin.episodes.ids)
        if len(small):
            assert [small.count_windows(length) for length in (1, 3, 9)] == [
                twin.count_windows(length) for length in (1, 3, 9)
            ]
        if small.count_windows(3):
            same_batches(small, twin, [rv.Uniform, rv.EpisodeUniform, rv.Shuffled, partial(rv.Recent, 20)])


def test_a_larger_ring_draws_what_the_old_one_would_have_drawn(tmp_path):
    """Where nothing fell out, the next batches are those that would have come; random state and episodes are the same."""
    path = made(tmp_path / "a.replay", Story(3, 2, 200), 333, 130)
    shutil.copy(path, tmp_path / "b.replay")
    with rv.open(path, capacity=900) as large, rv.open(tmp_path / "b.replay") as small:
        np.testing.assert_array_equal(np.asarray(large.episodes), np.asarray(small.episodes))
        same_batches(large, small, [rv.Uniform, rv.EpisodeUniform, rv.Shuffled, rv.VisitBalanced])


def test_a_ring_grows_again_and_again(tmp_path):
    """Larger, smaller and larger: each time of what is there, and never an older step comes back."""
    story = Story(4, 1, 50)
    path = made(tmp_path / "a.replay", story, 133)
    tail = 83
    for capacity in (70, 300, 41, 45, 1000, 33, 32, 31, 500):
        with rv.open(path, capacity=capacity, episodes="continue") as buffer:
            feed(buffer, story, 5)
            [(now, head)] = ends(buffer)
            tail = max(tail, head - capacity)
            assert now == tail
            assert_told(buffer, story)
        assert_whole(path)


def test_an_unchanged_size_changes_nothing(tmp_path):
    """The file stays the same one."""
    path = made(tmp_path / "a.replay", Story(5, 1, 50), 60)
    inode = path.stat().st_ino
    rv.open(path, capacity=50, streams=1).close()
    assert path.stat().st_ino == inode


def test_permissions_and_links_stay(tmp_path):
    """The new file may be read by whom the old one might, and a symbolic link leads to it."""
    path = made(tmp_path / "a.replay", Story(5, 1, 50), 60)
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    rv.open(tmp_path / "link", capacity=60).close()
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    with rv.open(path, mode="r") as buffer:
        assert buffer.capacity == 60


# --- streams -----------------------------------------------------------------------------------------------


def test_new_streams_are_empty(tmp_path):
    """Without a capacity each stream keeps what it kept; the new streams take steps at once."""
    story = Story(6, 2, 100)
    path = made(tmp_path / "a.replay", story, 133, 20)
    with rv.open(path, streams=5, episodes="continue") as buffer:
        assert (buffer.capacity, buffer.streams) == (250, 5)
        assert ends(buffer) == [(83, 133), (0, 20), (0, 0), (0, 0), (0, 0)]
        assert_told(buffer, story)
        buffer.add(**Story(6, 5, 250).step(4, 0))
        assert ends(buffer)[4] == (0, 1)
    assert_whole(path)
    with rv.open(path, streams=6, capacity=60) as buffer:
        assert ends(buffer)[:2] == [(123, 133), (10, 20)]


def test_fewer_streams_than_have_steps_are_refused(tmp_path):
    """Steps of a stream go by age alone, never because their stream goes; empty streams at the end may go."""
    path = made(tmp_path / "a.replay", Story(7, 4, 200), 60, 0, 5, 0)
    before = path.read_bytes()
    with pytest.raises(rv.BadSetting, match="streams: wanted at least 3, since stream 2 has steps, got 2"):
        rv.open(path, streams=2)
    assert path.read_bytes() == before
    with rv.open(path, streams=3) as buffer:
        assert ends(buffer) == [(10, 60), (0, 0), (0, 5)]
    assert os.listdir(tmp_path) == ["a.replay"]


# --- what is known of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [40, 600])
def test_metadata_discards_and_cut_beginnings_stay(capacity, tmp_path):
    """Episodes keep their ids, ends, returns and metadata; one that was discarded stays out."""
    scalar = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar, 100, path=path, seed=0) as buffer:
        for step in range(135):
            buffer.add(
                obs=step,
                action=0,
                reward=1.0,
                terminated=step % 10 == 9,
                truncated=False,
                final_obs=-step if step % 10 == 9 else None,
            )
            if step % 10 == 4:
                buffer.annotate(number=step // 10)
        buffer.discard(11)
    first = 135 - min(capacity, 100)
    with rv.open(path, capacity=capacity, episodes="continue") as buffer:
        rows = buffer.episodes
        assert rows.ids.tolist() == [one for one in range(first // 10, 14) if one != 11]
        assert [label["number"] for label in rows.metadata] == rows.ids.tolist()
        assert rows["start"].tolist() == [10 * one for one in rows.ids]
        assert rows["live"].tolist()[0] == 10 - first % 10
        assert rows["return"].tolist() == [10.0] * (len(rows) - 1) + [5.0]
        assert buffer.episodes["ended"][-1] == "running"
        buffer.add(obs=135, action=0, reward=1.0, terminated=False, truncated=False)
        assert buffer.episodes["stop"][-1] == 136  # the episode goes on
        whole = buffer.sample(200, 10)
        assert set((whole.obs[:, -1] <= 0).tolist()) == {True}  # each has its final observation
    assert_whole(path)


def test_an_episode_that_a_killed_writer_left_ends_as_a_cut(tmp_path):
    """As when it is opened without another size: the steps of the log are there."""
    story = Story(8, 1, 100)
    with rv.ReplayBuffer(spec(), 100, path=tmp_path / "a.replay", seed=0) as buffer:
        feed(buffer, story, 130)
        for suffix in ("", "-wal"):
            shutil.copy(f"{buffer.path}{suffix}", f"{tmp_path / 'b.replay'}{suffix}")
    with rv.open(tmp_path / "b.replay", capacity=300, episodes="continue") as buffer:
        assert ends(buffer) == [(30, 130)]
        assert buffer.episodes["ended"][-1] != "running"
        assert_told(buffer, story)
    assert_whole(tmp_path / "b.replay")


# --- samplers ----------------------------------------------------------------------------------------------


def weights(sampler, buffer: rv.ReplayBuffer, of) -> dict[tuple[int, int], float]:
    """What a sampler keeps for each live step, by stream and id."""
    index = buffer.engine.index
    return {
        (stream, step): of(sampler)[stream * index.capacity + step % index.capacity]
        for stream, (tail, head) in enumerate(ends(buffer))
        for step in range(tail, head)
    }


KEPT_BY_STEP = [
    (rv.Prioritized, lambda sampler: sampler.save()["steps"]["weights"]),
    (partial(rv.VisitBalanced, by="step"), lambda sampler: sampler.save()["visits"]),
    (
        lambda: rv.Mixture([(rv.Prioritized(), 1.0), (rv.Uniform(), 1.0)]),
        lambda sampler: sampler.save()["parts"][0]["steps"]["weights"],
    ),
]


@pytest.mark.parametrize(("make", "of"), KEPT_BY_STEP)
@pytest.mark.parametrize("capacity", [600, 90, 30])
def test_what_samplers_keep_of_a_step_goes_with_it(make, of, capacity, tmp_path):
    """Priorities and visits are those of the same step, wherever it lies now."""
    story = Story(9, 2, 200)
    path, sampler = tmp_path / "a.replay", make()
    with rv.ReplayBuffer(spec(), 200, streams=2, seed=0, path=path) as buffer:
        feed(buffer, story, 150, 70)
        for _ in range(20):
            batch = buffer.sample(8, 2, sampler=sampler)
            if not isinstance(sampler, rv.VisitBalanced):
                buffer.update_priorities(batch, np.arange(8.0) + 1)
        feed(buffer, story, 10, 0)
        buffer.sample(8, 2, sampler=sampler)
        before = weights(sampler, buffer, of)
    again = make()
    with rv.open(path, capacity=capacity, streams=3) as buffer:
        buffer.sample(1, 2, sampler=again, boundary="inside")
        after = weights(again, buffer, of)
    assert len(set(before.values())) > 3
    changed = [place for place, value in after.items() if before[place] != value]
    assert len(changed) <= 1  # what the one draw has visited
    assert_whole(path)


@pytest.mark.parametrize("capacity", [2000, 120, 20])
def test_visits_of_an_episode_go_with_it(capacity, tmp_path):
    """So does where the table of episodes has to become smaller."""
    scalar = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    path, sampler = tmp_path / "a.replay", rv.VisitBalanced(alpha=1.0)
    with rv.ReplayBuffer(scalar, 300, path=path, seed=0) as buffer:
        for step in range(450):
            buffer.add(obs=step, action=0, reward=0.0, terminated=step % 2 == 1, truncated=False)
            if step == 400:
                buffer.sample(900, 1, sampler=sampler)
        buffer.sample(100, 1, sampler=sampler)
        index = buffer.engine.index
        visits = sampler.save()["visits"]
        before = {index.order.item(row): visits[row] for row in index.live_episodes().tolist()}
    again = rv.VisitBalanced(alpha=1.0)
    with rv.open(path, capacity=capacity) as buffer:
        buffer.sample(1, 1, sampler=again)
        index, visits = buffer.engine.index, again.save()["visits"]
        after = {index.order.item(row): visits[row] for row in index.live_episodes().tolist()}
    assert len(after) == min(capacity, 300) // 2
    assert sum(before[order] != count for order, count in after.items()) == 1  # the draw just now
    assert len(set(before.values())) > 3
    assert_whole(path)


def test_fresh_goes_on_where_it_was(tmp_path):
    """What it has shown it does not show again, and new streams begin at their first step."""
    story = Story(10, 2, 200, rarity=1000)
    path, sampler = tmp_path / "a.replay", rv.Fresh(rv.Uniform())
    with rv.ReplayBuffer(spec(), 200, streams=2, seed=0, path=path) as buffer:
        feed(buffer, story, 40, 30)
        shown = buffer.sample(10, 4, sampler=sampler)
    with rv.open(path, capacity=300, streams=3, episodes="continue") as buffer:
        more = buffer.sample(4, 4, sampler=rv.Fresh(rv.Uniform()))
        seen = set(zip(shown.stream.tolist(), shown.anchor.tolist(), strict=True))
        assert seen.isdisjoint(zip(more.stream.tolist(), more.anchor.tolist(), strict=True))


# --- refusals ----------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_and_nothing_has_changed(tmp_path):
    """A reader, a capacity that streams do not divide, no number, more than memory holds."""
    path = made(tmp_path / "a.replay", Story(11, 2, 200), 90, 10)
    before = path.read_bytes()
    for error, match, arguments in [
        (rv.BadSetting, "only to write, got it with mode='r'", {"capacity": 10, "mode": "r"}),
        (rv.BadSetting, r"wanted a multiple of streams \(2\), got 11", {"capacity": 11}),
        (rv.BadSetting, "capacity: wanted an integer of at least 1", {"capacity": 0}),
        (rv.BadSetting, "streams: wanted an integer of at least 1", {"streams": -1}),
        (rv.BadSetting, "streams: wanted at most", {"streams": 2**20}),
        (rv.TooLarge, "wanted", {"capacity": 2**40}),
    ]:
        with pytest.raises(error, match=match):
            rv.open(path, **arguments)
    with pytest.raises(rv.FileError, match="got no file"):
        rv.open(tmp_path / "none.replay", capacity=10)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_file_that_somebody_writes_is_refused(tmp_path):
    """The lock is the writer's."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(spec(), 50, path=path, seed=0) as buffer:
        feed(buffer, Story(12, 1, 50), 20)
        with pytest.raises(rv.FileError, match="wanted to be its only writer"):
            rv.open(path, capacity=100)
        feed(buffer, Story(12, 1, 50), 5)
    assert_whole(path)


def test_the_file_of_a_drop_in_buffer_is_refused(tmp_path):
    """Where it goes on is counted by its size; the file is as it was."""
    path = tmp_path / "a.replay"
    with IRISReplayBuffer(20, (3, 8, 8), 2, seq_len=2, path=path) as buffer:
        buffer.add(np.zeros((3, 8, 8), np.uint8), np.eye(2, dtype=np.float32)[0], 0.0, 0.0)
    before = path.read_bytes()
    with pytest.raises(rv.FileError, match="got that of a class around one, such as IRISReplayBuffer"):
        rv.open(path, capacity=40)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.replay"]


def test_where_steps_were_imported_from_stays_noted(tmp_path):
    """That note is no reason to refuse a file."""
    path = made(tmp_path / "a.replay", Story(22, 1, 50), 80)
    with rv.open(path) as buffer:
        buffer.engine.memories.note(exchange={"from": "somewhere"})
    with rv.open(path, capacity=90) as buffer:
        assert buffer.engine.memories.notes == {"exchange": {"from": "somewhere"}}


def test_a_reader_of_the_old_file_notices(tmp_path):
    """It raises, and does not show what was; opened again, it reads the new one. One that copies is not disturbed."""
    story = Story(13, 1, 50)
    path = made(tmp_path / "a.replay", story, 80)
    with rv.open(path, mode="r") as reader:
        assert ends(reader) == [(30, 80)]
        with rv.open(path, capacity=20):
            with pytest.raises(rv.FileError, match="got another in its place, or another log; open it again"):
                reader.sample(1, 1)
            with rv.open(path, mode="r") as another:
                assert ends(another) == [(60, 80)]
        with pytest.raises(rv.FileError, match="open it again"):
            len(reader)


def test_a_reader_in_the_middle_of_a_look_keeps_the_old_file(tmp_path, monkeypatch):
    """Its moment lies in the log: the file cannot be replaced now, and is as it was."""
    monkeypatch.setattr("reverie.file.connection.BUSY_S", 0.01)
    story = Story(14, 1, 50)
    with rv.ReplayBuffer(spec(), 50, path=tmp_path / "a.replay", seed=0) as buffer:
        feed(buffer, story, 40)
        for suffix in ("", "-wal"):
            shutil.copy(f"{buffer.path}{suffix}", f"{tmp_path / 'b.replay'}{suffix}")
    path = tmp_path / "b.replay"
    reader = rv.open(path, mode="r")
    with reader.engine.turn, pytest.raises(rv.FileError, match="a reader that holds an older moment"):
        rv.open(path, capacity=200)
    assert ends(reader) == [(0, 40)]
    reader.close()
    with rv.open(path, capacity=200) as large:
        assert ends(large) == [(0, 40)]
    assert sorted(os.listdir(tmp_path)) == ["a.replay", "b.replay"]


def test_a_budget_stays_and_has_to_suffice(tmp_path):
    """More streams need more of it."""
    path = made(tmp_path / "a.replay", Story(15, 1, 2000), 500, residency="packed", max_bytes=200_000)
    with pytest.raises(rv.BadSetting, match="max_bytes: wanted at least"):
        rv.open(path, streams=4)
    with rv.open(path, capacity=3000) as buffer:
        assert (buffer.capacity, buffer.max_bytes) == (3000, 200_000)


# --- copies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("capacity", [600, 64])
def test_a_copy_of_another_size(residency, capacity, tmp_path):
    """Of a buffer with a file or without; the buffer itself stays as it is and goes on."""
    story = Story(16, 2, 200)
    path = tmp_path / "own.replay" if residency == "disk" else None
    with rv.ReplayBuffer(spec(), 200, streams=2, seed=0, residency=residency, path=path) as buffer:
        feed(buffer, story, 333, 60)
        buffer.save_as(tmp_path / "copy.replay", capacity=capacity)
        assert buffer.capacity == 200
        feed(buffer, story, 3, 3)
        with pytest.raises(FileTaken, match="wanted"):
            buffer.save_as(tmp_path / "copy.replay", capacity=capacity)
        with pytest.raises(rv.BadSetting, match="wanted a multiple"):
            buffer.save_as(tmp_path / "odd.replay", capacity=capacity + 1)
        with pytest.raises(rv.BadSetting, match="streams: wanted at least 2, since stream 1 has steps"):
            buffer.save_as(tmp_path / "one.replay", streams=1)
    with rv.open(tmp_path / "copy.replay", episodes="continue") as copy:
        each = min(capacity // 2, 100)
        assert ends(copy) == [(333 - each, 333), (max(60 - each, 0), 60)]
        assert (copy.capacity, copy.residency) == (capacity, residency)
        assert_told(copy, story)
        feed(copy, story, 20, 20)
    assert_whole(tmp_path / "copy.replay")
    assert set(os.listdir(tmp_path)) <= {"own.replay", "copy.replay"}


def test_a_reader_writes_a_copy_of_another_size(tmp_path):
    """Its file is untouched."""
    story = Story(17, 1, 50)
    path = made(tmp_path / "a.replay", story, 80)
    before = path.read_bytes()
    with rv.open(path, mode="r") as reader:
        reader.save_as(tmp_path / "b.replay", capacity=500)
        with pytest.raises(rv.FileError, match="x: wanted a name of at most 205 bytes"):
            reader.save_as(tmp_path / ("x" * 206), capacity=500)
        reader.save_as(tmp_path / ("x" * 205), capacity=500)
    assert path.read_bytes() == before
    with rv.open(tmp_path / "b.replay") as buffer:
        assert ends(buffer) == [(30, 80)]
        assert_told(buffer, story)


@pytest.mark.parametrize(
    ("residency", "lost"),
    [("ram", False), ("ram", True), ("packed", False), ("packed", True), ("disk", False)],
)
def test_a_copy_of_a_larger_ring_begins_where_it_begins(residency, lost, tmp_path):
    """Also where all live steps are those of the newest run, and where memory alone has them any more."""
    for before, count in ((10, 70), (10, 84), (50, 133)):
        story = Story(18, 1, before)
        path = made(tmp_path / f"{count}.replay", story, count, residency=residency)
        copy = tmp_path / f"{count}.copy"
        with rv.open(path, capacity=900, episodes="continue") as buffer:
            feed(buffer, story, 2)
            if lost:
                path.unlink()
            for _ in range(2):
                buffer.save_as(copy)
                with rv.open(copy, mode="r") as saved:
                    assert ends(saved) == [(count - before, count + 2)]
                    assert_told(saved, story)
                assert_whole(copy)
            if lost:
                with pytest.raises(rv.FileError):
                    buffer.close()


# --- what a file says --------------------------------------------------------------------------------------


def test_the_format_is_3_only_where_a_ring_begins_within_a_run(tmp_path):
    """An older reverie goes on opening all others."""

    def version(path: Path) -> int:
        with sqlite3.connect(path) as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
        db.close()
        return found

    path = made(tmp_path / "a.replay", Story(19, 1, 50), 40)
    rv.open(path, capacity=90).close()
    assert version(path) == 1
    with rv.open(path, episodes="continue") as buffer:
        feed(buffer, Story(19, 1, 90), 81)
    rv.open(path, capacity=70).close()
    assert version(path) == 1
    rv.open(path, capacity=200).close()
    assert version(path) == 3
    with rv.open(path) as buffer:
        assert ends(buffer) == [(51, 121)]
        buffer.annotate(episode=int(buffer.episodes.ids[-1]), note=1)
    assert version(path) == 3


@pytest.mark.parametrize("floors", [[500], [-1], [1, 2], "x", [1.5], {"a": 1}])
def test_a_beginning_that_cannot_be_is_damage(floors, tmp_path):
    """To open refuses it, and verify tells of it."""
    from reverie.file import ReplayFile

    path = made(tmp_path / "a.replay", Story(20, 1, 50), 133)
    rv.open(path, capacity=200).close()
    file = ReplayFile.open(path, "r+")
    file.put_meta("floors", floors)
    file.close()
    with pytest.raises(rv.FileError, match="wanted a whole file, got a damaged one"):
        rv.open(path)
    assert [line for line, is_finding in verify_file(path) if is_finding]


# --- what may go wrong meanwhile -----------------------------------------------------------------------------


def sizes(path: Path) -> int:
    """The capacity of a whole file of the 150 steps of `faulted`."""
    assert_whole(path)
    story = Story(21, 1, 100)
    with rv.open(path, mode="r") as buffer:
        each = min(buffer.capacity, 100)
        assert ends(buffer) == [(150 - each, 150)]
        assert_told(buffer, story)
        return buffer.capacity


def faulted(folder: Path) -> Path:
    """A file that a killed writer left, with a log."""
    with rv.ReplayBuffer(spec(), 100, path=folder / "a.replay", seed=0) as buffer:
        feed(buffer, Story(21, 1, 100), 150)
        for suffix in ("", "-wal"):
            shutil.copy(f"{buffer.path}{suffix}", f"{folder / 'b.replay'}{suffix}")
    for path in folder.glob("a.replay*"):
        path.unlink()
    return folder / "b.replay"


def resize(path: Path, capacity: int) -> None:
    rv.open(path, capacity=capacity).close()


needs_sqlite = pytest.mark.skipif(
    library() is None, reason="wanted the SQLite library within reach of ctypes"
)


@needs_sqlite
@pytest.mark.parametrize("capacity", [300, 40])
@pytest.mark.parametrize("fault", ["kill", "ENOSPC", "EIO"])
@pytest.mark.parametrize("places", [12, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_file_is_the_old_one_or_the_new_one(places, fault, capacity, tmp_path):
    """Whatever system call is the last one, or fails: the file is whole, of either size, and can be resized again."""
    path = faulted(tmp_path)
    kept = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    calls = SystemCalls(tmp_path)
    found: list[int] = []

    def again() -> None:
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
        for suffix, content in kept.items():
            Path(f"{path}{suffix}").write_bytes(content)

    def failing(at: int) -> None:
        with calls.watching():
            try:
                calls.run(partial(resize, path, capacity), at, fault)
            except rv.ReplayError:
                return
            except OSError as error:
                raise AssertionError("wanted an error of reverie") from error

    with calls.watching():
        total = calls.count(partial(resize, path, capacity))[fault]
    assert total > 20
    for at in range(1, total + 1, max(1, total // places)):
        again()
        child = Child(partial(failing, at))
        child.wait((0, -9) if fault == "kill" else (0,))
        # What cannot be removed stays until the file is written anew the next time; the note of a lock means nothing.
        left = [name for name in os.listdir(tmp_path) if ".saving" in name and not name.endswith("-lock")]
        assert fault == "kill" or len(left) <= 1, (at, left)
        found.append(sizes(path))
        for name in left:  # an empty file that was being made is let alone while that may go on
            os.utime(tmp_path / name, (0, 0))
        rv.open(path, capacity=500).close()
        assert not [name for name in os.listdir(tmp_path) if re.search(r"saving-\d+(\.new-\d+)?$", name)]
        with rv.open(path, mode="r") as buffer:
            assert buffer.capacity == 500
    assert set(found) == {100, capacity}


@pytest.mark.parametrize("capacity", [300, 40])
def test_ctrl_c_at_any_line_leaves_one_of_both(capacity, tmp_path, monkeypatch):
    """At every 19th line of reverie: the file is whole and free to be opened."""
    path = faulted(tmp_path)
    kept = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    lines = Lines(lambda: None)
    lines.run(partial(resize, path, capacity))
    found = set()
    # What is raised while memory is given back is raised for nobody.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    for at in range(1, lines.seen, max(1, lines.seen // 60)):
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
        for suffix, content in kept.items():
            Path(f"{path}{suffix}").write_bytes(content)
        with suppress(KeyboardInterrupt):
            Lines(lambda: KeyboardInterrupt, at).run(partial(resize, path, capacity))
        found.add(sizes(path))
        rv.open(path, capacity=500).close()
    assert found == {100, capacity}
