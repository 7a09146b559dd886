"""Readers and seeds: who draws what from one file, what a pickle of a reader is, and what a close does to those who wait."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest

import reverie as rv
from reverie.feeds.feed import Feed
from reverie.file import ReplayFile

SPEC = rv.StepSpec(rv.Field((40,), "float64"), rv.Field((), "int64"))
RESIDENCIES = ["ram", "packed", "disk"]


def add(buffer: rv.ReplayBuffer, steps: int) -> None:
    for _ in range(steps):
        step = buffer.engine.index.head.item(0)
        buffer.add(
            obs=np.full(40, step, np.float64),
            action=step,
            reward=0.0,
            terminated=step % 50 == 49,
            truncated=False,
        )


@pytest.fixture
def path(tmp_path):
    with rv.ReplayBuffer(SPEC, 1000, seed=0, path=tmp_path / "a.replay") as buffer:
        add(buffer, 400)
    return tmp_path / "a.replay"


def drawn(buffer: rv.ReplayBuffer, batches: int = 2) -> list[list[int]]:
    return [buffer.sample(16, 5).anchor.tolist() for _ in range(batches)]


def distinct(batches: list[list[int]]) -> int:
    return len({tuple(batch) for batch in batches})


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_readers_of_one_file_draw_differently(residency, path):
    """Four readers give eight batches that all differ, and so do readers that are opened one after the other."""
    readers = [rv.open(path, residency, mode="r") for _ in range(4)]
    assert distinct([batch for reader in readers for batch in drawn(reader)]) == 8
    for reader in readers:
        reader.close()
    again = []
    for _ in range(4):
        with rv.open(path, residency, mode="r") as reader:
            again += drawn(reader)
    assert distinct(again) == 8


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_seed_fixes_what_is_drawn(mode, path):
    """With one seed, the same batches come again, whatever the file's state; another seed gives others."""

    def opened(seed: int | np.integer) -> list[list[int]]:
        with rv.open(path, mode=mode, seed=seed) as buffer:
            return drawn(buffer)

    first = opened(7)
    assert first == opened(np.uint8(7)) != opened(8)


def test_a_writer_goes_on_unless_it_is_given_a_seed(path, tmp_path):
    """Without a seed the next batch is the one that would have come; a new seed is what the file goes on from."""
    twin = rv.ReplayBuffer(SPEC, 1000, seed=0)
    add(twin, 400)
    for _ in range(3):
        with rv.open(path) as buffer:
            assert drawn(buffer) == drawn(twin)
    seeded = rv.ReplayBuffer(SPEC, 1000, seed=5)
    add(seeded, 400)
    with rv.open(path, seed=5):
        pass
    with rv.open(path) as buffer:
        assert drawn(buffer) == drawn(seeded)
    # A step, too, brings it into the file: what a kill leaves from then on goes on from it.
    buffer = rv.open(path, seed=6)
    add(buffer, 1)
    for suffix in ("", "-wal"):
        (tmp_path / f"b.replay{suffix}").write_bytes(path.with_name(f"a.replay{suffix}").read_bytes())
    wanted = drawn(buffer)
    buffer.close()
    with rv.open(tmp_path / "b.replay") as buffer:
        assert drawn(buffer) == wanted


def test_a_reader_leaves_the_state_of_the_file(path, tmp_path):
    """What a reader draws, with a seed or without, is nobody else's: neither the writer's nor that of a copy it saves."""
    twin = rv.ReplayBuffer(SPEC, 1000, seed=0)
    add(twin, 400)
    with rv.open(path, mode="r", seed=9) as reader:
        drawn(reader)
        reader.save_as(tmp_path / "b.replay")
    wanted = drawn(twin)
    for name in ("a", "b"):
        with rv.open(tmp_path / f"{name}.replay") as buffer:
            assert drawn(buffer) == wanted


@pytest.mark.parametrize("seed", ["x", -1, 1.5, True])
def test_a_seed_that_is_none_is_refused(seed, path):
    """It is refused before the file is opened: nobody is kept out by it."""
    with pytest.raises(rv.BadSetting, match="seed: wanted a non-negative integer"):
        rv.open(path, seed=seed)
    rv.open(path).close()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_reader_travels_as_its_path(way, residency, path, tmp_path, monkeypatch):
    """A pickle or a copy of a reader is one more reader, of its residency, wherever it arrives, that outlives the first."""
    monkeypatch.chdir(tmp_path)
    with rv.open("a.replay", residency, mode="r", seed=3) as reader:
        monkeypatch.chdir("/")
        twin = way(reader)
        assert distinct([*drawn(reader), *drawn(twin)]) == 4
    with rv.open(path) as writer:
        add(writer, 5)
        assert len(twin) == 405
        assert twin.residency == residency
    assert len(pickle.dumps(twin)) < 500
    twin.close()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        way(reader)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_close_under_those_who_work_ends_them(residency, turns, tmp_path):
    """Threads that add, sample, flush, save and feed are told that the buffer is closed; none waits for ever."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(SPEC, 1000, seed=turns, residency=residency, path=path)
    add(buffer, 400)
    told: list[BaseException] = []
    begun = threading.Semaphore(0)

    def again(work: Callable[[], object]) -> None:
        try:
            for turn in range(10**9):
                work()
                if turn == turns:
                    begun.release()
        except BaseException as error:
            told.append(error)
            begun.release()

    feed = Feed(lambda: buffer.sample(16, 5), lambda made: made, 2)
    jobs = [lambda: add(buffer, 1), lambda: buffer.sample(64, 5), buffer.flush, lambda: next(feed),
            lambda: buffer.save_as(tmp_path / "copy.replay")]  # fmt: skip
    threads = [threading.Thread(target=again, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for _ in jobs:
        begun.acquire()
    buffer.close()
    for thread in threads:
        thread.join()
    feed.close()
    assert [type(error) for error in told] == [rv.BufferClosed] * len(jobs)
    last = buffer.engine.index.head.item(0)
    with rv.open(path, mode="r") as reader:
        assert reader.engine.index.head.item(0) == last
    assert not [name for name in os.listdir(tmp_path) if "saving" in name]


def test_a_reader_that_nobody_closed_holds_no_writer_up(tmp_path):
    """When the last name of it is gone, so is its moment of the file: the garbage collector need not come."""
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 100, path=tmp_path / "a.replay", seed=0)
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
    gc.disable()
    try:
        reader = ReplayFile.open(tmp_path / "a.replay", "r")
        reader.db.begin()  # in the middle of reading
        del reader
        buffer.flush()
    finally:
        gc.enable()
    buffer.close()
