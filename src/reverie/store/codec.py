"""How a run of one column becomes bytes and back, and a single newest step; and threads to do it for many."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from reverie.errors import FileError
from reverie.process import watch

Array = npt.NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

# The first byte of packed bytes says how the rest is to be read.
PLAIN, ZSTD, DELTA = b"\x00", b"\x01", b"\x02"
# Level 3 packs recorded Atari a little better than 1 and unpacks faster; measured by `make bench`.
LEVEL = 3
# A single step is packed while its `add` waits, and lies there only until its run is sealed: fast is right.
STEP_LEVEL = -5
# Of a frame that does not say how long its content is; our own frames say it, and need no window.
MOST_WINDOW = 8 << 20
# Values of fewer bytes are not worth a compressor's call.
LEAST_STEP_BYTES = 128
LATER_CALL = "wanted one call of these helpers at a time, got a later call before this one was over"


# Of a run of so many bytes a sample is looked at first: packing what does not pack takes longer than writing it.
SAMPLE_FROM = 128 << 10
PIECE = 128  # bytes of a piece of the sample
# A row is cut into as many parts; in each a piece begins behind so many bytes, so that no pattern meets all of them.
SAMPLED = (0, 97, 31, 211)


class _Contexts:
    """What zstd keeps between calls: made once for each thread, since threads cannot share it."""

    __slots__ = ("content_size", "error", "packing", "packing_step", "unpacking")

    def __init__(self) -> None:
        import zstandard  # here, so that `import reverie` needs NumPy only

        self.packing = zstandard.ZstdCompressor(level=LEVEL)
        self.packing_step = zstandard.ZstdCompressor(level=STEP_LEVEL)
        self.unpacking = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW)
        self.content_size, self.error = zstandard.frame_content_size, zstandard.ZstdError


_thread = threading.local()


def _contexts() -> _Contexts:
    """Return the contexts of this thread."""
    found: _Contexts | None = getattr(_thread, "contexts", None)
    if found is None:
        found = _thread.contexts = _Contexts()
    return found


def pack(run: Array) -> bytes:
    """Return a C-contiguous array as bytes, never more than one byte longer than it is."""
    if run.nbytes >= SAMPLE_FROM and _looks_random(run):
        return b"".join((PLAIN, run.data))
    packed = _contexts().packing.compress(run.data)
    return ZSTD + packed if len(packed) < run.nbytes else b"".join((PLAIN, run.data))


def _looks_random(run: Array) -> bool:
    """Whether nothing can be saved by packing a run, as far as a few pieces of each of its rows tell.

    The pieces lie at the same places of each row, so that rows which repeat each other are noticed. A run is random
    only if zstd finds nothing at all in them.
    """
    rows = run.view(np.uint8).reshape(len(run), -1)
    step = rows.shape[1] // len(SAMPLED)
    pieces = [rows[:, step * place + at : step * place + at + PIECE] for place, at in enumerate(SAMPLED)]
    sample = np.concatenate(pieces, axis=1)
    return len(_contexts().packing.compress(sample.data)) >= sample.nbytes


def unpack(packed: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the array that `pack` took, read-only. No more is unpacked than such an array has.

    Raises:
        ValueError: these are not the bytes of such an array.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    values = np.frombuffer(_body(packed, nbytes), dtype)
    if dtype.kind == "b" and (values.view(np.uint8) > 1).any():
        raise ValueError("not every truth value is 0 or 1")
    return values.reshape(shape)


def pack_step(value: Array, before: Array | None) -> bytes:
    """Return one step's value as bytes; `before` is the same stream's value one step earlier, if known.

    Most of a frame is what it was a step ago, so that their exclusive or packs fast and small.
    """
    if value.nbytes < LEAST_STEP_BYTES:
        return PLAIN + value.tobytes()
    plain = _bits(value)
    if before is None:
        body, tag = _contexts().packing_step.compress(plain.data), ZSTD
    else:
        body, tag = _contexts().packing_step.compress((plain ^ _bits(before)).data), DELTA
    return tag + body if len(body) < value.nbytes else PLAIN + value.tobytes()


def unpack_step(packed: bytes, before: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the value that `pack_step` took.

    Raises:
        ValueError: these are not such bytes.
    """
    if packed[:1] != DELTA:
        return unpack(packed, shape, dtype)
    if before is None:
        raise ValueError("packed as a change of the step before, which is not there")
    bits = _bits(before)
    changed = np.frombuffer(_body(packed, bits.nbytes, DELTA), bits.dtype).reshape(bits.shape)
    return (changed ^ bits).view(dtype)


def _body(packed: bytes, nbytes: int, tag: bytes = ZSTD) -> Any:
    """Return `nbytes` bytes, plain or those of a frame after `tag`; refuse to unpack more or less."""
    body: Any = memoryview(packed)[1:]
    found = packed[:1]
    if found == tag:
        contexts = _contexts()
        try:
            told = contexts.content_size(body)
            if told == nbytes:
                body = contexts.unpacking.decompress(body)
            elif told == -1:  # the frame does not say
                body = contexts.unpacking.decompress(body, nbytes)
            else:
                raise ValueError(f"it unpacks to {told:,} bytes, not to {nbytes:,}")
        except contexts.error as error:
            raise ValueError(f"no zstd frame: {error}") from error
    elif found != PLAIN:
        raise ValueError(f"it begins with {found!r}")
    if len(body) != nbytes:
        raise ValueError(f"it has {len(body):,} bytes, not {nbytes:,}")
    return body


def unreadable(what: str, error: ValueError) -> FileError:
    """Return the error for packed bytes that came from a file and are none."""
    return FileError(
        f"{what}: wanted packed values, got others ({error}); restore its file from a copy made by save_as"
    )


