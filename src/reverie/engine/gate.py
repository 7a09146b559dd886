"""Where threads wait for the rate limit of a buffer: each wait has an end, and nobody waits for himself."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from reverie.engine.memories import Memories
from reverie.engine.rate import RateCount, RateLimit
from reverie.errors import BadSetting, FileError, RateLimited, counted
from reverie.index import EpisodeIndex, Ints
from reverie.process import watch
from reverie.values import MOST_ID, integer

NOTE = "rate_limit"  # the name of the value in the replay file
LOOK_S = 0.2  # how often who waits looks whether there is still somebody to wait for
Thread = threading.Thread


class Limited(Protocol):
    """What a limit holds up: the engine of a buffer."""

    lock: Any
    index: EpisodeIndex
    memories: Memories
    gate: Gate | None

    def check_open(self) -> None: ...


class Gate:
    """The limit of one buffer, and who has added and drawn under it. Its users hold the buffer's lock.

    Args:
        count: the sums. before: steps that were added to the buffer and do not count.

    Attributes:
        adders, drawers: threads that have added, prefilling left out, and that have drawn.
        is_copy: whether this is of a fork, which adds nothing and draws without a limit.
    """

    def __init__(self, count: RateCount, before: int) -> None:
        self._count, self._before = count, before
        self.adders: WeakSet[Thread] = WeakSet()
        self.drawers: WeakSet[Thread] = WeakSet()
        self.is_copy = False
        self._changed, self._changes = threading.Condition(), 0
        watch(self._forked)

    def _forked(self, at_rest: bool) -> None:
        self.is_copy, self._changed = True, threading.Condition()  # a thread of the parent may have the other

    def count(self, index: EpisodeIndex) -> RateCount:
        """Return the sums. The index counts the steps that were added, so that no interrupt comes in between."""
        self._count.inserts = int(index.head.sum()) - self._before
        return self._count

    def snapshot(self, index: EpisodeIndex) -> RateCount:
        """Return the sums as they are now, to keep."""
        count = self._count
        return RateCount(count.limit, int(index.head.sum()) - self._before, count.samples)

    def note(self) -> dict[str, Any]:
        """Return what the replay file keeps; see `noted`."""
        return {**self._count.state(), "before": self._before}

    @property
    def changes(self) -> int:
        """How often something was added or drawn."""
        return self._changes

    def has_changed(self) -> None:
        """Wake those who wait."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def wait(self, changes: int, seconds: float) -> None:
        """Wait until there are more changes than so many, or for so long."""
        with self._changed:
            if self._changes == changes:
                self._changed.wait(seconds)


# --- the beginning ---------------------------------------------------------------------------------------------


def check_limit(limit: object) -> None:
    """Raise BadSetting if this is neither a limit nor None."""
    if limit is not None and not isinstance(limit, RateLimit):
        raise BadSetting(
            f"rate_limit: wanted a RateLimit, got {type(limit).__name__}; pass one, such as "
            f"reverie.RateLimit(samples_per_insert, tolerance, min_size)"
        )


def limit_rate(engine: Limited, limit: RateLimit | None) -> None:
    """Begin a checked limit, or end the one there is. The caller holds the lock."""
    old, engine.gate = engine.gate, None
    if limit is not None:
        added = int(engine.index.head.sum())
        inserts = min(added, limit.min_size)
        engine.gate = Gate(RateCount(limit, inserts), added - inserts)
    if old is not None or limit is not None:
        engine.memories.note(**{NOTE: None if engine.gate is None else engine.gate.note()})
    if old is not None:
        old.has_changed()


def restore_gate(engine: Limited, source: object) -> None:
    """Go on with the limit that a file keeps, if there is one; `source` is the file, for the error.

    Raises:
        FileError: what it keeps is no limit.
    """
    note = engine.memories.notes.get(NOTE)
    if note is None:
        return
    try:
        engine.gate = Gate(noted(note, engine.index.head), integer(note["before"], MOST_ID))
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{source}: wanted the state of a rate limit, got one that is none ({error}); "
            f"restore the file from a copy made by save_as"
        ) from error


def noted(note: Mapping[str, Any], heads: Ints) -> RateCount:
    """Return the sums that a file keeps.

    Args:
        note: as `Gate.note` returned it. heads: the steps that each stream was ever given.

    Raises:
        KeyError, TypeError, ValueError: it is no such note.
    """
    count = RateCount.from_state(note)
    count.inserts = int(np.sum(heads)) - integer(note["before"], MOST_ID)
    return count


# --- adding and drawing ----------------------------------------------------------------------------------------


