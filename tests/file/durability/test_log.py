"""The log beside a file: flushed into it, missed when it is gone, and never taken for another file's."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_power import needs_sqlite
from test_reopen import RESIDENCIES, killed

import reverie as rv
from reverie.file import connection
from reverie.file import sqlite as database
from reverie.file.log import is_foreign
from reverie.file.verify import verify_file
from support.buffers import scalar_spec
from support.children import PATIENCE, Child, shared
from support.recorder import Recorder

pytestmark = pytest.mark.long


def grow(buffer: rv.ReplayBuffer, steps: int) -> None:
    """Add steps that say which they are, in episodes of 7."""
    for _ in range(steps):
        with buffer.engine.turn:
            number = buffer.engine.index.head.item(0)
        buffer.add(obs=number, action=-number, reward=1.0, terminated=number % 7 == 6, truncated=False)


def holds(path: Path, mode: str = "r") -> int:
    """How many steps were ever added to a file, after a look at all that are there."""
    with rv.open(path, mode=mode) as buffer:
        if not len(buffer):
            return 0
        batch = buffer.sample(200, 1, boundary="pad_right")
        np.testing.assert_array_equal(batch.obs[:, 0], batch.start)
        np.testing.assert_array_equal(batch.action[:, 0], -batch.start)
        with buffer.engine.turn:
            return int(buffer.engine.index.head.item(0))


def is_whole(path: Path) -> list[str]:
    """What `verify` says of a file in which nothing is wrong."""
    lines = list(verify_file(path))
    assert not [line for line, is_finding in lines if is_finding], lines
    return [line for line, _ in lines]


def elsewhere(what: str, path: Path) -> None:
    """Open and close a file in a new Python process."""
    code = {
        "reader": f"import reverie; b = reverie.open({os.fspath(path)!r}, mode='r'); len(b); b.close()",
        "shell": f"import sqlite3; c = sqlite3.connect({os.fspath(path)!r}); "
        "c.execute('SELECT count(*) FROM meta').fetchall(); c.close()",
    }[what]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- a flush -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_what_was_flushed_is_in_the_file_alone(residency, durability, tmp_path):
    """Copied after a flush without its log, a file has all that was flushed, and says that its log is missing."""
    path, copy = tmp_path / "a.replay", tmp_path / "b.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path, residency=residency, durability=durability) as buffer:
        for _ in range(3):
            grow(buffer, 70)
            buffer.flush()
            shutil.copy(path, copy)
            with buffer.engine.turn:
                now = buffer.engine.index.head.item(0)
            assert any("log is missing" in line for line in is_whole(copy))
            assert holds(copy) == now
    assert not any("missing" in line for line in is_whole(path))


def test_what_was_closed_is_in_the_file_alone_while_others_read(tmp_path):
    """A reader keeps the log's file there when the writer closes; nothing is in it."""
    path, copy = tmp_path / "a.replay", tmp_path / "b.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
    with rv.open(path, mode="r") as reader:
        grow(buffer, 50)
        assert len(reader) == 50
        buffer.close()
        assert Path(f"{path}-wal").stat().st_size == 0
        shutil.copy(path, copy)
        assert len(reader) == 50
    assert not any("missing" in line for line in is_whole(copy))
    assert holds(copy) == 50
    assert sorted(os.listdir(tmp_path)) == ["a.replay", "b.replay"]


@pytest.mark.parametrize("seed", [0])
def test_a_damaged_log_takes_nothing_back_that_was_flushed(seed, tmp_path):
    """Flip a bit anywhere in the log of a killed writer: whatever opens has every flushed step."""
    path, dice = tmp_path / "a.replay", random.Random(seed)

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
        grow(buffer, 100)
        buffer.flush()
        grow(buffer, 20)
        return buffer

    killed(work)
    whole, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    came = []
    for number in range(60):
        bad, copy = bytearray(log), tmp_path / f"{number}.replay"
        bad[dice.randrange(len(bad)) if number else 0] ^= 1 << dice.randrange(8)
        copy.write_bytes(whole)
        Path(f"{copy}-wal").write_bytes(bad)
        came.append(holds(copy))
    assert min(came) == 100
    assert max(came) < 120


