"""Copies saved while others write, or killed meanwhile; writes that Ctrl-C interrupts at any line."""

import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest
from test_reopen import RESIDENCIES

import reverie as rv
from reverie.file.lock import WriterLock
from reverie.file.place import log_bytes
from reverie.file.replay import ReplayFile
from reverie.file.verify import verify_file
from support.children import PATIENCE, Child, shared
from support.story import CUT, Story, check, heads, read_all, spec

pytestmark = pytest.mark.long


def add(buffer: rv.ReplayBuffer, story: Story, stream: int) -> None:
    """Add the next step of a stream, and cut where the story says so."""
    step = heads(buffer)[stream]
    buffer.add(**story.step(stream, step))
    if int(story.fates(stream, np.array([step]))[0]) == CUT:
        buffer.cut(stream, final_obs=story.final(stream, step))


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_copy_saved_while_another_thread_adds_is_of_one_moment(residency, file, tmp_path):
    """Save a buffer again and again while a thread adds to it: each copy is what was there at some moment."""
    if residency == "disk" and not file:
        return
    story = Story(1, 2, 200, rarity=8)
    path = tmp_path / "a.replay" if file else None
    buffer = rv.ReplayBuffer(spec(), 200, streams=2, seed=0, residency=residency, path=path)
    for number in range(150):
        add(buffer, story, number % 2)
    stop, wrong = threading.Event(), []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                add(buffer, story, number % 2)
                number += 1
        except BaseException as error:
            wrong.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(8):
            before = heads(buffer)
            copy = tmp_path / f"{turn % 3}.copy"
            buffer.save_as(copy)
            after = heads(buffer)
            with rv.open(copy, random.Random(turn).choice(RESIDENCIES), mode="r") as saved:
                now = heads(saved)
                assert all(one <= two <= three for one, two, three in zip(before, now, after, strict=True))
                check(saved, Story(1, 2, 200, rarity=8))
                read_all(saved)
    finally:
        stop.set()
        writer.join()
    assert not wrong
    buffer.close()


@pytest.mark.parametrize("file", [True, False])
def test_a_second_copy_writes_only_what_has_changed(file, tmp_path):
    """Saving to the same place again writes the new runs only; a foreign file there is refused and left alone."""
    story = Story(2, 1, 3200, rarity=30)
    with rv.ReplayBuffer(spec(), 3200, seed=0, path=tmp_path / "a.replay" if file else None) as buffer:
        for _ in range(2000):
            add(buffer, story, 0)
        copy = tmp_path / "b.replay"
        buffer.save_as(copy)
        for _ in range(40):
            add(buffer, story, 0)
        with rv.open(copy, mode="r") as saved:
            runs = dict(enumerate(saved.engine.file.db.rows("SELECT number, checksums FROM runs")))
        written = []
        put = type(saved.engine.file).put_run
        try:
            type(saved.engine.file).put_run = lambda self, run, *values: (
                written.append(run.number),
                put(self, run, *values),
            )
            buffer.save_as(copy)
        finally:
            type(saved.engine.file).put_run = put
        ours = [number for number in written if number >= len(runs)]
        assert len(ours) == len(written) <= 2
        with rv.open(copy, mode="r") as saved:
            check(saved, story)
        for foreign in ("replay", "text"):
            other = tmp_path / foreign
            if foreign == "replay":
                rv.ReplayBuffer(spec(), 64, path=other).close()
            else:
                other.write_text("mine")
            before = other.read_bytes()
            with pytest.raises(rv.FileError, match="wanted"):
                buffer.save_as(other)
            assert other.read_bytes() == before
        if file:
            with pytest.raises(rv.FileError, match="another path"):
                buffer.save_as(tmp_path / "a.replay")


