"""What a report shows, as plain values: facts, the table of episodes, the chosen ones, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.episode import Episode
from reverie.errors import BadSetting, NotEnoughData
from reverie.index import Anchors, EpisodeIndex, choice_of_kept
from reverie.report.frames import Sheet, as_pictures, is_frame, sheets_of
from reverie.samplers import Prioritized, Sampler, Uniform, VisitBalanced
from reverie.spec import Field
from reverie.values import tree_leaves

Array = npt.NDArray[Any]

MOST_LINES = 8  # numbers of a vector that are curves; more of them are an image
MOST_COLUMNS = 512  # of such an image
MOST_SHOWN = 1_000  # steps of an episode that are shown; of a longer one every second, third, …
MOST_STEPS = 4_000  # of an episode that is shown without having been asked for: all of it is read at once
EACH_KIND = 8  # episodes that are looked at of each kind: newest, best, worst, longest, random
DRAWS, BINS, BATCH = 10_000, 50, 500
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128)  # of windows
DIGITS = 5  # that numbers of curves have


@dataclass(frozen=True)
class Played:
    """An episode that the page plays.

    Attributes:
        number: its row in the table. ids: of the steps shown.
        every: one of so many steps is shown.
        curves: group -> names and values of its lines.
        images: group -> (values by row, names of the first and the last row).
        frames: name -> height, width and sheets of frames; the final observation comes last if it is known.
    """

    number: int
    ids: list[int]
    every: int
    has_final: bool
    curves: dict[str, list[tuple[str, list[float | None]]]]
    images: dict[str, list[list[float | None]]]
    frames: dict[str, tuple[int, int, list[Sheet]]]

    @property
    def nbytes(self) -> int:
        """About how many bytes it takes on the page."""
        lines = sum(len(values) for group in self.curves.values() for _, values in group)
        cells = sum(len(row) for rows in self.images.values() for row in rows)
        return 8 * (lines + cells) + sum(
            one.nbytes for _, _, sheets in self.frames.values() for one in sheets
        )


# --- which episodes ----------------------------------------------------------------------------------------


def choose(table: npt.NDArray[np.void], wanted: Sequence[int] | None, seed: int) -> list[tuple[int, str]]:
    """Return numbers of episodes in the order in which they are worth showing, and why each is.

    Args:
        table: of the episodes.
        wanted: numbers that the user asked for; None chooses newest, best, worst, longest and random ones in turn.
        seed: of the random ones.

    Raises:
        BadSetting: there is no such episode.
    """
    count = len(table)
    if wanted is not None:
        for number in wanted:
            if not -count <= number < count:
                raise BadSetting(
                    f"episodes: wanted numbers in {-count}..{count - 1}, got {number}; choose others"
                )
        return [(number % count, "asked for") for number in dict.fromkeys(wanted)]
    short = np.flatnonzero((table["live"] <= MOST_STEPS) & (table["live"] > 0))
    returns = np.where(np.isfinite(table["return"]), table["return"], 0.0)[short]
    kinds = {
        "newest": short[::-1],
        "best": short[np.argsort(-returns, kind="stable")],
        "worst": short[np.argsort(returns, kind="stable")],
        "longest": short[np.argsort(-table["live"][short], kind="stable")],
        "random": np.random.default_rng(seed).permutation(short),
    }
    found: dict[int, str] = {}
    for turn in zip_longest(*(order[:EACH_KIND].tolist() for order in kinds.values())):
        for kind, number in zip(kinds, turn, strict=True):
            if number is not None:
                found.setdefault(number, kind)
    return list(found.items())


def play(buffer: ReplayBuffer, table: npt.NDArray[np.void], number: int) -> Played | None:
    """Return an episode as the page shows it, by its row in the table; None if it went, or changed, meanwhile."""
    episode = _read(buffer, table[number], number)
    if episode is None:
        return None
    every = -(-len(episode) // MOST_SHOWN)
    shown = slice(None, None, every)
    curves: dict[str, list[tuple[str, list[float | None]]]] = {
        "reward": [
            ("reward", _plain(episode.reward[shown])),
            ("return so far", _plain(np.cumsum(episode.reward, dtype=np.float64)[shown])),
        ]
    }
    images: dict[str, list[list[float | None]]] = {}
    frames: dict[str, tuple[int, int, list[Sheet]]] = {}
    for name, field, rows, final in _parts(buffer, episode):
        if name.startswith("obs") and is_frame(field):
            pictures = as_pictures(rows[shown])
            if final is not None:
                pictures = np.concatenate([pictures, as_pictures(final[None])])
            frames[name] = (*pictures.shape[1:3], sheets_of(pictures))
            continue
        flat = rows[shown].reshape(len(rows[shown]), -1)
        if flat.shape[1] <= MOST_LINES:
            names = [f"{name}[{place}]" if flat.shape[1] > 1 else name for place in range(flat.shape[1])]
            curves[name] = [(one, _plain(flat[:, place])) for place, one in enumerate(names)]
        else:
            step = -(-flat.shape[1] // MOST_COLUMNS)
            images[name] = [_plain(column) for column in flat[:, ::step].T]
    ids = range(episode.start, episode.start + len(episode))[shown]
    return Played(number, list(ids), every, episode.final_obs is not None, curves, images, frames)


def _read(buffer: ReplayBuffer, row: np.void, number: int) -> Episode | None:
    """Read an episode. While somebody writes, its number grows smaller as older ones go."""
    for _ in range(2):
        try:
            episode = next(iter(buffer.read_episodes([number])), None)
        except IndexError:
            episode = None
        if episode is not None and (episode.stream, episode.begun) == (row["stream"], row["start"]):
            return episode
        now = np.asarray(buffer.episodes)
        found = np.flatnonzero((now["stream"] == row["stream"]) & (now["start"] == row["start"]))
        if not len(found):
            return None
        number = int(found[0])
    return None


def _parts(buffer: ReplayBuffer, episode: Episode) -> Iterator[tuple[str, Field, Array, Array | None]]:
    """Yield name, field, values and final value of each part of observation and action, and of each extra field."""
    finals = {} if episode.final_obs is None else dict(tree_leaves("obs", episode.final_obs))
    spec = buffer.spec
    for name, tree, values in (
        ("obs", spec.obs, episode.obs),
        ("action", spec.action, episode.action),
        ("extras", spec.extras, episode.extras),
    ):
        rows = dict(tree_leaves(name, values))
        for path, field in tree_leaves(name, tree):
            yield path.removeprefix("extras/"), field, rows[path], finals.get(path)


def _plain(values: Array) -> list[float | None]:
    """Return numbers with few digits; None for those that JSON has not."""
    return [
        float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        for value in values.astype(float).tolist()
    ]


# --- what is drawn -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """What of a buffer is drawn.

    Attributes:
        sampler: its name. draws: how many there were; 0 if there is no window.
        length: of the windows.
        shares: (BINS,) of the draws, by age of the anchor: the oldest steps of its stream first.
        windows: for each of LENGTHS how many windows there are, which share of the live steps lies in none, and which
            share of the positions of padded windows is padding.
        kept: what the sampler keeps of each step, in a word, and its mean (BINS,) by age; None if it keeps nothing.
        most_drawn: number of the episode and share of the draws, for the ten that were drawn most.
    """

    sampler: str
    draws: int
    length: int
    shares: list[float]
    windows: list[tuple[int, int, float, float]]
    most_drawn: list[tuple[int, float]]
    kept: tuple[str, list[float]] | None


def cover(buffer: ReplayBuffer, sampler: Sampler | None, length: int) -> Coverage:
    """Draw from a buffer, without a look at the steps, and tell what came.

    The windows are counted exactly; the draws are a sample.
    """
    sampler = Uniform() if sampler is None else sampler
    kept = _kept(buffer, sampler, length)
    streams, ids = _drawn(buffer, sampler, length)
    with buffer.engine.reading() as index:
        head, tail = index.head.copy(), index.tail.copy()
    found = head[streams] - tail[streams]
    age = (ids - tail[streams]) / np.maximum(found, 1)
    shares = np.histogram(np.clip(age, 0, 1 - 1e-9), BINS, (0, 1))[0] / max(len(ids), 1)
    table = np.asarray(buffer.episodes)
    hits = _hits(table, streams, ids)
    order = np.argsort(-hits, kind="stable")[:10]
    most = [(int(row), float(hits[row] / max(len(ids), 1))) for row in order if hits[row]]
    windows = [
        (size, *_left_out(buffer, size)) for size in LENGTHS if size <= buffer.capacity // buffer.streams
    ]
    return Coverage(repr(sampler), len(ids), length, shares.tolist(), windows, most, kept)


def _kept(buffer: ReplayBuffer, sampler: Sampler, length: int) -> tuple[str, list[float]] | None:
    """Return what a sampler keeps of each step, and its mean by age.

    It takes back what a file remembers with its first draw, which is left out of the visits.
    """
    if not isinstance(sampler, Prioritized | VisitBalanced):
        return None
    try:
        first = buffer.sample(1, length, boundary="pad_right", sampler=sampler, fields=())
    except NotEnoughData:
        return None
    sums, counts = np.zeros(BINS), np.zeros(BINS)
    with buffer.engine.reading() as index:
        values = _values(sampler, index, int(index.slots(first.stream, first.anchor)[0]))
        for stream, (tail, head) in enumerate(zip(index.tail.tolist(), index.head.tolist(), strict=True)):
            ids = np.arange(tail, head)
            age = (ids - tail) * BINS // max(head - tail, 1)
            np.add.at(sums, age, values[index.slots(np.full(len(ids), stream), ids)])
            np.add.at(counts, age, 1)
    name = "priority" if isinstance(sampler, Prioritized) else f"visits of the {sampler.by}"
    return name, (sums / np.maximum(counts, 1)).tolist()


def _values(sampler: Prioritized | VisitBalanced, index: EpisodeIndex, drawn: int) -> npt.NDArray[np.float64]:
    """Return what a sampler keeps of the step in each slot, without the visit of the one that was just drawn."""
    state = sampler.save()
    if isinstance(sampler, Prioritized):
        weights: npt.NDArray[np.float64] = np.asarray(state["steps"]["weights"], np.float64)
        return weights ** (1 / sampler.alpha) if sampler.alpha else np.ones(len(weights))
    visits = np.array(state["visits"], np.float64)
    entries = np.arange(len(visits)) if sampler.by == "step" else index.episode_of_slot
    visits[entries[drawn]] -= 1
    found: npt.NDArray[np.float64] = visits[entries]
    return found


def _drawn(buffer: ReplayBuffer, sampler: Sampler, length: int) -> tuple[Array, Array]:
    """Return streams and ids of the anchors of many draws."""
    found: list[tuple[Array, Array]] = []
    try:
        for _ in range(DRAWS // BATCH):
            batch = buffer.sample(BATCH, length, boundary="pad_right", sampler=sampler, fields=())
            found.append((batch.stream, batch.anchor))
    except NotEnoughData:
        pass
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])


def _hits(table: npt.NDArray[np.void], streams: Array, ids: Array) -> Array:
    """Return how often each episode was drawn."""
    hits = np.zeros(len(table), np.int64)
    for stream in np.unique(streams).tolist():
        rows = np.flatnonzero(table["stream"] == stream)
        place = np.searchsorted(table["start"][rows], ids[streams == stream], side="right") - 1
        np.add.at(hits, rows[place[place >= 0]], 1)
    return hits


def _left_out(buffer: ReplayBuffer, length: int) -> tuple[int, float, float]:
    """Return how many windows there are, the share of live steps in none of them, and the share of padding."""
    with buffer.engine.reading() as index:
        live = max(len(buffer), 1)
        kept = choice_of_kept(index)
        inside = Anchors(index, "inside", length, kept)
        episodes = index.live_episodes()
        first, stop = inside.bounds(episodes)
        covered = np.where(stop > first, stop - first + length - 1, 0).sum()
        count = inside.count()
        begin, end = Anchors(index, "pad_right", length, kept).bounds(episodes)
        sizes = np.maximum(end - begin, 0)
        short = np.minimum(sizes, length - 1)  # anchors so near to the end that their windows are padded
        padding = (short * length - short * (short + 1) // 2).sum()
    return int(count), float(1 - covered / live), float(padding / max(int(sizes.sum()) * length, 1))
