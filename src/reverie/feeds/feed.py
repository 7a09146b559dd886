"""A feed: batches made ahead of time in one background thread, handed out in order."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from reverie.batch import Batch
from reverie.buffer import ReplayBuffer
from reverie.checks import positive
from reverie.engine import Wanted, give_up, waiting_for, wanted
from reverie.errors import BadSetting, BufferClosed, WrongProcess
from reverie.process import Bound, watch
from reverie.union import Union

Made = TypeVar("Made")  # what the thread makes
Given = TypeVar("Given")  # the batch that is handed out

CHECK_S = 1.0  # how often a consumer that waits looks whether the thread is still there
EXIT_WAIT_S = 5.0  # at interpreter exit, how long a thread may take to notice; then it is left behind


class Failure(NamedTuple):
    """What came instead of a batch."""

    error: BaseException


def check_source(source: object) -> ReplayBuffer | Union:
    """Return `source` if it is a buffer or a union; raise BadSetting otherwise."""
    return source if isinstance(source, Union) else check_buffer(source)


def check_buffer(buffer: object) -> ReplayBuffer:
    """Return `buffer` if it is one; raise BadSetting otherwise."""
    if isinstance(buffer, Union):
        raise BadSetting(
            "buffer: wanted a ReplayBuffer, got a Union, whose steps lie in several rings; "
            "make one for each of its parts"
        )
    if not isinstance(buffer, ReplayBuffer):
        raise BadSetting(
            f"buffer: wanted a ReplayBuffer, got {type(buffer).__name__}; pass the buffer itself"
        )
    return buffer


def drawing(buffer: ReplayBuffer | Union, *how: Any) -> tuple[Wanted, Callable[..., Batch]]:
    """Return what is wanted of a buffer, checked now, and what draws it: in the thread an error would come late.

    Args:
        buffer: where the batches come from.
        *how: what `wanted` takes, from `batch_size` to `stride`.

    Raises:
        BadSetting: an argument of the wrong kind or range.
    """
    asked = wanted(check_source(buffer).spec, *how)
    if isinstance(buffer, Union) and buffer.in_flight > 1:
        return asked, Ahead(buffer, asked).draw
    batch_size, length, *_ = asked
    return asked, partial(
        buffer.sample,
        batch_size,
        length,
        boundary=asked.boundary,
        sampler=asked.sampler,
        burn_in=asked.burn_in,
        fields=asked.fields,
        stride=asked.stride,
    )


class Ahead:
    """Draws from a union whose parts are far away: the next draws have begun while one is waited for.

    Args:
        union: what is drawn from.
        asked: what is wanted, the same each time.
    """

    def __init__(self, union: Union, asked: Wanted) -> None:
        self._union, self._asked = union, asked
        self._begun: deque[Callable[[Batch | None], Batch]] = deque()

    def draw(self, out: Batch | None = None) -> Batch:
        """Return the next batch."""
        while len(self._begun) < self._union.in_flight:
            self._begun.append(self._union.begin(self._asked))
        return self._begun.popleft()(out)


class Feed(Bound, Generic[Made, Given]):
    """An iterator of batches that are made ahead of time; the `feed` of a framework's module makes one.

    It is a context manager, and has one background thread, which ends with `close`, with the `with` block,
    when the feed is collected, or with the interpreter. An error in the thread (NotEnoughData, say) comes out
    of `next` where its batch would have come, with the traceback it had; the `next` after it tries again.

    Args:
        make: returns the next batch, or what becomes it; called in the thread. It must not refer to this
            object, or that would never be collected.
        hand_over: makes a batch of what `make` made; called in the consumer's thread.
        prefetch: batches kept ready, at least 1.

    Attributes:
        batches: how many were handed out.
        waited_s: seconds that the consumer waited for them, all together.
    """

    _instead = "make one there, of a buffer of that process"

    def __init__(self, make: Callable[[], Made], hand_over: Callable[[Made], Given], prefetch: int) -> None:
        self.batches = 0
        self.waited_s = 0.0
        self._begun_s: float | None = None
        self._hand_over = hand_over
        self._line: _Line[Made] = _Line(positive("prefetch", prefetch))
        self._thread = threading.Thread(
            target=_work, args=(self._line, make), name="reverie-feed", daemon=True
        )
        self._line.thread = self._thread
        _lines.add(self._line)
        # Only tells the thread to stop: whoever collects this may hold a lock that `make` is waiting for.
        weakref.finalize(self, self._line.stop).atexit = False
        self._thread.start()

    @property
    def waited_share(self) -> float:
        """The share of the time since the first batch was asked for that the consumer waited, 0..1.

        The time of the host is meant; what a CUDA stream waits for a copy under way is not in it.
        """
        if self._begun_s is None:
            return 0.0
        return self.waited_s / max(time.perf_counter() - self._begun_s, 1e-9)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Given:
        """Return the next batch; raise what came instead of it.

        Raises:
            BufferClosed: this was closed.
            WrongProcess: this was made before the process was forked; its thread is in the parent.
        """
        begin = time.perf_counter()
        if self._begun_s is None:
            self._begun_s = begin
        try:
            made = self._line.get()
        finally:
            self.waited_s += time.perf_counter() - begin
        if isinstance(made, Failure):
            try:
                raise made.error
            finally:
                del made  # else the error's traceback would hold the error
        self.batches += 1
        return self._hand_over(made)

    def close(self) -> None:
        """End the thread, and wait until it has ended. Closing twice is fine."""
        self._line.stop()
        if self._line.thread not in (None, threading.current_thread()):
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Feed({self.batches} batches, waited {self.waited_s:.3g} s, {self.waited_share:.1%} of the time)"
        )


class _Line(Generic[Made]):
    """What consumer and thread share: the items that are ready, and whether to go on."""

    def __init__(self, depth: int) -> None:
        self.thread: threading.Thread | None = None
        self._depth = depth
        self._ready: deque[Made | Failure] = deque()
        self._stopped = False
        self._consumers: frozenset[threading.Thread] = frozenset()
        # A condition's lock is reentrant: garbage collection may call `stop` inside any line below.
        self._changed = threading.Condition()
        watch(self._forked)

    def _forked(self, at_rest: bool) -> None:
        self.thread, self._ready = None, deque()  # what is ready is for the parent
        self._changed = threading.Condition()  # the thread may have held the other one

    def wait_for_room(self) -> bool:
        """Wait until another one is wanted; return False if none ever will be."""
        with self._changed:
            while not self._stopped and (len(self._ready) >= self._depth or self._has_failed()):
                with waiting_for(self._consumers):
                    self._changed.wait()
            return not self._stopped

    def _has_failed(self) -> bool:
        return bool(self._ready) and isinstance(self._ready[-1], Failure)

    def put(self, item: Made | Failure) -> None:
        with self._changed:
            if not self._stopped:
                self._ready.append(item)
                self._changed.notify_all()

    def get(self) -> Made | Failure:
        with self._changed:
            if threading.current_thread() not in self._consumers:
                self._consumers |= {threading.current_thread()}
            while not self._ready:
                if self._stopped:
                    raise BufferClosed("wanted an open feed, got a closed one; make a new one")
                if self.thread is None or not self.thread.is_alive():
                    raise WrongProcess(
                        "wanted a feed of this process, got one whose thread is in another; "
                        "make the feed after forking"
                    )
                with waiting_for((self.thread,)):
                    self._changed.wait(CHECK_S)
            item = self._ready.popleft()
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            if self.thread is not None:
                give_up(self.thread)
            self._ready.clear()
            self._changed.notify_all()


def _work(line: _Line[Made], make: Callable[[], Made]) -> None:
    while line.wait_for_room():
        try:
            item = make()
        except BaseException as error:  # whatever it is, the consumer is the one to know
            line.put(Failure(error))
        else:
            line.put(item)
            del item  # it is the consumer's now


# Threads are daemons: others would be waited for before anything could tell them to stop.
_lines: weakref.WeakSet[_Line[Any]] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for line in list(_lines):
        line.stop()
        if line.thread is not None:
            line.thread.join(EXIT_WAIT_S)
