"""Objects of one process. They are not pickled; a fork waits until they are at rest, and tells the child's copies."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # its hook must be there before ours; see below
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType, TracebackType
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from reverie.errors import WrongProcess

PATIENCE_S = 10.0  # how long a fork waits for other threads to finish what they are at


class Bound:
    """An object of one process. It is neither pickled nor copied, unless it can say how to make it again."""

    _instead: ClassVar[str]  # the remedy
    _again: tuple[Callable[..., Any], tuple[Any, ...]] | None = None  # what makes an equal one anywhere

    def __reduce_ex__(self, protocol: object) -> Any:
        if self._again is not None:
            return self._again
        raise WrongProcess(
            f"{type(self).__name__}: wanted it used where it was made, got it pickled or copied; {self._instead}"
        )


class Refused:
    """Stands in for a lock that cannot be had any more. Entering it raises WrongProcess and says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __enter__(self) -> NoReturn:
        raise WrongProcess(self._why)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Never called: entering raises."""


class Shared(Bound):
    """An object that one thread uses at a time.

    Attributes:
        lock: held by whoever changes it; turn: by whoever reads. They are the same until the turn is set.
    """

    lock: Any
    turn: Any

    def share(self) -> None:
        self.lock = self.turn = threading.RLock()
        watch(self._forked, self.lock, self._guard)

    def _guard(self, lock: Any) -> None:
        if self.turn is self.lock:
            self.turn = lock
        else:
            self.turn.guard(lock)
        self.lock = lock

    def _forked(self, at_rest: bool) -> None:
        if not at_rest:
            self.lock = self.turn = Refused(
                f"wanted a {type(self).__name__} at rest when the process was forked, got one that another thread was "
                f"at work on; fork while no thread is, or start the process with 'spawn'"
            )


_watched: dict[int, tuple[weakref.ref[Any], Any, Any, Any]] = {}  # id -> what has to know; see `Told`
_noting = threading.RLock()  # held while something is added there
_one_at_a_time = threading.RLock()
_under_way: list[_Fork] = []  # one, or one inside of another
_amid: set[int] = set()  # threads that others wait for, though they hold no lock
_forks = 0  # of this process and of its ancestors up to here


class Told(NamedTuple):
    """Someone who has to know of every fork."""

    forked: Callable[[bool], None]
    lock: Any  # which is held during the fork; None without
    guard: Callable[[Any], None] | None


def watch(forked: Any, lock: Any = None, guard: Any = None) -> None:
    """Tell an object of every fork from now on, as long as it lives.

    Args:
        forked: its method that makes it the copy of a child process, called there right after the fork. It is told
            whether no other thread was in the middle of something here: False only after PATIENCE_S.
        lock: an RLock of it, which is held during each fork.
        guard: with a lock, its method that takes the lock that is entered from then on.
    """
    thing = forked.__self__
    key = id(thing)
    with _noting:
        ref = weakref.ref(thing, lambda _: _watched.pop(key, None))
        _watched[key] = ref, forked.__func__, lock, None if guard is None else guard.__func__


@contextmanager
def amid() -> Iterator[None]:
    """Let this thread go on while a fork waits for locks, because the holders of the locks wait for this thread."""
    thread = threading.get_ident()
    _amid.add(thread)
    try:
        yield
    finally:
        _amid.discard(thread)


def _alive() -> list[Told]:
    """Return those who are watched."""
    found = [(ref(), forked, lock, guard) for ref, forked, lock, guard in list(_watched.values())]
    return [
        Told(MethodType(forked, thing), lock, None if guard is None else MethodType(guard, thing))
        for thing, forked, lock, guard in found
        if thing is not None
    ]


def own_stream(rng: np.random.Generator) -> None:
    """Give the generator of a forked child random numbers that its parent and its siblings never draw.

    They are a function of the state that it had at the fork and of how many forks there were before: a program
    that forks alike draws alike.
    """
    state: Any = rng.bit_generator.state
    words = [*state["state"]["counter"].tolist(), *state["state"]["key"].tolist()]
    words += [int(state[name]) for name in ("buffer_pos", "has_uint32", "uinteger")]
    key = np.random.SeedSequence(words, spawn_key=(_forks,))
    rng.bit_generator.state = np.random.Philox(key).state


def _is_owned(lock: Any) -> bool:
    """Whether this thread holds an RLock. Conditions ask the same question; the lock has no public name for it."""
    return bool(lock._is_owned())  # noqa: SLF001


class _Gate:
    """Stands before a lock until a fork is over: lets in a thread that is amid something, and makes others wait.

    Without it, a thread that lets go of a lock would have it again before the one that forks has woken up.
    """

    def __init__(self, fork: _Fork, lock: Any) -> None:
        self._fork = fork
        self._lock = lock

    def __enter__(self) -> None:
        is_amid = threading.get_ident() in _amid or any(map(_is_owned, self._fork.locks))
        if not self._fork.is_over and not is_amid:
            self._fork.over.wait(PATIENCE_S)
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class _Fork:
    """A fork under way: which locks there are, and which of them are held for it."""

    def __init__(self) -> None:
        self.is_over = False  # a child may not touch the event, of which other threads may have the lock
        self.over = threading.Event()
        self._guarded: dict[int, Any] = {}  # id of a lock -> the method that takes the lock that is entered
        self.locks: list[Any] = [_noting]
        self.held: list[Any] = []

    def _look(self) -> bool:
        """Put a gate before every lock that has none; return whether there was such a one."""
        fresh = [told for told in _alive() if told.guard is not None and id(told.lock) not in self._guarded]
        for told in fresh:
            assert told.guard is not None
            self._guarded[id(told.lock)] = told.guard
            self.locks.append(told.lock)
            told.guard(_Gate(self, told.lock))
        return bool(fresh)

    def hold(self) -> None:
        """Acquire all locks; those that a thread keeps for longer than PATIENCE_S are left out."""
        until = time.monotonic() + PATIENCE_S
        busy = _noting
        self._look()
        # Waiting for one while holding another could wait for ever: all are had at once, or none is kept.
        while busy.acquire(timeout=max(until - time.monotonic(), 0.0)):
            self.held.append(busy)
            for lock in self.locks:
                if lock is not self.held[0]:
                    if not lock.acquire(blocking=False):
                        break
                    self.held.append(lock)
            else:
                if not self._look():  # nothing came until none can come any more
                    return
                lock = self.locks[-1]
            busy = lock
            self._release()
        self.held += [lock for lock in self.locks if lock.acquire(blocking=False)]

    def _release(self) -> None:
        while self.held:
            self.held.pop().release()

    def let_go(self) -> None:
        """Give everything back as it was."""
        self.is_over = True
        for lock in self.locks:
            if id(lock) in self._guarded:
                self._guarded[id(lock)](lock)
        self._release()


def _before() -> None:
    global _forks
    _one_at_a_time.acquire()
    _forks += 1
    _under_way.append(_Fork())
    _under_way[-1].hold()


def _in_parent() -> None:
    fork = _under_way.pop()
    fork.let_go()
    fork.over.set()
    _one_at_a_time.release()


def _in_child() -> None:
    global _noting
    fork = _under_way.pop()
    held = set(map(id, fork.held))
    _noting = threading.RLock()  # a thread that is not here may have the other one
    with ExitStack() as last:  # all are told, also when one of them fails
        last.callback(_one_at_a_time.release)
        for told in _alive():
            last.callback(told.forked, told.lock is None or id(told.lock) in held)
        last.callback(fork.let_go)


# A thread that is to let go of a lock of ours may need one that other hooks hold during a fork: those of
# concurrent.futures, whose threads unpack for it. Hooks are called in the reverse order.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
