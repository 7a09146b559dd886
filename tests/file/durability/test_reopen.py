"""What a writer that was killed leaves: small cases, each of which went wrong once."""

import os
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from support.buffers import scalar_spec
from support.children import Child

RESIDENCIES = ("ram", "packed", "disk")


def killed(work) -> None:
    """Run `work` in a process of its own, and kill that while it still has the buffer that `work` returned."""

    def die() -> None:
        kept = work()
        os.kill(os.getpid(), 9)
        del kept

    Child(die).wait((-9,))


def add(buffer: rv.ReplayBuffer, number: int, ends: bool = False, stream: int = 0) -> None:
    buffer.add(obs=number, action=-number, reward=1.0, terminated=ends, truncated=False, stream=stream,
               final_obs=number + 500 if ends else None)  # fmt: skip


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_final_observation_that_only_a_newest_step_has_comes_back(residency, mode, tmp_path):
    """An episode that ended in the run not sealed yet shows its final observation, now and once that is sealed."""
    path = tmp_path / "a.replay"

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path, residency=residency, seed=0)
        add(buffer, 0)
        add(buffer, 1, ends=True)
        add(buffer, 2)
        return buffer

    killed(work)
    with rv.open(path, residency, mode) as buffer:
        assert buffer.sample(1, 2).obs.tolist() == [[0, 1, 501]]
        for number in range(3, 70) if mode == "r+" else ():
            add(buffer, number)
        assert [0, 1, 501] in buffer.sample(400, 2).obs.tolist()
    with rv.open(path, residency) as buffer:
        assert [0, 1, 501] in buffer.sample(400, 2).obs.tolist()


def test_write_back_into_a_flushed_run_brings_the_episodes_of_its_steps(tmp_path):
    """With durability "chunk", steps that write_back takes into the file bring the episodes they belong to."""
    path = tmp_path / "a.replay"
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"note": rv.Field((), "int64")})

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(spec, 96, path=path, durability="chunk")
        for number in range(10):
            if number == 4:
                buffer.flush()
            buffer.add(obs=number, action=0, reward=1.0, terminated=number == 6, truncated=False, note=0)
        batch = buffer.sample(8, 1)
        buffer.write_back(batch, note=np.ones((8, 1), np.int64))
        return buffer

    killed(work)
    with rv.open(path) as buffer:
        assert buffer.episodes["stop"].tolist() == [7, 10]
        assert buffer.episodes["ended"].tolist() == ["terminated", "cut"]


def test_leftovers_of_a_killed_process_are_not_taken_for_its_successors(tmp_path):
    """A log that outlived its file, and drafts of a process with this number, do not get into a new file."""
    path = tmp_path / "a.replay"

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path)
        for number in range(50):
            add(buffer, number)
        return buffer

    killed(work)
    log = Path(f"{path}-wal").read_bytes()
    assert len(log) > 4096
    path.unlink()
    names = [f"{name}{suffix}" for suffix in ("-wal", "-journal", "-shm") for name in
             (path, f"{path}.new-{os.getpid()}", f"{path}.saving-{os.getpid()}",
              f"{path}.saving-{os.getpid()}.new-{os.getpid()}")]  # fmt: skip
    for name in names:
        Path(name).write_bytes(log)
    with rv.ReplayBuffer(scalar_spec(), 96, path=path) as buffer:
        assert len(buffer) == 0
        add(buffer, 7)
    with rv.open(path) as buffer:
        assert buffer.sample_steps(1).obs.tolist() == [7] if buffer.count_windows(1) else len(buffer) == 1
        copy = tmp_path / "b.replay"
        for suffix in ("-wal", "-journal"):
            Path(f"{copy}{suffix}").write_bytes(log)
            Path(f"{copy}.saving-{os.getpid()}{suffix}").write_bytes(log)
        buffer.save_as(copy)
    with rv.open(copy) as buffer:
        assert len(buffer) == 1
        assert buffer.engine.file.db.integrity() == []


