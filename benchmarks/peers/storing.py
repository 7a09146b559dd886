"""The workloads that store: adding a step, adding a step of each lane, saving and reopening."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.harness import Copies, beside, in_turn, seconds_of
from benchmarks.peers.face import Ask, CannotDo, Cell, Make, Peer, Settings
from benchmarks.peers.world import See, Steps, World, pixels, pooled, vectors

FRAME = (3, 64, 64)


def adding(
    make: Make,
    settings: Settings,
    pool: np.ndarray,
    lanes: int,
    see: See | None = None,
    spell: Callable[[Steps], Steps] = lambda step: step,
) -> Cell:
    """Time a block of adds beside copying the observations to their slots. Seconds are those of one step.

    `see` gives the observations instead of `pooled(pool)`. `spell` changes each step before it is added.
    """
    size, block = 4096, 96
    peer = make()
    see = see or pooled(pool)
    shape = see(*(np.zeros(1, np.int64),) * 3).shape[1:]
    # Every peer has room for as many steps, and is wrapped before anything is timed.
    peer.make(Ask(size // lanes * lanes, shape, str(pool.dtype), 6, lanes=lanes))
    worlds = [World(see, 500, 6, seed=lane) for lane in range(lanes)]
    plain = np.zeros((size, *shape), pool.dtype)
    place = [0]
    ready: list[Any] = []

    def prepare() -> None:
        count = block // lanes
        chunks = [world.steps(count) for world in worlds]
        if lanes == 1:
            ready[:] = [spell(chunks[0].at(number)) for number in range(count)]
        else:
            joined = [np.stack(values, 1) for values in zip(*chunks, strict=True)]
            ready[:] = [type(chunks[0])(*(values[number] for values in joined)) for number in range(count)]

    def add() -> float:
        prepare()
        store = peer.add if lanes == 1 else peer.add_lanes
        begin = time.perf_counter()
        for step in ready:
            store(step)
        return (time.perf_counter() - begin) / block

    def copy() -> float:
        begin = time.perf_counter()
        for step in ready:
            at = place[0]
            if lanes == 1:
                plain[at] = step.obs
            else:
                plain[at : at + lanes] = step.obs
            place[0] = (at + lanes) % (size - lanes)
        return (time.perf_counter() - begin) / block

    begin = time.perf_counter()
    while place[0] < size - 2 * block and time.perf_counter() - begin < 5:
        add()
        copy()
    seconds = in_turn({"add": add, "copy": copy}, settings["rounds"], settings["budget_s"])
    return beside(seconds, "add", ["copy"])


def add_pixels(make: Make, settings: Settings) -> Cell:
    """Add one step with a frame."""
    return adding(make, settings, pixels(), 1)


def add_vectors(make: Make, settings: Settings) -> Cell:
    """Add one step with 17 floats."""
    return adding(make, settings, vectors(17), 1)


def lanes_pixels(make: Make, settings: Settings) -> Cell:
    """Add 16 lanes at a time, with frames."""
    return adding(make, settings, pixels(), 16)


def lanes_vectors(make: Make, settings: Settings) -> Cell:
    """Add 16 lanes at a time, with 17 floats."""
    return adding(make, settings, vectors(17), 16)


def as_trainers(step: Steps) -> Steps:
    """Return a step as trainers of IRIS write it, with Python's numbers and a one-hot vector."""
    one_hot = np.zeros(len(step.action), np.float32)
    one_hot[int(step.action.argmax())] = 1.0
    return step._replace(
        action=one_hot,
        reward=float(step.reward),
        terminated=bool(step.terminated),
        truncated=bool(step.truncated),
    )


def drop_in_frames(make: Make, settings: Settings) -> Cell:
    """Add one step with a frame, its channels first in memory."""
    return adding(make, settings, pixels(), 1, spell=as_trainers)


def drop_in_transposed(make: Make, settings: Settings) -> Cell:
    """Add one step with a frame whose channels are last in memory, as OpenCV gives it."""
    pool = np.ascontiguousarray(pixels().transpose(0, 2, 3, 1))

    def see(episode: np.ndarray, step: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return pool[ids % len(pool)].transpose(0, 3, 1, 2)

    return adding(make, settings, pool, 1, see, as_trainers)


def drop_in_vectors(make: Make, settings: Settings) -> Cell:
    """Add one step with 17 bytes."""
    return adding(make, settings, np.ascontiguousarray(pixels()[:, 0, 0, :17]), 1, spell=as_trainers)


def saving(make: Make, settings: Settings) -> Cell:
    """Save 100,000 steps with frames, and reopen them up to the first batch; limit: np.save and np.load."""
    size, pool = settings.size(100_000), pixels()
    ask = Ask(size, FRAME, "uint8", 18)
    peer = make()
    peer.make(ask)
    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    try:
        # A peer that cannot save says so before it is filled.
        if type(peer).save is Peer.save:
            peer.save(folder)
        for steps in World(pooled(pool), 500, 18).chunks(size):
            peer.fill(steps)
        plain = Copies(pool, size, 1, 1).held
        seconds: dict[str, list[float]] = {"save": [], "load": [], "np.save": [], "np.load": []}
        taken = 0
        begun = time.perf_counter()
        while len(seconds["save"]) < 3 and not (
            seconds["save"] and time.perf_counter() - begun > settings["budget_s"] * 12
        ):
            path = folder / "kept"

            def timed(name: str, call: Callable[[], object]) -> None:
                seconds[name].append(seconds_of(call))

            timed("np.save", lambda: np.save(folder / "plain.npy", plain))
            timed("save", lambda path=path: peer.save(path))
            taken = sum(
                file.stat().st_blocks * 512
                for file in {*folder.glob("kept*/**/*"), *folder.glob("kept*")}
                if file.is_file()
            )
            timed("np.load", lambda: np.load(folder / "plain.npy"))
            fresh = make()
            timed("load", lambda fresh=fresh, path=path: reopen(fresh, path, ask))
            fresh.close()
            del fresh
            for file in folder.glob("kept*"):
                shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
        arrays = {name: np.array(values) for name, values in seconds.items()}
        return {
            "save": beside(arrays, "save", ["np.save"]),
            "load": beside(arrays, "load", ["np.load"]),
            "bytes": taken,
            "raw_bytes": plain.nbytes,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reopen(peer: Peer, path: Path, ask: Ask) -> None:
    """Load, and draw a batch if the peer draws any, so that what is loaded late is counted, too."""
    peer.make(ask)
    peer.load(path)
    with suppress(CannotDo):
        peer.sample(ask.batch, ask.length)
