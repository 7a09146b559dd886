"""Forks: a child draws for itself, follows a file for itself, changes nothing in silence, and never waits for ever."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reverie as rv
from reverie import process
from reverie.feeds.feed import Feed
from reverie.store import memory
from support.children import Child, shared

SPEC = rv.StepSpec(rv.Field((40,), "float64"), rv.Field((), "int64"), {"value": rv.Field((), "float32")})
KINDS = [
    "ram",
    "packed",
    "ram file",
    "packed file",
    "disk file",
    "ram reader",
    "packed reader",
    "disk reader",
]
DRAWING = [kind for kind in KINDS if kind != "disk file"]
STEPS = 400
Forked = partial(Child, patience_s=100)


def add(buffer: rv.ReplayBuffer, steps: int = 1) -> None:
    for _ in range(steps):
        step = buffer.engine.index.head.item(0)
        buffer.add(obs=np.full(40, step, np.float64), action=step, reward=0.0, terminated=step % 50 == 49,
                   truncated=False, value=0.0)  # fmt: skip


def make(kind: str, path: Path, seed: int = 0) -> tuple[rv.ReplayBuffer, rv.ReplayBuffer]:
    """Return a buffer of a kind, and the one to which steps are added: itself, or the writer of its file."""
    residency, _, what = kind.partition(" ")
    if what == "reader":
        writer = rv.ReplayBuffer(SPEC, 1000, seed=1, path=path)
        add(writer, STEPS)
        return rv.open(path, residency, mode="r", seed=seed), writer
    buffer = rv.ReplayBuffer(SPEC, 1000, seed=seed, residency=residency, path=path if what else None)
    add(buffer, STEPS)
    return buffer, buffer


def true(batch: rv.SequenceBatch) -> bool:
    return bool((batch.obs[:, :-1, 0] == batch.action).all() and (batch.action == batch.step_ids()).all())


@pytest.mark.parametrize("kind", DRAWING)
def test_no_two_processes_draw_alike(kind, tmp_path, monkeypatch):
    """Siblings, grandchildren, the children of the next round and the parent draw differently, and a seed fixes it all."""

    def drawn(path: Path) -> np.ndarray:
        monkeypatch.setattr(process, "_forks", 0)  # as in a program that begins
        buffer, writer = make(kind, path)
        anchors = shared(8, 2, 16)

        def draw(who: int) -> None:
            for turn in range(2):
                batch = buffer.sample(16, 5)
                assert true(batch)
                anchors[who, turn] = batch.anchor

        def child(who: int) -> None:
            if who % 3 == 0:
                Forked(lambda: draw(6 + who // 3)).wait()
            draw(who)

        for first in (0, 3):
            children = [Forked(lambda who=who: child(who)) for who in range(first, first + 3)]
            for one in children:
                one.wait()
        mine = buffer.sample(16, 5).anchor
        buffer.close()
        writer.close()
        return np.concatenate([anchors.reshape(-1, 16), mine[None]])

    once, again = drawn(tmp_path / "a.replay"), drawn(tmp_path / "b.replay")
    np.testing.assert_array_equal(once, again)
    assert len({tuple(row) for row in once.tolist()}) == 17


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_never_changed_in_silence(kind, tmp_path):
    """In a child every change is refused, nothing changes, and what only looks and closes works; the parent goes on."""
    path = tmp_path / "a.replay"
    buffer, writer = make(kind, path)
    sampler = rv.Prioritized()
    batch = buffer.sample(4, 3, sampler=sampler)

    def child() -> None:
        lane = {
            "obs": np.zeros((1, 40)),
            "action": [0],
            "reward": [0.0],
            "terminated": [True],
            "truncated": [True],
        }
        for change in (
            lambda: add(buffer), buffer.cut, lambda: buffer.add_batch(**lane, value=np.zeros(1, np.float32)),
            lambda: buffer.write_back(batch, value=np.ones((4, 3), np.float32)),
            lambda: buffer.update_priorities(batch, np.ones((4, 3))),
        ):  # fmt: skip
            with pytest.raises(rv.WrongProcess, match="fork"):
                change()
        if "file" in kind:
            for change in (buffer.flush, lambda: buffer.save_as(tmp_path / "copy.replay")):
                with pytest.raises(rv.WrongProcess, match="fork"):
                    change()
        else:
            buffer.flush()
            buffer.save_as(tmp_path / "copy.replay")
        assert len(buffer) == STEPS
        assert str(STEPS) in repr(buffer)
        assert buffer.nbytes > 0
        assert buffer.episodes["length"].tolist() == [50] * 8
        assert buffer.count_windows(5) == 8 * 46
        if kind == "disk file":
            with pytest.raises(rv.WrongProcess, match="open it there"):
                buffer.sample(1, 1)
        else:
            assert true(buffer.sample(64, 5))
            assert not buffer.sample(64, 5).extras["value"].any()
        buffer.close()
        with pytest.raises(rv.BufferClosed):
            buffer.sample(1, 1)
        gc.collect()

    Forked(child).wait()
    add(writer)
    assert len(buffer) == STEPS + 1
    assert true(buffer.sample(64, 5))
    buffer.close()
    writer.close()
    if "file" in kind or "reader" in kind:
        with rv.open(path) as again:
            assert len(again) == STEPS + 1
        assert Path(f"{path}-wal").exists() is False
    if "file" not in kind:
        with rv.open(tmp_path / "copy.replay") as copy:
            assert len(copy) == STEPS


def test_a_drop_in_buffer_is_not_changed_in_silence_either():
    """Adds, cuts and counters are refused in a child, and the arrays stay as they were; sequences are drawn there."""
    buffer = rv.IRISReplayBuffer(100, (3, 8, 8), 4, seq_len=4, batch_size=8, seed=0)
    for step in range(60):
        buffer.add(np.full((3, 8, 8), step, np.uint8), step % 4, 1.0, step % 20 == 19)
    drawn = shared(3, 8)

    def child(who: int) -> None:
        before = buffer.observations.copy()
        with pytest.raises(rv.WrongProcess, match="fork"):
            buffer.add(np.zeros((3, 8, 8), np.uint8), 0, 0.0, True)
        with pytest.raises(rv.WrongProcess, match="fork"):
            buffer.cut()
        with pytest.raises(rv.WrongProcess, match="fork"):
            buffer.idx = 3
        trajectory = rv.IRISOnPolicyBuffer()
        trajectory.add(np.zeros((3, 8, 8), np.uint8), 0, 0.0, True)
        with pytest.raises(rv.WrongProcess, match="fork"):
            trajectory.move_to(buffer)
        assert len(trajectory) == 1
        np.testing.assert_array_equal(buffer.observations, before)
        assert not np.signbit(buffer.terminals).any()
        assert len(buffer) == buffer.idx == 60
        assert "60 of 100" in repr(buffer)
        drawn[who] = buffer.sample_sequence()[0][:, 0, 0, 0, 0]
        buffer.sample_single(), buffer.sample_frames(2), buffer.sample_with_burn_in(2, 2)
        buffer.close()

    for who in range(3):
        Forked(lambda who=who: child(who)).wait()
    assert len({tuple(row) for row in drawn.tolist()}) == 3
    buffer.add(np.zeros((3, 8, 8), np.uint8), 0, 0.0, True)
    assert len(buffer) == 61


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_amid_work_never_waits_for_ever(kind, tmp_path):
    """While threads add, sample, flush and save, children are forked: each draws whole windows, or is refused at once."""
    path = tmp_path / "a.replay"
    buffer, writer = make(kind, path)
    stop = threading.Event()
    wrong: list[BaseException] = []

    def again(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            wrong.append(error)

    jobs = [lambda: add(writer), lambda: buffer.sample(64, 9), lambda: buffer.sample(8, 5, sampler=rv.Recent(200)),
            writer.flush, lambda: buffer.save_as(tmp_path / "b.replay")]  # fmt: skip
    threads = [threading.Thread(target=again, args=(job,)) for job in jobs]

    def child() -> None:
        assert len(buffer) >= STEPS
        if kind == "disk file":
            with pytest.raises(rv.WrongProcess):
                buffer.sample(8, 5)
        else:
            assert true(buffer.sample(64, 9))
        with pytest.raises(rv.WrongProcess):
            add(buffer)
        repr(buffer), buffer.nbytes, buffer.episodes
        if path.exists():
            with rv.open(path, "disk", mode="r") as own:
                assert len(own) >= STEPS
                assert true(own.sample(16, 5))
        buffer.close()

    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            Forked(child).wait()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]
    heads = buffer.engine.index.head.item(0) if "reader" not in kind else len(buffer)
    buffer.close()
    writer.close()
    if path.exists():
        with rv.open(path) as last:
            assert last.engine.index.head.item(0) >= heads
            assert true(last.sample(200, 5))


def test_what_a_thread_does_not_let_go_of_is_refused(monkeypatch):
    """A buffer that another thread keeps busy for longer than a fork waits is refused in the child, whatever is asked."""
    monkeypatch.setattr(process, "PATIENCE_S", 0.01)
    busy, quiet = make("ram", Path())[0], make("packed", Path())[0]
    thread, go_on = held_elsewhere(busy.engine.lock)

    def child() -> None:
        for ask in (lambda: busy.sample(1, 1), lambda: len(busy), lambda: busy.episodes, lambda: add(busy),
                    busy.close, lambda: busy.count_windows(2), lambda: busy.sample_steps(1)):  # fmt: skip
            with pytest.raises(rv.WrongProcess, match="at rest when the process was forked"):
                ask()
        assert true(quiet.sample(8, 5))

    Forked(child).wait()
    go_on.set()
    thread.join()
    assert true(busy.sample(8, 5))
    assert true(quiet.sample(8, 5))


@pytest.mark.parametrize("inherited", ["writer", "reader", "both"])
@pytest.mark.parametrize("residency", ["ram", "disk"])
def test_a_file_opened_in_a_child_is_read_along(inherited, residency, tmp_path):
    """What was open at the fork does not hold a child's own reader back, nor the file's next writers."""
    path = tmp_path / "a.replay"
    writer = rv.ReplayBuffer(SPEC, 4000, path=path)
    add(writer, STEPS)
    reader = None if inherited == "writer" else rv.open(path, mode="r")
    if inherited == "reader":
        writer.close()
    turn = shared(2)

    def child() -> None:
        with rv.open(path, residency, mode="r") as own:
            for round_ in range(6):
                assert len(own) == STEPS + 50 * round_
                assert true(own.sample(64, 3))
                turn[0] = round_ + 1
                while turn[1] <= round_:
                    pass

    one = Forked(child)
    for round_ in range(6):
        while turn[0] <= round_ and not one.ended():
            pass
        # A process that closes a file takes its log away, unless somebody reads: SQLite must know that somebody does.
        if round_ % 2 or inherited == "reader":
            writer.close()
            writer = rv.open(path)
        add(writer, 50)
        turn[1] = round_ + 1
    one.wait()
    if reader is not None:
        assert len(reader) == STEPS + 300
        reader.close()
    writer.close()
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_child_writes_a_file_that_its_parent_has_closed(tmp_path):
    """A child takes over a file once its parent has closed it, while the parent reads along: all is there afterwards."""
    path = tmp_path / "a.replay"
    writer, turn = rv.ReplayBuffer(SPEC, 4000, path=path), shared(2)
    add(writer, STEPS)

    def child() -> None:
        with pytest.raises(rv.FileError, match=f"process {os.getppid()}"):
            rv.open(path)
        turn[0] = 1
        while not turn[1]:
            pass
        with rv.open(path) as own:
            add(own, 300)
            turn[0] = 2
            while turn[1] < 2:
                pass
            add(own, 300)

    one = Forked(child)
    while turn[0] < 1 and not one.ended():
        pass
    writer.close()
    turn[1] = 1
    while turn[0] < 2 and not one.ended():
        pass
    with rv.open(path, mode="r") as reader:
        assert len(reader) == STEPS + 300
        turn[1] = 2
        one.wait()
        assert len(reader) == STEPS + 600
        assert true(reader.sample(64, 5))


def test_a_fork_leaves_the_log_of_its_parent(tmp_path):
    """A child lets go of the file without a write, even where the parent's locks on it are gone: its log is still there."""
    path, log = tmp_path / "a.replay", tmp_path / "a.replay-wal"
    buffer = rv.ReplayBuffer(SPEC, 1000, path=path)
    add(buffer, 60)
    path.read_bytes()  # POSIX takes all locks on a file from a process that closes it once
    before = log.stat()
    Forked(lambda: None).wait()
    after = log.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    buffer.close()


