"""A damaged file: an error that says so, or the right answer; never a wrong step."""

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from test_reopen import RESIDENCIES, killed

import reverie as rv
from reverie.file.settings import stored_columns
from support.buffers import scalar_spec
from support.children import Child, shared

pytestmark = pytest.mark.long

CAPACITY = 40  # one run and a short one
PAGE = 512  # bytes; small pages make a small file of many kinds of pages


def small_pages(monkeypatch) -> None:
    """Let new databases have small pages."""
    connect = sqlite3.connect

    def small(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA page_size = {PAGE}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)


def tell(path: Path, steps: int, close: bool = True, **settings) -> rv.ReplayBuffer:
    """Write a file that has of everything something: sealed runs, newest steps, ends, a cut, a sampler's state."""
    buffer = rv.ReplayBuffer(scalar_spec(), CAPACITY, path=path, seed=0, **settings)
    sampler = rv.Prioritized()
    for number in range(steps):
        ends = number % 9 == 4
        buffer.add(obs=number, action=number * 3, reward=1.0, terminated=ends, truncated=False,
                   final_obs=number + 500 if number % 2 and ends else None)  # fmt: skip
        if number == steps - 8:
            buffer.cut(final_obs=900)
        if number == steps // 2:
            buffer.flush()
        if number in (20, steps - 5):
            batch = buffer.sample(8, 1, sampler=sampler)
            buffer.update_priorities(batch, np.arange(8.0))
    if close:
        buffer.close()
    return buffer


def answer(path: Path, residency: str, mode: str = "r") -> tuple:
    """Everything that a file says, as plain values, its random state and a batch included."""
    with rv.open(path, residency, mode, seed=0) as buffer:
        index = buffer.engine.index
        with buffer.engine.turn:
            ids = np.arange(index.tail.item(0), index.head.item(0))
            columns = []
            for column in stored_columns(buffer.spec):
                rows = np.zeros((len(ids), *column.field.shape), column.field.dtype)
                if len(ids):
                    buffer.engine.store.gather(column.name, ids % CAPACITY, rows)
                columns.append((column.name, rows.tobytes()))
            rows = index.live_episodes()
            finals = [int(buffer.engine.finals.gather("obs", np.array([place]))[0]) if place >= 0 else None
                      for place in index.final_slot[rows].tolist()]  # fmt: skip
        samplers = [rv.Uniform(), rv.Prioritized()] if buffer.count_windows(2) else []
        drawn = [buffer.sample(6, 2, sampler=sampler) for sampler in samplers]
        drawn = [batch.obs.tobytes() + batch.start.tobytes() for batch in drawn]
        return (
            ids.tolist(),
            columns,
            buffer.episodes.tobytes(),
            finals,
            drawn,
            buffer.engine.file.meta("rng"),
        )


