"""Where a file lies: one writer for a file of many names, a file that goes under its writer, odd places."""

import errno
import fcntl
import os
import shutil
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_full_disk import as_nobody, reachable
from test_log import elsewhere, grow, holds, is_whole
from test_reopen import RESIDENCIES, killed

import reverie as rv
from reverie.file.lock import writing_process
from support.buffers import scalar_spec
from support.children import Child

pytestmark = pytest.mark.long


# --- one writer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by", ["name", "symbolic link", "folder's link", "hard link", "new name", "no lock file"]
)
def test_a_second_writer_is_refused_whatever_name_it_uses(by, tmp_path):
    """Links, a new name, a removed lock file: a lock belongs to the file; the next writer comes when it is closed."""
    folder = tmp_path / "runs"
    folder.mkdir()
    path, other = folder / "a.replay", folder / "b.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
    grow(buffer, 10)
    if by == "symbolic link":
        other.symlink_to("a.replay")
    elif by == "folder's link":
        (tmp_path / "link").symlink_to("runs")
        other = tmp_path / "link" / "a.replay"
    elif by == "hard link":
        os.link(path, other)
    elif by == "new name":
        path.rename(other)
    else:
        other = path
        if by == "no lock file":
            Path(f"{path}-lock").unlink()
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    known = mine if by in ("name", "symbolic link", "folder's link") else "another process"

    def second() -> None:
        for _ in range(3):
            with pytest.raises(
                rv.FileError, match=f"wanted to be its only writer, got {known} writing there"
            ):
                rv.open(other)
        assert writing_process(other) == known

    second()
    Child(second).wait()
    if by == "new name":
        other.rename(path)
    grow(buffer, 10)
    buffer.close()
    assert writing_process(path) is None
    if by == "new name":
        other = path
    assert holds(other, "r+") == 20