def test_a_file_in_the_middle_of_a_transaction_is_refused_in_a_child(tmp_path):
    """What a thread was writing at the moment of the fork cannot be opened there; other files can."""
    path, other = tmp_path / "a.replay", tmp_path / "b.replay"
    buffer = rv.ReplayBuffer(SPEC, 1000, path=path)
    rv.ReplayBuffer(SPEC, 1000, path=other).close()
    add(buffer, 5)
    with buffer.engine.file.db.writing():

        def child() -> None:
            with pytest.raises(rv.WrongProcess, match="start this process with 'spawn'"):
                rv.open(path, mode="r")
            assert len(rv.open(other, mode="r")) == 0

        Forked(child).wait()
        Forked(lambda: Forked(child).wait()).wait()
    add(buffer, 5)
    assert len(buffer) == 10


def test_a_feed_stays_with_its_parent():
    """A child gets none of the batches that lie ready, and closes the feed without a wait; it may make its own."""
    buffer = make("packed", Path())[0]
    feed = Feed(lambda: buffer.sample(8, 5), lambda made: made, 2)
    next(feed)
    while len(feed._line._ready) < 2:
        pass

    def child() -> None:
        with pytest.raises(rv.WrongProcess, match="make the feed after forking"):
            next(feed)
        feed.close()
        with Feed(lambda: buffer.sample(8, 5), lambda made: made, 2) as own:
            assert true(next(own))

    for _ in range(3):
        Forked(child).wait()
    assert true(next(feed))
    feed.close()


