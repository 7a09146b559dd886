"""Company: threads that sample while another adds, processes that read along, writers that are refused."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_reopen import RESIDENCIES, killed

import reverie as rv
from support.children import Child, shared
from support.story import CUT, Story, check, check_batch, checksums, heads, spec

pytestmark = pytest.mark.long


def untorn(batch: rv.SequenceBatch) -> None:
    """Assert that each step of each window is the one it says, whole, and that ids are consecutive."""
    assert (checksums(batch.obs[:, :-1], batch.action) == batch.extras["check"]).all(), "a torn step"
    ids = batch.action // 64
    assert (ids == batch.start[:, None] + np.arange(ids.shape[1])).all(), "a spliced window"
    assert (batch.action % 64 == batch.stream[:, None]).all(), "another stream's step"


@pytest.mark.parametrize("seconds", [1.6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_threads_that_sample_while_another_adds_see_whole_windows(residency, seconds, tmp_path):
    """Four threads sample while a writer wraps the ring as fast as it can: every window is whole."""
    story = Story(1, 2, 128, rarity=6)
    buffer = rv.ReplayBuffer(spec(), 128, streams=2, seed=0, residency=residency, path=tmp_path / "a.replay")
    wrong: list[BaseException] = []
    stop = threading.Event()
    drawn = [0] * 4

    def read(who: int) -> None:
        out = None
        try:
            while not stop.is_set():
                try:
                    out = buffer.sample(16, 3, out=out if who % 2 else None)
                except rv.NotEnoughData:
                    continue
                untorn(out)
                check_batch(out, story) if drawn[who] % 20 == 0 else None
                drawn[who] += 1
        except BaseException as error:
            wrong.append(error)

    readers = [threading.Thread(target=read, args=(who,)) for who in range(4)]
    for reader in readers:
        reader.start()
    added = 0
    # However slow the machine, the ring is wrapped and every thread has drawn before the time counts.
    until = time.monotonic() + seconds
    try:
        while not wrong and (time.monotonic() < until or added < 3 * 128 or min(drawn) < 5):
            stream = added % 2
            step = added // 2
            buffer.add(**story.step(stream, step))
            if int(story.fates(stream, np.array([step]))[0]) == CUT:
                buffer.cut(stream, final_obs=story.final(stream, step))
            added += 1
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    if wrong:
        raise wrong[0]
    check(buffer, story)
    buffer.close()


@pytest.mark.parametrize("kind", ["add", "batch"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_reader_in_another_process_sees_whole_windows_and_news(residency, kind, tmp_path):
    """While a writer adds, seals, evicts and cuts, a reader's windows are whole, and it comes to see the last step."""
    path = tmp_path / "a.replay"
    streams = 3
    story = Story(2, streams, 40 * streams, rarity=6, sure=True)
    rv.ReplayBuffer(spec(), story.capacity, streams=streams, path=path).close()
    looks, goal = shared(1), 150

    def write() -> None:
        with rv.open(path) as buffer:
            at = 0
            while at < 2 * story.each or looks[0] < goal:
                if kind == "batch":
                    buffer.add_batch(**story.lanes(list(range(streams)), [at] * streams))
                else:
                    for stream in range(streams):
                        buffer.add(**story.step(stream, at))
                for stream in range(streams):
                    if int(story.fates(stream, np.array([at]))[0]) == CUT:
                        buffer.cut(stream, final_obs=story.final(stream, at))
                at += 1
            looks[0] = -at

    with rv.open(path, residency, mode="r") as buffer:
        writer = Child(write)
        seen = [0] * streams
        while looks[0] >= 0 and not writer.ended():
            with buffer.engine.turn:
                now = heads(buffer)
                assert all(after >= before for before, after in zip(seen, now, strict=True))
                assert kind != "batch" or len(set(now)) == 1, "a part of one add_batch"
                seen = now
                if looks[0] % 10 == 0:
                    check(buffer, story)
            if buffer.count_windows(3):
                batch = buffer.sample(8, 3, sampler=rv.Prioritized() if looks[0] % 7 == 0 else None)
                untorn(batch)
                check_batch(batch, story)
            if looks[0] >= 0:
                looks[0] += looks[0] < goal
        writer.wait()
        assert heads(buffer) == [-int(looks[0])] * streams
        check(buffer, story)


def test_a_second_writer_is_refused_by_name(tmp_path):
    """A second writer is told whose process writes there, in this process and in others; a killed one is gone."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(spec(), 64, path=path):
        with pytest.raises(rv.FileError, match=f"process {os.getpid()} on"):
            rv.open(path)

        def second() -> None:
            with pytest.raises(rv.FileError, match=f"process {os.getppid()} on"):
                rv.open(path)
            with pytest.raises(FileExistsError, match="free"):
                rv.ReplayBuffer(spec(), 64, path=path)

        Child(second).wait()
    rv.open(path).close()
    killed(lambda: rv.open(path))
    assert Path(f"{path}-lock").exists()
    rv.open(path).close()
    assert not Path(f"{path}-lock").exists()


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_fork_may_not_write_through_its_parents_buffer(residency, tmp_path):
    """A forked child that writes is told to open the file itself; the parent goes on as if nothing had been."""
    path = tmp_path / "a.replay"
    story = Story(3, 1, 64)
    story.fates = lambda stream, ids: np.zeros(len(ids), np.int64)
    with rv.ReplayBuffer(spec(), 64, path=path, residency=residency) as buffer:
        for step in range(80):
            buffer.add(**story.step(0, step))

        def child() -> None:
            for call in (lambda: buffer.add(**story.step(0, 80)), buffer.flush, buffer.cut,
                         lambda: buffer.save_as(tmp_path / "b.replay")):  # fmt: skip
                with pytest.raises(rv.WrongProcess, match="fork"):
                    call()
            if residency == "disk":
                with pytest.raises(rv.WrongProcess, match="fork"):
                    buffer.sample(64, 2)
            else:
                check_batch(buffer.sample(8, 2), story)
            with rv.open(path, mode="r") as own:
                check(own, story)
            buffer.close()

        Child(child).wait()
        buffer.add(**story.step(0, 80))
        check(buffer, story)
    with rv.open(path) as buffer:
        assert heads(buffer) == [81]
        check(buffer, story)


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_fork_of_a_reader_reads_along_for_itself(residency, tmp_path):
    """A forked child reads through a connection of its own, and sees what a writer adds; its parent goes on reading."""
    path = tmp_path / "a.replay"
    story = Story(3, 1, 64)
    story.fates = lambda stream, ids: np.zeros(len(ids), np.int64)
    with rv.ReplayBuffer(spec(), 64, path=path) as writer, rv.open(path, residency, mode="r") as buffer:
        assert len(buffer) == 0
        writer.add(**story.step(0, 0))
        added, gone = shared(1), shared(1)

        def child() -> None:
            assert len(buffer) == 1
            gone[0] = 1
            while not added[0]:
                pass
            assert len(buffer) == 64
            check(buffer, story)

        reader = Child(child)
        while not gone[0] and not reader.ended():
            pass
        for step in range(1, 80):
            writer.add(**story.step(0, step))
        added[0] = 1
        reader.wait()
        check(buffer, story)
