"""No room, no permission, no folder: a clear error, a buffer that can still be used, a file that can be opened."""

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_damage import says_what_to_do
from test_reopen import RESIDENCIES

import reverie as rv
from support.children import Child
from support.story import Story, check, heads, spec


def limit(size: int) -> None:
    """Let no file of this process grow beyond `size` bytes: to a program this looks like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


UNLIMITED = resource.RLIM_INFINITY


def refused(call, *args, **kwargs) -> bool:
    """Whether a call raised the error of a full disk, which must say what to do; it must not raise another."""
    try:
        call(*args, **kwargs)
    except rv.FileError as error:
        return says_what_to_do(error)
    return False


def begun(path: Path, story: Story, residency: str, durability: str, steps: int) -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(spec(), story.capacity, streams=story.streams, seed=0, path=path, residency=residency,
                             durability=durability)  # fmt: skip
    for step in range(steps):
        add(buffer, story, step % story.streams)
    return buffer


def add(buffer: rv.ReplayBuffer, story: Story, stream: int) -> None:
    step = heads(buffer)[stream]
    buffer.add(**story.step(stream, step))


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_full_disk_stops_the_writer_until_there_is_room(residency, durability, tmp_path):
    """Fill the disk again and again while steps are added: nothing that was stored is lost, nothing is wrong."""
    path = tmp_path / "a.replay"
    story = Story(3, 2, 200, rarity=8, sure=True)
    story.fates = lambda stream, ids: np.where(
        Story.fates(story, stream, ids) == 3, 0, Story.fates(story, stream, ids)
    )

    def work() -> None:
        buffer = begun(path, story, residency, durability, 20)
        full = 0
        for turn in range(12):
            size = max(path.stat().st_size, Path(f"{path}-wal").stat().st_size)
            limit(size + turn * 700)
            for number in range(90):
                before = heads(buffer)
                if refused(add, buffer, story, number % 2):
                    full += 1
                    assert heads(buffer) == before
                    break
            if turn % 3 == 0 and buffer.count_windows(2):
                batch = buffer.sample(4, 2)
                refused(buffer.write_back, batch, note=batch.step_ids() * 7 + 1)
            if turn % 2:
                refused(buffer.flush)
            refused(buffer.save_as, tmp_path / "copy.replay")
            check(buffer, story)
            with rv.open(path, mode="r") as other:
                if durability == "step":
                    assert heads(other) == heads(buffer)
                    check(other, story)
            limit(UNLIMITED)
            if turn % 4 == 3:
                buffer.flush()
            add(buffer, story, turn % 2)
        assert full >= 4
        check(buffer, story)
        now = heads(buffer)
        limit(1)
        if refused(buffer.close):
            story.torn = {stream: {head} for stream, head in enumerate(now)}
        assert repr(buffer).endswith("closed)")
        limit(UNLIMITED)
        with rv.open(path) as again:
            if durability == "step":
                assert heads(again) == now
                check(again, story)
            assert again.engine.file.db.integrity() == []

    Child(work).wait()


def test_a_full_disk_leaves_no_half_made_file(tmp_path):
    """Where there is room for no file at all, or for a part of one, none is made."""

    def work() -> None:
        for size in (0, 100, 4096, 5000, 9000, 20000):
            limit(size)
            assert refused(rv.ReplayBuffer, spec(), 64, path=tmp_path / "a.replay")
            limit(UNLIMITED)
            assert list(tmp_path.iterdir()) == [], size

    Child(work).wait()


def test_a_full_disk_leaves_the_old_copy(tmp_path):
    """A save_as that finds no room leaves the copy that was there, and no other file."""
    story = Story(4, 1, 300)
    story.fates = lambda stream, ids: np.zeros(len(ids), np.int64)

    def work() -> None:
        for path in (None, tmp_path / "a.replay"):
            buffer = rv.ReplayBuffer(spec(), 300, path=path)
            copy = tmp_path / "b.replay"
            for _ in range(100):
                add(buffer, story, 0)
            buffer.save_as(copy)
            for _ in range(190):
                add(buffer, story, 0)
            names = replays(tmp_path)
            for size in (0, 5000, 40000):
                limit(size)
                assert refused(buffer.save_as, copy)
                assert refused(buffer.save_as, tmp_path / "c.replay")
                limit(UNLIMITED)
                assert replays(tmp_path) == names
                with rv.open(copy, mode="r") as other:
                    assert len(other) == 100
                    check(other, story)
            check(buffer, story)
            buffer.save_as(copy)
            with rv.open(copy) as other:
                assert len(other) == 290
            buffer.close()
            for left in tmp_path.iterdir():
                left.unlink()

    Child(work).wait()


def replays(folder: Path) -> list[str]:
    """What lies in a folder beside logs, which SQLite leaves behind when it may only read."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(("-wal", "-shm")))


def as_nobody() -> None:
    """Go on as a user who may not write everything: permissions do not bind the superuser."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def reachable(folder: Path) -> None:
    """Let every user into a folder and those around it."""
    while folder.stat().st_uid == os.geteuid() and folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o755)
        folder = folder.parent


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_file_that_may_only_be_read_can_be_read(residency, tmp_path):
    """Without permission to write, "r" reads and "r+" says what to do."""
    folder = tmp_path / "kept"
    folder.mkdir()
    path = folder / "a.replay"
    story = Story(5, 1, 64, sure=True)
    with begun(path, story, residency, "step", 50):
        pass
    reachable(folder)
    path.chmod(0o444)
    folder.chmod(0o555)

    def work() -> None:
        os.chdir(folder)
        as_nobody()
        assert refused(rv.open, path)
        assert refused(rv.ReplayBuffer, spec(), 64, path=folder / "b.replay")
        with rv.open(path, residency, mode="r") as buffer:
            assert len(buffer) == 50
            buffer.sample(4, 1)
            assert refused(buffer.cut)
            assert refused(buffer.add, **story.step(0, 50))

    try:
        Child(work).wait()
        os.chmod(folder, 0o777)
        Child(work_readonly(path)).wait()
    finally:
        folder.chmod(0o755)


def work_readonly(path: Path):
    """Return what tries to write to a file that may only be read, in a folder where files may be made."""

    def work() -> None:
        as_nobody()
        assert refused(rv.open, path)
        with rv.open(path, mode="r") as buffer:
            buffer.sample(4, 1)

    return work


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("kind", ["folder", "file", "other"])
def test_a_file_that_vanishes_is_missed_at_the_next_write(kind, residency, tmp_path):
    """Remove the file, its folder, or put another in its place: the next write says so, and memory lives on."""
    folder = tmp_path / "gone"
    folder.mkdir()
    path = folder / "a.replay"
    story = Story(6, 1, 64, sure=True)
    story.fates = lambda stream, ids: np.zeros(len(ids), np.int64)
    buffer = begun(path, story, residency, "step", 50)
    if kind == "folder":
        shutil.rmtree(folder)
    else:
        path.unlink()
    if kind == "other":
        path.write_bytes(b"something else")
    assert refused(add, buffer, story, 0)
    assert refused(buffer.cut)
    assert refused(buffer.flush)
    assert heads(buffer) == [50]
    check(buffer, story)
    assert refused(buffer.close)
    assert refused(rv.ReplayBuffer, spec(), 64, path=tmp_path / "nowhere" / "a.replay")
    if kind == "other":
        assert path.read_bytes() == b"something else"
