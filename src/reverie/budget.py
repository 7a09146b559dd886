"""Holds a buffer to a number of bytes: the oldest runs go first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reverie.episodes import EpisodeIndex
from reverie.runs import RUN, Runs
from reverie.stores import FinalStore, Store


class Budget:
    """Lets go of old runs before new ones begin.

    Args:
        limit: bytes that `used` may come to.
        used: bytes taken now.
        run_bytes: most bytes that one run may come to take, final observations included.
        drop: forgets a run by number wherever else it is kept.
        index, store, finals: the buffer's memory.
    """

    def __init__(self, limit: int, used: Callable[[], int], run_bytes: int, drop: Callable[[int], None],
                 index: EpisodeIndex, store: Store, finals: FinalStore) -> None:  # fmt: skip
        self._limit = limit
        self._used = used
        self._run_bytes = run_bytes
        self._drop = drop
        self._index = index
        self._store = store
        self._finals = finals
        self._runs = Runs(index.streams, index.capacity)

    def make_room(self, streams: Sequence[int]) -> None:
        """Make room for the runs that begin with the next step of each of `streams`."""
        beginning = sum(self._runs.of_id(stream, self._index.head.item(stream))[1] == 0 for stream in streams)
        while beginning and self._used() + beginning * self._run_bytes > self._limit and self._let_go():
            pass

    def _let_go(self) -> bool:
        """Evict the oldest run of the stream that holds the most steps, unless it has but its newest ones."""
        index = self._index
        stream = int((index.head - index.tail).argmax())
        tail, head = index.tail.item(stream), index.head.item(stream)
        number, row = self._runs.of_id(stream, tail)
        after = tail - row + self._runs.rows(number)
        if head - after <= RUN:  # at least one sealed run stays, to tell where the stream stands
            return False
        self._finals.release(index.evict(stream, after))
        self._store.drop_run(number)
        self._drop(number)
        return True
