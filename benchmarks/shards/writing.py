"""Steps a second from four writers in processes of their own, beside one local `extend` of the same steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import in_turn
from benchmarks.shards.buffers import STREAMS, Sizes, empty, local, named, rows, steps
from benchmarks.shards.figures import Table, rates
from benchmarks.shards.plain import started

BATCH, IN_FLIGHT = 64, 2
READY_S = 0.5  # what the tasks have to start before they begin together
EXTENDED = "one local extend"
PLAIN = "4 tasks sending to 1 plain actor"


def writes(sizes: Sizes, folder: Path) -> dict[str, Table]:
    """Time four tasks that write to shards, and to files in turn."""
    calls: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for count in sizes.counts:
            buffer = stack.enter_context(empty(sizes.steps, count, folder / "written"))
            writers = [buffer.writer(stream, batch=BATCH, in_flight=IN_FLIGHT) for stream in range(STREAMS)]
            calls[f"4 writers, {named(count)}"] = together(write, writers, sizes.written)
        file = stack.enter_context(local(sizes.steps, folder / "local.replay"))
        calls[EXTENDED] = extending(file, sizes.written)
        calls[PLAIN] = together(send, [started(1)] * STREAMS, sizes.written)
        seconds = in_turn(calls, sizes.writes, warm_up=1)
    title = f"{STREAMS} times {sizes.written:,} steps of 3×64×64 uint8 into files; of a writer in batches of {BATCH}"
    return {
        "writers": Table(title, "steps a second", rates(seconds, (EXTENDED,), {}, STREAMS * sizes.written))
    }


def together(task: Callable[..., float], targets: list[Any], count: int) -> Callable[[], float]:
    """Return what lets a task of Ray work for each target, from one instant on; it returns the seconds of the last."""
    import ray

    remote = ray.remote(task)

    def run() -> float:
        begin = time.monotonic() + READY_S
        return max(ray.get([remote.remote(target, count, begin) for target in targets])) - begin

    return run


def write(writer: Any, count: int, begin: float) -> float:
    """Write steps from an instant on; return the instant of the last acknowledgement."""
    given = list(steps(0, count))
    with writer:
        writer.claim()
        time.sleep(max(0.0, begin - time.monotonic()))
        for step in given:
            writer.add(**step)
        writer.flush()
        return time.monotonic()


def send(actor: Any, count: int, begin: float) -> float:
    """Send the same steps to an actor that drops them."""
    batches = [rows(first, BATCH) for first in range(0, count, BATCH)]
    sent: deque[Any] = deque()
    time.sleep(max(0.0, begin - time.monotonic()))
    for batch in batches:
        if len(sent) == IN_FLIGHT:
            sent.popleft().result()
        sent.append(actor.drop.remote(batch).future())
    while sent:
        sent.popleft().result()
    return time.monotonic()


def extending(buffer: Any, count: int) -> Callable[[], float]:
    """Return what stores the steps of all writers with `extend`, stream by stream; it returns the seconds."""
    given = [rows(first, BATCH) for first in range(0, count, BATCH)]

    def run() -> float:
        begin = time.monotonic()
        for stream in range(STREAMS):
            for batch in given:
                buffer.extend(stream=stream, **batch)
        return time.monotonic() - begin

    return run
