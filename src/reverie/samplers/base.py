"""What a sampler is, and the two ways to reach an exact distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.index import Anchors, Bools, Drawn, EpisodeIndex, Ints
from reverie.samplers.where import Condition, Where
from reverie.values import shown

# Below this share of accepted draws, going through the episodes is cheaper than trying again.
LEAST_ACCEPTED = 1 / 8

State = dict[str, Any]
Scale = tuple[float, int]  # the sum of weights, and of how many steps
Floats = npt.NDArray[np.float64]
Proposal = tuple[Ints, Ints, Bools]  # episode and id of live steps, and which of them are valid anchors


class Sampler(ABC):
    """Chooses anchors. It knows ids, episodes and priorities, and no bytes.

    A sampler of your own needs one method, `draw`. If it remembers something between draws, `save` and
    `load` make it part of what a buffer keeps. It serves one buffer; whatever it wants to know of new or
    evicted steps it reads from `anchors.index` when it draws. One that takes `where=`, too, hands it on to
    `super().__init__` and begins to draw with `anchors = self.narrow(anchors)`.

    Args:
        where: only episodes that meet this condition have anchors; what is drawn is distributed as without it,
            given that it lies in one of them. A function gets the `EpisodeTable` of all live episodes, with the
            running ones as they are now, and returns a mask of its rows, such as
            `lambda episodes: episodes["return"] > 10`. A mapping such as `{"task": "reach"}` chooses the episodes
            whose metadata has these values; see `ReplayBuffer.annotate`. Which ones meet it is found anew when
            the table has changed, in time that grows with its length; until then a draw costs as much as others.
            "cross" runs on from a chosen episode into what follows, chosen or not.

    Raises:
        BadSetting: `where` is neither a function nor a mapping; or, in a draw, what it returned is no such mask.
    """

    _where: Where | None = None  # of a sampler of a user's own that does not call `__init__`, too

    def __init__(self, *, where: Condition | None = None) -> None:
        if where is not None:
            self._where = Where(where)

    def __repr__(self) -> str:
        """Show the call that makes one like it: the arguments that are not the defaults."""
        given = []
        for name, parameter in signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if name == "where" and self._where is not None:
                value = self._where.condition
            if value is not parameter.default and value != parameter.default:
                text = getattr(value, "__name__", "a function") if callable(value) else repr(value)
                given.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(given)})"

    def narrow(self, anchors: Anchors) -> Anchors:
        """Return those of the anchors that `where` lets through."""
        return anchors if self._where is None else self._where.narrow(anchors)

    @abstractmethod
    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors.

        Args:
            anchors: the valid ones now: `accept`, `bounds`, `count`, `at_rank`, and the index behind them.
            rng: the only source of randomness allowed.
            count: how many to draw, at least 1.

        Raises:
            NotEnoughData: there is none; `raise anchors.not_enough()`.
        """

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return the weight of all that `offer` may give: a union draws from its parts in proportion to it.

        Args:
            anchors: the valid ones now, narrowed.
            exact: the weight of the valid anchors alone, however long it takes to add it up.

        Raises:
            BadSetting: draws of this sampler from several buffers have no meaning.
        """
        raise BadSetting(
            f"sampler: wanted one that can draw from a union, got {type(self).__name__}, which has no `mass` and no "
            f"`offer`; write them, give the union weights, or draw from one buffer"
        )

    def offer(self, anchors: Anchors, rng: np.random.Generator, count: int, exact: bool) -> Drawn:
        """Return what comes of `count` tries, of which each gives an anchor of weight w with probability w / mass.

        Args:
            anchors: as for `mass`; rng: the source of randomness; count: at least 1.
            exact: no try is in vain.
        """
        return self.draw(anchors, rng, count)

    def scale(self, anchors: Anchors) -> Scale | None:
        """Return what importance weights are told from after an `offer`; None where there are none."""
        return None

    def reweigh(self, weight: Floats, own: Scale, whole: Scale) -> Floats:
        """Return the importance weights that anchors of a part have in the union, from those in the part."""
        return weight

    def imitate(self, original: Any) -> None:  # noqa: B027  # most have none that may change
        """Take over the settings that a user may change, from the sampler that this one is the copy of."""

    def for_part(self, streams: int, of: int) -> Sampler:
        """Return the sampler that a part of a union draws with, from `streams` of the `of` streams of all parts."""
        return self

    def common(self) -> Any:
        """Return what has to be the same in this sampler and those of the other parts of a union; None is nothing."""
        return None

    def agree(self, commons: Sequence[Any]) -> None:  # noqa: B027  # most have nothing in common
        """Take over what `common` returned in all parts."""

    def update(  # noqa: B027  # most samplers keep no priorities
        self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Floats
    ) -> None:
        """Take new priorities of anchors that are still live."""

    def window_priorities(self, td_errors: npt.NDArray[np.floating], mask: Bools) -> Floats:
        """Return one priority for each window from its steps' TD errors (B, L); only where priorities are kept."""
        raise BadSetting(
            f"update_priorities: wanted a batch drawn by Prioritized, got one drawn by {type(self).__name__}; "
            f"pass sampler=Prioritized(...) to sample"
        )

    def mark(self) -> None:  # noqa: B027  # most samplers remember nothing
        """Take note of what there is to remember: `rewind` goes back there, if what comes next is interrupted.

        A sampler that remembers something between draws should have both. Neither may cost more than a draw.
        """

    def rewind(self) -> None:  # noqa: B027  # likewise
        """Go back to the last `mark`, from wherever an interrupt left this sampler. Twice is fine."""

    def save(self) -> State:
        """Return what has to be remembered: arrays, numbers, strings, and lists and dicts of such."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting, KeyError, TypeError, ValueError: it is no such state.
        """
        if state:
            raise BadSetting(
                f"{type(self).__name__}: wanted nothing to load, got a state; a sampler that saves something must "
                f"also load it"
            )

    def __getstate__(self) -> tuple[dict[str, Any], State]:
        """Return what a pickle or a copy takes along: what `save` returns, and not the buffer that is served."""
        known = {name: None if isinstance(it, EpisodeIndex) else it for name, it in vars(self).items()}
        return known, self.save()

    def __copy__(self) -> Self:
        return deepcopy(self)  # two samplers never share a memory

    def __setstate__(self, state: tuple[dict[str, Any], State]) -> None:
        vars(self).update(state[0])
        if state[1]:
            self.load(state[1])


