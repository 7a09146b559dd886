"""The sharded buffers that the tables measure, the local one beside them, and the sizes of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import reverie as rv
from benchmarks.own.buffers import FRAMES_SPEC, random_frames
from reverie.batch import Batch, contents
from reverie.ray import ShardedBuffer

STREAMS = 4  # in all, however many shards there are
EPISODE = 500


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        batch, length: of what is drawn.
        steps: live ones in all.
        counts: of shards.
        rounds: of draws.
        written: steps of each writer. writes: rounds of writing.
        kills: of shards.
        batches: whose memory is watched. small, short: their batch and length.
        store_bytes: of Ray's store.
    """

    batch: int = 64
    length: int = 20
    steps: int = 8_000
    counts: tuple[int, ...] = (1, 2, 4)
    rounds: int = 40
    written: int = 1_024
    writes: int = 7
    kills: int = 5
    batches: int = 10_000
    small: int = 16
    short: int = 10
    store_bytes: int = 800_000_000


def rows(first: int, count: int) -> dict[str, Any]:
    """Return steps of one stream from number `first` on, as `extend` takes them; every 500th ends an episode."""
    frames, numbers = random_frames(), np.arange(first, first + count)
    ends = numbers % EPISODE == EPISODE - 1
    found = {
        "obs": frames[numbers % len(frames)],
        "action": numbers,
        "reward": np.zeros(count, np.float32),
        "terminated": ends,
        "truncated": np.zeros(count, np.bool_),
    }
    return {**found, "final_obs": frames[: ends.sum()]} if ends.any() else found


def steps(first: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield the same steps one by one, as `add` takes them."""
    frames = random_frames()
    for number in range(first, first + count):
        ended = number % EPISODE == EPISODE - 1
        yield {
            "obs": frames[number % len(frames)],
            "action": number,
            "reward": 0.0,
            "terminated": ended,
            "truncated": False,
            "final_obs": frames[0] if ended else None,
        }


def local(size: int, path: Path | None = None) -> rv.ReplayBuffer:
    """Return a buffer of this process, full and wrapped, with a file if there is a path."""
    buffer = rv.ReplayBuffer(FRAMES_SPEC, size, streams=STREAMS, seed=0, path=path)
    for stream in range(STREAMS):
        buffer.extend(stream=stream, **rows(0, size // STREAMS + size // 16))
    return buffer


def empty(size: int, shards: int, folder: Path) -> ShardedBuffer:
    """Return shards without a step."""
    return ShardedBuffer(
        FRAMES_SPEC,
        size,
        shards=shards,
        streams_per_shard=STREAMS // shards,
        directory=folder / f"of-{shards}",
        seed=0,
    )


@contextmanager
def filled(size: int, counts: tuple[int, ...], folder: Path) -> Iterator[dict[str, ShardedBuffer]]:
    """Make the shards of each count, with the steps of the local buffer; stop them at the end."""
    with ExitStack() as stack:
        found = {}
        for count in counts:
            buffer = stack.enter_context(empty(size, count, folder))
            for stream in range(STREAMS):
                with buffer.writer(stream) as writer:
                    for step in steps(0, size // STREAMS + size // 16):
                        writer.add(**step)
            found[named(count)] = buffer
        yield found


def named(count: int) -> str:
    """Return how a table calls so many shards."""
    return f"{count} shard" if count == 1 else f"{count} shards"


def bytes_of(batch: Batch) -> int:
    """Return the bytes of all arrays of a batch."""

    def size(tree: Any) -> int:
        return sum(map(size, tree.values())) if isinstance(tree, dict) else int(tree.nbytes)

    return size(contents(batch))
