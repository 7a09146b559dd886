"""How a union draws: which rows come from which part, so that the whole has exactly the sampler's distribution."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from reverie.errors import NotEnoughData, counted
from reverie.samplers import (
    LEAST_ACCEPTED,
    EpisodeUniform,
    Fresh,
    Mixture,
    Prioritized,
    Recent,
    Sampler,
    Scale,
    Shuffled,
    Uniform,
)
from reverie.union.part import Answer, Later, Part, Request, all_said
from reverie.union.pieces import Piece

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
SLACK = 1 / 16  # what an envelope leaves above the mass of a part that has grown meanwhile
ROUNDS = 1_000  # of draws of a batch that may come to nothing: then nothing but a fault explains it

# What these draw next does not depend on what they drew.
FORGETFUL = Uniform, EpisodeUniform, Recent, Prioritized
REMEMBERED = 64  # of what the masses are known


class Draws:
    """Draws from parts.

    Args:
        parts: see above.
        weights: how likely each part is; None: as its mass says.
        rng: the source of randomness.
        far: whether it costs to ask a part. If so, the masses that it told last are relied on, and there are a few
            tries more than needed, so that one round is enough as a rule.

    Attributes:
        rounds: how many rounds of tries there were, and broken: how many of them were taken back.
    """

    def __init__(
        self, parts: Sequence[Part], weights: Floats | None, rng: np.random.Generator, far: bool = False
    ) -> None:
        self._parts, self._weights, self._rng, self._far = parts, weights, rng, far
        self._slack = np.zeros(len(parts))  # share of the mass, for each part
        self._known: OrderedDict[Request, Floats] = OrderedDict()  # masses, by what was wanted
        self._turn = 0  # the part whose fresh tiles come first
        self.rounds = self.broken = 0

    def begin(self, request: Request, sampler: Sampler, count: int) -> Later[list[Piece]]:
        """Begin to draw, where the answer is to be waited for; return what goes on as `draw` does."""
        if self._far and self._weights is None and type(sampler) in FORGETFUL:
            if len(self._parts) == 1:
                answer = self._parts[0].sample(request, self._rng, count)
                return lambda: [Piece(0, answer())]
            masses = self._known.get(_key(request))
            if masses is not None and masses.sum() > 0:
                begun = self._begin_round(request, masses, count, spare=True)
                return partial(self._in_proportion, request, sampler, count, begun)
        return partial(self.draw, request, sampler, count)

    def draw(self, request: Request, sampler: Sampler, count: int) -> list[Piece]:
        """Return pieces with `count` rows in all.

        Args:
            request: what is wanted.
            sampler: the one that draws, as the user gave it.
            count: at least 1.

        Raises:
            NotEnoughData: there is no window; with weights: a part that has some weight has none.
        """
        if len(self._parts) == 1:
            return [Piece(0, self._parts[0].sample(request, self._rng, count)())]
        if self._weights is not None:
            return self._by_weight(request, count, self._weights)
        if isinstance(sampler, Mixture):
            pieces: list[Piece] = []
            which = sampler.choose(self._rng, count)
            for place, part in enumerate(sampler.samplers):
                wanted = int(np.count_nonzero(which == place))
                if wanted:
                    pieces += self.draw(request.below(place), part, wanted)
            return pieces
        if isinstance(sampler, Fresh):
            return self._fresh(request, sampler, count)
        if isinstance(sampler, Shuffled):
            return self._shuffled(request, count)
        return self._in_proportion(request, sampler, count)

    def _by_weight(self, request: Request, count: int, weights: Floats) -> list[Piece]:
        shares = self._rng.multinomial(count, weights).tolist()
        asked: list[tuple[int, Later[Answer]]] = []
        for number, wanted in enumerate(shares):
            if wanted:
                with _naming(number):
                    asked.append((number, self._parts[number].sample(request, self._rng, wanted)))
        pieces = []
        for number, answer in asked:
            with _naming(number):
                pieces.append(Piece(number, answer()))
        return pieces

    def _in_proportion(
        self, request: Request, sampler: Sampler, count: int, begun: list[Later[Answer]] | None = None
    ) -> list[Piece]:
        """Return pieces by rounds of tries, of which the first may have begun."""
        pieces: list[Piece] = []
        scales: dict[int, Scale] = {}
        spare = self._far and type(sampler) in FORGETFUL
        masses = self._masses(request, asked=not spare)
        missing, vain = count, 0
        while missing:
            answers = self._end_round(
                request, begun or self._begin_round(request, masses, missing, spare=spare)
            )
            begun = None
            masses = np.array([answer.mass for answer in answers])
            self._know(request, masses)
            for number, answer in enumerate(answers):
                if answer.scale is not None:
                    scales[number] = answer.scale
            if any(answer.broken for answer in answers):
                continue  # the round was taken back
            found = self._first(
                [Piece(number, answer) for number, answer in enumerate(answers) if answer.batch is not None],
                missing,
            )
            pieces += found
            got = sum(piece.size for piece in found)
            if got < missing * LEAST_ACCEPTED and not request.exact:
                request = replace(request, exact=True)
                masses = self._masses(request, asked=True)
            missing -= got
            vain = 0 if got else vain + 1
            if missing and (vain > ROUNDS or not masses.sum() > 0):
                raise self._not_enough(request)
        if scales:
            whole = sum(one[0] for one in scales.values()), sum(one[1] for one in scales.values())
            for _, answer, _ in pieces:
                if answer.batch is not None and answer.scale is not None:
                    answer.batch.weight[...] = sampler.reweigh(answer.batch.weight, answer.scale, whole)
        return pieces

    def _masses(self, request: Request, asked: bool) -> Floats:
        """Return the masses: those that the parts told last, unless they are to be asked."""
        known = None if asked else self._known.get(_key(request))
        if known is None or not known.sum() > 0:
            return np.array(all_said(part.mass(request) for part in self._parts))
        return known

    def _know(self, request: Request, masses: Floats) -> None:
        if self._far:
            self._known[_key(request)] = masses
            self._known.move_to_end(_key(request))
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def _begin_round(self, request: Request, masses: Floats, wanted: int, spare: bool) -> list[Later[Answer]]:
        """Let the parts begin a round of tries, of which so many are to succeed if none is in vain."""
        self.rounds += 1
        envelopes = masses * (1 + self._slack)
        total = envelopes.sum()
        if not total > 0:
            raise self._not_enough(request)
        vain = wanted * float(total / masses.sum() - 1) if spare else 0.0
        more = math.ceil(vain + 2 * math.sqrt(vain))
        shares = self._rng.multinomial(wanted + more, envelopes / total).tolist()
        # A part that grew from nothing must be found, too: it is asked for its mass with no tries.
        asked = zip(self._parts, shares, envelopes.tolist(), strict=True)
        return [part.draw(request, self._rng, share, envelope) for part, share, envelope in asked]

    def _end_round(self, request: Request, begun: list[Later[Answer]]) -> list[Answer]:
        """Return what the parts answer; if one is broken, nothing was drawn."""
        answers = all_said(begun)
        broken = [number for number, answer in enumerate(answers) if answer.broken]
        if broken:
            self.broken += 1
            self._slack[broken] = np.clip(2 * self._slack[broken], SLACK, 1.0)
            drawn = zip(self._parts, answers, strict=True)
            all_said(part.take_back(request) for part, answer in drawn if answer.batch is not None)
        else:
            self._slack = np.where(self._slack > SLACK / 16, self._slack * 0.75, 0.0)
        return answers

    def _first(self, pieces: list[Piece], wanted: int) -> list[Piece]:
        """Return pieces with at most so many rows: those of the first tries, whose order among the parts is chance."""
        counts = [piece.size for piece in pieces]
        if sum(counts) <= wanted:
            return pieces
        kept = self._rng.multivariate_hypergeometric(counts, wanted, method="marginals").tolist()
        return [
            piece._replace(rows=self._rng.choice(count, share, replace=False))
            for piece, count, share in zip(pieces, counts, kept, strict=True)
            if share
        ]

    def _shuffled(self, request: Request, count: int) -> list[Piece]:
        pieces: list[Piece] = []
        missing, empty = count, 0
        while missing:
            left = np.array(all_said(part.left(request) for part in self._parts))
            if not left.any():
                left = np.array(all_said(part.begin(request, self._rng) for part in self._parts))
                empty += 1
                if not left.any() or empty > count + 1:
                    raise self._not_enough(request)
            wanted = min(missing, int(left.sum()))
            # Every order of what is left is alike: so are the numbers of the next ones by part.
            shares = self._rng.multivariate_hypergeometric(left, wanted, method="marginals")
            numbers = np.flatnonzero(shares).tolist()
            taken = all_said(
                self._parts[number].take(request, self._rng, int(shares[number])) for number in numbers
            )
            for number, answer in zip(numbers, taken, strict=True):
                if answer.batch is not None:
                    pieces.append(Piece(number, answer))
                    missing -= len(answer.batch)
        return pieces

    def _fresh(self, request: Request, sampler: Fresh, count: int) -> list[Piece]:
        pieces: list[Piece] = []
        missing, turn = count, self._turn
        for place in range(len(self._parts)):
            number = (turn + place) % len(self._parts)
            answer = self._parts[number].tiles(request, missing)() if missing else Answer(0.0)
            if answer.batch is not None:
                pieces.append(Piece(number, answer))
                missing -= len(answer.batch)
                self._turn = (number + 1) % len(self._parts)
        return pieces + (self.draw(request.below(-1), sampler.fallback, missing) if missing else [])

    def _not_enough(self, request: Request) -> NotEnoughData:
        return NotEnoughData(
            f"wanted a window of {counted(request.length, 'step')} with boundary={request.boundary!r} and a weight "
            f"above 0, got none in the {counted(len(self._parts), 'part')} of the union; add more steps, or ask for a "
            f"shorter length"
        )


def _key(request: Request) -> Request:
    """Return what a mass depends on."""
    return replace(request, fields=None, burn_in=0)


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Say in an error which part has nothing to draw."""
    try:
        yield
    except NotEnoughData as error:
        raise type(error)(f"part {number} of the union: {error}") from error
