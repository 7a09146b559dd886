"""Memory: what fits, what is refused, and what is handed out again."""

import gc

import numpy as np
import pytest

import reverie as rv
from reverie.engine import engine
from reverie.store import memory


def test_a_block_returns_only_when_nobody_looks():
    """A leased block is handed out again after its last view is gone, not before."""
    blocks = memory.Blocks()
    first = blocks.take(1 << 20)
    place = first.ctypes.data
    view = first[100:200].reshape(10, 10).T
    del first
    gc.collect()
    assert blocks.take(1 << 20).ctypes.data != place
    del view
    gc.collect()
    assert place in {blocks.take(1 << 20).ctypes.data for _ in range(2)}


def test_blocks_of_other_sizes_do_not_pile_up():
    """At most a few unused blocks are kept, whatever sizes were asked for."""
    blocks = memory.Blocks()
    for size in range(20):
        blocks.take((1 << 20) + size * 4096)
    gc.collect()
    assert len(blocks._free) <= memory.KEPT_BLOCKS


def test_arrays_begin_on_a_cache_line():
    """Blocks are aligned, small and large."""
    for size in (1, 100, 1 << 20):
        assert memory.aligned_empty(size).ctypes.data % memory.ALIGNMENT == 0
        assert memory.aligned_empty(size).nbytes == size


def test_two_buffers_that_fit_alone_are_refused_together(monkeypatch):
    """What was promised to earlier buffers counts, though their pages are not committed yet."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000_000)
    monkeypatch.setattr(memory, "total_bytes", lambda: 10_000_000 + sum(memory._reserved.values()))
    spec = rv.StepSpec(rv.Field((1000,), "uint8"), rv.Field((), "int64"))
    first = rv.ReplayBuffer(spec, 6000)
    with monkeypatch.context() as fixed:
        total = 10_000_000 + sum(memory._reserved.values()) - 6000 * 1016
        fixed.setattr(memory, "total_bytes", lambda: total)
        with pytest.raises(rv.TooLarge, match="promised to other buffers"):
            rv.ReplayBuffer(spec, 6000)
        del first
        gc.collect()
        assert len(rv.ReplayBuffer(spec, 6000)) == 0


def test_a_refused_capacity_allocates_nothing(monkeypatch):
    """A buffer that is too large is refused before any array is made."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)

    def allocate(*_, **__):
        raise AssertionError("allocated")

    monkeypatch.setattr(engine, "EpisodeIndex", allocate)
    monkeypatch.setattr(engine, "make_stores", allocate)
    spec = rv.StepSpec(rv.Field((1000,), "uint8"), rv.Field((), "int64"))
    with pytest.raises(rv.TooLarge, match=r"wanted 6\.10 MB of memory, got 1\.00 MB available"):
        rv.ReplayBuffer(spec, 6000)


def test_the_system_tells_how_much_memory_there_is():
    """Available memory is a positive number no larger than the total."""
    now, ever = memory.available_bytes(), memory.total_bytes()
    assert now is not None
    assert ever is not None
    assert 0 < now <= ever


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345_678, "12.35 MB"), (4e13, "40.00 TB")],
)
def test_bytes_are_written_as_people_write_them(count, text):
    """format_bytes uses powers of 1000."""
    assert memory.format_bytes(count) == text


def test_a_final_observation_that_does_not_fit_is_refused_and_changes_nothing(monkeypatch):
    """Where memory for final observations runs out, `add` says so; what is there stays, and steps without go in."""
    spec = rv.StepSpec(rv.Field((1000,), "uint8"), rv.Field((), "int64"))
    held, frame = rv.ReplayBuffer(spec, 100, seed=0), np.ones(1000, np.uint8)

    def add(final):
        held.add(obs=frame, action=0, reward=1.0, terminated=True, truncated=False, final_obs=final)

    for _ in range(8):  # as many places as are made at first
        add(frame)
    monkeypatch.setattr(memory, "available_bytes", lambda: 999)
    said = held.nbytes
    with pytest.raises(
        rv.TooLarge, match=r"final observations of 9 episodes: wanted 9\.00 kB of memory, got 999 B"
    ):
        add(frame)
    assert (len(held), held.nbytes, held.count_windows(1)) == (8, said, 8)
    add(None)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1500)  # for one more, not for eight
    add(frame)
    assert (len(held), held.nbytes - said) == (10, 1000)
    assert held.sample(64, 1).obs_mask[:, -1].any()


def test_a_buffer_says_what_final_observations_take():
    """With one-step episodes a buffer says that it takes a final observation for each step, and never more."""
    spec = rv.StepSpec(rv.Field((1000,), "uint8"), rv.Field((), "int64"))
    held, frame = rv.ReplayBuffer(spec, 100, seed=0), np.ones(1000, np.uint8)
    empty = held.nbytes
    for _ in range(300):
        held.add(obs=frame, action=0, reward=1.0, terminated=True, truncated=False, final_obs=frame)
    assert 100 * 1000 <= held.nbytes - empty <= 101 * 1000 + 100 * 100  # and the table of 100 episodes
