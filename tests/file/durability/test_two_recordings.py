"""A program that opens its file and goes on records a new episode: no window joins two recordings."""

import subprocess
import sys

import numpy as np
import pytest
from test_reopen import RESIDENCIES

import reverie as rv
from support.buffers import scalar_spec

LENGTHS = [7, 3, 7]  # an episode that ends, one that runs when the file is closed, one of the next program


def add(buffer: rv.ReplayBuffer, first: int, count: int, ends: tuple[int, ...] = (), stream: int = 0) -> None:
    for step in range(first, first + count):
        buffer.add(obs=step, action=0, reward=1.0, terminated=step in ends, truncated=False, stream=stream)


def begun(path, **settings) -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path, seed=0, **settings)
    add(buffer, 0, 10, ends=(6,))
    return buffer


def check(buffer: rv.ReplayBuffer, lengths: list[int]) -> None:
    """Assert that the episodes have these lengths and that all their windows, and no others, are drawn."""
    assert buffer.episodes["length"].tolist() == lengths
    stops = np.cumsum(lengths)
    inside = {(int(start), int(stop)) for start, stop in zip(stops - lengths, stops, strict=True)}
    batch = buffer.sample(500, 3)
    for start in batch.start.tolist():
        assert any(low <= start and start + 3 <= high for low, high in inside), start


ENDS = {
    "sys.exit": "sys.exit(0)",
    "end of the program": "",
    "error": "1 / 0",
    "ctrl-c": "raise KeyboardInterrupt",
}


def closed(path, how: str) -> None:
    """Record ten steps in a program that ends in some way."""
    if how in ENDS:
        program = f"""
import sys
import reverie as rv
buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 96, path=sys.argv[1], seed=0)
for step in range(10):
    buffer.add(obs=step, action=0, reward=1.0, terminated=step == 6, truncated=False)
{ENDS[how]}
"""
        subprocess.run([sys.executable, "-c", program, str(path)], check=False, capture_output=True)
        return
    buffer = begun(path)
    if how == "error in with":
        with pytest.raises(ZeroDivisionError), buffer:
            _ = 1 / 0
    elif how == "with":
        with buffer:
            pass
    else:
        buffer.close()


@pytest.mark.parametrize("how", ["close", "with", "error in with", *ENDS])
def test_the_first_step_of_the_next_program_begins_an_episode(how, tmp_path):
    """However a program ended, the next one's first step joins nothing that was there."""
    path = tmp_path / "a.replay"
    closed(path, how)
    with rv.open(path) as buffer:
        assert buffer.episodes["ended"].tolist() == ["terminated", "running"]
        add(buffer, 10, 7)
        check(buffer, LENGTHS)
        assert buffer.episodes["ended"].tolist() == ["terminated", "cut", "running"]
    with rv.open(path, mode="r") as buffer:
        check(buffer, LENGTHS)


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_the_seam_is_in_the_file_with_the_step(residency, durability, tmp_path):
    """What a reader sees beside the next program, and what comes of a third one, is cut at both seams."""
    path = tmp_path / "a.replay"
    begun(path, residency=residency, durability=durability).close()
    for _ in range(2):
        rv.open(path).close()  # nothing was added: nothing is cut
    with rv.open(path) as buffer:
        add(buffer, 10, 7)
        if durability == "step":
            with rv.open(path, mode="r") as reader:
                check(reader, LENGTHS)
    with rv.open(path) as buffer:
        add(buffer, 17, 60)
        check(buffer, [*LENGTHS, 60])
        buffer.flush()
        with rv.open(path, mode="r") as reader:
            check(reader, [*LENGTHS, 60])


def test_batches_before_the_first_step_are_those_that_would_have_come(tmp_path):
    """Opening changes no batch: the running episode is cut only when a step is added."""
    path = tmp_path / "a.replay"
    buffer, never_closed = begun(path), rv.ReplayBuffer(scalar_spec(), 96, seed=0)
    add(never_closed, 0, 10, ends=(6,))
    buffer.close()
    with rv.open(path) as buffer:
        for length in (1, 2, 3, 2):
            assert buffer.count_windows(length) == never_closed.count_windows(length)
            np.testing.assert_array_equal(
                buffer.sample(8, length).start, never_closed.sample(8, length).start
            )


