"""How near dreams come to the game, beside two guesses that need no model; and what of the game is in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import torch
from reverie import ReplayBuffer
from reverie.iris.app.dreams import BEFORE, Frames, to_bytes, visibly_wrong
from reverie.iris.learning import to_frames
from reverie.iris.models import Imagination, Tokenizer, WorldModel

Series = npt.NDArray[np.float64]
"""(T,), a number for each step of a dream."""

DREAM, FIRST, LAST, TOKENS = "dream", "first", "last", "tokens"
GUESSES = (FIRST, LAST)


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
    things = sights or {}
    wrong, distance, there, off, unreal = [], [], [], [], []
    for step in range(steps):
        now = BEFORE + step + 1
        shown = {
            DREAM: to_bytes(game.step(actions[:, now - 1]).frame),
            FIRST: batch.obs[:, 0],
            LAST: batch.obs[:, BEFORE],
            TOKENS: to_bytes(tokenizer.encode_decode(real[:, now])),
        }
        is_real = batch.obs[:, now]
        wrong.append([visibly_wrong(frames, is_real).sum((1, 2)).mean() for frames in shown.values()])
        distance.append([np.abs(frames.astype(np.int16) - is_real).mean() for frames in shown.values()])
        for sight in things.values():
            is_there, place = sight.find(is_real)
            found = [sight.find(frames) for frames in shown.values()]
            there.append([_mean(seen[is_there]) for seen, _ in found])
            both = [seen & is_there for seen, _ in found]
            off.append(
                [_mean(np.hypot(*(at - place)[which].T)) for (_, at), which in zip(found, both, strict=True)]
            )
            unreal.append(_mean(found[0][0][~is_there]))
    labels = list(shown)
    by_thing = {name: slice(number, None, len(things)) for number, name in enumerate(things)}
    return Comparison(
        windows,
        _series(labels, wrong),
        _series(labels, distance),
        {name: _series(labels, there[part]) for name, part in by_thing.items()},
        {name: _series(labels, off[part]) for name, part in by_thing.items()},
        {name: np.array(unreal[part]) for name, part in by_thing.items()},
    )


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _series(labels: list[str], rows: list[list[float]]) -> dict[str, Series]:
    return dict(zip(labels, np.array(rows, np.float64).T, strict=True))
