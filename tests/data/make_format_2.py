"""Makes format-2.replay: a small replay file of format version 2, with metadata of episodes.

Run once, with the reverie that wrote version 2. The file stays as it is for ever: whatever changes in reverie, it must go
on opening it. `python tests/data/make_format_2.py FOLDER` writes it into a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import reverie as rv

SPEC = rv.StepSpec(obs=rv.Field((2,), "float32"), action=rv.Field((), "int8"))
METADATA = [
    {"seed": 0, "task": "push the button"},
    {},
    {"seed": 2, "options": {"level": [1, 2.5]}, "note": None, "won": True},
]


def make(path: Path) -> None:
    """Add three episodes of 20 steps, of which the last one runs, and annotate two of them."""
    with rv.ReplayBuffer(SPEC, 100, seed=2, path=path) as buffer:
        for step in range(60):
            buffer.add(
                obs=np.array([step, -step], np.float32), action=step % 5, reward=step / 4, truncated=step in (19, 39),
                terminated=step == 39, final_obs=np.full(2, step, np.float32) if step in (19, 39) else None,
            )  # fmt: skip
            label = METADATA[step // 20]
            if step % 20 == 10 and label:
                buffer.annotate(**label)


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "format-2.replay")
