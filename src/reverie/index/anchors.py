"""The anchors that a sampler may draw now."""

from __future__ import annotations

import numpy as np

from reverie.errors import BadSetting, NotEnoughData, NoWeight, counted
from reverie.index.boundaries import BOUNDARIES, check_boundary, places_of
from reverie.index.choice import Candidates, Choice, choice_of_kept
from reverie.index.episodes import EpisodeIndex
from reverie.index.kernel import native
from reverie.index.runs import Bools, Ints
from reverie.index.windows import CrossWindows, Drawn, Windows


class Anchors:
    """The valid anchors of one boundary rule and length, as a sampler sees them: ids, never bytes.

    Args:
        index, boundary, length, stride: see below.
        choice: the episodes that may have anchors, if not all that were not discarded.

    Attributes:
        index: the integers of the buffer.
        boundary: the rule's name; length: steps (or rows) of a window, without context.
        stride: every `stride`-th step of a window is shown, the first and the last one included.
        choice: the episodes that may have anchors; None: all that are live.
    """

    __slots__ = ("_rule", "boundary", "choice", "index", "length", "stride")

    def __init__(
        self, index: EpisodeIndex, boundary: str, length: int, choice: Choice | None = None, stride: int = 1
    ) -> None:
        self.index = index
        self.boundary = boundary
        self.length = length
        self.stride = stride
        self.choice = choice_of_kept(index) if choice is None else choice
        self._rule = BOUNDARIES[boundary]

    def count(self) -> int:
        """Return how many there are."""
        if self.choice is not None:
            return self.candidates().total
        return self._rule.count(self.index, self.length)

    def count_episodes(self) -> int:
        """Return how many episodes have an anchor."""
        if self.choice is None and self.boundary == "inside":
            return self.index.count_episodes(self.length)
        if self.choice is None and self.boundary != "cross":
            return int((self.index.begun - self.index.dropped).sum())
        return len(self.candidates().episodes)

    def candidates(self) -> Candidates:
        """Return the episodes that have an anchor, and where their anchors lie: as slow as there are episodes.

        Where `choice` is not None, they are found once as long as nothing changes.
        """
        if self.choice is not None:
            return self.choice.candidates(self.index, (self.boundary, self.length), self.bounds)
        episodes = self.index.live_episodes()
        return Candidates.of(episodes, *self.bounds(episodes))

    def require(self) -> int:
        """Return how many there are; raise NotEnoughData when there is none."""
        count = self.count()
        if count == 0:
            raise self.not_enough()
        return count

    def not_enough(self) -> NotEnoughData:
        """Return the error for a sampler that found nothing: there is no anchor, or none that has any weight."""
        index, count = self.index, self.count()
        if count:
            return NoWeight(
                f"wanted {self._asked()} and a weight above 0, "
                f"got {counted(count, 'window')} whose weights are all 0; give them priorities above 0 "
                f"(Prioritized(epsilon=1e-6) does), let the sampler reach further back, or draw with Uniform()"
            )
        if self.choice is not None:
            episodes = index.live_episodes()
            chosen = np.count_nonzero(self.choice.chosen.take(episodes))
            return NotEnoughData(
                f"wanted {self._asked()}, got none in the {chosen} of {len(episodes)} live episodes that discard() and "
                f"where= leave; leave more of them, add more steps, or ask for a shorter length"
            )
        return NotEnoughData(
            f"wanted {self._asked()}, got {index.live_steps()} live steps whose longest episode has "
            f"{index.longest()} with a known successor; add more steps, or ask for a shorter length"
        )

    def _asked(self) -> str:
        steps = (self.length - 1) // self.stride + 1
        spread = f" with stride={self.stride}, which spans {self.length}," if self.stride > 1 else ""
        return f"a window of {counted(steps, 'step')}{spread} with boundary={self.boundary!r}"

    def at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode, id) for ranks in `0 <= rank < count()`; the order is arbitrary."""
        if self.choice is not None:
            return self.candidates().at_rank(rank)
        return self._rule.at_rank(self.index, self.length, rank)

    def bounds(self, episodes: Ints) -> tuple[Ints, Ints]:
        """Return (first, stop) ids of the anchors in each episode; none where stop <= first."""
        first, stop = self._rule.bounds(self.index, episodes, self.length)
        if self.choice is None:
            return first, stop
        if self.boundary == "cross" and self.choice.limits is not None:
            last = self.choice.limits.take(episodes) - self.length - self.index.ordinal.take(episodes)
            stop = np.minimum(stop, last + 1)
        return first, np.where(self.choice.chosen.take(episodes), stop, first)

    def accept(self, episodes: Ints, ids: Ints) -> Bools:
        """Return which of these live steps are valid anchors."""
        good = self._rule.accept(self.index, episodes, ids, self.length)
        if self.choice is not None:
            good &= self.choice.chosen.take(episodes)
            if self.boundary == "cross" and self.choice.limits is not None:
                good &= ids < self.bounds(episodes)[1]
        return good

    def first_valid(self, stream: Ints | int, ids: Ints, count: int) -> tuple[Ints, Ints] | None:
        """Return episodes and ids of the first `count` of live steps that are valid anchors, if that is quick.

        Args:
            stream: of each step, or of all; ids: of the steps.
            count: how many are wanted.

        Returns:
            None where there are fewer, or where they are not found in C: then `accept` tells.
        """
        if native is None or self.choice is not None or self.boundary != "inside":
            return None
        index, episodes, chosen = self.index, np.empty(count, np.int64), np.empty(count, np.int64)
        streams = None if isinstance(stream, int) else stream
        sizes = 0, 0, index.capacity, self.length
        table = index.episode_of_slot, index.settled, index.ended
        good = native.choose(ids, streams, *sizes, *table, episodes, chosen, None)
        return (episodes, chosen) if good >= count else None

    def offsets(self, rng: np.random.Generator, count: int) -> Ints:
        """Return where in `count` windows their anchors stand, in steps, under the rule that has it at random."""
        return places_of(self.length, self.stride, rng, count)

    def windows(self, drawn: Drawn, burn_in: int, rng: np.random.Generator) -> Windows | CrossWindows:
        """Return the window of each anchor; `rng` is for rules that place the anchor at random.

        Args:
            drawn: the anchors.
            burn_in: positions of context before each.
            rng: see above.
        """
        stride = self.stride
        return self._rule.windows(self.index, drawn, self.length, burn_in * stride, rng, stride)


def anchors_of(index: EpisodeIndex, boundary: object, length: int, stride: int = 1) -> Anchors:
    """Return the anchors for a boundary rule by name and a length, of a buffer that holds something.

    Args:
        index: of the buffer.
        boundary: the rule's name.
        length, stride: as for Anchors.

    Raises:
        BadSetting: no such rule, or a length that can never fit.
        NotEnoughData: nothing is live.
    """
    anchors = Anchors(index, check_boundary(boundary), length, stride=stride)
    if boundary == "inside" and length > index.capacity:
        raise BadSetting(
            f"length: wanted at most the {counted(index.capacity, 'step')} that a stream keeps, got {length}"
            f"{f' with stride={stride}' * (stride > 1)}; "
            f"make the buffer larger, ask for shorter windows, or use a boundary that pads"
        )
    if index.is_empty():
        raise anchors.not_enough()
    return anchors
