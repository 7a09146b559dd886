"""Pieces of a batch: which rows of it each part gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch
from reverie.union.part import Answer

Ints = npt.NDArray[np.int64]
Arrays = dict[str, Any]


class Piece(NamedTuple):
    """What a part gave.

    Attributes:
        number: of the part.
        answer: what it answered.
        rows: which rows of its batch are meant; None: all.
    """

    number: int
    answer: Answer
    rows: Ints | None = None

    @property
    def size(self) -> int:
        """How many rows there are."""
        if self.answer.batch is None:
            return 0
        return len(self.answer.batch) if self.rows is None else len(self.rows)


def put_together(
    pieces: Sequence[Piece],
    rng: np.random.Generator,
    firsts: Ints,
    arrays: Arrays,
    arrays_of: Callable[[Batch], Arrays],
) -> None:
    """Copy the rows of all pieces to places of a batch, in random order.

    Args:
        pieces: together as many rows as the batch has.
        rng: where the order comes from.
        firsts: the number in the union of each part's first stream.
        arrays: those of the batch.
        arrays_of: returns those of a piece's batch.
    """
    size = len(arrays["stream"])
    places = rng.permutation(size) if len(pieces) > 1 else np.arange(size)
    for piece in pieces:
        here, places = places[: piece.size], places[piece.size :]
        if piece.answer.batch is not None:
            for name, array in arrays_of(piece.answer.batch).items():
                arrays[name][here] = array if piece.rows is None else array[piece.rows]
            arrays["stream"][here] += firsts[piece.number]