def held_elsewhere(lock: Any) -> tuple[threading.Thread, threading.Event]:
    """Return a thread that holds a lock, and the event that makes it let go."""
    at_work, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with lock:
            at_work.set()
            go_on.wait()

    thread = threading.Thread(target=work, daemon=True)  # a test that fails does not wait for it
    thread.start()
    at_work.wait()
    return thread, go_on


def test_what_another_thread_held_for_a_moment_is_free_in_a_child():
    """A feed's line, and the list of what buffers reserve, may be in a thread's hands at the fork: the child goes on."""
    buffer = make("ram", Path())[0]
    feed = Feed(lambda: buffer.sample(8, 5), lambda made: made, 1)
    next(feed)
    threads = [held_elsewhere(feed._line._changed), held_elsewhere(memory._noting.lock)]

    def child() -> None:
        with pytest.raises(rv.WrongProcess, match="make the feed after forking"):
            next(feed)
        feed.close()
        assert true(make("ram", Path())[0].sample(8, 5))

    Forked(child).wait()
    for thread, go_on in threads:
        go_on.set()
        thread.join()
    feed.close()


def test_what_is_made_while_a_fork_waits_is_at_rest_too(monkeypatch):
    """A buffer that a thread makes while the fork waits for another one is whole in the child; later none can be made."""
    busy = make("ram", Path())[0]
    thread, go_on = held_elsewhere(busy.engine.lock)
    made: list[rv.ReplayBuffer] = []
    free: list[bool] = []
    noting, before = process._noting, process._Fork._look

    def make_one() -> None:
        while not process._under_way:
            pass
        made.append(make("ram", Path())[0])
        go_on.set()

    def look(self: Any) -> bool:
        fresh = before(self)
        if self.held and not fresh:  # all is held: the fork comes next
            other = threading.Thread(target=lambda: free.append(noting.acquire(blocking=False)))
            other.start()
            other.join()
        return fresh

    monkeypatch.setattr(process._Fork, "_look", look)
    maker = threading.Thread(target=make_one)
    maker.start()
    Forked(lambda: true(made[0].sample(8, 5)) or os.abort()).wait()
    maker.join()
    thread.join()
    assert free == [False]


