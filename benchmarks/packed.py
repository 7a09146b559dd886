"""What packing saves and what it costs, on recorded frames of four Atari games and on noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

import reverie as rv
from benchmarks.measure import Row, rows_beside, side_by_side

GAMES = ("Breakout", "Pong", "MsPacman", "Seaquest")
STEPS = 3_000
BATCH, LENGTH = 64, 20
SPEC = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))

Frame = npt.NDArray[np.uint8]


class Both:
    """Takes what a recorder adds and passes it on to a plain and a packed buffer."""

    def __init__(self) -> None:
        self.plain = rv.ReplayBuffer(SPEC, STEPS, seed=0)
        self.packed = rv.ReplayBuffer(SPEC, STEPS, seed=0, residency="packed")

    def add_all(self, steps: Iterator[dict[str, object]]) -> None:
        """Add the same steps to both."""
        for step in steps:
            self.plain.add(**step)
            self.packed.add(**step)


def played(game: str) -> Iterator[dict[str, object]]:
    """Yield the steps of a game played at random, an episode a life, as IRIS records it."""
    from reverie.gymnasium import atari

    env = atari(game)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(STEPS):
        action = int(rng.integers(env.action_space.n))
        after, reward, terminated, truncated, _ = env.step(action)
        ends = terminated or truncated
        yield {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "final_obs": after if ends else None,
        }
        obs = env.reset()[0] if ends else after
    env.close()


def noise() -> Iterator[dict[str, object]]:
    """Yield steps whose frames cannot be packed."""
    rng = np.random.default_rng(0)
    for number in range(STEPS):
        yield {
            "obs": rng.integers(0, 256, (3, 64, 64), np.uint8),
            "action": 0,
            "reward": 0.0,
            "terminated": number % 500 == 499,
            "truncated": False,
        }


def sizes_and_times(rounds: int) -> list[Row]:
    """For each recording: packed size over raw size, and the time of sample(64, 20) over that from RAM.

    Rows named "size" hold bytes where others hold seconds.
    """
    rows = []
    for name, steps in [(game, played(game)) for game in GAMES] + [("noise", noise())]:
        both = Both()
        both.add_all(steps)
        raw = float(sum(column.nbytes for column in both.plain.engine.store.columns.values()))
        size = float(both.packed.nbytes - both.packed.engine.index.nbytes)
        rows.append(Row(f"{name}: size, bytes", size, raw, size / raw, 1.02 if name == "noise" else 1 / 20))
        outs = [buffer.sample(BATCH, LENGTH) for buffer in (both.plain, both.packed)]
        for cores, bound in ((1, 12.0), (2, 7.0)):
            both.packed.engine.store._helpers._cores = cores
            calls: dict[str, Callable[[], float | None]] = {
                "ram": lambda both=both, outs=outs: both.plain.sample(BATCH, LENGTH, out=outs[0]) and None,
                "packed": lambda both=both, outs=outs: (
                    both.packed.sample(BATCH, LENGTH, out=outs[1]) and None
                ),
            }
            [row] = rows_beside(side_by_side(calls, rounds), "ram", {"packed": bound})
            label = f"{name}: sample(64, 20), {cores} core{'s' * (cores > 1)}"
            rows.append(Row(label, row.seconds, row.limit_s, row.ratio, None if name == "noise" else bound))
    return rows