def test_a_copy_begins_a_new_episode_too(tmp_path):
    """The first step that is added to a copy joins nothing; the buffer itself goes on."""
    with begun(tmp_path / "a.replay") as buffer:
        buffer.save_as(tmp_path / "b.replay")
        add(buffer, 10, 7)
        check(buffer, [7, 10])
    with rv.open(tmp_path / "b.replay") as copy:
        add(copy, 10, 7)
        check(copy, LENGTHS)
    memory = rv.ReplayBuffer(scalar_spec(), 96, seed=0)
    add(memory, 0, 10, ends=(6,))
    memory.save_as(tmp_path / "c.replay")
    with rv.open(tmp_path / "c.replay") as copy:
        add(copy, 10, 7)
        check(copy, LENGTHS)


def test_a_program_that_restores_its_environments_goes_on(tmp_path):
    """With episodes="continue" the running episode goes on, and only there."""
    path = tmp_path / "a.replay"
    begun(path).close()
    with rv.open(path, episodes="continue") as buffer:
        add(buffer, 10, 7)
        check(buffer, [7, 10])
    with pytest.raises(rv.BadSetting, match="wanted 'new' or 'continue', got 'old'"):
        rv.open(path, episodes="old")
    with pytest.raises(rv.BadSetting, match="only to write"):
        rv.open(path, mode="r", episodes="continue")


def test_only_the_streams_that_get_a_step_are_cut(tmp_path):
    """Each stream has a seam of its own: lanes that come later are cut later, and ended episodes are not."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 96, streams=3, path=path, seed=0) as buffer:
        for stream in range(3):
            add(buffer, 0, 4, ends=(3,) if stream == 2 else (), stream=stream)
    with rv.open(path) as buffer:
        buffer.add_batch(obs=[4, 4], action=[0, 0], reward=[1.0, 1.0], terminated=[False, True],
                         truncated=[False, False], streams=[0, 2])  # fmt: skip
        rows = [(int(one["stream"]), int(one["length"]), str(one["ended"])) for one in buffer.episodes]
        assert sorted(rows) == [(0, 1, "running"), (0, 4, "cut"), (1, 4, "running"), (2, 1, "terminated"),
                                (2, 4, "terminated")]  # fmt: skip
        add(buffer, 5, 2, stream=0)  # goes on
        buffer.cut(1)
        add(buffer, 4, 2, stream=1)
        rows = [(int(one["stream"]), int(one["length"]), str(one["ended"])) for one in buffer.episodes]
        assert sorted(rows) == [(0, 3, "running"), (0, 4, "cut"), (1, 2, "running"), (1, 4, "cut"),
                                (2, 1, "terminated"), (2, 4, "terminated")]  # fmt: skip


def test_a_step_that_is_refused_cuts_nothing(tmp_path):
    """Bad input after open changes nothing: not the windows either."""
    path = tmp_path / "a.replay"
    begun(path).close()
    with rv.open(path) as buffer:
        before = buffer.count_windows(1)
        with pytest.raises(rv.SpecMismatch):
            buffer.add(obs=np.zeros(3), action=0, reward=1.0, terminated=False, truncated=False)
        assert buffer.count_windows(1) == before
        assert buffer.episodes["ended"].tolist() == ["terminated", "running"]


def test_the_drop_in_buffer_begins_a_new_episode_too(tmp_path):
    """IRISReplayBuffer.open: no sequence joins two recordings, nor after its four arrays went through a checkpoint."""
    path = tmp_path / "a.replay"
    frames = np.zeros((30, 1, 2, 2), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None]
    with rv.IRISReplayBuffer(96, (1, 2, 2), 3, seq_len=3, batch_size=200, seed=0, path=path) as buffer:
        for step in range(10):
            buffer.add(frames[step], 0, 1.0, step == 6)
    with rv.IRISReplayBuffer.open(path) as buffer:
        before = [array.copy() for array in buffer.sample_sequence()]
        assert (before[0][:, 0] != 6).all()
        for step in range(10, 17):
            buffer.add(frames[step], 0, 1.0, False)
        firsts = set(buffer.sample_sequence()[0][:, 0].reshape(200, -1)[:, 0].tolist())
        assert firsts == {*range(5), 7, *range(10, 14)}
        kept = {
            name: getattr(buffer, name).copy() for name in ("observations", "actions", "rewards", "terminals")
        }
        steps = buffer.steps
    restored = rv.IRISReplayBuffer(96, (1, 2, 2), 3, seq_len=3, batch_size=200, seed=0)
    for name, array in kept.items():
        getattr(restored, name)[:] = array
    restored.idx, restored.steps = steps, steps
    firsts = set(restored.sample_sequence()[0][:, 0].reshape(200, -1)[:, 0].tolist())
    assert firsts == {*range(5), 7, *range(10, 14)}
