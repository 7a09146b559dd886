"""How near dreams come to the game beside two guesses that need no model, and how much of the game is in them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reverie import ReplayBuffer
from reverie.errors import counted
from reverie.iris.app.dreams import BEFORE, VISIBLE, to_bytes, visibly_wrong
from reverie.iris.learning import to_frames
from reverie.iris.models import Imagination, Tokenizer, WorldModel
from reverie.pictures import Frames

Series = npt.NDArray[np.float64]
"""(T,), a number for each step of a dream."""

DREAM, FIRST, LAST, TOKENS = "dream", "first", "last", "tokens"
GUESSES = (FIRST, LAST)
LABELS = (DREAM, FIRST, LAST, TOKENS)
HEADER = "step  " + "   ".join(2 * ["".join(f"{label:>7}" for label in LABELS)])


@dataclass(frozen=True, slots=True)
class Sight:
    """A thing of a game, found in frames by a rule: what is bright in a region that is black without it.

    Attributes:
        rows, columns: first and last of the region, the last excluded.
        least: of 255; the thing is there if a channel of a pixel is brighter.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    least: int = 60

    def find(self, frames: Frames) -> tuple[npt.NDArray[np.bool_], Series]:
        """Return whether the thing is in frames (N, 3, H, W): (N,), and its centre of light (N, 2), row and column.

        Where it is not, the centre is without meaning.
        """
        light = frames[:, :, slice(*self.rows), slice(*self.columns)].max(1).astype(np.float64)
        there = light.max((1, 2)) > self.least
        light = np.where(light > self.least / 2, light, 0)  # less is a shade of something else
        total = np.maximum(light.sum((1, 2)), 1)
        row = (light.sum(2) * np.arange(light.shape[1])).sum(1) / total
        column = (light.sum(1) * np.arange(light.shape[2])).sum(1) / total
        return there, np.stack((row, column), 1)


