"""Columns on a device: the rows of a ring and the final observations beside them, and values derived from both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from reverie.errors import SpecMismatch
from reverie.index import Ints
from reverie.torch.tensors import in_words, word_of

# An address is what stands in a plan: 0 for padding, slot + 1 for a step, and beyond these one for each
# final observation. Row 0 of every column is zero, so padding is gathered like everything else.
PADDING = 0
DERIVED_AT_ONCE = 1024  # observations in one call of a derived column's function


class Plan(NamedTuple):
    """Which rows to gather: integers on the device.

    Attributes:
        rows: (N,) int64; rows of the ring, PADDING where there is none or a final observation belongs.
        at, places: (M,) int64; where final observations belong, and which ones; None when there is none.
    """

    rows: torch.Tensor
    at: torch.Tensor | None
    places: torch.Tensor | None


class DeviceColumn:
    """One column of every stream on a device, and its final observations.

    Args:
        slots: rows of the ring, over all streams.
        shape: of one row; () for a scalar.
        dtype: of its elements.
        device: where it lies.
    """

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        nbytes = math.prod(shape) * dtype.itemsize
        self._word = word_of(nbytes)
        self._width = nbytes // self._word.itemsize
        self._rows = torch.zeros((slots + 1, self._width), dtype=self._word, device=device)
        self._finals = torch.empty((0, self._width), dtype=self._word, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._rows.nbytes + self._finals.nbytes

    def put(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Store one value for each of these rows."""
        self._rows.index_copy_(0, rows, in_words(values))

    def put_finals(self, places: torch.Tensor, values: torch.Tensor) -> None:
        """Store final observations in these places; `make_room` was called for the highest one."""
        self._finals.index_copy_(0, places, in_words(values))

    def make_room(self, places: int) -> None:
        """Make room for final observations in `places` places, by doubling."""
        if places > len(self._finals):
            grown = self._finals.new_zeros((max(places, 2 * len(self._finals), 8), self._width))
            grown[: len(self._finals)] = self._finals
            self._finals = grown

    def gather(self, plan: Plan) -> torch.Tensor:
        """Return the planned rows, (N, …)."""
        out = self._rows.index_select(0, plan.rows)
        if plan.at is not None and plan.places is not None:
            out.index_copy_(0, plan.at, self._finals.index_select(0, plan.places))
        return self._as_values(out)

    def gather_finals(self, places: torch.Tensor) -> torch.Tensor:
        """Return the final observations in these places, (N, …)."""
        return self._as_values(self._finals.index_select(0, places))

    def _as_values(self, words: torch.Tensor) -> torch.Tensor:
        return words.view(self.dtype).view(len(words), *self.shape)


class Derived:
    """A column whose values a function makes from observations, and which of them are still good.

    Args:
        name: for messages.
        fn: maps observations (N, …), or a dict of such, to values (N, *shape).
        column: keeps the values.
        slots: rows of the ring.
    """

    def __init__(
        self, name: str, fn: Callable[[Any], torch.Tensor], column: DeviceColumn, slots: int
    ) -> None:
        self.column = column
        self.version = 1
        self._name = name
        self._fn = fn
        self._made = np.zeros(slots + 1, np.int64)  # row -> the version its value was made at; 0: not yet
        self._made_finals = np.zeros(0, np.int64)  # place -> likewise

    def forget(self, rows: Ints) -> None:
        """Note that these rows hold other observations now."""
        self._made[rows] = 0

    def forget_finals(self, places: Ints, room: int) -> None:
        """Note that these places hold other observations now, and that there are `room` places."""
        self.column.make_room(room)
        more = room - len(self._made_finals)
        self._made_finals = np.concatenate([self._made_finals, np.zeros(max(more, 0), np.int64)])
        self._made_finals[places] = 0

    def make(self, rows: Ints, places: Ints, look: Callable[[Ints | None, Ints | None], Any]) -> None:
        """Make the values of these rows and places that are missing or stale.

        `look(rows, None)` and `look(None, places)` return observations on the device.
        """
        missing = np.unique(rows[self._made[rows] != self.version])
        for first in range(0, len(missing), DERIVED_AT_ONCE):
            part = missing[first : first + DERIVED_AT_ONCE]
            values = self._values(look(part, None), len(part))
            self.column.put(torch.from_numpy(part).to(values.device), values)
            self._made[part] = self.version
        missing = np.unique(places[self._made_finals[places] != self.version])
        for first in range(0, len(missing), DERIVED_AT_ONCE):
            part = missing[first : first + DERIVED_AT_ONCE]
            values = self._values(look(None, part), len(part))
            self.column.put_finals(torch.from_numpy(part).to(values.device), values)
            self._made_finals[part] = self.version

    def _values(self, observations: Any, count: int) -> torch.Tensor:
        with torch.no_grad():
            values = self._fn(observations)
        column = self.column
        want = (count, *column.shape)
        if not isinstance(values, torch.Tensor) or values.shape != want or values.dtype != column.dtype:
            got = (
                f"{values.dtype} of shape {tuple(values.shape)}"
                if isinstance(values, torch.Tensor)
                else f"{type(values).__name__}"
            )
            raise SpecMismatch(
                f"derived column {self._name!r}: wanted {column.dtype} of shape {want}, got {got}; "
                f"let its function return what derive() was told"
            )
        return values.detach()
