"""Makes format-3.replay: a small replay file of format version 3, a full ring that was made larger.

Run once, with the reverie that wrote version 3. The file stays as it is for ever: whatever changes in reverie, it must go
on opening it. `python tests/data/make_format_3.py FOLDER` writes it into a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import reverie as rv

SPEC = rv.StepSpec(obs=rv.Field((2,), "float32"), action=rv.Field((), "int8"))
TAILS, HEADS = [83, 15, 0], [133, 65, 0]


def make(path: Path) -> None:
    """Add 133 and 65 steps to two streams that keep 50 each, draw with priorities, and let three keep 200 each."""
    with rv.ReplayBuffer(SPEC, 100, streams=2, seed=3, path=path) as buffer:
        for step in range(133):
            for stream in (0, 1) if step < 65 else (0,):
                buffer.add(
                    obs=np.array([step, stream], np.float32), action=step % 5, reward=step / 4, stream=stream,
                    truncated=False, terminated=step % 20 == 19,
                )  # fmt: skip
        batch = buffer.sample(200, 1, sampler=rv.Prioritized())
        buffer.update_priorities(batch, batch.anchor + 1.0)
    rv.open(path, capacity=600, streams=3).close()


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "format-3.replay")
