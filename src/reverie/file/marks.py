"""What a replay file is known to have of each stream."""

from __future__ import annotations

import numpy as np

from reverie.file.tables import Tables
from reverie.index import EpisodeIndex, Ints


class Marks:
    """What the file is known to have of each stream: notes that save work, and can be taken anew.

    Attributes:
        sealed: stream -> the first id of the run that is not sealed yet.
        filed: stream -> one past the last id that the file has.
        kept: stream -> the first episode that the file may not know to its end.
        dropped: stream -> the first episode that the file may have.
        put: stream -> head, episodes begun, running episode as they were when all of them was put into the file.
        rewrites: how often steps were rewritten.
    """

    def __init__(self, index: EpisodeIndex, rewrites: int) -> None:
        self._index = index
        self.sealed, self.filed, self.kept = index.head.copy(), index.head.copy(), index.begun.copy()
        self.dropped = np.zeros(index.streams, np.int64)
        self.put = np.full((3, index.streams), -1)
        self.rewrites = rewrites

    def _now(self) -> Ints:
        return np.stack([self._index.head, self._index.begun, self._index.open_episode])

    def changed(self) -> list[int]:
        """Return the streams of which memory may hold what the file has not."""
        found: list[int] = np.flatnonzero((self._now() != self.put).any(axis=0)).tolist()
        return found

    def begins_run(self, stream: int) -> bool:
        """Whether the stream's next step is the first of a run, and the one before is yet to be sealed."""
        head = self._index.head.item(stream)
        return head > self.sealed.item(stream) and self._index.runs.first_of(head) == head

    def first_to_put(self, stream: int) -> int:
        """Return the first episode that is live, and that the file may not know to its end."""
        return max(self.kept.item(stream), self._index.dropped.item(stream))

    def put_all(self) -> None:
        """Take note that the file has all that memory holds."""
        self.filed[:] = self._index.head
        self.put[:] = self._now()

    def seal(self, stream: int, kept: int) -> None:
        """Take note that a run is sealed which ends with the newest step, and that episodes before `kept` are known."""
        self.sealed[stream] = self._index.head[stream]
        self.filed[stream] = max(self.filed[stream], self.sealed[stream])
        self.kept[stream], self.dropped[stream] = kept, self._index.dropped[stream]

    def forget(self) -> None:
        """Forget what can be done without: the file may know more of the episodes, or less."""
        self.kept[:] = self._index.dropped
        self.dropped[:] = 0
        self.put[:] = -1

    def ask(self, file: Tables) -> None:
        """Ask the file which steps it has."""
        sealed, newest = file.stops()
        for stream, stop in sealed.items():
            self.sealed[stream] = stop
        self.filed[:] = self.sealed
        for stream, stop in newest.items():
            self.filed[stream] = max(self.filed.item(stream), stop)
        self.rewrites = file.meta("rewrites", 0)
