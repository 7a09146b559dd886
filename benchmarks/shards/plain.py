"""Ray without reverie: an actor that hands out the same bytes again and again. It needs NumPy and Ray only."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

AT_ONCE = 10  # batches of a feed that are timed together
LEFT_OUT = (
    3  # batches of a feed that lie ready when the turn comes: both take them first, and they are not counted
)


@contextmanager
def cluster(store_bytes: int) -> Iterator[Any]:
    """Start Ray on this machine, with a store of so many bytes, and end it."""
    import ray

    ray.init(
        address="local",  # also where another cluster runs
        num_cpus=16,  # what may be placed; nobody computes on so many
        include_dashboard=False,
        object_store_memory=store_bytes,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield ray
    finally:
        ray.shutdown()


class Plain:
    """An actor that does nothing but hand out the bytes of a batch, and drop what it is sent."""

    def __init__(self, size: int) -> None:
        self._held = np.random.default_rng(0).integers(0, 256, size, np.uint8)

    def get(self) -> np.ndarray:
        """Return the bytes."""
        return self._held

    def process(self) -> int:
        """Return the number of its process."""
        return os.getpid()

    def drop(self, sent: Any) -> None:
        """Take what was sent."""


def started(size: int) -> Any:
    """Return an actor that holds so many bytes, once it runs.

    Ray makes its calls again that a killed process has not answered. That is the fastest way back: a call that fails
    does so up to two seconds after the kill.
    """
    import ray

    actor = ray.remote(Plain).options(max_restarts=-1, max_task_retries=-1).remote(size)
    answer(actor.process)
    return actor


def answer(method: Any, *args: Any) -> Any:
    """Return what an actor's method returns. `ray.get` would look for arrays every 10 ms only."""
    return method.remote(*args).future().result()


class Owned:
    """Memory of this process that batches are copied to, as many as are held at once, by turns."""

    def __init__(self, size: int, count: int) -> None:
        self._targets = [np.zeros(size, np.uint8) for _ in range(count)]

    def copy(self, batch: np.ndarray) -> np.ndarray:
        """Return a copy."""
        target = self._targets.pop(0)
        self._targets.append(target)
        np.copyto(target, batch)
        return target


def one_by_one(actor: Any, owned: Owned | None) -> Callable[[], None]:
    """Return what asks for a batch and waits for it; the batch is held until the next has come."""
    kept: list[Any] = [None]

    def draw() -> None:
        batch = answer(actor.get)
        kept[0] = batch if owned is None else owned.copy(batch)

    return draw


def from_all(actors: list[Any], owned: list[Owned]) -> Callable[[], None]:
    """Return what asks all actors at once, and copies what each sends; it is held until the next has come."""
    kept: list[Any] = [None]

    def draw() -> None:
        asked = [actor.get.remote().future() for actor in actors]
        kept[0] = [one.copy(future.result()) for one, future in zip(owned, asked, strict=True)]

    return draw


class Stream:
    """Batches of actors that hold a part each, of which two are asked for at any time: the limit of a feed."""

    def __init__(self, actors: list[Any], owned: list[Owned] | None) -> None:
        self._actors, self._owned = actors, owned
        self._asked = deque([self._ask(), self._ask()])

    def _ask(self) -> list[Any]:
        return [actor.get.remote().future() for actor in self._actors]

    def __next__(self) -> list[np.ndarray]:
        parts: list[np.ndarray] = [future.result() for future in self._asked.popleft()]
        self._asked.append(self._ask())
        if self._owned is None:
            return parts
        return [one.copy(part) for one, part in zip(self._owned, parts, strict=True)]


def steadily(batches: Iterator[Any]) -> Callable[[], float]:
    """Return what takes batches, and returns the seconds of one: those that lie ready already are left out."""
    kept: list[Any] = [None]

    def take() -> float:
        for _ in range(LEFT_OUT):
            kept[0] = next(batches)
        begin = time.perf_counter()
        for _ in range(AT_ONCE):
            kept[0] = next(batches)
        return (time.perf_counter() - begin) / AT_ONCE

    return take
