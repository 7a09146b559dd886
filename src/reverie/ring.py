"""RAM residency: plain arrays in ring order, and the final observations beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episodes import Ints
from reverie.spec import Column

Array = npt.NDArray[Any]


class Ring:
    """The columns of every stream, `capacity` rows each, one behind the other.

    A slot is a row of these arrays: `stream * capacity + id % capacity`. The ring knows slots only.

    Args:
        columns: name and field of every column.
        rows: slots in all, streams times capacity.
    """

    __slots__ = ("_flat", "columns")

    def __init__(self, columns: Iterable[Column], rows: int) -> None:
        # zeros, not empty: the kernel hands out zero pages lazily, so nothing is committed before it is used.
        self.columns: dict[str, Array] = {
            column.name: np.zeros((rows, *column.field.shape), column.field.dtype) for column in columns
        }
        self._flat = {name: _as_items(array) for name, array in self.columns.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, whether committed yet or not."""
        return sum(array.nbytes for array in self.columns.values())

    def write(self, slot: int | Ints, values: Mapping[str, Any]) -> None:
        """Store one step, or one step for each of several slots."""
        for name, value in values.items():
            self.columns[name][slot] = value

    def gather(self, name: str, slots: Ints, out: Array) -> None:
        """Copy the rows at `slots` into `out`, whose leading axes are those of `slots`."""
        # Whole rows as single items: take then moves each with one memcpy, and mode="clip" lets it write
        # into `out` directly (the default would buffer all of it to be able to undo).
        np.take(self._flat[name], slots, out=_as_items(out, slots.shape), mode="clip")


class Finals:
    """Final observations, one per ended episode that gave one, in places that are used again.

    The arrays grow with the number of live episodes, by doubling: it is not known in advance.
    """

    __slots__ = ("_free", "columns")

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns: dict[str, Array] = {
            column.name: np.empty((0, *column.field.shape), column.field.dtype) for column in columns
        }
        self._free: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays now."""
        return sum(array.nbytes for array in self.columns.values())

    def put(self, values: Mapping[str, Any]) -> int:
        """Store one final observation and return its place."""
        if not self._free:
            self._grow()
        place = self._free[-1]
        for name, array in self.columns.items():
            array[place] = values[name]
        self._free.pop()
        return place

    def release(self, places: Iterable[int]) -> None:
        """Let these places be used again."""
        self._free.extend(places)

    def _grow(self) -> None:
        grown = {}
        for name, array in self.columns.items():
            old = len(array)
            grown[name] = np.empty((max(2 * old, 8), *array.shape[1:]), array.dtype)
            grown[name][:old] = array
        # All columns first, then the swap: running out of memory half way leaves the old ones in force.
        self.columns = grown
        self._free.extend(range(max(2 * old, 8) - 1, old - 1, -1))


def _as_items(array: Array, lead: tuple[int, ...] | None = None) -> Array:
    """View each row of a C-contiguous array as one opaque item, with leading axes `lead` (default: one)."""
    lead = array.shape[:1] if lead is None else lead
    width = array.dtype.itemsize
    for axis in array.shape[len(lead) :]:
        width *= axis
    # Items of a plain number's size stay numbers: take has a faster loop for them.
    kind = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}.get(width, f"V{width}")
    return array.reshape(-1).view(kind).reshape(lead)
