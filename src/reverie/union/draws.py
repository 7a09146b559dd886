"""How a union draws: which rows come from which part, so that the whole has exactly the sampler's distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from reverie.errors import NotEnoughData, counted
from reverie.samplers import LEAST_ACCEPTED, Fresh, Mixture, Sampler, Scale, Shuffled
from reverie.union.part import Answer, Later, Part, Request, all_said

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
SLACK = 1 / 16  # what an envelope leaves above the mass of a part that has grown meanwhile
ROUNDS = 1_000  # of draws of a batch that may come to nothing: then nothing but a fault explains it

Piece = tuple[int, Answer]  # the number of a part, and what it answered


class Draws:
    """Draws from parts.

    Args:
        parts: see above.
        weights: how likely each part is; None: as its mass says.
        rng: the source of randomness.

    Attributes:
        rounds: how many rounds of tries there were, and broken: how many of them were taken back.
    """

    def __init__(self, parts: Sequence[Part], weights: Floats | None, rng: np.random.Generator) -> None:
        self._parts, self._weights, self._rng = parts, weights, rng
        self._slack = np.zeros(len(parts))  # share of the mass, for each part
        self._turn = 0  # the part whose fresh tiles come first
        self.rounds = self.broken = 0

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
            return [(0, self._parts[0].sample(request, self._rng, count)())]
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
                pieces.append((number, answer()))
        return pieces

    def _in_proportion(self, request: Request, sampler: Sampler, count: int) -> list[Piece]:
        pieces: list[Piece] = []
        scales: dict[int, Scale] = {}
        masses = self._masses(request)
        missing, vain = count, 0
        while missing:
            answers = self._round(request, masses, missing)
            for number, answer in answers:
                masses[number] = answer.mass
                if answer.scale is not None:
                    scales[number] = answer.scale
            if any(answer.broken for _, answer in answers):
                continue  # `_round` has taken it back
            found = [(number, answer) for number, answer in answers if answer.batch is not None]
            pieces += found
            got = sum(len(answer.batch) for _, answer in found if answer.batch is not None)
            if got < missing * LEAST_ACCEPTED and not request.exact:
                request = replace(request, exact=True)
                masses = self._masses(request)
            missing -= got
            vain = 0 if got else vain + 1
            if missing and (vain > ROUNDS or not masses.sum() > 0):
                raise self._not_enough(request)
        if scales:
            whole = sum(one[0] for one in scales.values()), sum(one[1] for one in scales.values())
            for _, answer in pieces:
                if answer.batch is not None and answer.scale is not None:
                    answer.batch.weight[...] = sampler.reweigh(answer.batch.weight, answer.scale, whole)
        return pieces

    def _masses(self, request: Request) -> Floats:
        return np.array(all_said(part.mass(request) for part in self._parts))

    def _round(self, request: Request, masses: Floats, tries: int) -> list[Piece]:
        """Return what the parts answer to so many tries in all; if one is broken, nothing was drawn."""
        self.rounds += 1
        envelopes = masses * (1 + self._slack)
        total = envelopes.sum()
        if not total > 0:
            raise self._not_enough(request)
        shares = self._rng.multinomial(tries, envelopes / total).tolist()
        # A part that grew from nothing must be found, too: it is asked for its mass with no tries.
        answers = all_said(
            part.draw(request, self._rng, share, envelope)
            for part, share, envelope in zip(self._parts, shares, envelopes.tolist(), strict=True)
        )
        broken = [number for number, answer in enumerate(answers) if answer.broken]
        if broken:
            self.broken += 1
            self._slack[broken] = np.clip(2 * self._slack[broken], SLACK, 1.0)
            drawn = zip(self._parts, answers, strict=True)
            all_said(part.take_back(request) for part, answer in drawn if answer.batch is not None)
        else:
            self._slack = np.where(self._slack > SLACK / 16, self._slack * 0.75, 0.0)
        return list(enumerate(answers))

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
                    pieces.append((number, answer))
                    missing -= len(answer.batch)
        return pieces

    def _fresh(self, request: Request, sampler: Fresh, count: int) -> list[Piece]:
        pieces: list[Piece] = []
        missing, turn = count, self._turn
        for place in range(len(self._parts)):
            number = (turn + place) % len(self._parts)
            answer = self._parts[number].tiles(request, missing)() if missing else Answer(0.0)
            if answer.batch is not None:
                pieces.append((number, answer))
                missing -= len(answer.batch)
                self._turn = (number + 1) % len(self._parts)
        return pieces + (self.draw(request.below(-1), sampler.fallback, missing) if missing else [])

    def _not_enough(self, request: Request) -> NotEnoughData:
        return NotEnoughData(
            f"wanted a window of {counted(request.length, 'step')} with boundary={request.boundary!r} and a weight "
            f"above 0, got none in the {counted(len(self._parts), 'part')} of the union; add more steps, or ask for a "
            f"shorter length"
        )


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Say in an error which part has nothing to draw."""
    try:
        yield
    except NotEnoughData as error:
        raise type(error)(f"part {number} of the union: {error}") from error