def test_a_flush_that_a_reader_is_in_the_way_of_says_so(tmp_path, monkeypatch):
    """A reader that holds an older moment makes a flush fail after a while; afterwards it goes well."""
    for module in (database, connection):
        monkeypatch.setattr(module, "BUSY_S", 0.1)
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 5)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchall()
        grow(buffer, 5)
        with pytest.raises(
            rv.FileError, match="got a reader that holds an older moment of it; let that one finish"
        ):
            buffer.flush()
        grow(buffer, 5)
        reader.execute("ROLLBACK")
        reader.close()
        buffer.flush()
        shutil.copy(path, tmp_path / "b.replay")
        assert holds(tmp_path / "b.replay") == 15


@needs_sqlite
def test_emptying_the_log_costs_the_same_in_a_large_file(tmp_path):
    """What a flush writes beside the changes since the last one is a few pages, whatever the file holds."""
    written = []
    for steps in (10, 3000):
        path, count = tmp_path / f"{steps}.replay", [0]

        def see(event: tuple, count: list[int] = count) -> None:
            count[0] += len(event[3]) if event[0] == "write" else 0

        with Recorder(see), rv.ReplayBuffer(scalar_spec(), 5000, path=path) as buffer:
            grow(buffer, steps)
            for _ in range(2):
                count[0] = 0
                with buffer.engine.file.db.syncing():
                    pass
            written.append(count[0])
    assert written[0] == written[1] < 20_000


@pytest.mark.parametrize("what", ["flush", "close", "save_as"])
def test_a_copy_made_by_another_thread_is_waited_for_while_others_go_on(what, tmp_path, monkeypatch):
    """While save_as copies, adds and samples go on; a flush, a close or another copy comes after it."""
    from reverie.engine import copies

    path, copying, go_on, order = tmp_path / "a.replay", threading.Event(), threading.Event(), []
    copy_file = copies.copy_file

    def slowly(*args: object) -> None:
        first = not order
        order.append("begins")
        copying.set()
        if first:
            go_on.wait(60)
        copy_file(*args)
        order.append("ends")

    monkeypatch.setattr(copies, "copy_file", slowly)
    buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
    grow(buffer, 50)
    copier = threading.Thread(target=buffer.save_as, args=(tmp_path / "b.replay",))
    copier.start()
    copying.wait(60)

    def other() -> None:
        {
            "flush": buffer.flush,
            "close": buffer.close,
            "save_as": lambda: buffer.save_as(tmp_path / "c.replay"),
        }[what]()
        order.append("other")

    waiter = threading.Thread(target=other)
    waiter.start()
    grow(buffer, 50)
    assert buffer.sample(4, 2).action.shape == (4, 2)
    go_on.set()
    copier.join()
    waiter.join()
    assert order[:2] == ["begins", "ends"]
    assert order[-1] == "other"
    buffer.close()
    assert holds(tmp_path / "b.replay") == 50
    assert holds(path) == 100


# --- a log that is gone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("by", ["hand", "shell", "reader", "nobody"])
def test_a_log_that_went_under_its_writer_is_missed_at_the_next_add(by, flushed, tmp_path):
    """POSIX drops a process's locks when it reads its own file: what is lost by it is told before it is lost."""
    path, told = tmp_path / "a.replay", shared(2)

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
        grow(buffer, 10)
        if flushed:
            buffer.flush()
        path.read_bytes()  # a hash, an upload
        if by == "hand":
            Path(f"{path}-wal").unlink()
        elif by != "nobody":
            elsewhere(by, path)
        try:
            for number in range(50):
                grow(buffer, 1)
                told[0] = 11 + number
        except rv.FileError as error:
            if "wanted the log that was opened, got none or another" not in str(error) or len(buffer) != 10:
                raise
            buffer.save_as(path.with_name("b.replay"))
            told[1] = 1
        return buffer

    killed(work)
    if by in ("hand", "shell"):
        assert told.tolist() == [0, 1]
        assert holds(path.with_name("b.replay")) == 10
    else:
        assert told.tolist() == [60, 0]
        assert holds(path) == 60


