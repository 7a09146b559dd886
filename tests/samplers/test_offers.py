"""What a sampler says to a union: its mass, tries in proportion to it, and what the parts have in common."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import LEAST_P, Pair
from reverie.index import Anchors
from support.distributions import p_value

TRIES = 20_000


def small(seed=0):
    """Three streams in short episodes, one of which is wrapped, one young."""
    return Pair(120, 3, mean_length=6, seed=seed).grow(70, 9, 30)


def by_anchor(pair, anchors, weigh):
    """Return the weight of each valid anchor, told from `weigh` step by step."""
    return {address: weigh(*address) for address in pair.twin.anchors(anchors.boundary, anchors.length)}


def a_uniform(pair, anchors):
    return rv.Uniform(), by_anchor(pair, anchors, lambda *_: 1.0)


def a_recent_half_life(pair, anchors):
    heads = [len(record.steps) for record in pair.twin.streams]
    return rv.Recent(half_life=7.0), by_anchor(
        pair, anchors, lambda stream, step: 2.0 ** (-(heads[stream] - 1 - step) / 7.0)
    )


def a_recent_newest(pair, anchors):
    """27 steps of three streams are the newest nine of each."""
    heads = [len(record.steps) for record in pair.twin.streams]
    return rv.Recent(27), by_anchor(
        pair, anchors, lambda stream, step: 1.0 if step >= heads[stream] - 9 else 0.0
    )


def a_prioritized(pair, anchors):
    sampler = rv.Prioritized(0.5, epsilon=0.0)
    batch = pair.buffer.sample(80, 1, boundary="pad_right", sampler=sampler)
    errors = pair.rng.choice([0.25, 4.0, 9.0], 80)
    pair.buffer.update_priorities(batch, errors)
    priority = dict(zip(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True), errors, strict=True))
    return sampler, by_anchor(pair, anchors, lambda *step: float(priority.get(step, 1.0) ** 0.5))


def a_visit_balanced_by_step(pair, anchors):
    sampler, visits = rv.VisitBalanced(1.5, by="step"), {}
    batch = pair.buffer.sample(150, 1, boundary="pad_right", sampler=sampler)
    for address in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True):
        visits[address] = visits.get(address, 0) + 1
    return sampler, by_anchor(pair, anchors, lambda *step: (1.0 + visits.get(step, 0)) ** -1.5)


def a_visit_balanced_by_episode(pair, anchors):
    """The weight of an episode is shared out among its anchors."""
    sampler, visits = rv.VisitBalanced(1.5), {}
    batch = pair.buffer.sample(40, 1, boundary="pad_right", sampler=sampler)
    for address in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True):
        order = pair.twin.episode_of(*address).order
        visits[order] = visits.get(order, 0) + 1
    orders = [
        pair.twin.episode_of(*address).order
        for address in pair.twin.anchors(anchors.boundary, anchors.length)
    ]

    def weigh(stream, step):
        order = pair.twin.episode_of(stream, step).order
        return (1.0 + visits.get(order, 0)) ** -1.5 / orders.count(order)

    return sampler, by_anchor(pair, anchors, weigh)


def an_episode_uniform(pair, anchors):
    orders = [
        pair.twin.episode_of(*address).order
        for address in pair.twin.anchors(anchors.boundary, anchors.length)
    ]
    return rv.EpisodeUniform(), by_anchor(
        pair, anchors, lambda *step: 1.0 / orders.count(pair.twin.episode_of(*step).order)
    )


CASES = [a_uniform, a_recent_half_life, a_recent_newest, a_prioritized, a_visit_balanced_by_step,
         a_visit_balanced_by_episode, an_episode_uniform]  # fmt: skip


@pytest.mark.parametrize("boundary", ["inside", "pad_right", "cross"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_try_gives_an_anchor_in_proportion_to_the_mass(case, exact, boundary):
    """Of `mass`, which is that of the anchors alone if it is exact, each anchor has its weight; the rest is in vain."""
    pair = small()
    anchors = Anchors(pair.index, boundary, 4)
    sampler, weights = case(pair, anchors)
    wanted = sum(weights.values())
    assert sampler.mass(anchors, True) == pytest.approx(wanted)
    mass = sampler.mass(anchors, exact)
    assert mass >= wanted * (1 - 1e-12)
    drawn = sampler.offer(anchors, pair.rng, TRIES, exact)
    streams = pair.index.stream[drawn.episodes].tolist()
    found = dict.fromkeys(weights, 0)
    for address in zip(streams, drawn.ids.tolist(), strict=True):
        found[address] += 1
    if exact:
        assert len(drawn.ids) == TRIES
    shares = {address: weight / mass for address, weight in weights.items() if weight}
    found = {address: times for address, times in found.items() if address in shares or times}
    vain = 1 - wanted / mass
    if vain > 1e-9:
        found["in vain"], shares["in vain"] = TRIES - len(drawn.ids), vain
    assert p_value(found, shares) > LEAST_P


def test_masses_are_those_of_all_steps_or_of_the_anchors():
    """Eight steps, of which the newest five have no window of six: 2 + 4 + ... halves by hand."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 100, seed=0)
    for step in range(8):
        buffer.add(obs=step, action=0, reward=0.0, terminated=step == 7, truncated=False)
    anchors = Anchors(buffer.engine.index, "inside", 6)
    assert rv.Recent(half_life=1.0).mass(anchors, False) == pytest.approx(2 - 2**-7)
    assert rv.Recent(half_life=1.0).mass(anchors, True) == pytest.approx(2**-5 + 2**-6 + 2**-7)
    assert rv.Recent(newest=6).mass(anchors, False) == 6.0
    assert rv.Recent(newest=6).mass(anchors, True) == 1.0
    assert rv.Uniform().mass(anchors, False) == rv.Uniform().mass(anchors, True) == 3.0
    assert rv.EpisodeUniform().mass(anchors, False) == 1.0
    for sampler in (rv.Prioritized(), rv.VisitBalanced(by="step")):
        assert (sampler.mass(anchors, False), sampler.mass(anchors, True)) == (8.0, 3.0)
    assert rv.VisitBalanced().mass(anchors, True) == 1.0
    none = Anchors(buffer.engine.index, "inside", 9)
    for sampler in (
        rv.Recent(half_life=2),
        rv.Prioritized(),
        rv.VisitBalanced(),
        rv.VisitBalanced(by="step"),
    ):
        assert sampler.mass(none, True) == 0.0


