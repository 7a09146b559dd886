"""What belongs to one process: it is not pickled, and a fork finds it at rest and is told that it has a copy."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np

from reverie.errors import WrongProcess

PATIENCE_S = 10.0  # how long a fork waits for other threads to finish what they are at


class Bound:
    """Something of one process: it is neither pickled nor copied, unless it knows how to be made again."""

    _instead: ClassVar[str]  # the remedy
    _again: tuple[Callable[..., Any], tuple[Any, ...]] | None = None  # what makes an equal one anywhere

    def __reduce_ex__(self, protocol: object) -> Any:
        if self._again is not None:
            return self._again
        raise WrongProcess(
            f"{type(self).__name__}: wanted it used where it was made, got it pickled or copied; {self._instead}"
        )


class Watched(Protocol):
    """What has to know of a fork."""

    def _forked(self, at_rest: bool) -> None:
        """Become the copy of a child process.

        It runs in the child, right after the fork.

        Args:
            at_rest: no other thread was in the middle of something here; False only after PATIENCE_S.
        """


class Refused:
    """Stands for a lock that nobody can have any more: whoever enters it is told why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __enter__(self) -> NoReturn:
        raise WrongProcess(self._why)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        """Nobody comes here."""


class Shared(Bound):
    """Something that threads take turns at.

    Attributes:
        _lock: held by whoever changes it; _turn: by whoever reads. They are the same until _turn is set.
    """

    _lock: Any
    _turn: Any

    def _share(self) -> None:
        self._lock = self._turn = threading.RLock()
        watch(self, self._lock)

    def _forked(self, at_rest: bool) -> None:
        if not at_rest:
            self._lock = self._turn = Refused(
                f"wanted a {type(self).__name__} at rest when the process was forked, got one that another thread was "
                f"at work on; fork while no thread is, or start the process with 'spawn'"
            )


_watched: dict[int, tuple[weakref.ref[Any], Any]] = {}  # id -> what has to know, and its lock or None
_one_at_a_time = threading.RLock()
_held: list[list[Any]] = []  # locks held by the forks under way: one, or one inside of another
_forks = 0  # of this process and of its ancestors up to here


def watch(thing: Watched, lock: Any = None) -> None:
    """Call `thing._forked` in every child that is forked from now on, and hold `lock`, an RLock, during the fork."""
    key = id(thing)
    _watched[key] = weakref.ref(thing, lambda _: _watched.pop(key, None)), lock


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


def _hold(locks: Sequence[Any]) -> list[Any]:
    """Acquire the locks and return them; those that a thread keeps for longer than PATIENCE_S are left out."""
    until = time.monotonic() + PATIENCE_S
    locks = list(locks)
    # Waiting for one while holding another could wait for ever: all are had at once, or none is kept.
    while locks and locks[0].acquire(timeout=max(until - time.monotonic(), 0.0)):
        held = [locks[0]]
        for lock in locks[1:]:
            if not lock.acquire(blocking=False):
                break
            held.append(lock)
        if len(held) == len(locks):
            return held
        for lock in held:
            lock.release()
        locks = [*locks[len(held) :], *held]  # the one that was taken is waited for the next time
    return [lock for lock in locks if lock.acquire(blocking=False)]


def _before() -> None:
    global _forks
    _one_at_a_time.acquire()
    _forks += 1
    _held.append(_hold([lock for _, lock in list(_watched.values()) if lock is not None]))


def _let_go() -> None:
    for lock in _held.pop():
        lock.release()
    _one_at_a_time.release()


def _in_child() -> None:
    held = set(map(id, _held[-1]))
    with ExitStack() as told:  # all are told, also when one of them fails
        told.callback(_let_go)
        for ref, lock in list(_watched.values()):
            thing = ref()
            if thing is not None:
                told.callback(thing._forked, lock is None or id(lock) in held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_let_go, after_in_child=_in_child)