def test_what_a_writer_without_its_log_has_written_is_there_once_it_is_closed(tmp_path):
    """The log was removed and nobody made another: close says so, and moves what it held into the file."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
    grow(buffer, 10)
    Path(f"{path}-wal").unlink()
    with pytest.raises(rv.FileError, match="wanted the log that was opened"):
        buffer.close()
    assert holds(path, "r+") == 10
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_reader_leaves_the_log_of_a_killed_writer_alone(tmp_path):
    """Reading changes no byte, of a file and its log; an empty log that reading made goes with the reader."""
    path = tmp_path / "a.replay"

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
        grow(buffer, 40)
        return buffer

    killed(work)
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    assert holds(path) == 40
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    assert holds(path, "r+") == 40
    assert holds(path) == 40
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_reader_whose_log_was_replaced_says_so(tmp_path):
    """A reader that lost its locks, and with them its log to a writer that closed, is told to open again."""
    path = tmp_path / "a.replay"
    rv.ReplayBuffer(scalar_spec(), 500, path=path).close()
    go, done = shared(1), shared(1)

    def write() -> None:
        for turn in (1, 2):
            while go[0] < turn:
                pass
            with rv.open(path) as buffer:
                grow(buffer, 5)
                buffer.flush()
                done[0] = turn
                while go[0] < turn + 1:
                    pass

    writer = Child(write)
    with rv.open(path, mode="r") as reader:
        go[0] = 1
        while done[0] < 1 and not writer.ended():
            pass
        assert len(reader) == 5
        path.read_bytes()
        go[0] = 2
        while done[0] < 2 and not writer.ended():
            pass
        try:
            assert len(reader) == 10
        except rv.FileError as error:
            if "open it again" not in str(error):
                raise
        go[0] = 3
        writer.wait()
    assert holds(path) == 10


@pytest.mark.parametrize("grown", [True, False])
def test_a_file_without_the_log_it_needs_says_so_and_opens(grown, tmp_path):
    """Verify and inspect say that newest steps may be missing; what is there opens, and closed it is whole again."""
    from reverie.cli.report import report

    path = tmp_path / "a.replay"

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path, seed=0)
        grow(buffer, 40)
        buffer.flush()
        if grown:
            grow(buffer, 9)
        return buffer

    killed(work)
    assert not any("missing" in line for line in is_whole(path))
    Path(f"{path}-wal").unlink(missing_ok=True)
    assert any(
        "its log is missing: what came after the last flush may be missing, too" in line
        for line in is_whole(path)
    )
    assert any("its log is missing" in line for line in report(path))
    assert holds(path, "r+") == 40
    assert not any("missing" in line for line in [*is_whole(path), *report(path)])
    killed(work_on(path))
    subprocess.run([sys.executable, "-c", f"import sqlite3; c = sqlite3.connect({os.fspath(path)!r}); "
                    "c.execute('SELECT 1 FROM meta').fetchall(); c.close()"], check=True)  # fmt: skip
    assert not Path(f"{path}-wal").exists()
    assert not any("log is missing" in line for line in is_whole(path)), "SQLite has moved it into the file"
    assert holds(path) == 43


def test_a_file_of_which_nobody_knows_whether_it_was_closed_is_verified_to_its_end(tmp_path):
    """Where that note is damaged, verify finds the damage and goes on."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 5)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = 'false' WHERE name = 'clean'")
    connection.commit()
    connection.close()
    lines = list(verify_file(path))
    assert any(is_finding and "'clean'" in line for line, is_finding in lines)
    assert "finding" in lines[-1][0]


def work_on(path: Path):
    """Return what opens a file and adds 3 steps."""

    def work() -> rv.ReplayBuffer:
        buffer = rv.open(path)
        grow(buffer, 3)
        return buffer

    return work


# --- a log of another file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backup", ["save_as", "copy", "another"])
@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_log_of_another_file_is_named_and_not_used(mode, flushed, backup, tmp_path):
    """A backup put back where the log of a killed writer still lies: the error says what to remove, which helps."""
    path, kept = tmp_path / "a.replay", tmp_path / "backup.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 60)
        if backup == "save_as":
            buffer.save_as(kept)
    if backup == "copy":
        shutil.copy(path, kept)
    elif backup == "another":
        with rv.ReplayBuffer(scalar_spec(), 500, path=kept) as buffer:
            grow(buffer, 60)

    def work() -> rv.ReplayBuffer:
        buffer = rv.open(path)
        grow(buffer, 30)
        buffer.flush()
        if not flushed:
            grow(buffer, 30)
        else:
            grow(buffer, 1)
        return buffer

    killed(work)
    shutil.copy(kept, path)
    for look in (lambda: rv.open(path, mode=mode), lambda: list(verify_file(path))):
        with pytest.raises(
            rv.FileError, match=r"got that of another file at a\.replay-wal; remove a\.replay-wal if"
        ):
            look()
    assert path.read_bytes() == kept.read_bytes()
    Path(f"{path}-wal").unlink()
    assert holds(path, mode) == 60