@pytest.mark.parametrize("by", ["step", "episode"])
@pytest.mark.parametrize("exact", [True, False])
def test_what_was_offered_counts_as_drawn(by, exact):
    """Every anchor that an offer gives is one visit more, and no other."""
    pair, sampler = small(1), rv.VisitBalanced(by=by)
    anchors = Anchors(pair.index, "inside", 3)
    sampler.mass(anchors, exact)
    drawn = sampler.offer(anchors, pair.rng, 50, exact)
    places = drawn.episodes
    if by == "step":
        places = pair.index.slots(pair.index.stream[drawn.episodes], drawn.ids)
    visits = sampler.save()["visits"]
    assert visits.sum() == len(drawn.ids) > 20
    np.testing.assert_array_equal(np.bincount(places, minlength=len(visits)), visits)


@pytest.mark.parametrize("by", ["step", "episode"])
def test_a_mass_knows_what_was_loaded(by):
    """A part of a union that takes up a saved state weighs its steps or episodes by the visits of before."""
    pair, old, new = small(2), rv.VisitBalanced(2.0, by=by), rv.VisitBalanced(2.0, by=by)
    anchors = Anchors(pair.index, "pad_right", 1)
    old.draw(anchors, pair.rng, 200)
    new.load(old.save())
    assert (
        new.mass(anchors, True) == old.mass(anchors, True) < rv.VisitBalanced(2.0, by=by).mass(anchors, True)
    )


def test_the_share_of_newest_steps_is_that_of_the_streams():
    """Of the newest 12 of four streams, a part with one has 3, one with three has 9; each has one a stream at least."""
    whole = rv.Recent(12)
    assert [whole.for_part(streams, 4).newest for streams in (1, 3)] == [3, 9]
    assert [rv.Recent(newest).for_part(2, 4).newest for newest in (1, 7, 8)] == [2, 2, 4]
    assert whole.newest == 12
    for same in (rv.Recent(half_life=3.0), rv.Uniform()):
        assert same.for_part(1, 4) is same


def test_wrappers_divide_what_they_hold():
    """Fresh and Mixture are divided with what they hold, and stay as they are."""
    fresh, mixture = rv.Fresh(rv.Recent(12)), rv.Mixture([(rv.Recent(20), 1.0), (rv.Uniform(), 3.0)])
    assert fresh.for_part(1, 4).fallback.newest == 3
    assert [sampler.newest for sampler in mixture.for_part(1, 4).samplers[:1]] == [5]
    assert (fresh.fallback.newest, mixture.samplers[0].newest) == (12, 20)
    assert mixture.for_part(1, 4).parts[1] == (mixture.samplers[1], 0.75)