def test_an_epoch_begins_anew_in_a_child():
    """Children of a process that is amid an epoch without replacement do not go on in the same order."""
    buffer, sampler = make("ram", Path())[0], rv.Shuffled()
    buffer.sample(16, 5, sampler=sampler)
    drawn = shared(3, 8 * 46)

    def child(who: int) -> None:
        drawn[who] = buffer.sample(8 * 46, 5, sampler=sampler).anchor

    for who in range(3):
        Forked(lambda who=who: child(who)).wait()
    assert len({tuple(row) for row in drawn.tolist()}) == 3
    assert all(len(set(row)) == 8 * 46 for row in drawn.tolist())


ENDS = """
import os, sys, threading
import numpy as np
import reverie as rv
from reverie.feeds import Feed

spec = rv.StepSpec(rv.Field((40,), "float64"), rv.Field((), "int64"))
def add(buffer, step):
    buffer.add(obs=np.zeros(40), action=step, reward=0.0, terminated=False, truncated=False)

buffer = rv.ReplayBuffer(spec, 500, residency="packed", path="parent.replay", durability="chunk")
for step in range(400):
    add(buffer, step)
buffer.sample(64, 5)
feed = Feed(lambda: buffer.sample(64, 5), len, 2)
next(feed)
if os.fork() == 0:
    own = rv.ReplayBuffer(spec, 500, path="child.replay", durability="chunk")
    for step in range(10):
        add(own, step)
    assert len(buffer.sample(64, 5)) == 64
    with buffer:
        sys.exit(3)
_, status = os.wait()
for step in range(10):
    add(buffer, step)
print(os.waitstatus_to_exitcode(status))
"""


def test_a_child_may_end_like_any_program(tmp_path):
    """It closes what it made itself, leaves what is its parent's, and ends; so does the parent."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")
    for name, steps in (("parent", 410), ("child", 10)):
        with rv.open(tmp_path / f"{name}.replay", mode="r") as buffer:
            assert len(buffer) == steps
            assert buffer.engine.file.meta("clean")


def test_a_child_reads_rows_as_long_as_its_parent_did(tmp_path):
    """A reader that is opened anew in a child knows how long a row of this file may be, and refuses longer ones."""
    path, noise = tmp_path / "a.replay", np.random.default_rng(0).integers(0, 256, (64, 1 << 18), np.uint8)
    spec = rv.StepSpec(rv.Field((1 << 18,), "uint8"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 64, path=path) as buffer:
        for step in range(64):
            buffer.add(obs=noise[step], action=step, reward=0.0, terminated=False, truncated=False)
    with rv.open(path, "disk", "r") as reader:

        def child() -> None:
            batch = reader.sample(4, 2)
            np.testing.assert_array_equal(batch.obs[:, 0], noise[batch.start])
            with pytest.raises(rv.FileError, match="too big"):
                reader.engine.file.db.one("SELECT zeroblob(100000000)")

        Forked(child).wait()