SIGHTS = {
    # In 64×64 frames: the paddle moves in two rows between the walls, the ball is alone between it and the bricks.
    "breakout": {"paddle": Sight((57, 59), (4, 60)), "ball": Sight((30, 57), (4, 60))},
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of many dreams on windows that training never saw.

    Attributes:
        windows: dreams, each from a start of its own with the actions really taken there.
        wrong: label -> (T,) pixels of a frame that are visibly wrong, on average.
        distance: label -> (T,) mean distance of a value from the real one, of 255.
        there: thing -> label -> (T,) share of the windows with the thing at that step in which the frame has it.
        off: thing -> label -> (T,) mean distance of its place in pixels, where it is in both frames.
        unreal: thing -> (T,) share of the windows without the thing at that step in which the dream has it.
    """

    windows: int
    wrong: dict[str, Series]
    distance: dict[str, Series]
    there: dict[str, dict[str, Series]]
    off: dict[str, dict[str, Series]]
    unreal: dict[str, Series]

    def worse_at(self, measure: dict[str, Series]) -> list[int]:
        """Return the steps, from 1, at which the dream is not nearer than both guesses are."""
        best = np.minimum(*(measure[guess] for guess in GUESSES))
        return (np.flatnonzero(~(measure[DREAM] < best)) + 1).tolist()


def compare(
    tokenizer: Tokenizer,
    world_model: WorldModel,
    buffer: ReplayBuffer,
    seed: int,
    *,
    windows: int = 200,
    steps: int = 10,
    temperature: float = 1.0,
    sights: dict[str, Sight] | None = None,
) -> Comparison:
    """Dream on windows of `buffer` with their real actions, and measure each step beside the game.

    A dream knows BEFORE real steps and the last real frame. The guesses repeat the window's first frame ("first") or
    the last real one ("last"); "tokens" is the real frame as the tokenizer shows it, which bounds every dream.

    Args:
        tokenizer, world_model: trained together, on other episodes.
        buffer: where the windows are drawn from, all alike.
        seed: fixes what is imagined.
        windows: how many.
        steps: of each dream.
        temperature: of imagining.
        sights: things to look for.

    Raises:
        NotEnoughData: no episode is that long.
    """
    batch = buffer.sample(windows, BEFORE + steps)
    device = tokenizer.embedding.weight.device
    real = to_frames(batch.obs, device)
    actions = torch.from_numpy(batch.action).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    game = Imagination(tokenizer, world_model, temperature=temperature, generator=generator)
    game.reset(real[:, BEFORE], (real[:, :BEFORE], actions[:, :BEFORE]))
    measured = []
    for now in range(BEFORE + 1, BEFORE + steps + 1):
        shown = {
            DREAM: to_bytes(game.step(actions[:, now - 1]).frame),
            FIRST: batch.obs[:, 0],
            LAST: batch.obs[:, BEFORE],
            TOKENS: to_bytes(tokenizer.encode_decode(real[:, now])),
        }
        measured.append(_measured(shown, batch.obs[:, now], sights or {}))
    return Comparison(
        windows,
        _series([step.wrong for step in measured]),
        _series([step.distance for step in measured]),
        {thing: _series([step.there[thing] for step in measured]) for thing in sights or {}},
        {thing: _series([step.off[thing] for step in measured]) for thing in sights or {}},
        {thing: np.array([step.unreal[thing] for step in measured]) for thing in sights or {}},
    )


class _Step(NamedTuple):
    """What `Comparison` says of one step. Its lists have a number for each of LABELS."""

    wrong: list[float]
    distance: list[float]
    there: dict[str, list[float]]
    off: dict[str, list[float]]
    unreal: dict[str, float]


def _measured(shown: dict[str, Frames], real: Frames, sights: dict[str, Sight]) -> _Step:
    """Return how far the frames (N, 3, H, W) under each label are from the real ones."""
    there, off, unreal = {}, {}, {}
    for thing, sight in sights.items():
        is_there, place = sight.find(real)
        found = [sight.find(shown[label]) for label in LABELS]
        there[thing] = [_mean(seen[is_there]) for seen, _ in found]
        off[thing] = [_mean(np.hypot(*(at - place)[seen & is_there].T)) for seen, at in found]
        unreal[thing] = _mean(found[LABELS.index(DREAM)][0][~is_there])
    return _Step(
        [visibly_wrong(shown[label], real).sum((1, 2)).mean() for label in LABELS],
        [np.abs(shown[label].astype(np.int16) - real).mean() for label in LABELS],
        there,
        off,
        unreal,
    )


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _series(steps: list[list[float]]) -> dict[str, Series]:
    return dict(zip(LABELS, np.array(steps, np.float64).T, strict=True))


def tables_of(comparison: Comparison) -> str:
    """Return the tables of a comparison and what they come to, as text of 80 columns."""
    wrong, distance = comparison.wrong, comparison.distance
    lines = [
        f"{counted(comparison.windows, 'window')} that training never saw, dreamt with the actions really taken there.",
        "first, last: the window's first frame, or the last real one, repeated.",
        "tokens: the true frame as the tokenizer shows it.",
        f"visibly wrong: a pixel of which a channel is off by more than {VISIBLE} of 255.",
        "",
        "          pixels visibly wrong           mean distance, of 255",
        HEADER,
    ]
    lines += _table((wrong, 2), (distance, 3))
    for thing in comparison.there:
        lines += [
            "",
            f"the {thing}",
            "       share of frames with it        pixels away from its place     where",
            "       in which it is shown           where it is shown              none is",
            f"{HEADER}     dream",
        ]
        there, off, unreal = comparison.there[thing], comparison.off[thing], comparison.unreal[thing]
        lines += [
            f"{row}    {'     -' if isnan(more) else f'{more:6.2f}'}"
            for row, more in zip(_table((there, 2), (off, 2)), unreal, strict=True)
        ]
    lines += [
        "",
        _verdict("pixels visibly wrong", comparison.worse_at(wrong)),
        _verdict("mean distance", comparison.worse_at(distance)),
        *(
            _verdict(f"place of the {thing}", comparison.worse_at(off))
            for thing, off in comparison.off.items()
        ),
    ]
    return "\n".join(lines)


def _table(*measures: tuple[dict[str, Series], int]) -> list[str]:
    """Return a line for each step, with a number for each label of each measure to so many digits."""
    lines = []
    for step in range(len(measures[0][0][DREAM])):
        cells = "   ".join(
            " ".join(
                "     -" if isnan(series[label][step]) else f"{series[label][step]:6.{digits}f}"
                for label in LABELS
            )
            for series, digits in measures
        )
        lines.append(f"{step + 1:>4}   {cells}")
    return lines


def _verdict(measure: str, worse: list[int]) -> str:
    if not worse:
        return f"{measure}: the dream beats both guesses at every step"
    steps = ", ".join(map(str, worse))
    return f"{measure}: the dream does NOT beat both guesses at steps {steps}"