def _bits(value: Array) -> Array:
    """Return an array as integers of the same size, C-contiguous."""
    value = np.ascontiguousarray(value)
    return value.view(f"u{value.itemsize}") if value.dtype.kind == "f" else value


class _Job(Generic[Item, Result]):
    """A piece of work for a helper; for the one who wants its result, if no helper could be asked.

    It lets go of the work before anybody can see that it is over: a helper's thread may get on late, and must not
    keep alive what the work belonged to, such as an open file and its lock.
    """

    __slots__ = ("_error", "_result", "_seen", "_todo", "_turn", "is_asked", "is_over")

    def __init__(self, work: Callable[[Item], Result], item: Item) -> None:
        self._turn = threading.Lock()  # held by whoever is at it
        self._seen = threading.Lock()  # held until a helper has come by
        self._seen.acquire()
        self._todo: tuple[Callable[[Item], Result], Item] | None = (work, item)
        self._result: Result | None = None
        self._error: BaseException | None = None
        self.is_asked = self.is_over = False

    def help(self) -> None:
        """Do it, unless it was done or skipped; called once."""
        with self._turn:
            self._do()
        self._seen.release()

    def result(self) -> Result:
        """Return what came of it, or raise, once; wait for a helper that was asked, or do it here."""
        if self.is_asked:
            with self._seen:
                pass
        with self._turn:
            self._do()
        if not self.is_over:
            raise RuntimeError(LATER_CALL)
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this frame
        result, self._result = self._result, None
        return cast(Result, result)

    def skip(self) -> None:
        """Let nobody begin it any more."""
        self._todo = None

    def wait(self) -> None:
        """Wait until nobody is at it, once it was skipped; what came of it is of no use."""
        with self._turn:
            self._result = self._error = None

    def _do(self) -> None:
        todo, self._todo = self._todo, None
        if todo is None:
            return
        work, item = todo
        try:
            self._result = work(item)
        except BaseException as error:
            self._error = error
        self.is_over = True


Jobs = deque[_Job[Any, Any]]


def _end(jobs: Jobs) -> None:
    """Let nobody begin any of these, and wait until nobody is at one; may be interrupted, and called again."""
    for job in jobs:
        job.skip()
    for job in jobs:
        job.wait()


class Helpers:
    """Shares work on many runs between the cores there are; zstd and large copies let go of the interpreter.

    When a call has ended, with an error or without, nobody is at its work any more. Where an interrupt comes into the
    wait for that, the next call waits first. So it is one call at a time: a later one ends what is left of an earlier.
    """

    MOST_AHEAD = 4  # items whose results wait; each may take megabytes
    LEAST_RUNS = 8  # below, waking a thread costs more than it saves

    def __init__(self) -> None:
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: Jobs = deque()  # those of the last call
        watch(self._forked)

    def _forked(self, at_rest: bool) -> None:
        # Its threads stayed in the parent, and with them whoever is at a job.
        self._pool, self._jobs = None, deque()

    def share(self, work: Callable[[Sequence[int]], None], runs: list[int]) -> None:
        """Call `work(some of the runs)` so that all runs are worked on once; raise what it raises."""
        jobs = self._begin()
        if self._cores == 1 or len(runs) < self.LEAST_RUNS:
            work(runs)
            return
        parts = [runs[part :: self._cores] for part in range(self._cores)]
        try:
            for part in parts[1:]:
                self._ask(jobs, work, part)
            work(parts[0])
            for job in jobs:
                job.result()
        finally:
            _end(jobs)

    def spread(self, work: Callable[[Item], object], items: Iterable[Item]) -> None:
        """Call `work` of each item, in whatever thread has time: here, too, while enough of them wait for the others.

        The items are asked for here, one by one. Raise what making or working on them raises.
        """
        jobs = self._begin()
        try:
            for item in items:
                while jobs and jobs[0].is_over:
                    self._first(jobs)
                if self._cores == 1 or len(jobs) >= 2 * self._cores:
                    work(item)
                else:
                    self._ask(jobs, work, item)
            while jobs:
                self._first(jobs)
        finally:
            _end(jobs)

    def ahead(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `work` of each item, in order; a few are worked on before they are asked for.

        Whoever stops early waits for those that are being worked on.

        Raises:
            RuntimeError: there was a later call, which has ended this one.
        """
        if self._cores == 1:
            yield from map(work, items)
            return
        jobs = self._begin()
        try:
            for item in items:
                if len(jobs) > self.MOST_AHEAD:
                    yield self._first(jobs)
                self._ask(jobs, work, item)
            while jobs:
                yield self._first(jobs)
        finally:
            _end(jobs)

    def _begin(self) -> Jobs:
        """Return where the jobs of a call are noted, once nobody is at those of the last one any more."""
        _end(self._jobs)
        self._jobs = deque()
        return self._jobs

    def _ask(self, jobs: Jobs, work: Callable[[Item], Any], item: Item) -> None:
        """Note a job, and ask for a helper."""
        if jobs is not self._jobs:
            raise RuntimeError(LATER_CALL)
        job = _Job(work, item)
        jobs.append(job)  # first: whatever comes in between, it is known of
        with suppress(RuntimeError):  # the program is about to end, or the system has no more threads
            self._threads().submit(job.help)
            job.is_asked = True

    @staticmethod
    def _first(jobs: Jobs) -> Any:
        """Return the result of the first job, and forget it."""
        result = jobs[0].result()
        jobs.popleft()  # last: an interrupt may come into the wait for it
        return result

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._cores - 1, thread_name_prefix="reverie-unpack")
        return self._pool
