"""How fast batches reach a device, beside plain copies of the same bytes.

This table can be printed alone, with `PYTHONPATH=src python -m benchmarks.own.feeds`. That needs NumPy and torch only,
and uses a GPU if there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.harness import Row, in_turn, machine, rows_beside, show
from benchmarks.own.buffers import FRAME, pixel_buffer

BATCH, LENGTH = 64, 20
STEPS, ADDED = 20_000, 25_000
AT_ONCE = 10  # batches that are timed together; a feed runs ahead, so that one batch alone says little
STEP_S = 0.01  # what a consumer of 100 steps a second has for each
STEADY = 300  # steps of that consumer; it waits while the first batch is made, which is counted, too
FRAME_BYTES = BATCH * (LENGTH + 1) * int(np.prod(FRAME))


def feeds(rounds: int) -> list[Row]:
    """Time a feed and a mirror, each beside its plain copy, and how long a steady consumer waits."""
    import torch

    from reverie.torch import DeviceMirror, feed

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    buffer = pixel_buffer(STEPS, ADDED)
    host = torch.zeros(FRAME_BYTES, dtype=torch.uint8, pin_memory=cuda)
    there = torch.zeros(FRAME_BYTES, dtype=torch.uint8, device=device)

    def finished(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            call()
            if cuda:
                torch.cuda.synchronize()

        return run

    def from_feed() -> float:
        with feed(buffer, BATCH, LENGTH, device=device) as batches:
            next(batches), next(batches)  # these allocate the memory
            if cuda:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(AT_ONCE):
                next(batches)
            if cuda:
                torch.cuda.synchronize()
            return (time.perf_counter() - begin) / AT_ONCE

    mirror = DeviceMirror(buffer, device)
    mirror.update()
    # On the CPU the limits write into memory that exists already. Only the other calls may pay for fresh memory.
    to_device = in_turn(
        {"copy": finished(lambda: there.copy_(host, non_blocking=cuda)), "feed: a batch": from_feed}, rounds
    )
    on_device = in_turn(
        {
            "copy": finished(lambda: there.clone()),
            "mirror: sample": finished(lambda: mirror.sample(BATCH, LENGTH)),
        },
        rounds,
    )
    return [
        *rows_beside(to_device, "copy", {}),
        *rows_beside(on_device, "copy", {}),
        steady(lambda: feed(buffer, BATCH, LENGTH, device=device)),
    ]


def steady(make: Callable[[], object]) -> Row:
    """Return how long a consumer of 100 steps a second waits for a batch. The ratio is the share of its time."""
    with make() as batches:
        for _ in range(STEADY):
            begin = time.perf_counter()
            next(batches)
            time.sleep(max(STEP_S - (time.perf_counter() - begin), 0.0))  # the model computes
        return Row(
            "waiting, at 100 steps a second", batches.waited_s / STEADY, STEP_S, batches.waited_share, 0.01
        )


def main() -> None:
    """Print rates beside the limits."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU alone"
    print(
        "  ".join(f"{key}: {value}" for key, value in machine().items()),
        f" torch: {torch.__version__} on {name}",
    )
    print(f"{BATCH} windows of {LENGTH + 1} frames of 3x64x64 uint8, {FRAME_BYTES / 1e6:.1f} MB a batch")
    print(f"  {'':32} {'time':>9} {'rate':>12}   {'plain copy':>12} {'ratio':>7}")
    *timed, waited = feeds(30)
    for row in timed:
        rate, limit = (f"{FRAME_BYTES / seconds / 1e9:.2f} GB/s" for seconds in (row.seconds, row.limit_s))
        print(f"  {row.name:32} {show(row.seconds):>9} {rate:>12}   {limit:>12} {row.ratio:7.3g}")
    print(f"  {waited.name:32} {show(waited.seconds):>9} {'':>12}   {waited.ratio:.2%} of the time")


if __name__ == "__main__":
    main()
