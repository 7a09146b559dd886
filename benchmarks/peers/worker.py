"""Run one workload on one peer, in this process, and write what was found as JSON.

`python -m benchmarks.peers.worker PEER ADAPTER WORKLOAD OUT SETTINGS` is started by `python -m benchmarks.peers`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.face import Ask, Peer, Variant, adapter_of
from benchmarks.peers.workloads import (
    CODE_SHAPE,
    CannotDo,
    Copies,
    See,
    Steps,
    World,
    beside,
    encoded,
    in_turn,
    pixels,
    pooled,
    valid_starts,
    vectors,
    wrongs,
)

Make = Callable[[], Peer]
Cell = dict[str, Any]
FRAME = (3, 64, 64)


class Settings(dict[str, Any]):
    """rounds, budget_s, and scale: what the sizes are divided by."""

    def size(self, count: int) -> int:
        """Return a number of steps at this scale."""
        return max(int(count // self["scale"]), 4000)


def drawing(
    make: Make,
    settings: Settings,
    pool: np.ndarray,
    mean: int,
    capacity: int,
    added: int,
    shape: tuple[int, int],
    action_size: int,
) -> Cell:
    """Time sample(batch, length) beside copies of the same observations."""
    batch, length = shape
    peer = make()
    peer.make(Ask(capacity, pool.shape[1:], str(pool.dtype), action_size, batch, length, mean=mean))
    peer_can_draw(peer, batch, length)
    world = World(pooled(pool), mean, action_size)
    for steps in world.chunks(added):
        peer.fill(steps)
    copies = Copies(pool, capacity, batch, length)
    held = [peer.sample(batch, length)]

    def draw() -> None:
        held[0] = peer.sample(batch, length)  # the last batch is still held while the next one is drawn

    limits = copies.calls()
    seconds = in_turn({"draw": draw, **limits}, settings["rounds"], settings["budget_s"])
    return beside(seconds, "draw", list(limits))


def peer_can_draw(peer: Peer, batch: int, length: int) -> None:
    """Ask an empty buffer for windows: one that has none at all says so before it is filled."""
    try:
        peer.sample(batch, length)
    except CannotDo:
        raise
    except Exception:  # it is empty
        pass


def pixels_long(make: Make, settings: Settings) -> Cell:
    """64x20 of frames from 100,000 wrapped steps, episodes of 500."""
    size = settings.size(100_000)
    return drawing(make, settings, pixels(), 500, size, size * 13 // 10, (64, 20), 18)


def pixels_short(make: Make, settings: Settings) -> Cell:
    """The same, episodes of 30."""
    size = settings.size(100_000)
    return drawing(make, settings, pixels(), 30, size, size * 13 // 10, (64, 20), 18)


def vectors_16x64(make: Make, settings: Settings) -> Cell:
    """16x64 of 17 floats from 1,000,000 steps, episodes of 1,000."""
    size = settings.size(min(make().most_steps, 1_000_000))
    return {**drawing(make, settings, vectors(17), 1000, size, size, (16, 64), 6), "steps": size}


def vectors_256x8(make: Make, settings: Settings) -> Cell:
    """256x8 of the same."""
    size = settings.size(min(make().most_steps, 1_000_000))
    return {**drawing(make, settings, vectors(17), 1000, size, size, (256, 8), 6), "steps": size}


def growth(make: Make, settings: Settings) -> Cell:
    """Drawing 64x16 of one byte from 10,000,000 steps, beside the same from 10,000."""
    most = settings.size(min(make().most_steps, 10_000_000))
    held: dict[str, Any] = {}
    calls: dict[str, Callable[[], None]] = {}
    for name, size in (("small", 10_000), ("large", most)):
        peer = make()
        peer.make(Ask(size, (1,), "uint8", 1, 64, 16, mean=1000))
        if name == "small":
            peer_can_draw(peer, 64, 16)
        for steps in World(pooled(pixels()[:, 0, 0, :1]), 1000, 1).chunks(size):
            peer.fill(steps)

        def draw(peer: Peer = peer, name: str = name) -> None:
            held[name] = peer.sample(64, 16)

        draw()
        calls[name] = draw
    found = beside(in_turn(calls, settings["rounds"], settings["budget_s"]), "large", ["small"])
    return {**found, "steps": most}


def prioritised(make: Make, settings: Settings) -> Cell:
    """Drawing 64x16 of 17 floats by priority from 1,000,000 steps and updating; limit as for drawing."""
    size, pool = settings.size(min(make().most_steps, 1_000_000)), vectors(17)
    peer = make()
    peer.make(Ask(size, (17,), "float32", 6, 64, 16, prioritised=True, mean=1000))
    peer_can_draw(peer, 64, 16)
    for steps in World(pooled(pool), 1000, 6).chunks(size):
        peer.fill(steps)
    priorities = np.random.default_rng(3).random((4096, 64))
    number = [0]

    def both() -> None:
        number[0] += 1
        peer.update(peer.sample(64, 16), priorities[number[0] % 4096])

    for _ in range(3 if settings["scale"] > 1 else 100):
        begin = time.perf_counter()
        both()
        if time.perf_counter() - begin > 0.1:
            break
    copies = Copies(pool, size, 64, 16).calls()
    seconds = in_turn({"both": both, **copies}, settings["rounds"], settings["budget_s"])
    return {**beside(seconds, "both", list(copies)), "steps": size}


def adding(
    make: Make,
    settings: Settings,
    pool: np.ndarray,
    lanes: int,
    see: See | None = None,
    spell: Callable[[Steps], Steps] = lambda step: step,
) -> Cell:
    """Time a block of adds beside copying the observations to their slots; seconds are those of a step.

    `see` gives the observations instead of `pooled(pool)`; `spell` is what becomes of a step before it is added.
    """
    size, block = 4096, 96
    peer = make()
    see = see or pooled(pool)
    shape = see(*(np.zeros(1, np.int64),) * 3).shape[1:]
    # Room for the world's steps whatever the peer: it is wrapped before anything is timed.
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
    """Adding one step with a frame."""
    return adding(make, settings, pixels(), 1)


def add_vectors(make: Make, settings: Settings) -> Cell:
    """Adding one step with 17 floats."""
    return adding(make, settings, vectors(17), 1)


def lanes_pixels(make: Make, settings: Settings) -> Cell:
    """Adding 16 lanes at a time, with frames."""
    return adding(make, settings, pixels(), 16)


def lanes_vectors(make: Make, settings: Settings) -> Cell:
    """Adding 16 lanes at a time, with 17 floats."""
    return adding(make, settings, vectors(17), 16)


def as_trainers(step: Steps) -> Steps:
    """Return a step as trainers of IRIS spell it: Python's numbers, and a one-hot vector."""
    one_hot = np.zeros(len(step.action), np.float32)
    one_hot[int(step.action.argmax())] = 1.0
    return step._replace(
        action=one_hot,
        reward=float(step.reward),
        terminated=bool(step.terminated),
        truncated=bool(step.truncated),
    )