def test_a_fork_that_outlives_the_writer_does_not_keep_its_lock(tmp_path):
    """A writer that is killed while a child of it lives on leaves the file to the next one."""
    path = tmp_path / "a.replay"
    told, tell = os.pipe()
    wait, let_go = os.pipe()

    def work() -> rv.ReplayBuffer:
        buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path)
        add(buffer, 1)
        if os.fork() == 0:
            os.close(let_go)
            os.write(tell, b"x")
            os.read(wait, 1)
            os._exit(0)
        os.read(told, 1)
        return buffer

    killed(work)
    os.close(wait)
    try:
        with rv.open(path) as buffer:
            assert len(buffer) == 1
    finally:
        os.close(let_go)


@pytest.mark.parametrize("then", ["other", "cut", "close"])
@pytest.mark.parametrize("what", ["step", "cut"])
def test_what_an_interrupt_kept_from_memory_comes_there_with_the_next_call(what, then, tmp_path, monkeypatch):
    """Ctrl-C between file and memory: the change has happened, and whatever is written next, a kill leaves both alike."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 128, streams=2, path=path)
    add(buffer, 0)
    if what == "step":
        add(buffer, 1, ends=True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(buffer.engine.index, "make_room", interrupt)
        patch.setattr(buffer.engine.index, "cut", interrupt)
        with pytest.raises(KeyboardInterrupt):
            add(buffer, 2) if what == "step" else buffer.cut()
    if then == "other":
        add(buffer, 3, stream=1)
    elif then == "cut":
        buffer.cut()
        add(buffer, 4)
    else:
        buffer.close()
    for suffix in ("", "-wal"):
        if Path(f"{path}{suffix}").exists():
            Path(f"{path}.left{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    stops = [2, 3] if what == "step" else [1]
    with rv.open(f"{path}.left", mode="r") as left:
        assert (
            left.episodes["stop"].tolist()
            == stops + {"other": [1], "cut": [stops[-1] + 1], "close": []}[then]
        )
        wanted = "running" if what == "step" and then != "cut" else "cut"
        assert left.episodes["ended"].tolist()[len(stops) - 1] == wanted
    buffer.close()


class LacksMemory:
    """A connection whose memory is used up right after it has done what SQL begins with a word."""

    def __init__(self, connection, word: str) -> None:
        self._connection, self._word, self.had_enough = connection, word, True

    def __getattr__(self, name: str):
        return getattr(self._connection, name)

    def execute(self, sql: str, *values):
        found = self._connection.execute(sql, *values)
        if sql.startswith(self._word) and self.had_enough:
            self.had_enough = False
            raise MemoryError
        return found


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize(
    ("what", "word"),
    [("step", "INSERT OR REPLACE INTO steps"), ("step", "COMMIT"), ("cut", "COMMIT"), ("note", "COMMIT")],
)
def test_a_write_that_was_done_has_happened_though_memory_was_lacking_then(what, word, residency, tmp_path):
    """The error comes after the file has the change: memory has it, too, and so has the next one to open the file."""
    path = tmp_path / "a.replay"
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"note": rv.Field((), "int64")})
    buffer = rv.ReplayBuffer(spec, 128, path=path, residency=residency, seed=0)

    def step(number: int) -> None:
        buffer.add(obs=number, action=0, reward=1.0, terminated=word == "COMMIT" and number % 3 == 2, truncated=False,
                   note=0)  # fmt: skip

    for number in range(4 if what != "step" else 2):
        step(number)
    batch = buffer.sample(8, 1)
    # It brings the random state, so that the next one may be a transaction of its own.
    step(2 if what == "step" else 4)
    connection = buffer.engine.file.db._connection
    buffer.engine.file.db._connection = lacks = LacksMemory(connection, word)
    calls = {"step": lambda: step(3), "cut": buffer.cut,
             "note": lambda: buffer.write_back(batch, note=np.ones((8, 1), np.int64))}  # fmt: skip
    with pytest.raises(rv.FileError, match="memory"):
        calls[what]()
    assert not lacks.had_enough
    buffer.engine.file.db._connection = connection
    step(9)
    assert len(buffer) == (5 if what == "step" else 6)

    def shown() -> tuple[object, ...]:
        batch = buffer.sample(400, 1, boundary="pad_right")
        rows = zip(batch.obs[:, 0].tolist(), batch.extras["note"][:, 0].tolist(), strict=True)
        return buffer.episodes["stop"].tolist(), sorted(set(rows))

    before = shown()
    buffer.close()
    buffer = rv.open(path)
    assert shown() == before
    buffer.close()
