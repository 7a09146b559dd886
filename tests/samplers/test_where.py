"""Samplers that draw from some episodes only: 200,000 draws each, and what follows when the table changes."""

import pickle

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import LEAST_P, Pair, addresses
from reverie.index import BOUNDARIES, Anchors, Drawn
from support.distributions import CASES, EveryNth, a_visit_balanced, draw, given, messy, p_value
from support.samplers import NAMES

pytestmark = pytest.mark.long

DRAWS = 200_000
MOST, FEW = EveryNth(3, (0, 1)), EveryNth(11, (4,))
KINDS = [(case, boundary) for case in CASES for boundary in sorted(BOUNDARIES)]


@pytest.mark.parametrize("where", [MOST, FEW], ids=["most", "few"])
@pytest.mark.parametrize(("case", "boundary"), KINDS)
def test_draws_follow_the_exact_distribution_of_what_is_chosen(case, boundary, where):
    """Where two episodes in three are chosen, and where one in eleven is: 200,000 anchors, p > 0.001."""
    pair = messy(seed=1000 + CASES.index(case) * 10 + sorted(BOUNDARIES).index(boundary))
    sampler, wanted = case(pair, boundary, 3, where)
    assert len(wanted) > 3, "the case must have something to say"
    # Epochs of a dozen anchors are tedious, and exact after a few.
    count = 20_000 if isinstance(sampler, rv.Shuffled) and where is FEW else DRAWS
    assert p_value(draw(pair, sampler, boundary, 3, count), wanted) > LEAST_P


def test_every_sampler_takes_a_condition():
    assert {type(case(messy(0), "pad_right", 3, MOST)[0]).__name__ for case in CASES} == NAMES


@pytest.mark.parametrize(("case", "boundary"), KINDS)
def test_draws_follow_a_table_that_changes(case, boundary):
    """A condition on lengths and metadata: episodes grow into it, end, go, and are annotated between draws."""

    def where(episodes):
        return (episodes["length"] >= 4) | [bool(label) for label in episodes.metadata]

    def chosen(pair):
        table = pair.buffer.episodes
        good = where(table)
        return {
            (stream, step)
            for row, stream in zip(table[good], table["stream"][good].tolist(), strict=True)
            for step in range(row["start"], row["stop"])
        }

    pair = Pair(90, 3, mean_length=5, seed=7).grow(25, 3, 60)
    sampler, _ = case(pair, boundary, 2, EveryNth(1, (0,)))
    sampler = type(sampler)(*([[(rv.Uniform(), 1), (rv.Prioritized(), 1)]] if isinstance(sampler, rv.Mixture) else []),
                            **({"newest": 60} if isinstance(sampler, rv.Recent) else {}), where=where)  # fmt: skip
    rng, seen = np.random.default_rng(0), set()
    for number in range(30):
        drawn = addresses(pair.index, sampler.draw(Anchors(pair.index, boundary, 2), pair.rng, 40))
        assert set(drawn) <= chosen(pair) & pair.twin.anchors(boundary, 2), number
        seen |= set(drawn)
        pair.grow(*rng.integers(0, 4, 3))
        if number % 4 == 0:
            pair.buffer.annotate(episode=int(rng.choice(pair.buffer.episodes.ids)), good=True)
    assert len(seen) > 60


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_enough_to_go_on_with_a_condition(case):
    """A new sampler with the same condition that loads a saved state draws what the old one draws."""
    pair = messy(5)
    sampler, _ = case(pair, "inside", 3, MOST)
    for round_ in range(5):
        anchors = Anchors(pair.index, "inside", 3)
        sampler.draw(anchors, pair.rng, 30)
        again = pickle.loads(pickle.dumps(sampler))
        if round_ % 2:
            pair.grow(9, 2, 4)
        for one, other in zip(
            sampler.draw(anchors, np.random.default_rng(1), 25), again.draw(anchors, np.random.default_rng(1), 25), strict=True
        ):  # fmt: skip
            np.testing.assert_array_equal(one, other)
        sampler = again