def test_tries_to_write_take_no_locks_from_the_writer(tmp_path):
    """However often a process tries to open its own file again, SQLite's locks stay, and no descriptors pile up."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 10)
        open_files = []
        for _ in range(20):
            with pytest.raises(rv.FileError, match=r"only writer"):
                rv.open(path)
            assert holds(path) == 10
            writing_process(path)
            open_files.append(len(os.listdir("/dev/fd")))

        elsewhere("shell", path)  # if it were the last one, it would remove the log
        assert open_files[-1] == open_files[1]
        grow(buffer, 10)
    assert holds(path) == 20


def test_a_closed_writer_lets_the_next_one_in_while_its_process_reads(tmp_path):
    """A descriptor that waits for a reader of the same process to close holds no lock."""
    path = tmp_path / "a.replay"
    writer = rv.ReplayBuffer(scalar_spec(), 500, path=path)
    grow(writer, 10)
    with rv.open(path, mode="r") as reader:
        for number in range(1, 4):
            writer.close()
            assert writing_process(path) is None
            Child(lambda: grow(rv.open(path), 1)).wait()
            writer = rv.open(path)
            assert len(reader) == 10 + number
    writer.close()
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_symbolic_link_leads_to_the_file_and_its_log(tmp_path):
    """A file opened through a link has its log beside the file, as SQLite has it; messages name the link."""
    (tmp_path / "far").mkdir()
    path, link = tmp_path / "far" / "a.replay", tmp_path / "link.replay"
    link.symlink_to(path)
    with pytest.raises(FileExistsError, match=r"link\.replay: wanted a path that is free"):
        rv.ReplayBuffer(scalar_spec(), 500, path=link)
    rv.ReplayBuffer(scalar_spec(), 500, path=path).close()

    def work() -> rv.ReplayBuffer:
        buffer = rv.open(link)
        assert buffer.path == link
        grow(buffer, 10)
        return buffer

    killed(work)
    assert sorted(os.listdir(tmp_path / "far"))[1:] == ["a.replay-lock", "a.replay-shm", "a.replay-wal"]
    assert holds(link) == holds(path) == 10
    is_whole(link)
    with rv.open(link) as buffer, pytest.raises(rv.FileError, match=r"another path than the buffer's own"):
        buffer.save_as(path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_says_so(number, tmp_path, monkeypatch):
    """Lustre, NFS: the error speaks of the file system and not of another process; reading needs no lock."""
    path = tmp_path / "a.replay"
    rv.ReplayBuffer(scalar_spec(), 500, path=path).close()

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    for name in ("fcntl", "flock"):
        monkeypatch.setattr(fcntl, name, refuse)
    for call in (
        lambda: rv.open(path),
        lambda: rv.ReplayBuffer(scalar_spec(), 500, path=tmp_path / "b.replay"),
    ):
        with pytest.raises(
            rv.FileError, match=r"got a file system without locks .*; put the file on a local disk"
        ):
            call()
    assert holds(path) == 0
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_system_that_knows_flock_alone_locks_with_that(tmp_path, monkeypatch):
    """Where the kernel knows no locks of open files, flock keeps the second writer out."""
    path, control = tmp_path / "a.replay", fcntl.fcntl

    def without(handle: int, what: int, *rest: object) -> object:
        if what in (fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return control(handle, what, *rest)

    monkeypatch.setattr(fcntl, "fcntl", without)
    with rv.ReplayBuffer(scalar_spec(), 500, path=path) as buffer:
        grow(buffer, 10)
        assert writing_process(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(rv.FileError, match=f"got process {os.getpid()} on"):
            rv.open(path)
    assert holds(path, "r+") == 10


# --- a file that goes under its writer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "residency"),
    [*(("deleted", residency) for residency in RESIDENCIES), ("renamed", "packed"), ("replaced", "disk"),
     ("folder deleted", "packed"), ("folder renamed", "ram"), ("cut short", "ram")]
)  # fmt: skip
def test_memory_is_kept_with_save_as_when_the_file_has_gone(kind, residency, tmp_path):
    """The next add is refused and says so; save_as then works from memory, and what it wrote is whole."""
    folder = tmp_path / "runs"
    folder.mkdir()
    path, copy = folder / "a.replay", tmp_path / "copy.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path, residency=residency, seed=0)
    grow(buffer, 30)
    buffer.save_as(copy)
    grow(buffer, 100)
    if kind == "deleted":
        path.unlink()
    elif kind == "renamed":
        path.rename(folder / "b.replay")
    elif kind == "replaced":
        with rv.ReplayBuffer(scalar_spec(), 96, path=folder / "b.replay") as other:
            grow(other, 7)
        os.replace(folder / "b.replay", path)
    elif kind == "folder deleted":
        shutil.rmtree(folder)
    elif kind == "cut short":
        os.truncate(path, 0)
    else:
        folder.rename(tmp_path / "elsewhere")
    for call in (lambda: grow(buffer, 1), buffer.flush, buffer.cut):
        with pytest.raises(
            rv.FileError, match=r"got none or another in its place; keep what is in memory with save_as"
        ):
            call()
    episodes = buffer.episodes
    for target in (copy, tmp_path / "new.replay"):
        buffer.save_as(target)
        assert holds(target) == 130
        is_whole(target)
        with rv.open(target, mode="r") as again:
            np.testing.assert_array_equal(again.episodes, episodes)
    assert buffer.sample(4, 2).action.shape == (4, 2)
    with pytest.raises(rv.FileError, match=r"got none or another"):
        buffer.close()
    if kind == "replaced":
        Path(f"{path}-wal").unlink(missing_ok=True)
        assert holds(path, "r+") == 7


@pytest.mark.parametrize("residency", ["ram", "packed"])
def test_memory_is_kept_with_save_as_when_something_was_copied_over_the_file(residency, tmp_path):
    """A longer file was written over the one in use, which nobody can notice: save_as writes what memory holds."""
    path, copy = tmp_path / "a.replay", tmp_path / "copy.replay"
    with rv.ReplayBuffer(scalar_spec(), 1000, path=tmp_path / "b.replay") as other:
        grow(other, 700)
    buffer = rv.ReplayBuffer(scalar_spec(), 96, path=path, residency=residency, seed=0)
    grow(buffer, 100)
    buffer.flush()
    grow(buffer, 30)
    shutil.copyfile(tmp_path / "b.replay", path)
    assert path.stat().st_size > 0
    buffer.save_as(copy)
    assert holds(copy) == 130
    is_whole(copy)
    with rv.open(copy, mode="r") as again:
        np.testing.assert_array_equal(again.episodes, buffer.episodes)
    with suppress(rv.FileError):
        buffer.close()


def test_a_writer_whose_file_was_replaced_leaves_the_new_ones_log_alone(tmp_path):
    """SQLite removes a log by its name: closing the old file must not remove that of the new one."""
    path = tmp_path / "a.replay"
    old = rv.ReplayBuffer(scalar_spec(), 96, path=path)
    grow(old, 10)
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)

    new = rv.ReplayBuffer(scalar_spec(), 96, path=path)
    grow(new, 20)
    with pytest.raises(rv.FileError, match=r"got none or another"):
        old.close()
    grow(new, 5)
    assert holds(path) == 25
    new.close()
    assert holds(path) == 25


@pytest.mark.parametrize(("what", "residency"), [("full", "ram"), ("full", "disk"), ("damaged", "packed")])
def test_a_disk_that_fails_does_not_keep_memory_from_being_saved_elsewhere(
    what, residency, tmp_path, monkeypatch
):
    """Where the file cannot be flushed, or read any more, save_as writes what memory holds."""
    buffer = rv.ReplayBuffer(scalar_spec(), 96, path=tmp_path / "a.replay", residency=residency)
    grow(buffer, 120)

    def fail(*_: object) -> None:
        raise rv.FileError("a.replay: wanted something of the disk, got nothing; save elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(buffer.engine.changes.writer, "flush", fail)
        if what == "damaged":
            patch.setattr(buffer.engine.file, "meta", fail)
        buffer.save_as(tmp_path / "b.replay")
        grow(buffer, 5)
        buffer.save_as(tmp_path / "b.replay")
    assert holds(tmp_path / "b.replay") == 125
    is_whole(tmp_path / "b.replay")
    buffer.close()


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    """Whoever changes the current folder later still writes to the file, flushes and copies it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with rv.ReplayBuffer(scalar_spec(), 96, path="a.replay") as buffer:
        grow(buffer, 10)
        os.chdir(tmp_path / "other")
        grow(buffer, 10)
        buffer.flush()
        buffer.save_as("copy.replay")
    assert holds(tmp_path / "a.replay") == 20
    assert holds(tmp_path / "other" / "copy.replay") == 20


