"""Parts that are far away: masses of the last answer, tries to spare and draws in flight change no distribution."""

from collections import Counter

import numpy as np
import pytest
from tests.union.test_union import LENGTH, SAMPLERS, drawn, four, p_of, run, whole

import reverie as rv
from reverie.conformance import LEAST_P
from reverie.union.draws import FORGETFUL, Draws
from reverie.union.part import Answer
from reverie.union.pieces import Piece

pytestmark = pytest.mark.long

RELIED_ON = [name for name, (make, _) in SAMPLERS.items() if type(make()) in FORGETFUL]


class FarUnion(rv.Union):
    """A union that treats its parts as if they were asked over a wire."""

    in_flight = 2

    def _begin(self, spec, parts, shares, rng, far=False):
        super()._begin(spec, parts, shares, rng, far=True)


@pytest.mark.parametrize("name", RELIED_ON)
def test_masses_of_the_last_answer_give_the_distribution_of_now(name):
    """Batches of 100 from parts that grew since the last one, by envelopes that may be broken: p > 0.001."""
    make, weigh = SAMPLERS[name]
    pairs = four(seed=6)
    union, sampler = FarUnion([pair.buffer for pair in pairs], seed=4), make()

    def sample(count):
        batches = [union.sample(100, LENGTH, sampler=sampler) for _ in range(count // 100)]
        return Joined(np.concatenate([batch.stream for batch in batches]),
                      np.concatenate([batch.anchor for batch in batches]))  # fmt: skip

    assert run(pairs, sample, weigh("inside"), rounds=25) > LEAST_P


class Joined:
    """The addresses of several batches."""

    def __init__(self, stream, anchor):
        self.stream, self.anchor = stream, anchor


@pytest.mark.parametrize("name", ["Uniform", "Prioritized", "VisitBalanced(0)"])
def test_a_feed_draws_ahead_from_far_parts(name):
    """Two draws in flight: every batch is whole, and what was drawn has the distribution of the whole."""
    torch = pytest.importorskip("torch")
    from reverie.torch import feed

    make, weigh = SAMPLERS[name]
    pairs = four(seed=7)
    union = FarUnion([pair.buffer for pair in pairs], seed=5)
    found, expected = Counter(), Counter()
    with feed(union, 100, LENGTH, sampler=make(), device="cpu") as batches:
        for _ in range(60):
            batch = next(batches)
            assert (batch.host.step_ids()[:, 0] == batch.host.anchor).all()
            assert isinstance(batch.obs, torch.Tensor)
            found.update(drawn(batch.host))
    for address, share in whole(pairs, weigh("inside")).items():
        expected[address] += share * 6000
    assert p_of(found, expected) > LEAST_P


def test_far_parts_at_rest_are_asked_once_a_batch():
    """Without a writer one round is enough, and nothing is drawn in vain; a part that grew costs a second round."""
    pairs = four(seed=8)
    union = FarUnion([pair.buffer for pair in pairs], seed=6)
    rounds = []
    for _ in range(20):
        union.sample(16, LENGTH)
        rounds.append(union._draws.rounds)
    assert rounds == list(range(1, 21))
    assert union._draws.broken == 0
    pairs[0].grow(30)
    union.sample(16, LENGTH)
    assert (union._draws.rounds, union._draws.broken) == (22, 1)


def test_tries_to_spare_are_left_out_by_chance():
    """Of what succeeded, any row is as likely to be left out as any other."""
    draws = Draws([], None, np.random.default_rng(0))
    pieces = [Piece(number, Answer(1.0, batch=np.zeros(size))) for number, size in enumerate([3, 0, 9])]
    kept = Counter()
    for _ in range(6000):
        first = draws._first(pieces, 8)
        assert sum(piece.size for piece in first) == 8
        kept.update((piece.number, row) for piece in first for row in piece.rows.tolist())
    assert set(kept) == {(0, row) for row in range(3)} | {(2, row) for row in range(9)}
    assert p_of(kept, dict.fromkeys(kept, 4000)) > LEAST_P
    assert draws._first(pieces, 12) == pieces