def test_a_condition_can_be_dropped_and_taken_up_again():
    """A state that was saved with a condition serves a sampler without one, and the other way round."""
    pair = messy(6)
    old = rv.Prioritized(where=MOST)
    draw(pair, old, "inside", 3, 100)
    new = rv.Prioritized()
    new.load(old.save())
    assert p_value(draw(pair, new, "inside", 3, DRAWS), pair.twin.uniform("inside", 3)) > LEAST_P
    again = rv.Prioritized(where=MOST)
    again.load(new.save())
    assert all(MOST.holds(pair.twin, address) for address in draw(pair, again, "inside", 3, 5_000))


def test_a_mapping_chooses_by_metadata():
    """All its values must be there; an episode without metadata, or with another value, is not drawn from."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 100, seed=0)
    labels = [{}, {"task": "reach"}, {"task": "push"}, {"task": "reach", "seed": 3}, {"task": None}]
    for number, label in enumerate(labels):
        for step in range(5):
            buffer.add(obs=number, action=0, reward=0.0, terminated=step == 4, truncated=False)
            if label and step == 1:
                buffer.annotate(**label)

    def shown(where):
        return set(buffer.sample(200, 2, sampler=rv.Uniform(where=where)).obs[:, 0].tolist())

    assert shown({"task": "reach"}) == {1, 3}
    assert shown({"task": "reach", "seed": 3}) == {3}
    assert shown({"task": None}) == {4}
    assert shown({}) == {0, 1, 2, 3, 4}
    with pytest.raises(rv.NotEnoughData, match="none in the 0 of 5 live episodes that"):
        shown({"task": "fly"})
    sampler = rv.Uniform(where={"task": "reach"})
    assert set(buffer.sample(200, 2, sampler=sampler).obs[:, 0].tolist()) == {1, 3}
    buffer.annotate(episode=0, task="reach")
    assert set(buffer.sample(200, 2, sampler=sampler).obs[:, 0].tolist()) == {0, 1, 3}
    buffer.annotate(episode=3, task="push")
    assert set(buffer.sample(200, 2, sampler=sampler).obs[:, 0].tolist()) == {0, 1}


def test_the_condition_sees_the_table_of_now():
    """It is asked once as long as nothing changes, and again after a step; it sees returns, lengths and ends."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 100, seed=0)
    asked = []

    def where(episodes):
        asked.append(np.asarray(episodes).tolist())
        return episodes["return"] >= 3

    sampler = rv.Uniform(where=where)
    for step in range(4):
        buffer.add(obs=step, action=0, reward=1.0, terminated=False, truncated=False)
        if step < 2:
            with pytest.raises(rv.NotEnoughData):
                buffer.sample(1, 1, sampler=sampler)
    for _ in range(3):
        buffer.sample(5, 1, sampler=sampler)
    assert [rows[0][6] for rows in asked] == ["running"] * 3
    assert [rows[0][5] for rows in asked] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (3, "a function of the episode table, or a mapping of metadata, got 3"),
        (lambda episodes: episodes["length"], "a mask of 2 booleans, one for each row of the episode table, got int64"),
        (lambda episodes: [True], r"got bool of shape \(1,\)"),
        (lambda episodes: True, r"got bool of shape \(\)"),
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_refused(where, words):
    pair = Pair(20, 1, mean_length=100).grow(5)
    pair.buffer.cut()
    pair.grow(5)
    with pytest.raises(rv.BadSetting, match=words):
        pair.buffer.sample(2, 2, sampler=rv.Uniform(where=where))