def try_all(source: Path, changes, seed: int, accepted, mode: str = "r") -> int:
    """Apply each change to a copy, and count those that are noticed; any other answer than an accepted one fails.

    The changes are tried in a child, so that a crash of the interpreter is one failure and says where it was.
    """
    wanted = {residency: accepted(residency) for residency in RESIDENCIES}
    place, noticed = shared(1), shared(1)
    path = source.with_name("damaged.replay")
    logged = Path(f"{source}-wal").exists()
    whole, log = source.read_bytes(), Path(f"{source}-wal").read_bytes() if logged else b""

    def work() -> None:
        dice = random.Random(seed)
        for number, change in enumerate(changes):
            place[0] = number
            for suffix in ("-wal", "-shm", "-lock"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            bad, bad_log = change(bytearray(whole), bytearray(log))
            path.write_bytes(bad)
            if logged:
                Path(f"{path}-wal").write_bytes(bad_log)
            residency = dice.choice(RESIDENCIES)
            try:
                got = answer(path, residency, mode)
            except rv.FileError as error:
                noticed[0] += says_what_to_do(error)
                continue
            except BaseException as error:
                raise AssertionError(f"change {number}, {residency}: {error!r}") from error
            assert got in wanted[residency], f"change {number}, {residency}: wrong answer\n{got}"

    child = Child(work, limit_s=3000)
    try:
        child.wait()
    except AssertionError as error:
        raise AssertionError(f"at change {place[0]}: {error}") from error
    return int(noticed[0])


def says_what_to_do(error: rv.FileError) -> bool:
    """Whether an error says what was wanted, what came, and the remedy."""
    assert all(word in str(error) for word in ("wanted", "got", ";")), error
    return True


def flip(at: int, mask: int, log: bool = False):
    """Return a change that flips bits of one byte."""

    def change(whole: bytearray, logged: bytearray) -> tuple[bytes, bytes]:
        target = logged if log else whole
        target[at] ^= mask
        return whole, logged

    return change


def same(path: Path):
    return lambda residency: [answer(path, residency)]


@pytest.fixture
def closed(tmp_path, monkeypatch) -> Path:
    """A small file, closed."""
    with monkeypatch.context() as patch:
        small_pages(patch)
        tell(tmp_path / "a.replay", 79)
    return tmp_path / "a.replay"


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_every_flipped_byte_is_noticed_or_harmless(mask, closed):
    """Flip bits of every byte of a small file in turn."""
    changes = [flip(at, mask) for at in range(closed.stat().st_size)]
    assert try_all(closed, changes, 0, same(closed)) > len(changes) // 4


@pytest.mark.parametrize("seed", [0])
def test_flipped_bytes_are_noticed_or_harmless(seed, closed):
    """Flip bits of each byte at the begin of each page, and of bytes anywhere."""
    dice = random.Random(seed)
    size = closed.stat().st_size
    places = (
        {at for at in range(size) if at % PAGE < 12} | set(range(100)) | set(dice.sample(range(size), 300))
    )
    changes = [flip(at, dice.choice([0xFF, 1, 0x80, dice.randint(1, 255)])) for at in sorted(places)]
    assert try_all(closed, changes, seed, same(closed)) > len(changes) // 4


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_cut_off_or_grown_is_noticed_or_harmless(mode, closed):
    """Cut a file off at many lengths, empty it, and append garbage to it."""
    size = closed.stat().st_size
    dice = random.Random(0)
    lengths = sorted({0, 1, 15, 16, 99, 100, 511, size - 1, size - PAGE, *range(PAGE, size, PAGE),
                      *(dice.randrange(size) for _ in range(60))})  # fmt: skip
    cuts = [lambda whole, log, stop=stop: (whole[:stop], log) for stop in lengths]
    assert try_all(closed, cuts, 0, same(closed), mode) >= len(cuts) - 1
    grown = [lambda whole, log, more=more: (whole + dice.randbytes(more), log) for more in (1, PAGE, 5000)]
    assert try_all(closed, grown, 0, same(closed), mode) == 0


@pytest.mark.slow
def test_a_file_cut_off_at_any_length_is_noticed(closed):
    """Cut a small file off at every length: without its last byte, too, it is not the file that was closed."""
    size = closed.stat().st_size
    cuts = [lambda whole, log, stop=stop: (whole[:stop], log) for stop in range(size)]
    assert try_all(closed, cuts, 0, same(closed)) == size


@pytest.mark.parametrize("kind", ["text", "empty", "other", "zeros"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_what_is_no_replay_file_is_refused(kind, mode, tmp_path):
    """A text, an empty file, another program's database, a page of zeros: FileError, and not a byte is changed."""
    path = tmp_path / "a.replay"
    if kind == "other":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE meta (name TEXT)")
        connection.close()
    else:
        path.write_bytes({"text": b"hello, world" * 100, "empty": b"", "zeros": bytes(8192)}[kind])
    before = path.read_bytes()
    with pytest.raises(rv.FileError, match="wanted"):
        rv.open(path, mode=mode)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.replay"]


def killed_file(tmp_path, monkeypatch) -> Path:
    """A small file whose writer was killed: part of it is in the log alone."""
    path = tmp_path / "a.replay"
    with monkeypatch.context() as patch:
        small_pages(patch)
        killed(lambda: tell(path, 79, close=False))
    return path


def prefixes(path: Path) -> list[int]:
    """Where the commits of a log end: what comes after one may be lost with it, and is a moment that was."""
    log = Path(f"{path}-wal").read_bytes()
    frame = 24 + PAGE
    stops = [32]
    for at in range(32, len(log) - frame + 1, frame):
        if int.from_bytes(log[at + 4 : at + 8], "big"):
            stops.append(at + frame)
    return stops


def moments(path: Path):
    """Return the right answers: what the file said after each of the commits in its log."""
    whole, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    old = path.with_name("old.replay")
    found = {residency: [] for residency in RESIDENCIES}
    for stop in [*prefixes(path), None]:
        for residency in RESIDENCIES:
            Path(f"{old}-shm").unlink(missing_ok=True)
            old.write_bytes(whole)
            Path(f"{old}-wal").write_bytes(log[:stop])
            found[residency].append(answer(old, residency))
    return lambda residency: found[residency]


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_damaged_log_leaves_a_moment_that_was(seed, tmp_path, monkeypatch):
    """Flip bytes of the log, or cut it off: an error, or all that was there at some earlier moment, and no more."""
    path = killed_file(tmp_path, monkeypatch)
    size = Path(f"{path}-wal").stat().st_size
    dice = random.Random(seed)
    changes = [flip(at, dice.randint(1, 255), log=True) for at in sorted(
        {*range(60), *(dice.randrange(size) for _ in range(60))})]  # fmt: skip
    stops = [dice.randrange(size) for _ in range(30)]
    changes += [lambda whole, log, stop=stop: (whole, log[:stop]) for stop in stops]
    changes.append(lambda whole, log: (whole, log + dice.randbytes(3000)))
    try_all(path, changes, seed, moments(path))


@pytest.mark.parametrize("seed", [0])
def test_a_damaged_file_is_noticed_when_opened_to_write(seed, closed):
    """Flip bytes and open with "r+": an error, or the right answer."""
    dice = random.Random(seed)
    changes = [flip(dice.randrange(closed.stat().st_size), dice.randint(1, 255)) for _ in range(150)]
    try_all(closed, changes, seed, same(closed), "r+")


@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("clean", [True, False])
def test_rows_that_are_gone_at_either_end_are_missed(tmp_path, which, clean):
    """A damaged tree can lose whole rows without a trace; the note of where each stream stood tells."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 200, seed=0, path=path)
    for number in range(150):
        buffer.add(obs=number, action=0, reward=0.0, terminated=number % 9 == 8, truncated=False)
    buffer.flush()
    if clean:
        buffer.close()
    else:
        (tmp_path / "b.replay").write_bytes(path.read_bytes())
        (tmp_path / "b.replay-wal").write_bytes((tmp_path / "a.replay-wal").read_bytes())
        path = tmp_path / "b.replay"
    with sqlite3.connect(path) as connection:
        table, column = ("runs", "first") if which == "oldest" else ("steps", "id")
        extreme = "min" if which == "oldest" else "max"
        connection.execute(f"DELETE FROM {table} WHERE {column} = (SELECT {extreme}({column}) FROM {table})")
        connection.execute("DELETE FROM episodes WHERE stop <= 32" if which == "oldest" else "SELECT 1")
    connection.close()
    if which == "oldest" and not clean:
        rv.open(path).close()  # a budget may have made it go since the last flush
    else:
        with pytest.raises(
            rv.FileError, match=r"its first or last steps are missing|its episodes do not cover"
        ):
            rv.open(path)
    buffer.close()
