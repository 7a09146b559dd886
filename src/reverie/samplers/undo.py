"""What a sampler's arrays held, for when a draw or an update is interrupted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index import Ints


class Undo:
    """What places of arrays held before they were changed, since the last `mark`.

    Before the first `mark` nothing is kept. A copy or a pickle keeps nothing either.
    """

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: list[tuple[npt.NDArray[Any], Ints, npt.NDArray[Any]]] | None = None

    def __reduce__(self) -> Any:
        return type(self), ()

    def mark(self) -> None:
        """Forget all, and keep what is changed from here on."""
        self._changes = []

    def about_to_change(self, array: npt.NDArray[Any], places: Ints) -> npt.NDArray[Any]:
        """Keep and return what these places hold."""
        before = array.take(places)
        if self._changes is not None:
            self._changes.append((array, places, before))
        return before

    def rewind(self) -> Ints:
        """Put everything back; return the places, some of them several times."""
        changes = self._changes or []
        for array, places, values in reversed(changes):
            array[places] = values
        return np.concatenate([np.zeros(0, np.int64), *(places for _, places, _ in changes)])