def test_a_condition_that_fails_leaves_the_sampler_as_it_was():
    """Its error comes out as it is; the next draw is what it would have been."""
    pair, calls = messy(8), []

    def where(episodes):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return episodes.ids % 2 == 0

    sampler = rv.Prioritized(where=where)
    pair.buffer.sample(20, 3, sampler=sampler)
    pair.grow(1, 1, 1)
    before = sampler.save()
    with pytest.raises(ZeroDivisionError):
        pair.buffer.sample(20, 3, sampler=sampler)
    pair.buffer.sample(1, 1)  # settles
    after = sampler.save()
    np.testing.assert_array_equal(before["steps"]["weights"], after["steps"]["weights"])
    pair.buffer.sample(20, 3, sampler=sampler)


def test_a_sampler_of_a_users_own_narrows_with_one_line():
    class Oldest(rv.Sampler):
        def draw(self, anchors, rng, count):
            anchors = self.narrow(anchors)
            candidates = anchors.candidates()
            return Drawn(np.repeat(candidates.episodes[:1], count), np.repeat(candidates.first[:1], count))

    pair = messy(9)
    drawn = addresses(pair.index, Oldest(where=FEW).draw(Anchors(pair.index, "inside", 2), pair.rng, 3))
    wanted = [one for one in sorted(pair.twin.anchors("inside", 2), key=lambda one: (pair.twin.episode_of(*one).order, one))
              if FEW.holds(pair.twin, one)]  # fmt: skip
    assert drawn == wanted[:1] * 3


def test_drawing_with_a_condition_costs_the_batch_until_the_table_changes():
    """Counted, not timed: without a change no list of the episodes is made again."""
    pair, made = messy(10), []
    index, live_episodes = pair.index, pair.index.live_episodes
    index.live_episodes = lambda: made.append(1) or live_episodes()
    for case in CASES:
        sampler, _ = case(pair, "inside", 3, EveryNth(25, (4,)))
        if isinstance(sampler, rv.Shuffled):
            continue  # an epoch begins with a list of them
        for _ in range(5):
            sampler.draw(Anchors(index, "inside", 3), pair.rng, 300)
        made.clear()
        for _ in range(5):
            sampler.draw(Anchors(index, "inside", 3), pair.rng, 300)
        assert not made, case


class Changing:
    """A condition that the test changes."""

    def __init__(self):
        self.now = EveryNth(1, (0,))

    def __call__(self, episodes):
        return self.now(episodes)

    def holds(self, twin, address):
        return self.now.holds(twin, address)


def by_step(pair, boundary, length, where):
    return a_visit_balanced(pair, boundary, length, "step", 0.0, where)


def by_episode(pair, boundary, length, where):
    return a_visit_balanced(pair, boundary, length, "episode", 0.0, where)


STEADY = [case for case in CASES if not case.__name__.startswith("a_visit")] + [by_step, by_episode]


@pytest.mark.parametrize("boundary", ["inside", "pad_both", "cross"])
@pytest.mark.parametrize("case", STEADY)
def test_a_condition_that_changes_leaves_nothing_behind(case, boundary):
    """Drawn from all, from few, from others, from all again: each time the exact distribution of what is chosen."""
    pair, where = messy(17), Changing()
    sampler, wanted = case(pair, boundary, 3, where)
    newest = int(pair.buffer.episodes.ids[-1])
    for number, now in enumerate([FEW, EveryNth(3, (1, 2)), FEW, EveryNth(2, (0,)), EveryNth(1, (0,))]):
        where.now = now
        pair.buffer.annotate(episode=newest, round=number)
        shuffled = isinstance(sampler, rv.Shuffled)
        if shuffled:
            sampler = type(sampler)(
                tiles=sampler.tiles, where=where
            )  # else the old epoch is drawn to its end
        found = draw(pair, sampler, boundary, 3, 5_000 if shuffled else 50_000)
        if not isinstance(sampler, rv.Mixture):
            assert p_value(found, given(where, pair, wanted)) > LEAST_P, number
    assert not isinstance(sampler, rv.Mixture) or p_value(found, wanted) > LEAST_P
