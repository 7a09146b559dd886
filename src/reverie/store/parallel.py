"""Work on many runs, shared between the cores there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from reverie.process import watch


class Helpers:
    """Shares work on many runs between the cores there are; zstd and large copies let go of the interpreter."""

    LEAST_RUNS = 8  # below, waking a thread costs more than it saves

    def __init__(self) -> None:
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._pool: ThreadPoolExecutor | None = None
        watch(self)

    def _forked(self, at_rest: bool) -> None:
        self._pool = None  # its threads stayed in the parent

    def share(self, work: Callable[[Sequence[int]], None], runs: list[int]) -> None:
        """Call `work(some of the runs)` so that all runs are worked on once; raise what it raises."""
        if self._cores == 1 or len(runs) < self.LEAST_RUNS:
            work(runs)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._cores - 1, thread_name_prefix="reverie-unpack")
        parts = [runs[part :: self._cores] for part in range(self._cores)]
        others = [self._pool.submit(work, part) for part in parts[1:]]
        work(parts[0])
        for other in others:
            other.result()