def test_a_reader_whose_file_was_replaced_says_so(tmp_path):
    """A reader does not go on with a file that is not the one of that name any more; of one deleted it does."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 96, path=path) as buffer:
        grow(buffer, 10)
        buffer.save_as(tmp_path / "b.replay")
    with rv.open(path, mode="r") as reader:
        path.unlink()
        assert len(reader) == 10
        reader.save_as(tmp_path / "c.replay")
        os.replace(tmp_path / "b.replay", path)
        with pytest.raises(rv.FileError, match=r"got another in its place.*open it again"):
            len(reader)
    assert holds(tmp_path / "c.replay") == 10
    assert holds(path) == 10


# --- odd places --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 236, "x" * 240, "x" * 255, "x" * 300, "ä" * 120, "a\0b"])
def test_a_name_that_is_too_long_is_refused_by_length(name, tmp_path):
    """Room is needed for the names of the log and of drafts; nothing is left behind."""
    for path in (tmp_path / name, tmp_path / "x" / ".." / name):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(
            rv.FileError, match=r"wanted a (name of at most|place for a new file).*; (choose|check)"
        ):
            rv.ReplayBuffer(scalar_spec(), 9, path=path)
        with pytest.raises(rv.FileError, match=r"wanted"):
            rv.open(path)
        buffer = rv.ReplayBuffer(scalar_spec(), 9)
        with pytest.raises(
            rv.FileError, match=r"wanted a (name of at most|path to write to|place).*; (choose|check)"
        ):
            buffer.save_as(path)
    assert os.listdir(tmp_path) == ["x"]


def test_a_name_as_long_as_may_be_works(tmp_path):
    """A name of 220 bytes is written, copied, read and killed like any other."""
    path = tmp_path / ("x" * 220)
    with rv.ReplayBuffer(scalar_spec(), 96, path=path) as buffer:
        grow(buffer, 10)
        buffer.save_as(tmp_path / ("y" * 220))
    assert holds(path) == holds(tmp_path / ("y" * 220)) == 10
    assert sorted(map(len, os.listdir(tmp_path))) == [220, 220]


@pytest.mark.parametrize("length", [493, 600, 5000])
def test_a_path_that_is_too_long_is_refused_by_length(length, tmp_path, monkeypatch):
    """SQLite takes paths of 504 bytes, log included; the system takes 4,096."""
    folder = os.fspath(tmp_path)
    monkeypatch.chdir(tmp_path)
    while len(folder) < length - 80:
        folder += "/" + "d" * 40
        if length < 4000:
            os.mkdir(folder)
    path = Path(f"{folder}/{'x' * (length - len(folder) - 1)}")
    with pytest.raises(rv.FileError, match=r"; (choose|check)") as told:
        rv.ReplayBuffer(scalar_spec(), 9, path=path)
    if length < 4000:
        assert "wanted a path of at most 492 bytes" in str(told.value)
    with pytest.raises(rv.FileError):
        rv.open(path)
    with pytest.raises(rv.FileError):
        rv.ReplayBuffer(scalar_spec(), 9).save_as(path)


def test_a_folder_that_may_not_be_entered_is_named(tmp_path):
    """No traceback: the error speaks of permissions, for making, opening and copying."""
    folder = tmp_path / "shut"
    folder.mkdir()
    rv.ReplayBuffer(scalar_spec(), 9, path=folder / "a.replay").close()
    reachable(tmp_path)
    folder.chmod(0)

    def work() -> None:
        os.chdir(tmp_path)
        as_nobody()
        for call in (lambda: rv.open("shut/a.replay"), lambda: rv.open("shut/a.replay", mode="r"),
                     lambda: rv.ReplayBuffer(scalar_spec(), 9, path="shut/b.replay"),
                     lambda: rv.ReplayBuffer(scalar_spec(), 9).save_as("shut/c.replay")):  # fmt: skip
            with pytest.raises(
                rv.FileError, match=r"got no permission; change the permissions of its folders"
            ):
                call()

    try:
        Child(work).wait()
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm", "-lock"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_something_odd_in_place_of_a_log_is_named_and_hangs_nobody(mode, suffix, kind, tmp_path):
    """A pipe, a folder or a link of a log's name is an error at once; of the lock file's name it is left alone."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 96, path=path) as buffer:
        grow(buffer, 10)
    odd = Path(f"{path}{suffix}")
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda odd: os.symlink("/dev/null", odd)}[kind](odd)
    if suffix == "-lock":
        assert holds(path, mode) == 10
        assert writing_process(path) is None
        assert os.path.lexists(odd)
        return
    with pytest.raises(
        rv.FileError, match=rf"got something that is no file at a\.replay{suffix}; remove that"
    ):
        rv.open(path, mode=mode)
    path.rename(tmp_path / "b.replay")
    with pytest.raises(rv.FileError, match=r"got something that is no file"):
        rv.ReplayBuffer(scalar_spec(), 96, path=path)
    assert not path.exists()
    (tmp_path / "b.replay").rename(path)
    os.rmdir(odd) if kind == "folder" else odd.unlink()
    assert holds(path, mode) == 10