def drop_in_frames(make: Make, settings: Settings) -> Cell:
    """Adding one step with a frame, its channels first in memory."""
    return adding(make, settings, pixels(), 1, spell=as_trainers)


def drop_in_transposed(make: Make, settings: Settings) -> Cell:
    """Adding one step with a frame whose channels are last in memory, as OpenCV gives it."""
    pool = np.ascontiguousarray(pixels().transpose(0, 2, 3, 1))

    def see(episode: np.ndarray, step: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return pool[ids % len(pool)].transpose(0, 3, 1, 2)

    return adding(make, settings, pool, 1, see, as_trainers)


def drop_in_vectors(make: Make, settings: Settings) -> Cell:
    """Adding one step with 17 bytes."""
    return adding(make, settings, np.ascontiguousarray(pixels()[:, 0, 0, :17]), 1, spell=as_trainers)


def saving(make: Make, settings: Settings) -> Cell:
    """Saving 100,000 steps with frames, and reopening them up to the first batch; limit: np.save and np.load."""
    size, pool = settings.size(100_000), pixels()
    ask = Ask(size, FRAME, "uint8", 18)
    peer = make()
    peer.make(ask)
    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    try:
        # Its face says at once whether it can be saved, before it is filled.
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
                begin = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - begin)

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
    """Load, and draw a batch if it draws any: what is loaded late is counted, too."""
    peer.make(ask)
    peer.load(path)
    with suppress(CannotDo):
        peer.sample(ask.batch, ask.length)


