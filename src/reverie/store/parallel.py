"""Work on many runs, shared between the cores there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from reverie.process import watch
from reverie.store.codec import Codec


class Helpers:
    """Shares work on many runs between the cores there are; zstd and large copies let go of the interpreter."""

    LEAST_RUNS = 8  # below, waking a thread costs more than it saves

    def __init__(self) -> None:
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        watch(self)

    def _forked(self, at_rest: bool) -> None:
        self._pool = None  # its threads stayed in the parent

    def _codec(self) -> Codec:
        codec: Codec | None = getattr(self._local, "codec", None)
        if codec is None:
            codec = self._local.codec = Codec()
        return codec

    def share(self, work: Callable[[Codec, Sequence[int]], None], runs: list[int]) -> None:
        """Call `work(codec, some of the runs)` so that all runs are worked on once; raise what it raises."""
        if self._cores == 1 or len(runs) < self.LEAST_RUNS:
            work(self._codec(), runs)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._cores - 1, thread_name_prefix="reverie-unpack")
        parts = [runs[part :: self._cores] for part in range(self._cores)]
        others = [self._pool.submit(self._work, work, part) for part in parts[1:]]
        work(self._codec(), parts[0])
        for other in others:
            other.result()

    def _work(self, work: Callable[[Codec, Sequence[int]], None], runs: Sequence[int]) -> None:
        work(self._codec(), runs)
