"""Batches a second from shards, beside a local buffer, and beside Ray moving as many bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import in_turn
from benchmarks.own.unions import drawing
from benchmarks.shards.buffers import Sizes, bytes_of, filled, local, named
from benchmarks.shards.figures import Table, rates, times
from benchmarks.shards.plain import Owned, Stream, answer, from_all, one_by_one, started, steadily
from benchmarks.shards.processors import processors
from reverie.samplers import Uniform

RAY, LOCAL = "Ray", "a local buffer"
NOT_COPIED = "Ray, not copied"
BOUND = 0.8


def draws(sizes: Sizes, folder: Path) -> dict[str, Table]:
    """Time `sample`, feeds, and what a batch is made of."""
    with filled(sizes.steps, sizes.counts, folder) as shards:
        sources: dict[str, Any] = {**shards, LOCAL: local(sizes.steps)}
        size = bytes_of(sources[LOCAL].sample(sizes.batch, sizes.length))
        actor = started(size)
        bounds = dict.fromkeys(shards, BOUND)
        asked = f"{sizes.batch}×{sizes.length} frames of 3×64×64 uint8, {size / 1e6:.1f} MB a batch"
        calls = sampling(sources, actor, size, sizes)
        sampled = in_turn(calls, sizes.rounds)
        computed = processors(calls, max(1, sizes.rounds // 6), RAY)
        with feeding(sources, actor, size, sizes) as feeds:
            fed = in_turn(feeds, max(3, sizes.rounds // 2), warm_up=1)
        parts = in_turn(pieces(sources, actor, size, sizes), sizes.rounds)
    return {
        "sample": Table(
            f"`sample` in one thread: {asked}", "batches a second", rates(sampled, (RAY, LOCAL), bounds)
        ),
        "feed": Table(f"Through a feed: {asked}", "batches a second", rates(fed, (RAY, LOCAL), bounds)),
        "processors": computed,
        "parts": Table(
            "What a batch of `sample` is made of", "ms", times(parts, named(sizes.counts[0]), 1e-3)
        ),
    }


def sampling(sources: dict[str, Any], actor: Any, size: int, sizes: Sizes) -> dict[str, Callable[[], None]]:
    """Return what draws one batch after the other, and the same of Ray alone."""
    ours = {name: drawing(source, Uniform(), sizes.batch, sizes.length) for name, source in sources.items()}
    far = {f"{name}, carried by Ray": elsewhere(call) for name, call in ours.items() if name != LOCAL}
    theirs = {RAY: one_by_one(actor, Owned(size, 2)), NOT_COPIED: one_by_one(actor, None)}
    for name, (actors, each) in split(size, sizes).items():
        theirs[name] = from_all(actors, [Owned(each, 2) for _ in actors])
    return {**ours, **far, **theirs}


def elsewhere(draw: Callable[[], None]) -> Callable[[], None]:
    """Return a draw in which no memory can be lent, as if the shards were on other machines."""

    def run() -> None:
        lend = os.memfd_create
        del os.memfd_create
        try:
            draw()
        finally:
            os.memfd_create = lend

    return run


def split(size: int, sizes: Sizes) -> dict[str, tuple[list[Any], int]]:
    """Start plain actors that hold a part of the bytes each; return them and the bytes of each, by name."""
    return {
        f"Ray, {count} actors with a part each": (
            [started(size // count) for _ in range(count)],
            size // count,
        )
        for count in sizes.counts[1:]
    }


@contextmanager
def feeding(
    sources: dict[str, Any], actor: Any, size: int, sizes: Sizes
) -> Iterator[dict[str, Callable[[], float]]]:
    """Open feeds; yield what takes batches of them, and the same of Ray alone with two calls in flight."""
    from reverie.torch import feed

    with ExitStack() as stack:
        ours = {
            name: steadily(stack.enter_context(feed(source, sizes.batch, sizes.length, device="cpu")))
            for name, source in sources.items()
        }
        theirs = {
            RAY: steadily(Stream([actor], [Owned(size, 4)])),
            NOT_COPIED: steadily(Stream([actor], None)),
        }
        for name, (actors, each) in split(size, sizes).items():
            theirs[name] = steadily(Stream(actors, [Owned(each, 4) for _ in actors]))
        yield {**ours, **theirs}


def pieces(sources: dict[str, Any], actor: Any, size: int, sizes: Sizes) -> dict[str, Callable[[], object]]:
    """Return what a batch from a shard is made of, each alone."""
    there, here = answer(actor.get), np.zeros(size, np.uint8)
    ours = {
        name: drawing(source, Uniform(), sizes.batch, sizes.length)
        for name, source in sources.items()
        if name != LOCAL
    }
    return {
        **ours,
        "drawing and gathering (a local buffer)": drawing(
            sources[LOCAL], Uniform(), sizes.batch, sizes.length
        ),
        "a call there and back, without bytes": lambda: answer(actor.drop, None),
        "a call that brings the bytes": one_by_one(actor, None),
        "copying them out of Ray's store": lambda: np.copyto(here, there),
    }
