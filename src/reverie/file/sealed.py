"""All sealed runs of a buffer put into a file, the next ones packed while one is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from reverie.file.contents import Contents
from reverie.file.records import Blobs, RunRecord
from reverie.file.tables import Tables
from reverie.index import Runs
from reverie.store import Helpers

Known = dict[int, tuple[RunRecord, bytes]]  # number -> a run that a file has, and its checksums


class Span(NamedTuple):
    """The steps of one run."""

    stream: int
    first: int  # id
    steps: int


def spans_of(runs: Runs, stream: int, first: int, stop: int) -> Iterator[Span]:
    """Yield the runs of a stream from one id, at which a run begins, to another."""
    while first < stop:
        number, _ = runs.of_id(stream, first)
        yield Span(stream, first, runs.steps(number))
        first += runs.steps(number)


def put_runs(file: Tables, contents: Contents, spans: Iterable[Span], have: Known, is_still: bool) -> None:
    """Put runs, inside of a transaction, and take those that the file has already out of `have`.

    Args:
        file: where to.
        contents: makes them.
        spans: which.
        have: runs that may be in the file already; the same ones, byte for byte, are not written again.
        is_still: whether other threads may read them, because memory has all of them.
    """

    def packed(span: Span) -> tuple[RunRecord, Blobs, bytes]:
        run, blobs = contents.run(*span)
        return run, blobs, file.checksums_of(run, blobs)

    # SQLite writes one by one, and packing takes about as long.
    made = Helpers().ahead(packed, spans) if is_still else map(packed, spans)
    for run, blobs, crcs in made:
        if have.pop(run.number, None) != (run, crcs):
            file.put_run(run, blobs, crcs)