def test_parts_agree_on_the_highest_priority():
    """New steps of all parts enter at the highest priority that any part has seen; also inside Fresh and Mixture."""
    pairs = [small(3), small(4)]
    samplers = [
        rv.Mixture([(rv.Uniform(), 1), (rv.Fresh(rv.Prioritized(1.0, epsilon=0.0)), 1)]) for _ in pairs
    ]
    inner = [sampler.samplers[1].fallback for sampler in samplers]
    for pair, sampler, error in zip(pairs, inner, (3.0, 8.0), strict=True):
        batch = pair.buffer.sample(4, 1, boundary="pad_right", sampler=sampler)
        pair.buffer.update_priorities(batch, [error] * 4)
    assert [sampler.common() for sampler in samplers] == [[None, 3.0], [None, 8.0]]
    commons = [sampler.common() for sampler in samplers]
    for sampler in samplers:
        sampler.agree(commons)
    assert [sampler.common() for sampler in inner] == [8.0, 8.0]
    pairs[0].add(1)
    newest = pairs[0].index.slots(np.array([1]), pairs[0].index.head[[1]] - 1)
    pairs[0].buffer.sample(1, 1, boundary="pad_right", sampler=inner[0])
    assert inner[0].save()["steps"]["weights"][newest] == 8.0


def test_parts_take_over_exponents_that_were_set_anew():
    """A copy follows alpha, beta, eta and epsilon of the sampler that a user holds."""
    mine = rv.Mixture([(rv.Fresh(rv.Prioritized()), 1)])
    theirs = rv.Mixture([(rv.Fresh(rv.Prioritized()), 1)])
    held, followed = mine.samplers[0].fallback, theirs.samplers[0].fallback
    held.alpha, held.beta, held.eta, held.epsilon = 0.1, 0.2, 0.3, 0.4
    theirs.imitate(mine)
    assert (followed.alpha, followed.beta, followed.eta, followed.epsilon) == (0.1, 0.2, 0.3, 0.4)


def test_importance_weights_of_a_part_are_told_anew_for_the_union():
    """A part whose mean priority is 4 in a union with mean 1: (1 / 4) ** beta of the weight; nothing without weight."""
    sampler, weight = rv.Prioritized(beta=0.5), np.array([1.0, 3.0])
    assert sampler.reweigh(weight, (40.0, 10), (100.0, 100)).tolist() == [0.5, 1.5]
    assert sampler.reweigh(weight, (10.0, 40), (100.0, 100)).tolist() == [2.0, 6.0]
    assert sampler.reweigh(weight, (0.0, 10), (100.0, 100)).tolist() == [1.0, 3.0]
    assert sampler.reweigh(weight, (0.0, 0), (0.0, 0)).tolist() == [1.0, 3.0]
    assert sampler.reweigh(weight, (5.0, 5), (0.0, 0)).tolist() == [1.0, 3.0]
    assert rv.Uniform().reweigh(weight, (1.0, 1), (2.0, 1)) is weight


def test_a_part_tells_the_weight_of_its_steps_and_how_many_they_are():
    """Steps that are known to open no window are in neither number."""
    pair, sampler = Pair(60, 1, mean_length=1e9).grow(20), rv.Prioritized(1.0, epsilon=0.0)
    pair.buffer.cut()
    anchors = Anchors(pair.index, "inside", 5)
    sampler.mass(anchors, False)
    assert sampler.scale(anchors) == (20.0, 20)
    sampler.offer(anchors, pair.rng, 2000, False)
    assert sampler.scale(anchors) == (16.0, 16)
    assert rv.Uniform().scale(anchors) is None


def test_samplers_that_have_no_mass_say_so():
    """Mixture, Fresh, Shuffled and weights by age: the error names the sampler and a remedy."""
    anchors = Anchors(small().index, "inside", 3)
    for sampler in (
        rv.Mixture([(rv.Uniform(), 1)]),
        rv.Fresh(),
        rv.Shuffled(),
        rv.EpisodeUniform((0.5, 0.5)),
    ):
        with pytest.raises(rv.BadSetting, match="union"):
            sampler.mass(anchors, True)


def test_a_mixture_chooses_by_weight():
    """Of three parts with weights 1, 2 and 5, an eighth, a quarter and the rest of the windows."""
    mixture = rv.Mixture([(rv.Uniform(), 1), (rv.Uniform(), 2), (rv.Uniform(), 5)])
    counts = np.bincount(mixture.choose(np.random.default_rng(0), 80_000), minlength=3)
    assert counts == pytest.approx([10_000, 20_000, 50_000], rel=0.03)
    assert [share for _, share in mixture.parts] == [0.125, 0.25, 0.625]