def test_a_backup_that_the_log_is_built_on_is_put_back_with_it(tmp_path):
    """Nothing was moved into the file since the backup: then the log is that of the backup, and brings it up to date."""
    path, kept = tmp_path / "a.replay", tmp_path / "backup.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 60)
    shutil.copy(path, kept)
    killed(work_on(path))
    shutil.copy(kept, path)
    assert holds(path) == 63


@needs_sqlite
@pytest.mark.parametrize("seed", [0])
def test_no_instant_of_a_kill_makes_a_log_look_foreign(seed, tmp_path, monkeypatch):
    """Stop before each write, truncation and sync of SQLite: file and log belong together, and hold what was added.

    The log of one instant beside the file of another is foreign, unless the two are of about the same time.
    """
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 8)
    path, dice = tmp_path / "a.replay", random.Random(seed)
    moments: list[tuple[bytes, bytes, int, int]] = []  # file, log, steps acknowledged, emptyings seen
    at, emptied, on = 0, 0, False

    def see(event: tuple) -> None:
        nonlocal emptied
        if on and event[1] in (os.fspath(path), f"{path}-wal"):
            log = Path(f"{path}-wal")
            moments.append((path.read_bytes(), log.read_bytes() if log.exists() else b"", at, emptied))
            emptied += event[0] == "truncate" and event[1].endswith("-wal")

    with Recorder(see):
        rv.ReplayBuffer(scalar_spec(), 40, path=path, seed=0).close()
        on = True
        for _ in range(3):
            buffer = rv.open(path)
            for _ in range(25):
                grow(buffer, 1)
                at += 1
                if dice.random() < 0.08:
                    buffer.flush()
            buffer.close()
        on = False
    assert emptied > 8
    assert len(moments) > 300
    copy = tmp_path / "b.replay"
    opened = set(dice.sample(range(len(moments)), 25))
    for number, (file, log, steps, _) in enumerate(moments):
        copy.write_bytes(file)
        Path(f"{copy}-wal").write_bytes(log)
        assert not is_foreign(copy), number
        if number in opened:
            assert holds(copy) in (steps, steps + 1)
            Path(f"{copy}-shm").unlink(missing_ok=True)
    mixed = 0
    for _ in range(150):
        (file, _, _, one), (_, log, _, two) = dice.sample(moments, 2)
        if abs(one - two) < 4 or len(log) < 5000:  # a close empties twice
            continue
        copy.write_bytes(file)
        Path(f"{copy}-wal").write_bytes(log)
        assert is_foreign(copy)
        mixed += 1
    assert mixed > 40


@pytest.mark.parametrize(("seed", "kills"), [(0, 9), pytest.param(1, 300, marks=pytest.mark.slow)])
def test_killed_writers_that_flush_all_the_time_are_never_refused(seed, kills, tmp_path, monkeypatch):
    """Kill writers that open, flush, empty their log and close as fast as they can: each file opens with all of it."""
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 6)
    path, dice, told = tmp_path / "a.replay", random.Random(seed), shared(2)
    rv.ReplayBuffer(scalar_spec(), 64, path=path).close()

    def work() -> None:
        mine = random.Random(int(told[1]))
        while True:
            with rv.open(path) as buffer:
                for _ in range(mine.randint(1, 12)):
                    grow(buffer, 1)
                    told[0] += 1
                    if mine.random() < 0.3:
                        buffer.flush()

    for number in range(kills):
        told[1] = number
        before, wanted = int(told[0]), dice.randint(1, 20)
        child = Child(work)
        for look in range(PATIENCE):
            if told[0] >= before + wanted or (look % 256 == 0 and child.ended()):
                break
        for _ in range(int(20_000 * dice.random() ** 2)):
            pass
        child.kill()
        at = holds(path, dice.choice(["r", "r+"]))
        assert at in (told[0], told[0] + 1)
        told[0] = at
    assert not any(is_finding for _, is_finding in verify_file(path))
