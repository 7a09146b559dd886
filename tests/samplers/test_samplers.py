"""Every sampler under every boundary: 200,000 draws against the twin's exact distribution."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

import reverie as rv
from reverie.conformance import LEAST_P, Pair, addresses
from reverie.index import BOUNDARIES, Anchors
from support.distributions import (
    CASES,
    a_prioritized,
    a_visit_balanced_by_episode,
    a_visit_balanced_by_step,
    draw,
    messy,
    p_value,
)
from support.samplers import NAMES

pytestmark = pytest.mark.long

DRAWS = 200_000


PAIRS = list(product(CASES, sorted(BOUNDARIES)))


@pytest.mark.parametrize(("case", "boundary"), PAIRS)
def test_draws_follow_the_exact_distribution(case, boundary):
    """200,000 anchors for windows of 4 from three messy streams: chi-square p > 0.001."""
    pair = messy(seed=CASES.index(case) * 10 + sorted(BOUNDARIES).index(boundary))
    sampler, wanted = case(pair, boundary, 4)
    assert len(wanted) > 20, "the case must have something to say"
    assert p_value(draw(pair, sampler, boundary, 4, DRAWS), wanted) > LEAST_P


@pytest.mark.parametrize(
    ("case", "boundary"), [pair for pair in PAIRS if pair[1] in ("inside", "cross")]
)  # the rules under which an anchor may be no good
def test_draws_follow_the_exact_distribution_where_hardly_any_anchor_is_valid(case, boundary):
    """The longest windows that leave some anchors, fewer than one step in eight, are drawn as exactly."""
    pair = messy(seed=500 + CASES.index(case))
    length = max(length for length in range(5, 180) if len(pair.twin.anchors(boundary, length)) >= 12)
    assert len(pair.twin.anchors(boundary, length)) < len(pair.twin) / 8
    sampler, wanted = case(pair, boundary, length)
    assert len(wanted) > 1, "the case must have something to say"
    # Epochs of a dozen anchors are tedious, and exact after a few (see test_queues.py).
    count = 5_000 if isinstance(sampler, rv.Shuffled) else DRAWS
    assert p_value(draw(pair, sampler, boundary, length, count), wanted) > LEAST_P


def test_every_pair_of_sampler_and_boundary_is_tested():
    """The product above makes every public sampler, under every boundary there is."""
    made = {type(case(messy(0), "pad_right", 4)[0]).__name__ for case in CASES}
    assert made == NAMES
    assert {(case, boundary) for case in CASES for boundary in BOUNDARIES} == set(PAIRS)


def test_a_wrong_distribution_is_noticed():
    """The test would fail for the nearest mistakes: uniform for per-episode draws, and one anchor left out."""
    pair = messy(1)
    found = draw(pair, rv.Uniform(), "inside", 4, DRAWS)
    assert p_value(found, pair.twin.uniform("inside", 4)) > LEAST_P
    assert p_value(found, pair.twin.episode_uniform("inside", 4)) < 1e-9
    found.pop(max(found))
    assert p_value(found, pair.twin.uniform("inside", 4)) < 1e-9


@pytest.mark.parametrize("streams", [1, 2, 7])
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_streams(case, streams):
    """With one stream, two and seven, whole batches have valid anchors and the twin's distribution."""
    pair = Pair(60 * streams, streams, mean_length=8, seed=streams).grow(*range(80, 80 - 9 * streams, -9))
    if case in (a_prioritized, a_visit_balanced_by_episode, a_visit_balanced_by_step):
        grow = pair.grow  # these grow three streams
        pair.grow = lambda *steps: grow(*steps[:streams], *[1] * (streams - 3))
    sampler, wanted = case(pair, "inside", 3)
    assert p_value(draw(pair, sampler, "inside", 3, 40_000), wanted) > LEAST_P