def correctness(make: Make, settings: Settings) -> Cell:
    """Look at windows of 20 steps from a wrapped buffer of 2,000, episodes of 30, as it stands and as it goes on."""
    size, batch, length = 2_000, 100, 20
    ask = Ask(size, CODE_SHAPE, "uint8", 2, batch, length, mean=30)
    peer = make()
    peer.make(ask)
    peer_can_draw(peer, batch, length)
    world = World(encoded, 30, 2)
    for steps in world.chunks(size * 3 // 2):
        for number in range(len(steps.reward)):
            peer.add(steps.at(number))
    starts: Counter[tuple[int, int]] = Counter()
    counts: Counter[str] = Counter()
    begin, first = time.perf_counter(), None

    def look(count: int, keep: bool) -> None:
        nonlocal first
        for _ in range(count):
            if time.perf_counter() - begin > max(2 * settings["budget_s"], 20):
                return
            windows = peer.windows(peer.sample(batch, length))
            found = wrongs(windows)
            first = windows.obs.shape[1] if first is None else first
            counts["windows"] += len(found.start)
            for name in ("crossing", "head", "successor", "unwritten", "broken"):
                counts[name] += int(getattr(found, name).sum())
            if keep:
                starts.update(map(tuple, found.start[~found.any()].tolist()))

    newest = (len(world.lengths) - 1, (world.step or world.lengths[-1]) - 1)
    wanted = valid_starts(world.lengths, newest, size, length + 1, peer.crosses, peer.keeps_final)
    if peer.whole_episodes and (wanted[0][0], 0) not in wanted:
        wanted = [start for start in wanted if start[0] != wanted[0][0]]
    look(500 if settings["scale"] == 1 else 50, True)
    for _ in range(20):  # the head moves on
        for step in map(world.steps(13).at, range(13)):
            peer.add(step)
        look(5, False)
    return {
        "windows": counts["windows"],
        **{name: counts[name] / counts["windows"] for name in ("crossing", "head", "successor", "broken")},
        "unwritten": counts["unwritten"] / counts["windows"],
        "valid": len(wanted),
        "drawn": [starts.get(start, 0) for start in wanted],
        "elsewhere": sum(starts.values()) - sum(starts.get(start, 0) for start in wanted),
        "short": nearly_empty(make, ask),
    }


def nearly_empty(make: Make, ask: Ask) -> float | None:
    """Return the share of windows with unwritten rows when ten steps are stored; None if it gives no windows then."""
    peer = make()
    peer.make(ask)
    for step in map(World(encoded, 30, 2).steps(10).at, range(10)):
        peer.add(step)
    try:
        found = wrongs(peer.windows(peer.sample(ask.batch, ask.length)))
    except Exception:  # it says that there is not enough: as it should
        return None
    return float(found.unwritten.mean())


WORKLOADS = {
    "pixels_long": pixels_long,
    "pixels_short": pixels_short,
    "vectors_16x64": vectors_16x64,
    "vectors_256x8": vectors_256x8,
    "growth": growth,
    "prioritised": prioritised,
    "add_pixels": add_pixels,
    "add_vectors": add_vectors,
    "lanes_pixels": lanes_pixels,
    "lanes_vectors": lanes_vectors,
    "saving": saving,
    "correctness": correctness,
}

# For classes of one name only, see DROP_INS.
DROP_IN_WORKLOADS = {
    "drop_in_frames": drop_in_frames,
    "drop_in_transposed": drop_in_transposed,
    "drop_in_vectors": drop_in_vectors,
}

STORING = ("add_pixels", "add_vectors", "lanes_pixels", "lanes_vectors", "saving")


def main(peer: str, adapter: str, workload: str, out: str, settings: str) -> None:
    """Write what was found, or what the peer cannot do."""
    try:
        make = adapter_of(Variant(peer, "", adapter))
        found = {**WORKLOADS, **DROP_IN_WORKLOADS}[workload](make, Settings(json.loads(settings)))
    except CannotDo as reason:
        found = {"cannot": str(reason)}
    except Exception as error:
        import traceback

        traceback.print_exc()
        found = {
            "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
