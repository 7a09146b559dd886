"""Memory of a learner that shards on its machine write batches to: then Ray carries a few words, and no frames.

A shard may be asked the same thing twice, and may answer when nobody waits any more. So each time that a block is lent
has a number, and a shard writes to it once for each, and never for an older one. Two processes of one shard cannot both
write: only the one that has its file locked draws.
"""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch
from reverie.engine import Layout
from reverie.store import Blocks, leased

Bytes = npt.NDArray[np.uint8]
LENT_FROM = 32 * 1024  # bytes of a batch: what is smaller travels in the answer itself
KEPT = 4  # blocks that wait to be lent again
MOST_TOO_LARGE = 16  # times what is wanted: one that is larger would be kept for one large batch long ago


class Loan(NamedTuple):
    """How a shard finds a block.

    Attributes:
        place: a path of the learner's open file, good on its machine alone.
        name: of the file; no other has it, so it shows whether this is the learner's machine.
        nbytes: of the block. turn: how often it was lent.
    """

    place: str
    name: str
    nbytes: int
    turn: int


class Lent:
    """A block of memory that other processes of this user can write to. It goes with the last process that holds it.

    Raises:
        OSError: the system does not give one.
    """

    def __init__(self, nbytes: int) -> None:
        name = f"reverie-{secrets.token_hex(16)}"
        file = os.memfd_create(name)
        weakref.finalize(self, os.close, file)
        os.ftruncate(file, nbytes)
        self._memory = np.frombuffer(mmap.mmap(file, nbytes), np.uint8)
        self.loan = Loan(f"/proc/{os.getpid()}/fd/{file}", name, nbytes, 0)

    def again(self) -> None:
        """Begin a new turn."""
        self.loan = self.loan._replace(turn=self.loan.turn + 1)

    def view(self, free: deque[Lent], nbytes: int) -> Bytes:
        """Return the first bytes; the block is free once no array looks at them."""
        return leased(self._memory, nbytes, free.append, self)


class Lender:
    """Lends memory to one shard.

    Attributes:
        near: whether the shard is believed to be on this machine.
    """

    def __init__(self) -> None:
        self.near = True
        self._free: deque[Lent] = deque(maxlen=KEPT)

    def lend(self, nbytes: int) -> Lent | None:
        """Return a block of at least so many bytes, or None where the answer is better sent."""
        if not self.near or nbytes < LENT_FROM or not hasattr(os, "memfd_create"):
            return None
        for _ in range(len(self._free)):
            lent = self._free.popleft()
            if nbytes <= lent.loan.nbytes <= nbytes * MOST_TOO_LARGE:
                lent.again()
                return lent
            self._free.append(lent)
        try:
            return Lent(1 << (nbytes - 1).bit_length())  # pages that nobody writes to cost nothing
        except OSError:  # Ray carries the bytes instead
            self.near = False
            return None

    def opened(self, layout: Layout, lent: Lent | None, sent: Bytes | None) -> Batch:
        """Return the batch that a shard made, whether it was sent or lies in what was lent.

        It is to be copied. What was sent is read-only, and fills Ray's store until then; its weights are copies.
        """
        if sent is None:
            assert lent is not None
            return layout.over(lent.view(self._free, layout.nbytes))
        if lent is not None:  # the shard cannot get at it
            self.near = False
        batch = layout.over(sent)
        arrays = layout.arrays(batch)
        return layout.build({**arrays, "weight": arrays["weight"].copy()})

    def returned(self, lent: Lent | None) -> None:
        """Take back a block to which the shard had nothing to write."""
        if lent is not None:
            self._free.append(lent)


class Tray:
    """Where a shard lays its next batch: in what a learner lent, or in a block of its own that Ray carries."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._mapped: dict[str, tuple[Loan, Bytes]] = {}  # by name; the loan is the last one
        self._room: Bytes | None = None
        self._own: Bytes | None = None

    def use(self, loan: Loan | None) -> None:
        """Lay the next batch there, if it can be reached."""
        self._own, self._room = None, None if loan is None else self._found(loan)

    def allocate(self, layout: Layout) -> Batch:
        """Return a batch with unknown content."""
        room, self._room = self._room, None
        if room is not None and layout.nbytes <= len(room):
            return layout.over(room[: layout.nbytes])
        self._own = self._blocks.take(layout.nbytes)
        return layout.over(self._own)

    def to_send(self) -> Bytes | None:
        """Return the block that Ray is to carry; None: the learner has it."""
        own, self._own = self._own, None
        return own

    def _found(self, loan: Loan) -> Bytes | None:
        last, memory = self._mapped.get(loan.name, (None, None))
        if last is None or memory is None:
            # Memory of learners that are gone would stay for as long as it is mapped here.
            self._mapped = {name: one for name, one in self._mapped.items() if is_there(one[0])}
            memory = mapped(loan)
        elif loan.turn <= last.turn:
            return None
        if memory is not None:
            self._mapped[loan.name] = loan, memory
        return memory


def is_there(loan: Loan) -> bool:
    """Return whether this is the learner's machine, and it still has the block."""
    try:
        return loan.name in os.readlink(loan.place)
    except OSError:
        return False


def mapped(loan: Loan) -> Bytes | None:
    """Return the memory of a loan, or None if it cannot be reached from here."""
    if not is_there(loan):
        return None
    try:
        file = os.open(loan.place, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:  # the learner may have closed it meanwhile, and opened another file in its place
        if loan.name not in os.readlink(f"/proc/self/fd/{file}"):
            return None
        return np.frombuffer(mmap.mmap(file, loan.nbytes), np.uint8)
    except OSError:
        return None
    finally:
        os.close(file)
