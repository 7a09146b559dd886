"""The arrays and counters of the drop-in buffer, which trainers write by hand, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from reverie.buffer import ReplayBuffer
from reverie.compat.transitions import Floats, Frames
from reverie.errors import BadSetting, SpecMismatch
from reverie.index import CUT, NO_FINAL, RUNNING, TERMINATED, replacement
from reverie.process import Bound
from reverie.store import Ring
from reverie.values import numeric_array

T = TypeVar("T")
MOST = 2**62  # no counter goes beyond: ids are int64
FIXED = frozenset({"size", "obs_shape", "action_size", "observations", "actions", "rewards", "terminals"})


class RingCounters(Bound):
    """What `IRISReplayBuffer` shows of its ring, and takes back: setting a counter has the ring read again."""

    size: int

    def _take(self, buffer: ReplayBuffer) -> None:
        """Become another face of a buffer's engine."""
        self._buffer, self.engine = buffer, buffer.engine
        ring = self.engine.store
        assert isinstance(ring, Ring)
        self.observations: Frames = ring.columns["obs"]
        self.actions: Floats = ring.columns["action"]
        self.rewards: Floats = ring.columns["reward"]
        self.terminals: Floats = ring.columns["extras/terminals"]
        self._set: dict[str, int] = {}  # counters that were set from outside and not yet acted upon
        self._steps_before = 0  # steps of an earlier life: `steps` minus the head
        self._ends = (0, 0)  # terminations among the steps before an id, and that id
        self._moved = False  # the head was set from outside: what comes next belongs to another recording

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and self.__dict__.get(name, value) is not value:
            raise BadSetting(f"{name}: wanted it kept, got another; write into it, or make a new buffer")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        """Return the transitions stored now."""
        with self.engine.lock:
            return self.size if self.full else self.idx

    @property
    def buffer_capacity(self) -> int:
        """Capacity in transitions: another name for `size`."""
        return self.size

    @property
    def idx(self) -> int:
        """The next slot to write."""
        return self._set.get("idx", self._head() % self.size)

    @idx.setter
    def idx(self, value: int) -> None:
        self._set_counter("idx", value, self.size - 1)

    @property
    def full(self) -> bool:
        """Whether the ring has wrapped."""
        return bool(self._set.get("full", len(self._buffer) == self.size))

    @full.setter
    def full(self, value: bool) -> None:
        self._set_counter("full", value, 1)

    @property
    def steps(self) -> int:
        """Transitions ever added."""
        return self._set.get("steps", self._head() + self._steps_before)

    @steps.setter
    def steps(self, value: int) -> None:
        self._set_counter("steps", value, MOST)

    @property
    def episodes(self) -> int:
        """Terminations ever seen."""
        with self.engine.lock:
            self.engine.settle()
            return self._set.get("episodes", self._count_ends())

    @episodes.setter
    def episodes(self, value: int) -> None:
        self._set_counter("episodes", value, MOST)

    def _head(self) -> int:
        with self.engine.lock:
            self.engine.settle()
            return self.engine.index.head.item(0)

    def _set_counter(self, name: str, value: Any, limit: int) -> None:
        # A checkpoint helper hands back what it loaded: 0-d arrays and NumPy scalars are counters, too.
        try:
            number = numeric_array(name, value)
            good = not number.shape and 0 <= number <= limit and not number % 1
        except SpecMismatch:
            good = False
        if not good:
            raise BadSetting(f"{name}: wanted an integer in 0..{limit}, got {value!r}; check the checkpoint")
        with self.engine.lock:
            self.engine.check_writable()
            self._set[name] = int(number)

    def _settle(self) -> None:
        """Act upon counters that were set, and upon an end that was written to the newest step."""
        if self._set or (self.engine.index.open_episode[0] >= 0 and self.terminals[self.idx - 1] != 0.0):
            self._read_ring()

    def _agreeing(self, draw: Callable[[], T], agrees: Callable[[T], bool]) -> T:
        """Return what `draw` draws; where `terminals` was written by hand meanwhile, read the ring and draw again."""
        self.engine.check_open()
        self._settle()
        drawn = draw()
        if not agrees(drawn):
            self._read_ring()
            drawn = draw()
        return drawn

    def _was_edited(self) -> bool:
        """Return whether `terminals` tells of other ends than those that were added."""
        index = self.engine.index
        rows = index.live_episodes()
        ends = index.stop[rows[(index.ended[rows] & TERMINATED) != 0]] - 1
        marked = self.terminals[: len(self)]
        return len(ends) != np.count_nonzero(marked) or not (marked[ends % self.size] == 1.0).all()

    def _read_ring(self) -> None:
        """Find the episodes again in `terminals`."""
        idx, full, steps, episodes = self.idx, self.full, self.steps, self.episodes
        count = self.size if full else idx
        # The head must lie at slot idx; when the step counter agrees, ids of a full ring simply go on from it.
        # Those of any other begin at 0: in a file, runs lie before a later one.
        head = steps if full and steps % self.size == idx and steps >= count else idx + self.size * full
        tail = head - count
        slots = np.arange(tail, head) % self.size
        terminals, rewards = self.terminals[slots], self.rewards[slots].astype(np.float64)
        if not np.isin(terminals, (0.0, 1.0)).all() or not np.isfinite(rewards).all():
            raise BadSetting("rows: wanted terminals 0 or 1 and finite rewards, got others; check them")
        last = (terminals == 1.0) | np.signbit(terminals)
        last[-1:] = True
        stops = np.flatnonzero(last) + 1
        starts = np.concatenate([[0], stops])[:-1]
        ends = terminals[stops - 1]
        kinds = np.where(ends == 1.0, TERMINATED, np.where(np.signbit(ends), CUT, RUNNING))
        index = self.engine.index
        rows = index.live_episodes()
        finals = dict(zip(index.stop[rows].tolist(), index.final_slot[rows].tolist(), strict=True))
        # A checkpoint brings other frames; where only ends were written by hand, final observations stay.
        kept = {} if self._set else finals
        places = [
            kept.get(stop, NO_FINAL) if kind != RUNNING else NO_FINAL
            for stop, kind in zip((stops + tail).tolist(), kinds.tolist(), strict=True)
        ]
        columns = (
            (starts + tail).tolist(),
            (stops + tail).tolist(),
            kinds.tolist(),
            places,
            np.add.reduceat(rewards, starts).tolist(),
        )
        rebuilt = replacement(index, 0, head, tail, zip(*columns, strict=True))
        moved = self._moved or bool(self._set.keys() & {"idx", "full"})

        def replace() -> None:  # may be called again after an interrupt
            rebuilt()
            self._moved = moved
            self._steps_before, self._ends = steps - head, (episodes, head)
            self._set.clear()
            self._note()

        self.engine.changes.replace(replace)

    def _note(self) -> None:
        """Let the replay file, if there is one, keep what the engine does not know."""
        count = self._count_ends()
        self.engine.memories.note(episodes=count, steps_before=self._steps_before, moved=self._moved)

    def _count_ends(self) -> int:
        """Return the terminations ever seen, the newest one being counted now if it has not been yet.

        A step and its count cannot change in one instant: Ctrl-C can come between. So the count follows.
        """
        index, (count, before) = self.engine.index, self._ends
        newest = index.begun.item(0) - 1 - (index.open_episode.item(0) >= 0)
        if newest >= index.dropped.item(0):
            row = index.episode_of(0, newest)
            if index.stop.item(row) > before and index.ended.item(row) & TERMINATED:
                count += 1
                self._ends = (count, index.stop.item(row))
        return count
