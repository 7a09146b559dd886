"""One SQLite database: transactions, waits for the disk, and the log that it is written through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reverie.errors import FileError
from reverie.file.connection import BUSY_S, Connection
from reverie.file.log import is_base, mark_on, new_base
from reverie.file.place import Inode, inode

# Pages in the log before it is emptied into the file: fewer, larger waits for the disk.
CHECKPOINT_PAGES = 4000


class Database(Connection):
    """A connection whose file may be written, in transactions; arguments and errors are the connection's."""

    def __init__(self, path: Path, mode: str, place: Path) -> None:
        super().__init__(path, mode, place)
        self._log_inode: Inode | None = None
        self._unmarked = False  # whether the next transaction begins a log
        self._limit = self._most_bytes = 0  # of the log before it is emptied; 0: there is no log
        self._least_bytes = 0  # of the file, which does not shrink unless another program cuts it

    def keep_log(self) -> None:
        """Write through a log that outlives a killed process, and is synced when it moves into the file."""
        if self.one("PRAGMA journal_mode = WAL") != "wal":
            raise FileError(
                f"{self.path}: wanted a log beside the file, got a system where SQLite cannot keep one; "
                f"put the file on a local disk"
            )
        self.do("PRAGMA synchronous = NORMAL")
        # Some systems have it on: then each page that a run leaves is written once more.
        self.do("PRAGMA secure_delete = OFF")
        self.do("PRAGMA wal_autocheckpoint = 0")  # `check` does it: each log is to begin with a mark
        self._log_inode = inode(self._log)
        self._limit = self._most_bytes = CHECKPOINT_PAGES * int(self.one("PRAGMA page_size"))
        self._measure()
        self._unmarked = True  # what a killed process left may have a mark, and may be no valid log at all

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written inside is in the file afterwards, or none of it."""
        self.check()
        try:
            self.do("BEGIN IMMEDIATE")
            yield
            self.do("COMMIT")
        except BaseException:
            self.roll_back()
            raise

    def begin(self) -> None:
        """Read all that follows of one moment, whatever a writer does meanwhile, until `roll_back`."""
        self.do("BEGIN")
        self.rows("SELECT 1 FROM meta LIMIT 1")  # the moment is that of the first read
        file, log = inode(self._name), inode(self._log)
        if self._log_inode is None:  # SQLite has it open since that read
            self._log_inode = log
        if file not in (self._inode, None) or log not in (self._log_inode, None):
            raise FileError(
                f"{self.path}: wanted the file that was opened, got another in its place, or another log; "
                f"open it again"
            )

    def name_base(self) -> None:
        """Give the file a new number that the next log will name; inside of the last transaction before it."""
        self.do(f"PRAGMA schema_version = {new_base()}")

    def add_table(self, sql: str) -> None:
        """Make a table, inside of a transaction. The number that the log begins with stays odd, and so no base."""
        number = int(self.one("PRAGMA schema_version"))
        self.do(sql)
        self.do(f"PRAGMA schema_version = {number + 2}")

    @property
    def lacks_log(self) -> bool:
        """Whether no log was there when the file was opened, and none has moved into it since it was emptied."""
        return self.found_log is None and is_base(int(self.one("PRAGMA schema_version")))

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """As `writing`, and afterwards the file alone, without its log, holds all that was ever written.

        Raises:
            FileError: a reader keeps the log from being emptied. Then file and log together hold all of it, and
                it survives a loss of power.
        """
        self.check()
        self.do("PRAGMA synchronous = FULL")  # this commit syncs the log, and with it all that came before
        try:
            with self.writing():
                yield
                self.name_base()
            if not self._empty():
                raise FileError(
                    f"{self.path}: wanted to move its log into the file, got a reader that holds an older moment "
                    f"of it; let that one finish, and flush again"
                )
        finally:
            with suppress(FileError):  # a second interrupt may have left the transaction open
                self.do("PRAGMA synchronous = NORMAL")

    @contextmanager
    def drafting(self) -> Iterator[None]:
        """As `syncing`, for a new file that nobody else has, and that is thrown away if anything goes wrong.

        Its pages are written once, where they are to lie, since no log has to keep what was there before.
        """
        self._unmarked = False  # there will be no log that needs a mark
        self.check()
        # What SQLite needs to roll back it keeps in memory: next to nothing, of a file that grows.
        if self.one("PRAGMA journal_mode = MEMORY") != "memory":
            raise FileError(f"{self.path}: wanted its draft alone, got another who reads it; save it again")
        self._most_bytes = 0  # there is no log
        self.do("PRAGMA synchronous = FULL")
        with self.writing():
            yield
            self.name_base()
        self.keep_log()

    def _empty(self) -> bool:
        """Move the log into the file, and return whether it is empty now: a reader may be in the way."""
        self._unmarked = True
        if not self._most_bytes:
            return True
        busy, _, _ = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        self._most_bytes = self._limit
        self._measure()
        return not busy

    def _shorten(self, size: int) -> None:
        """Empty a log that has become long, unless somebody is in the way; then when it has grown again."""
        with suppress(FileError):  # what cannot be moved stays in the log
            self.do("PRAGMA busy_timeout = 0")
            try:
                self.name_base()
                if self._empty():
                    return
            finally:
                self.do(f"PRAGMA busy_timeout = {int(1000 * BUSY_S)}")
        self._most_bytes = size + size // 8

    def _mark(self) -> None:
        """Begin a log: name in it the file that it is built on."""
        mark = mark_on(int(self.one("PRAGMA schema_version")))
        if mark is not None:
            self.do(f"PRAGMA schema_version = {mark}")
        self._unmarked = False

    # --- what there is ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """A number that changes whenever another connection has written."""
        return int(self.one("PRAGMA data_version"))

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something; the rest is used again before the file grows."""
        pages = self.one("PRAGMA page_count") - self.one("PRAGMA freelist_count")
        return int(pages * self.one("PRAGMA page_size"))

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with its own structures."""
        return [text for (text,) in self.each("PRAGMA integrity_check") if text != "ok"]

    @property
    def is_astray(self) -> bool:
        """Whether the file or its log is not the one that was opened any more."""
        log = inode(self._log)
        follows = log is None and self.mode == "r"  # a reader has it open still, and nobody writes another
        return self._has_gone() or not (follows or log == self._log_inode)

    def _measure(self) -> None:
        with suppress(OSError):  # it has gone, which the next change finds out
            self._least_bytes = os.stat(self._name).st_size

    def _has_gone(self) -> bool:
        """Whether the file is not at its place any more, or was cut short there, as by a copy over it."""
        try:
            found = os.stat(self._name)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._inode or found.st_size < self._least_bytes

    def check(self) -> None:
        """Refuse to write into what is no longer there, or through a connection that a fork copied."""
        self._here()
        self.roll_back()  # of what an interrupt left
        if self._has_gone():
            raise FileError(
                f"{self.path}: wanted the file that was opened, got none or another in its place; "
                f"keep what is in memory with save_as"
            )
        if not self._most_bytes:
            return
        try:
            log = os.stat(self._log)
        except OSError:
            log = None
        if log is None or (log.st_dev, log.st_ino) != self._log_inode:
            raise FileError(
                f"{self.path}: wanted the log that was opened, got none or another at {self.place.name}-wal; "
                f"keep what is in memory with save_as"
            )
        if log.st_size > self._most_bytes:
            self._shorten(log.st_size)
        if self._unmarked:
            self._mark()