def test_fewer_episodes_than_weights_are_drawn_by_their_lengths():
    """Episodes of 90, 9 and 1 steps under four weights come with probabilities .9, .09 and .01, as in DIAMOND."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 100, seed=0)
    for length in (90, 9, 1):
        for step in range(length):
            buffer.add(obs=0, action=0, reward=0.0, terminated=step == length - 1, truncated=False)
    batch = buffer.sample(DRAWS, 1, boundary="pad_both", sampler=rv.EpisodeUniform((0.1, 0.1, 0.1, 0.7)))
    shares = [
        ((first <= batch.anchor) & (batch.anchor < stop)).mean()
        for first, stop in ((0, 90), (90, 99), (99, 100))
    ]
    np.testing.assert_allclose(shares, (0.9, 0.09, 0.01), atol=0.003)


@pytest.mark.parametrize("sampler", [rv.Uniform(), rv.Recent(half_life=3), rv.EpisodeUniform((0.5, 0.5))])
def test_only_the_seed_of_the_buffer_decides(sampler):
    """Buffers with equal seeds give equal batches under every boundary; another seed gives others."""

    def anchors(seed):
        buffer = Pair(90, 3, mean_length=8, seed=seed).grow(50, 20, 10).buffer
        return [buffer.sample(20, 3, boundary=rule, sampler=sampler).anchor.tolist() for rule in BOUNDARIES]

    assert anchors(3) == anchors(3)
    assert anchors(3) != anchors(4)


def test_an_age_beyond_all_half_lives_still_has_its_share():
    """Where only ancient anchors are valid, they are drawn, in proportion to their tiny weights."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 4000, seed=0)
    for number in range(4000):
        ends = number == 39 or (number > 39 and number % 2 == 1)
        buffer.add(obs=number, action=0, reward=0.0, terminated=ends, truncated=False)
    batch = buffer.sample(9000, 38, sampler=rv.Recent(half_life=1))
    counts = np.bincount(batch.anchor, minlength=3)
    assert stats.chisquare(counts, 9000 * np.array([1, 2, 4]) / 7).pvalue > LEAST_P


def test_recent_counts_its_newest_steps_in_each_stream():
    """newest=6 over three streams takes the last two steps of each, however old their streams are."""
    pair = messy(2)
    found = draw(pair, rv.Recent(6), "pad_left", 4, 600)
    assert sorted(found) == [
        (stream, head - age) for stream, head in enumerate((320, 20, 170)) for age in (2, 1)
    ]


def test_a_sampler_that_finds_no_mass_says_so():
    """NotEnoughData also where anchors exist, but none of them has any probability."""
    pair = messy(3)
    with pytest.raises(rv.NotEnoughData):
        pair.buffer.sample(4, 5, sampler=rv.Recent(6))
    with pytest.raises(rv.NotEnoughData):
        pair.buffer.sample(4, 5, sampler=rv.Mixture([(rv.Uniform(), 1e-9), (rv.Recent(6), 1)]))


def test_windows_placed_at_random_stand_everywhere():
    """Under pad_both the anchor stands at each position of its window equally often, whatever drew it."""
    pair = messy(4)
    for sampler in (
        rv.Uniform(),
        rv.Prioritized(),
        rv.Shuffled(),
        rv.Mixture([(rv.Uniform(), 1), (rv.Fresh(), 1e-9)]),
    ):
        batch = pair.buffer.sample(20_000, 5, boundary="pad_both", sampler=sampler, burn_in=2)
        counts = np.bincount(batch.anchor - batch.start - 2, minlength=5)
        assert stats.chisquare(counts).pvalue > LEAST_P