@contextmanager
def adding(engine: Limited, steps: int) -> Iterator[None]:
    """Hold the lock of a buffer while so many steps are added at once, as soon as its limit lets them through.

    Raises:
        RateLimited: nobody else can end the wait, or it took too long.
        BadSetting: so many are never let through. BufferClosed: the buffer was closed.
    """
    wait: _Wait | None = None
    while True:
        with engine.lock:
            gate = engine.gate
            if gate is None or gate.is_copy:
                yield
                return
            engine.check_open()
            count, changes = gate.count(engine.index), gate.changes
            missing = count.missing_samples(steps)
            if not missing:
                yield
                if count.inserts >= count.limit.min_size:
                    gate.adders.add(threading.current_thread())
                gate.has_changed()
                return
            wait = wait or _Wait(count.limit.wait_s)
            told = f"wanted to add {counted(steps, 'step')}", f"{missing:,} more to be drawn"
            left_s = wait.left_s(gate.drawers, "draws", told, count)
        gate.wait(changes, left_s)


@contextmanager
def drawing(engine: Limited, steps: int) -> Iterator[None]:
    """Hold the lock of a buffer while so many steps are drawn at once, as soon as its limit lets them through.

    A buffer without a limit is not locked.

    Raises:
        RateLimited: nobody else can end the wait, or it took too long.
        BadSetting: so many are never let through. BufferClosed: the buffer was closed.
    """
    wait: _Wait | None = None
    while (gate := engine.gate) is not None and not gate.is_copy:
        with engine.lock:
            if gate is not engine.gate:
                continue
            engine.check_open()
            count, changes = gate.count(engine.index), gate.changes
            missing = count.missing_inserts(steps)
            if not missing:
                yield
                count.sampled(steps)
                engine.memories.note(**{NOTE: gate.note()})
                gate.drawers.add(threading.current_thread())
                gate.has_changed()
                return
            wait = wait or _Wait(count.limit.wait_s)
            told = f"wanted to draw {counted(steps, 'step')}", f"{missing:,} more to be added"
            left_s = wait.left_s(gate.adders, "adds", told, count)
        gate.wait(changes, left_s)
    yield


class _Wait:
    """One wait of one thread, from now on."""

    def __init__(self, wait_s: float) -> None:
        self._begun_s, self._wait_s = time.monotonic(), wait_s

    def left_s(self, doers: Collection[Thread], does: str, told: tuple[str, str], count: RateCount) -> float:
        """Return for how long to wait at most before looking again.

        Args:
            doers: threads that have done what is waited for, which is what `does` names.
            told: what was wanted, and what is waited for, in words.
            count: the sums.

        Raises:
            RateLimited: there is nobody else to wait for, or no time left.
        """
        (wanted, awaited), limit = told, count.limit
        have = (
            f"{count.inserts:,} were added and {count.samples:,} drawn, {limit.samples_per_insert:,g} are to be drawn "
            f"for each after the first {limit.min_size:,}, and {count.error:+,g} of ±{limit.tolerance:,g} are owed"
        )
        if threading.current_thread() in _given_up:
            raise RateLimited(f"{wanted}, waited for {awaited}, got told to end: {have}; its feed was closed")
        if nobody_else(doers):
            raise RateLimited(
                f"{wanted}, waited for {awaited}, got no other thread that {does}: {have}; add and draw in turns that "
                f"keep the ratio, in different threads, or with a larger tolerance"
            )
        waited = time.monotonic() - self._begun_s
        if waited >= self._wait_s:
            raise RateLimited(
                f"{wanted}, waited {self._wait_s:g} s for {awaited}, got none: {have}; see whether the thread that "
                f"{does} still runs, or pass a larger wait_s"
            )
        return min(self._wait_s - waited, LOOK_S)


# --- who waits for whom ----------------------------------------------------------------------------------------

_given_up: WeakSet[Thread] = WeakSet()  # threads that are to end
_waiting: dict[Thread, Collection[Thread]] = {}  # a thread that waits, and those of whom one has to end it


def give_up(thread: Thread) -> None:
    """Let a thread that is to end wait for no limit any more: there it raises RateLimited."""
    _given_up.add(thread)


@contextmanager
def waiting_for(threads: Collection[Thread]) -> Iterator[None]:
    """Let others know that this thread waits until one of `threads` does something."""
    thread = threading.current_thread()
    _waiting[thread] = threads
    try:
        yield
    finally:
        _waiting.pop(thread, None)


def nobody_else(doers: Collection[Thread]) -> bool:
    """Whether this thread would wait for itself: of those who do it, or of all where nobody has yet, none can go on."""
    me = threading.current_thread()
    living = [thread for thread in list(doers) if thread.is_alive()]
    # Threads that unpack runs for others neither add nor draw.
    others = [thread for thread in threading.enumerate() if not thread.name.startswith("reverie-unpack")]
    return all(_is_stuck(thread, {me}) for thread in living or others)


def _is_stuck(thread: Thread, known: set[Thread]) -> bool:
    """Whether a thread is one of those that are known to be stuck, or waits for none but such."""
    if thread in known:
        return True
    awaited = list(_waiting.get(thread, ()))
    known = {*known, thread}
    return bool(awaited) and all(_is_stuck(other, known) for other in awaited)