@pytest.mark.parametrize("file", [True, False])
def test_a_save_that_is_killed_leaves_the_old_copy_or_the_new_one(file, tmp_path):
    """Kill a process 12 times while it saves: the copy is whole, and that of a moment at which it was saved."""
    dice = random.Random(0)
    copy = tmp_path / "b.replay"
    story = Story(3, 1, 400, rarity=8)
    path = tmp_path / "a.replay" if file else None
    at, saved = shared(1), shared(2)
    if file:
        rv.ReplayBuffer(spec(), 400, path=path).close()

    def work() -> None:
        buffer = rv.open(path) if file else rv.ReplayBuffer(spec(), 400, seed=0)
        if not file:  # it is another buffer each time, whose copies go elsewhere
            copy.unlink(missing_ok=True)
        saved[:] = 0
        for _ in range(100):
            for _ in range(40):
                add(buffer, story, 0)
            saved[1] = heads(buffer)[0]
            at[0] += 1
            buffer.save_as(copy)
            saved[0] = saved[1]

    for _ in range(12):
        at[0] = 0
        child, spin = Child(work), int(60_000 * dice.random() ** 2)
        wanted = dice.randint(1, 4)
        for look in range(PATIENCE):
            if at[0] >= wanted or (look % 256 == 0 and child.ended()):
                break
        for _ in range(spin):
            pass
        child.kill()
        if copy.exists():
            with rv.open(copy, dice.choice(RESIDENCIES), mode="r") as buffer:
                assert heads(buffer)[0] in saved.tolist() or (file and not saved[0])
                mine = Story(3, 1, 400, rarity=8, torn={0: set(story.torn.get(0, ()))})
                check(buffer, mine, finals=False)
                read_all(buffer)
        else:
            assert not saved[0]
        if file:
            with rv.open(path, mode="r") as buffer:
                story.torn.setdefault(0, set()).add(heads(buffer)[0])


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path):
    """A draft that nobody has locked is removed; one that a process is writing, and files of other names, stay."""
    buffer = rv.ReplayBuffer(spec(), 40, seed=0)
    path = tmp_path / "a.replay"
    left, written = tmp_path / "a.replay.saving-4000001", tmp_path / "a.replay.saving-4000002"
    others = [tmp_path / name for name in ("a.replay.saving-mine", "b.replay.saving-4000001", "a.replay.new")]
    for draft in (left, Path(f"{left}-wal"), written, *others):
        draft.write_bytes(b"half of it")
    lock = WriterLock(written)
    buffer.save_as(path)
    lock.release()
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.endswith("-lock")) == sorted(
        entry.name for entry in (path, written, *others)
    )
    rv.open(path).close()


def test_empty_drafts_of_killed_processes_go_once_they_are_old(tmp_path):
    """A new file clears away those of its own name; one that may be in the making, and others' names, stay."""
    old = [tmp_path / f"a.replay{name}" for name in (".new-4000001", ".saving-4000001.new-4000002")]
    others = [
        tmp_path / name for name in ("a.replay.new-4000003", "b.replay.new-4000001", "a.replay.new-mine")
    ]
    for path in old + others:
        path.write_bytes(b"")
    for path in [*old, *others[1:]]:
        os.utime(path, (0, 0))
    with rv.ReplayBuffer(spec(), 8, seed=0, path=tmp_path / "a.replay") as buffer:
        assert not old[0].exists()
        buffer.save_as(tmp_path / "c.replay")
    (tmp_path / "a.replay").rename(tmp_path / "d.replay")
    with rv.open(tmp_path / "d.replay") as buffer:
        buffer.save_as(tmp_path / "a.replay")
    assert not old[1].exists()
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("file", [False, True])
def test_a_new_copy_is_written_once(file, tmp_path, monkeypatch):
    """Its pages never go through a log; afterwards it is a file like any other, and as short as its content."""
    logs, put = [], ReplayFile.put_run

    def watched(self, *values):
        put(self, *values)
        logs.append(log_bytes(self.db.place))

    frames = np.random.default_rng(0).integers(0, 256, (64, 3, 64, 64), np.uint8)
    steps = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    path = tmp_path / "a.replay" if file else None
    with rv.ReplayBuffer(steps, 640, seed=0, path=path, residency="packed") as buffer:
        for number in range(300):
            buffer.add(obs=frames[number % 64], action=number, reward=1.0, terminated=False, truncated=False)
        monkeypatch.setattr(ReplayFile, "put_run", watched)
        copy = tmp_path / "b.replay"
        buffer.save_as(copy)
        assert logs == [None] * 9
        assert sorted(one.name for one in tmp_path.glob("b.replay*")) == ["b.replay"]
        assert copy.read_bytes()[18:20] == b"\2\2"  # whoever opens it writes through a log
        assert copy.stat().st_size < 1.1 * 300 * frames[0].nbytes
        with rv.open(copy) as saved:
            saved.add(obs=frames[0], action=0, reward=1.0, terminated=False, truncated=False)
            assert log_bytes(copy) > 0
        assert not any(wrong for _, wrong in verify_file(copy))
