"""Final observations, packed one by one: in memory, or in the file once their episode's row is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.spec import Column
from reverie.store.codec import pack, unpack, unreadable

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Packed = Mapping[str, bytes]


class PackedFinals:
    """Final observations, each packed by itself. Has the face of `Finals`.

    Args:
        columns: the observation's columns.
        shelf: from a column and an episode's number to the packed final observation in the file, which then
            need not be kept in memory, too. None keeps all in memory.
    """

    def __init__(self, columns: Sequence[Column], shelf: Callable[[str, int], bytes] | None = None) -> None:
        self._fields = {column.name: column.field for column in columns}
        self._shelf = shelf
        self._packed: list[Packed | int | None] = []  # slot -> packed columns, or an episode's number
        self._free: list[int] = []
        self.nbytes = 0

    def put(self, values: Mapping[str, Any]) -> int:
        """Store one final observation and return its slot."""
        packed = {
            name: pack(np.ascontiguousarray(np.asarray(values[name]), field.dtype))
            for name, field in self._fields.items()
        }
        return self._keep(packed)

    def load(self, number: int | None, packed: Packed) -> int:
        """Take a final observation as `packed` gave it, and return its slot.

        Args:
            number: of the episode whose row in the file has it; None if no such row has it yet.
            packed: the packed columns.
        """
        return self._keep(packed if self._shelf is None or number is None else number)

    def _keep(self, packed: Packed | int) -> int:
        slot = self._free.pop() if self._free else len(self._packed)
        if slot == len(self._packed):
            self._packed.append(None)
        self._packed[slot] = packed
        self.nbytes += self.size(slot)
        return slot

    def release(self, slots: Iterable[int]) -> None:
        """Let these slots be used again."""
        for slot in slots:
            self._let_go(slot, None)
            self._free.append(slot)

    def retain(self, slots: Ints) -> None:
        """Let all slots but these be used again, whatever an interrupt left."""
        kept = set(slots.tolist())
        for slot in range(len(self._packed)):
            if slot not in kept:
                self._packed[slot] = None
        self._free = [slot for slot in range(len(self._packed) - 1, -1, -1) if slot not in kept]
        self.nbytes = sum(map(self.size, kept))

    def size(self, slot: int) -> int:
        """Return how many bytes of memory the final observation at `slot` takes."""
        packed = self._packed[slot]
        return 0 if packed is None or isinstance(packed, int) else sum(map(len, packed.values()))

    def filed(self, slot: int, number: int) -> None:
        """Take note that the file has it now, in the row of this episode."""
        if self._shelf is not None:
            self._let_go(slot, number)

    def _let_go(self, slot: int, instead: int | None) -> None:
        self.nbytes -= self.size(slot)
        self._packed[slot] = instead

    def packed(self, slot: int) -> Packed:
        """Return the final observation at `slot`, packed, by column."""
        return {name: self._at(slot, name) for name in self._fields}

    def gather(self, name: str, slots: Ints) -> Array:
        """Return the final observations at `slots`, one row each."""
        field = self._fields[name]
        rows = np.empty((len(slots), *field.shape), field.dtype)
        for row, slot in enumerate(slots.tolist()):
            try:
                rows[row] = unpack(self._at(slot, name), field.shape, field.dtype)
            except ValueError as error:
                raise unreadable(f"final observation, column {name!r}", error) from error
        return rows

    def _at(self, slot: int, name: str) -> bytes:
        packed = self._packed[slot]
        assert packed is not None, "only slots in use are asked for"
        if isinstance(packed, int):
            assert self._shelf is not None
            return self._shelf(name, packed)
        return packed[name]
