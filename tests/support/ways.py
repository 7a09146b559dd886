"""Takes each thing into another process in each way, and prints what became of it, for the table of docs/feeds.md."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import reverie as rv

# What a spawned child need not have is imported where it is used: torch takes seconds.

LIMIT_S = 100  # a child that takes longer hangs
SPEC = rv.StepSpec(rv.Field((40,), "float64"), rv.Field((), "int64"))
FRAME = np.zeros((3, 8, 8), np.uint8)


def add(thing: Any, steps: int = 1) -> None:
    """Change a thing: most by adding to it."""
    for step in range(steps):
        if isinstance(thing, rv.ReplayBuffer):
            thing.add(obs=np.zeros(40), action=step, reward=0.0, terminated=False, truncated=False)
        elif isinstance(thing, (rv.IRISReplayBuffer, rv.IRISOnPolicyBuffer)):
            thing.add(FRAME + step % 256, step % 4, 0.0, False)
        else:
            draw(thing)


def draw(thing: Any) -> Any:
    """Return what tells one draw from a thing from another."""
    if hasattr(thing, "sample"):
        return thing.sample(16, 5).anchor.tolist()
    if isinstance(thing, rv.IRISReplayBuffer):
        return thing.sample_sequence()[0][:, 0, 0, 0, 0].tolist()
    if isinstance(thing, rv.Sampler):
        buffer = rv.ReplayBuffer(SPEC, 1000)
        add(buffer, 400)
        return buffer.sample(16, 5, sampler=copy.deepcopy(thing)).anchor.tolist()  # it serves one buffer
    return next(thing).anchor.tolist() if not isinstance(thing, rv.IRISOnPolicyBuffer) else None


def size(thing: Any) -> int:
    return (
        len(thing) if isinstance(thing, (rv.ReplayBuffer, rv.IRISReplayBuffer, rv.IRISOnPolicyBuffer)) else 0
    )


def look(thing: Any, pipe: Any) -> None:
    """In a child: draw, and draw again after the parent has added more."""
    signal.alarm(LIMIT_S)
    try:
        before = size(thing)
        drawn = [draw(thing)]
        pipe.send("ready")
        pipe.recv()
        pipe.send([[*drawn, draw(thing)], "follows" if size(thing) > before else "as it was"])
    except rv.ReplayError as error:
        pipe.send(type(error).__name__)


def change(thing: Any, pipe: Any) -> None:
    """In a child: change the thing."""
    signal.alarm(LIMIT_S)
    try:
        add(thing)
        pipe.send("for itself")
    except rv.ReplayError as error:
        pipe.send(type(error).__name__)


def there(way: str, work: Callable[..., None], thing: Any, writer: Any) -> str:
    """Let two children of one kind do some work on a thing; return what became of it."""
    drawn: list[Any] = []
    context = multiprocessing.get_context(way)
    for _ in range(2):
        ours, theirs = context.Pipe()
        child = context.Process(target=work, args=(thing, theirs))
        try:
            child.start()
        except rv.WrongProcess:
            return "refused"
        theirs.close()
        told = ours.recv()
        if told == "ready":
            add(writer)
            ours.send("more")
            some, told = ours.recv()
            drawn += some
        child.join()
        assert child.exitcode == 0
    assert drawn[0:1] == [None] or len(set(map(str, drawn))) == len(drawn), "two draws are alike"
    return "refused" if told == "WrongProcess" else told


def here(way: Callable[[Any], Any], thing: Any, writer: Any) -> str:
    """Copy a thing in this process; return what became of it."""
    try:
        twin = way(thing)
    except rv.WrongProcess:
        return "refused"
    before = size(twin)
    draw(twin)
    add(writer)
    return "follows" if size(twin) > before else "as it was"


def loaded(way: str, data: Any) -> str:
    """Let the workers of a DataLoader draw two epochs."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=way, persistent_workers=way != "fork"
    )
    try:
        batches = [tuple(batch.anchor.tolist()) for _ in range(2) for batch in loader]
    except (rv.BadSetting, rv.WrongProcess):
        return "refused"
    assert len(batches) == len(set(batches)) == 8
    return "follows"


def main(folder: Path) -> None:
    from reverie.torch import DeviceMirror, SequenceDataset, feed

    alone = rv.ReplayBuffer(SPEC, 1000, residency="packed")
    written = rv.ReplayBuffer(SPEC, 1000, path=folder / "a.replay")
    disk = rv.ReplayBuffer(SPEC, 1000, path=folder / "b.replay", residency="disk")
    frames = rv.IRISReplayBuffer(1000, (3, 8, 8), 4, seq_len=3, batch_size=16)
    trajectory = rv.IRISOnPolicyBuffer()
    for buffer, steps in ((alone, 400), (written, 400), (disk, 400), (frames, 400), (trajectory, 3)):
        add(buffer, steps)
    sampler = rv.Mixture([(kind(), 1.0) for kind in (rv.Prioritized, rv.VisitBalanced, rv.Shuffled)])
    things = {
        "memory": (alone, alone),
        "writer": (written, written),
        "disk": (disk, disk),
        "reader": (rv.open(folder / "a.replay", mode="r"), written),
        "IRISReplayBuffer": (frames, frames),
        "IRISOnPolicyBuffer": (trajectory, trajectory),
        "feed": (feed(written, 16, 5, device="cpu"), written),
        "DeviceMirror": (DeviceMirror(written, "cpu"), written),
        "sampler": (sampler, written),
    }
    became = {}
    for name, (thing, writer) in things.items():
        became[name] = {
            "fork, draws": there("fork", look, thing, writer),
            "fork, changes": there("fork", change, thing, writer),
            "spawn": there("spawn", look, thing, writer),
            "forkserver": there("forkserver", look, thing, writer),
            "pickle": here(lambda one: pickle.loads(pickle.dumps(one)), thing, writer),
            "copy": here(copy.copy, thing, writer),
            "deepcopy": here(copy.deepcopy, thing, writer),
        }
    for name, source in (
        ("SequenceDataset of a path", folder / "a.replay"),
        ("SequenceDataset of a buffer", written),
    ):
        data = SequenceDataset(source, 16, 5, batches=4)
        became[name] = {way: loaded(way, data) for way in ("fork", "spawn", "forkserver")}
    print(json.dumps(became, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