class Follows:
    """What a sampler knows of one buffer's index. A copy or a pickle of it knows nothing yet."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return type(self), ()


def serve(known: EpisodeIndex | None, index: EpisodeIndex) -> EpisodeIndex:
    """Return `index` if a sampler that serves `known` may draw from it; raise BadSetting otherwise."""
    if known is not None and known is not index:
        raise BadSetting(
            "sampler: wanted one that serves this buffer only, got one of another; make a new one"
        )
    return index


def check_sampler(name: str, value: object) -> Sampler:
    """Return `value` if it is a Sampler; raise BadSetting otherwise."""
    if not isinstance(value, Sampler):
        raise BadSetting(
            f"{name}: wanted a Sampler, got {shown(value)}; pass an object such as reverie.Uniform()"
        )
    return value


def try_then_count(
    count: int, propose: Callable[[int], Proposal], enumerate_rest: Callable[[int], tuple[Ints, Ints]]
) -> tuple[Ints, Ints]:
    """Return `count` anchors: proposals that are valid, and the rest by enumeration where few are.

    Exact if `propose` and `enumerate_rest` agree on the distribution over valid anchors: how many
    proposals were accepted says nothing about which.
    """
    return go_on(count, propose(tries(count)), propose, enumerate_rest)


def tries(count: int) -> int:
    """Return how many steps to propose at first, to get `count` anchors."""
    return count + (count >> 3) + 4


def go_on(
    count: int,
    first: Proposal,
    propose: Callable[[int], Proposal],
    enumerate_rest: Callable[[int], tuple[Ints, Ints]],
) -> tuple[Ints, Ints]:
    """Return what `try_then_count` does, given its first proposal."""
    episodes, ids, good = first
    kept = good.nonzero()[0]
    accepted = len(kept)
    if accepted == len(ids):
        return episodes[:count], ids[:count]
    share = accepted / len(ids)
    kept = kept[:count]
    episodes, ids = episodes.take(kept), ids.take(kept)
    if accepted < count and share >= LEAST_ACCEPTED:
        missing = count - accepted
        more_episodes, more_ids, good = propose(int(missing / share * 1.5) + 8)
        episodes = np.concatenate([episodes, more_episodes[good][:missing]])
        ids = np.concatenate([ids, more_ids[good][:missing]])
    if len(ids) < count:
        more_episodes, more_ids = enumerate_rest(count - len(ids))
        episodes, ids = np.concatenate([episodes, more_episodes]), np.concatenate([ids, more_ids])
    return episodes, ids


def by_episode(
    anchors: Anchors,
    rng: np.random.Generator,
    count: int,
    weigh: Callable[[Ints, Ints, Ints], Floats],
    pick: Callable[[Ints, Ints, Ints], Ints],
    steady: Hashable = None,
) -> tuple[Ints, Ints]:
    """Return `count` anchors by going through all live episodes: exact, and as slow as there are episodes.

    Args:
        anchors: the valid ones now.
        rng: the source of randomness.
        count: how many to draw.
        weigh: from some episodes, and first and stop of their anchors, to the weight of each episode.
        pick: from the same, for episodes already chosen, to one id each.
        steady: a name of the weights, if they change only with the index: they are kept under it as long as the
            candidates are. None: they are not kept.

    Raises:
        NotEnoughData: no episode has an anchor with any weight.
    """
    candidates = anchors.candidates()
    episodes, first, stop = candidates.episodes, candidates.first, candidates.stop
    ends = None if steady is None else candidates.shares.get(steady)
    if ends is None:
        ends = np.cumsum(weigh(episodes, first, stop)) if len(episodes) else np.zeros(1)
        if steady is not None:
            candidates.shares[steady] = ends
    if not ends[-1] > 0:
        raise anchors.not_enough()
    chosen = np.minimum(np.searchsorted(ends, rng.random(count) * ends[-1], side="right"), len(episodes) - 1)
    return episodes[chosen], pick(episodes[chosen], first[chosen], stop[chosen])


def interval_mass(anchors: Anchors, weigh: Callable[[Ints, Ints, Ints], Floats]) -> float:
    """Return the summed weight of all valid anchors, by going through all live episodes."""
    candidates = anchors.candidates()
    if not len(candidates.episodes):
        return 0.0
    return float(weigh(candidates.episodes, candidates.first, candidates.stop).sum())


def only_good(proposal: Proposal) -> Drawn:
    """Return the anchors among proposed steps."""
    episodes, ids, good = proposal
    return Drawn(episodes[good], ids[good])


def uniform_between(rng: np.random.Generator, first: Ints, stop: Ints) -> Ints:
    """Return one uniform integer in `first <= value < stop` for each pair."""
    drawn: Ints = rng.integers(first, stop)
    return drawn


def join(parts: list[tuple[Drawn, Ints]], anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
    """Return one draw of `count` anchors from several, each with the positions that its anchors take."""
    episodes, ids = np.empty(count, np.int64), np.empty(count, np.int64)
    weight, offset = np.ones(count), np.zeros(count, np.int64)
    for drawn, positions in parts:
        episodes[positions], ids[positions] = drawn.episodes, drawn.ids
        if drawn.weight is not None:
            weight[positions] = drawn.weight
        if drawn.offset is not None:
            offset[positions] = drawn.offset
        elif anchors.boundary == "pad_both":
            offset[positions] = anchors.offsets(rng, len(positions))
    weighted = any(drawn.weight is not None for drawn, _ in parts)
    return Drawn(
        episodes, ids, weight if weighted else None, offset if anchors.boundary == "pad_both" else None
    )
