"""The limits of drawing small windows: copies of the same bytes, of all fields, and of observations alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Row, rows_beside
from benchmarks.own.buffers import ACTION

Array = npt.NDArray[Any]
WIDTH = 17  # floats of an observation
SLOTS = 1024  # choices of windows that are prepared, so that the limit is copying alone
KINDS = ("all fields", "observations alone")  # the bounds stand beside the first


class Copies:
    """Copies of windows into arrays that exist, each call of other windows: none is in the cache still.

    Args:
        starts: (SLOTS, B) where the windows of a call begin.
        length: steps of each.
        held: what is stored; only of the first of these fields the row behind a window is copied, too.
    """

    def __init__(self, starts: npt.NDArray[np.int64], length: int, held: Sequence[Array]) -> None:
        rows = starts[:, :, None] + np.arange(length + 1)
        self._starts, self._slots = starts.tolist(), list(rows)
        self._steps = list(np.ascontiguousarray(rows[:, :, :length]))
        counts = [length + 1] + [length] * (len(held) - 1)
        self._fields = [
            (field, np.empty((starts.shape[1], count, *field.shape[1:]), field.dtype), count)
            for field, count in zip(held, counts, strict=True)
        ]
        self._turns = iter(range(10**9))

    def take(self) -> None:
        """Take all rows of a field at once."""
        number = next(self._turns) % SLOTS
        slots = self._slots[number]
        for field, target, _ in self._fields:
            field.take(slots, 0, target, "clip")
            slots = self._steps[number]

    def slices(self) -> None:
        """Copy window by window."""
        for row, start in enumerate(self._starts[next(self._turns) % SLOTS]):
            for field, target, count in self._fields:
                target[row] = field[start : start + count]


class Limits:
    """Both ways in which NumPy copies windows of both kinds; of a kind the faster way counts.

    Args:
        steps: that are stored.
        batch, length: windows, and steps of each.
    """

    def __init__(self, steps: int, batch: int, length: int) -> None:
        rng = np.random.default_rng(1)
        shapes: tuple[tuple[int, ...], ...] = ((steps, WIDTH), (steps, ACTION), (steps,))
        held = [rng.random(shape, np.float32) for shape in shapes]
        self._calls: dict[str, Callable[[], float | None]] = {}
        for kind, fields in zip(KINDS, (held, held[:1]), strict=True):
            copies = Copies(rng.integers(0, steps - length - 1, (SLOTS, batch)), length, fields)
            self._calls |= {f"take of {kind}": copies.take, f"slices of {kind}": copies.slices}

    def calls(self) -> dict[str, Callable[[], float | None]]:
        """Return what copies, by name."""
        return self._calls

    def rows(self, seconds: Mapping[str, Array], bounds: Mapping[str, float | None]) -> list[Row]:
        """Return rows of the other calls that were timed, beside each kind of copies; bounds are those by name."""
        rows = []
        for kind in KINDS:
            ways = [name for name in self._calls if name.endswith(kind)]
            limit = min(ways, key=lambda name: float(np.median(seconds[name])))
            shown = {
                name: times for name, times in seconds.items() if name == limit or name not in self._calls
            }
            beside = rows_beside(shown, limit, dict(bounds) if kind == KINDS[0] else {})
            rows += [replace(row, name=f"{row.name}; {limit}") for row in beside]
        return rows
