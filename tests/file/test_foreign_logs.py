"""Which log counts as another file's: only one that SQLite would take for valid, and that is built on another base."""

import shutil
import struct
from pathlib import Path

import pytest

import reverie as rv
from reverie.file.log import FRAME, HEADER, LEAST_BASE, is_base, is_foreign, mark_on, new_base
from support.buffers import scalar_spec


def copied(folder: Path, name: str) -> Path:
    """Return a copy of a file that is being written, with its log."""
    path, copy = folder / f"{name}.replay", folder / f"{name}-copy.replay"
    with rv.ReplayBuffer(scalar_spec(), 100, path=path, durability="step", seed=0) as buffer:
        for _ in range(2):
            for step in range(20):
                buffer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False)
            buffer.flush()
        buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False)
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Path, bytes]:
    """A file, and the log of another one."""
    folder = tmp_path_factory.mktemp("logs")
    mine, other = copied(folder, "mine"), copied(folder, "other")
    assert not is_foreign(mine)
    assert not is_foreign(other)
    return mine, Path(f"{other}-wal").read_bytes()


def foreign(mixed, tmp_path, change) -> bool:
    path, log = tmp_path / "a.replay", bytearray(mixed[1])
    shutil.copy(mixed[0], path)
    changed = change(log)
    Path(f"{path}-wal").write_bytes(log if changed is None else changed)
    return is_foreign(path)


def put(place: int, *values: int):
    """Return a change that puts big-endian numbers into a log."""
    return lambda log: log.__setitem__(
        slice(place, place + 4 * len(values)), struct.pack(f">{len(values)}I", *values)
    )


def flip(place: int):
    return lambda log: log.__setitem__(place, log[place] ^ 1)


def test_a_whole_log_of_another_file_is_foreign(mixed, tmp_path):
    assert foreign(mixed, tmp_path, lambda log: None)


@pytest.mark.parametrize("change", [
    lambda log: log[:0], lambda log: log[: HEADER - 1], lambda log: log[:HEADER], lambda log: log[: HEADER + FRAME + 4095],
    put(0, 0x377F0684), put(8, 4095), put(8, 256), put(8, 131072), put(HEADER, 2), put(HEADER + 4, 0), flip(HEADER + 8),
    flip(HEADER + 12), flip(24), flip(28), flip(HEADER + 16), flip(HEADER + 20), flip(12), flip(HEADER + FRAME + 4000),
])  # fmt: skip
def test_a_log_that_sqlite_does_not_take_is_nobodys(change, mixed, tmp_path):
    """Cut short, of another kind or page size, without a whole transaction on the first page, or with a wrong checksum."""
    assert not foreign(mixed, tmp_path, change)


def test_without_a_log_or_a_file_nothing_is_foreign(mixed, tmp_path):
    path = Path(shutil.copy(mixed[0], tmp_path / "a.replay"))
    assert not is_foreign(path)
    Path(f"{path}-wal").write_bytes(mixed[1])
    path.write_bytes(b"no database")
    assert not is_foreign(path)


def test_bases_are_even_and_marks_odd():
    """A base is no number by which SQLite counts changes of tables; a mark adds one to it, once."""
    for _ in range(200):
        base = new_base()
        assert LEAST_BASE <= base < 2**31
        assert is_base(base)
        assert mark_on(base) == base + 1
        assert mark_on(base + 1) is None
        assert not is_base(base + 1)
    assert [is_base(number) for number in (0, 2, LEAST_BASE - 2, LEAST_BASE)] == [False, False, False, True]