def test_a_pipe_of_the_files_own_name_is_refused(tmp_path):
    """Nobody waits for a pipe, to read, to write or to copy there."""
    os.mkfifo(tmp_path / "a.replay")
    for mode in ("r", "r+"):
        with pytest.raises(rv.FileError, match=r"got a folder or device"):
            rv.open(tmp_path / "a.replay", mode=mode)
    with pytest.raises(rv.FileError, match=r"got a folder or device"):
        rv.ReplayBuffer(scalar_spec(), 9).save_as(tmp_path / "a.replay")


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[" * 900, b'{"pid": "1", "host": "h"}', b'{"pid": -1, "host": "h"}',
             b'{"pid": 1e99, "host": "h"}', b'{"pid": 1, "host": "\\u001b[31m"}', b"x" * 10_000_000]
)  # fmt: skip
def test_whatever_the_lock_file_says_is_harmless(note, tmp_path):
    """It is a note by a process that may be gone, or by anybody: a second writer is refused, nothing odd is shown."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 9, path=path):
        Path(f"{path}-lock").write_bytes(note)
        with pytest.raises(rv.FileError, match=r"only writer, got another process writing there"):
            rv.open(path)
    Path(f"{path}-lock").write_bytes(note)
    assert writing_process(path) is None
    rv.open(path).close()


# --- what SQLite says --------------------------------------------------------------------------------------


def failing(database: object, code: int, name: str) -> rv.FileError:
    """The error that a database makes of one of SQLite's."""
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return database._error(error)