BAD = {
    "EpisodeUniform": [lambda: rv.EpisodeUniform(()), lambda: rv.EpisodeUniform((0.5, 0.4)),
                       lambda: rv.EpisodeUniform((1.5, -0.5)), lambda: rv.EpisodeUniform((float("nan"), 1.0)),
                       lambda: rv.EpisodeUniform(3), lambda: rv.EpisodeUniform("ab")],
    "Recent": [lambda: rv.Recent(), lambda: rv.Recent(5, half_life=2), lambda: rv.Recent(0), lambda: rv.Recent(1.5),
               lambda: rv.Recent(half_life=0), lambda: rv.Recent(half_life=float("inf")),
               lambda: rv.Recent(half_life="a day")],
    "Prioritized": [lambda: rv.Prioritized(-1), lambda: rv.Prioritized(beta=float("nan")),
                    lambda: rv.Prioritized(eta=1.1), lambda: rv.Prioritized(epsilon=-1e-9), lambda: rv.Prioritized("a")],
    "VisitBalanced": [lambda: rv.VisitBalanced(-1), lambda: rv.VisitBalanced(float("inf")),
                      lambda: rv.VisitBalanced(by="frame"), lambda: rv.VisitBalanced("a"), lambda: rv.VisitBalanced(1e6)],
    "Fresh": [lambda: rv.Fresh("uniform")],
    "Mixture": [lambda: rv.Mixture([]), lambda: rv.Mixture([(rv.Uniform(), 0)]), lambda: rv.Mixture([rv.Uniform()]),
                lambda: rv.Mixture([(1.0, rv.Uniform())]), lambda: rv.Mixture([("uniform", 1.0)]),
                lambda: rv.Mixture([(rv.Uniform(), float("nan"))])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, made in BAD.items() for number in range(len(made))]
)
def test_a_bad_setting_is_refused_when_it_is_given(name, number):
    """Constructors refuse what would hurt later, and say what they wanted and got."""
    with pytest.raises(rv.BadSetting, match=r"wanted .*got .*;"):
        BAD[name][number]()


LIMITS = [("alpha", 0, 4, rv.Prioritized), ("beta", 0, 4, rv.Prioritized), ("eta", 0, 1, rv.Prioritized),
          ("epsilon", 0, 1e6, rv.Prioritized), ("alpha", 0, 32, rv.VisitBalanced), ("half_life", 1e-3, 1e18, rv.Recent)]  # fmt: skip


@pytest.mark.parametrize(("name", "least", "most", "make"), LIMITS)
def test_settings_reach_from_the_least_to_the_most(name, least, most, make):
    """Both limits are settings; what lies beyond is none."""
    for value in (least, most):
        assert getattr(make(**{name: value}), name) == value
    for value in (least - 1e-9, most * 1.001):
        with pytest.raises(rv.BadSetting, match=f"{name}: wanted"):
            make(**{name: value})


def test_weights_sum_to_one_but_for_rounding():
    """Parts by age may have the weight 0, and ten tenths are one."""
    assert rv.EpisodeUniform([0.1] * 10).weights == (0.1,) * 10
    assert rv.EpisodeUniform((1.0, 0.0)).weights == (1.0, 0.0)
    for weights in ((0.5, 0.5 + 1e-8), (0.5, 0.5 - 1e-8)):
        with pytest.raises(rv.BadSetting, match="sum to 1"):
            rv.EpisodeUniform(weights)
    for weight in (1e-12, 1e12):
        assert rv.Mixture([(rv.Uniform(), weight)]).parts[0][1] == 1.0
    for weight in (1e-13, 1e13):
        with pytest.raises(rv.BadSetting):
            rv.Mixture([(rv.Uniform(), weight)])


def test_a_sampler_serves_one_buffer():
    """One that remembers things refuses a second buffer instead of mixing them up."""
    for make in (
        rv.Prioritized,
        rv.VisitBalanced,
        lambda: rv.VisitBalanced(by="step"),
        rv.Fresh,
        rv.Shuffled,
    ):
        sampler = make()
        messy(5).buffer.sample(4, 2, sampler=sampler)
        with pytest.raises(rv.BadSetting, match="buffer"):
            messy(6).buffer.sample(4, 2, sampler=sampler)


def test_what_addresses_says_is_what_was_drawn():
    """The address of a drawn anchor is its episode's stream and its id."""
    pair = messy(7)
    drawn = rv.Uniform().draw(Anchors(pair.index, "inside", 3), pair.rng, 50)
    assert set(addresses(pair.index, drawn)) <= pair.twin.windows(3)
