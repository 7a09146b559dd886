"""Holds a buffer to a number of bytes: the oldest runs go first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reverie.file import FinalStore, ReplayFile, Store
from reverie.index import NO_FINAL, RUN, EpisodeIndex, Eviction, Ints
from reverie.store import PackedFinals, PackedRing


class Budget:
    """Chooses the runs that have to go before new ones begin. It changes nothing in memory.

    Args:
        limit: bytes that `used` may come to.
        used: bytes taken now.
        run_bytes: most bytes that one run may come to take, final observations included.
        index, store, finals: the buffer's memory.
        file: the replay file, or None.
        counts_file: whether the bytes are those of the file.
    """

    def __init__(
        self,
        limit: int,
        used: Callable[[], int],
        run_bytes: int,
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        file: ReplayFile | None,
        counts_file: bool,
    ) -> None:
        assert isinstance(store, PackedRing)
        assert isinstance(finals, PackedFinals)
        self._limit = limit
        self._used = used
        self._run_bytes = run_bytes
        self._index, self._store, self._finals = index, store, finals
        self._file = file
        self._counts_file = counts_file
        self._runs = index.runs

    def is_asked(self, streams: Sequence[int]) -> bool:
        """Whether the next step of one of these streams begins a run."""
        return any(self._runs.of_id(stream, self._index.head.item(stream))[1] == 0 for stream in streams)

    def evictions(self, streams: Sequence[int]) -> list[Eviction]:
        """Return what has to go before the next step of each of `streams`.

        Where there is a file, the runs are dropped there, inside of the caller's transaction.
        """
        index = self._index
        beginning = sum(self._runs.of_id(stream, index.head.item(stream))[1] == 0 for stream in streams)
        wanted, freed, tails = beginning * self._run_bytes, 0, index.tail.copy()
        chosen: list[Eviction] = []
        while beginning and self._used() - freed + wanted > self._limit:
            eviction = self._oldest(tails)
            if eviction is None:
                break
            chosen.append(eviction)
            if not self._counts_file:
                freed += self._freed(eviction, tails.item(eviction.stream))
            if self._file is not None:
                self._file.drop_run(eviction.run)
            tails[eviction.stream] = eviction.tail
        return chosen

    def _oldest(self, tails: Ints) -> Eviction | None:
        """Return the oldest run of the stream that holds the most steps, unless it has but its newest ones."""
        index = self._index
        stream = int((index.head - tails).argmax())
        tail, head = tails.item(stream), index.head.item(stream)
        number, row = self._runs.of_id(stream, tail)
        after = tail - row + self._runs.steps(number)
        if head - after <= RUN:  # at least one sealed run stays, to tell where the stream stands
            return None
        return Eviction(stream, after, number)

    def _freed(self, eviction: Eviction, tail: int) -> int:
        """Return the bytes of memory that an eviction frees."""
        index, stream = self._index, eviction.stream
        freed = self._store.run_nbytes(eviction.run)
        for ordinal in range(index.dropped.item(stream), index.begun.item(stream)):
            row = index.episode_of(stream, ordinal)
            if not index.ended.item(row) or index.stop.item(row) > eviction.tail:
                break
            if index.stop.item(row) > tail and index.final_slot.item(row) != NO_FINAL:
                freed += self._finals.size(index.final_slot.item(row))
        return freed
