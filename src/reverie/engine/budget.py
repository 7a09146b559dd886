"""Holds a buffer to a number of bytes: the oldest runs go first."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.file import FinalStore, ReplayFile, Settings, Store
from reverie.index import NO_FINAL, RUN, EpisodeIndex, Eviction, Ints
from reverie.store import PackedFinals, PackedRing


class Budget:
    """Chooses the runs that have to go before new ones begin. It changes nothing in memory.

    Args:
        settings: of the buffer: how many bytes `used` may come to, and how many a run may come to take.
        index, store, finals: the buffer's memory.
        file: the replay file, or None.
    """

    def __init__(
        self,
        settings: Settings,
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        file: ReplayFile | None,
    ) -> None:
        assert settings.max_bytes is not None
        assert isinstance(store, PackedRing)
        assert isinstance(finals, PackedFinals)
        self._limit, self._run_bytes = settings.max_bytes, settings.raw_run_bytes
        self._index, self._store, self._finals = index, store, finals
        self._file = file
        self._counted = (
            file if settings.residency == "disk" else None
        )  # the file whose bytes count, if they do

    def used(self) -> int:
        """Return the bytes taken now, of the file or of memory."""
        if self._counted is not None:
            return self._counted.db.used_bytes
        return self._store.nbytes + self._index.nbytes + self._finals.nbytes

    def beginning(self, streams: Sequence[int]) -> int:
        """Return how many of these streams begin a run with their next step."""
        index = self._index
        return sum(index.runs.of_id(stream, index.head.item(stream))[1] == 0 for stream in streams)

    def evictions(self, beginning: int) -> list[Eviction]:
        """Return what has to go before so many runs begin.

        Where there is a file, the runs are dropped there, inside of the caller's transaction.
        """
        wanted, freed, tails = beginning * self._run_bytes, 0, self._index.tail.copy()
        chosen: list[Eviction] = []
        while beginning and self.used() - freed + wanted > self._limit:
            eviction = self._oldest(tails)
            if eviction is None:
                break
            chosen.append(eviction)
            if self._counted is None:
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
        number, row = self._index.runs.of_id(stream, tail)
        after = tail - row + self._index.runs.steps(number)
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