def test_every_code_of_sqlite_has_a_meaning(tmp_path):
    """No code but those of damage is told as damage; what is not known is called unknown, with its code."""
    buffer = rv.ReplayBuffer(scalar_spec(), 9, path=tmp_path / "a.replay")
    codes = {name: getattr(sqlite3, name) for name in dir(sqlite3) if name.startswith("SQLITE_")
             and isinstance(getattr(sqlite3, name), int)}  # fmt: skip
    errors = {name: code for name, code in codes.items() if name.startswith(
        ("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL", "SQLITE_PERM",
         "SQLITE_NOMEM", "SQLITE_LOCKED", "SQLITE_INTERRUPT", "SQLITE_TOOBIG", "SQLITE_NOLFS", "SQLITE_AUTH"))}  # fmt: skip
    assert len(errors) > 40
    for name, code in errors.items():
        said = str(failing(buffer.engine.file.db, code, name))
        assert "wanted" in said
        assert ";" in said
        assert "damaged one" not in said, name
        assert "unknown" not in said, name
    assert "put it on a local disk" in str(failing(buffer.engine.file.db, 15, "SQLITE_PROTOCOL"))
    for name in ("SQLITE_MISUSE", "SQLITE_INTERNAL", "SQLITE_OF_TOMORROW"):
        said = str(failing(buffer.engine.file.db, 4321, name))
        assert "unknown" in said
        assert f"{name}, 4321" in said
    assert "damaged" in str(failing(buffer.engine.file.db, 11, "SQLITE_CORRUPT_INDEX"))
    buffer.close()


def test_a_connection_that_was_closed_meanwhile_is_a_closed_buffer(tmp_path):
    """Who asks a file that another thread has just closed gets BufferClosed, and no word of damage."""
    rv.ReplayBuffer(scalar_spec(), 9, path=tmp_path / "a.replay").close()
    reader = rv.open(tmp_path / "a.replay", mode="r")
    turn = reader.engine.turn
    reader.close()
    with pytest.raises(rv.BufferClosed, match=r"closed meanwhile"), turn:
        pass
