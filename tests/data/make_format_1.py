"""Makes format-1.replay and format-1.npz: a replay file of format version 1 with all that one can hold.

Run once, with the reverie that wrote version 1. The two files stay as they are for ever: whatever changes in
reverie, it must go on opening them. `python tests/data/make_format_1.py FOLDER` writes them into a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import reverie as rv

LENGTH = 5
SPEC = rv.StepSpec(
    obs={"camera": rv.Field((3, 12, 12), "uint8"), "body": {"joints": rv.Field((3,), "float32"),
                                                          "touch": rv.Field((), "bool")}},
    action=rv.Field((2,), "float32"),
    extras={"logits": rv.Field((40,), "float32"), "clock": rv.Field((), "int64")},
)  # fmt: skip
STEPS = (171, 150)  # of each stream; it keeps 100, so that both have come round and end within a run

# stream -> id of an episode's last step -> how it ends, and whether its final observation is given
ENDS = {
    0: {14: ("terminated", True), 40: ("truncated", True), 75: ("cut", False), 80: ("terminated", False),
        109: ("both", True), 131: ("truncated", False), 150: ("cut", True)},
    1: {30: ("cut", True), 66: ("terminated", True), 99: ("truncated", True), 120: ("terminated", False),
        149: ("terminated", True)},
}  # fmt: skip


def observation(stream: int, step: int) -> dict[str, Any]:
    """An observation that no other step has; as in a game, little of it changes from one to the next."""
    camera = np.full((3, 12, 12), 40 * stream, np.uint8)
    camera[:, step % 12, step // 12 % 12] = (step % 256, 255 - step % 256, stream)
    return {"camera": camera, "body": {"joints": np.array([stream, step, -0.5 * step], np.float32),
                                       "touch": np.bool_(step % 3 == 0)}}  # fmt: skip


def values(stream: int, step: int) -> dict[str, Any]:
    """The fields of a step but for its end."""
    return {"obs": observation(stream, step), "action": np.array([step / 8, stream], np.float32),
            "reward": (step % 7) / 4 - 0.5, "logits": np.arange(40, dtype=np.float32) + step,
            "clock": 1_000_000_007 * step + stream}  # fmt: skip


def samplers() -> list[rv.Sampler]:
    """The samplers, in the order in which they are first used."""
    return [rv.Prioritized(alpha=0.7, beta=0.5), rv.VisitBalanced(alpha=2.0), rv.VisitBalanced(alpha=1.0, by="step"),
            rv.Fresh(rv.Uniform()), rv.Shuffled(),
            rv.Mixture([(rv.Prioritized(), 0.5), (rv.EpisodeUniform(), 0.5)])]  # fmt: skip


def record(path: Path) -> tuple[rv.ReplayBuffer, list[rv.Sampler]]:
    """Make the buffer, and do to it all that a file remembers."""
    buffer = rv.ReplayBuffer(SPEC, 200, streams=2, seed=20, path=path)
    drawing = samplers()
    for step in range(max(STEPS)):
        for stream in range(2):
            if step >= STEPS[stream]:
                continue
            kind, shown = ENDS[stream].get(step, ("", False))
            ended = kind not in ("", "cut")
            final = observation(stream, 1_000 + step) if shown else None
            buffer.add(**values(stream, step), stream=stream, terminated=kind in ("terminated", "both"),
                       truncated=kind in ("truncated", "both"), final_obs=final if ended else None)  # fmt: skip
            if kind == "cut":
                buffer.cut(stream, final_obs=final)
        if step in (110, 145, 168):
            for sampler in drawing:
                buffer.sample(4, LENGTH, sampler=sampler, boundary="pad_right")
            batch = buffer.sample(6, LENGTH, sampler=drawing[0], boundary="pad_right")
            errors = np.linspace(0.0, 3.0, 6 * LENGTH, dtype=np.float32).reshape(6, LENGTH)
            buffer.update_priorities(batch, errors)
            # Twice as large as before, in sealed runs and in newest steps alike.
            buffer.write_back(batch, logits=2 * batch.extras["logits"])
            buffer.flush()
    return buffer, drawing


def everything(buffer: rv.ReplayBuffer) -> dict[str, np.ndarray]:
    """All that a buffer holds: each live step with its successor, and the episodes."""
    count = buffer.count_windows(1, "pad_right")
    # Of a kind that `samplers` has not: it would go on with that one's epoch.
    batch = buffer.sample(count, 1, boundary="pad_right", sampler=rv.Shuffled(tiles=True))
    order = np.lexsort((batch.anchor, batch.stream))
    return {**{f"step/{name}": array[order] for name, array in flat(batch).items()},
            **{f"episode/{name}": buffer.episodes[name] for name in buffer.episodes.dtype.names}}  # fmt: skip


def next_batches(buffer: rv.ReplayBuffer, drawing: list[rv.Sampler]) -> dict[str, np.ndarray]:
    """The next batch of each sampler, and of none."""
    found = {}
    for place, sampler in enumerate([*drawing, None]):
        for boundary in ("pad_right", "cross"):
            batch = buffer.sample(8, LENGTH, sampler=sampler, boundary=boundary)
            found |= {f"{place}/{boundary}/{name}": array for name, array in flat(batch).items()}
    return found


def flat(batch: Any) -> dict[str, np.ndarray]:
    """The arrays of a batch by name."""
    names = ("reward", "terminated", "truncated", "is_last", "is_terminal", "is_first", "mask", "obs_mask", "weight",
             "stream", "start", "anchor")  # fmt: skip
    found = {name: getattr(batch, name) for name in names if hasattr(batch, name)}
    found |= {"camera": batch.obs["camera"], "joints": batch.obs["body"]["joints"], "touch": batch.obs["body"]["touch"],
              "action": batch.action, **batch.extras}  # fmt: skip
    return found


def main(folder: Path) -> None:
    """Write both files."""
    buffer, _ = record(folder / "format-1.replay")
    buffer.close()
    # What would have come next is asked of a second buffer to which the same was done, and which was never closed.
    twin, drawing = record(folder / "twin.replay")
    wanted = {f"next/{name}": array for name, array in next_batches(twin, drawing).items()}
    wanted |= everything(twin)
    np.savez_compressed(folder / "format-1.npz", **wanted)
    twin.close()
    (folder / "twin.replay").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
