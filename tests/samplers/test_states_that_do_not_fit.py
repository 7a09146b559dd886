"""A saved state that is damaged, or of another buffer, is refused with words; the last value that fits is taken."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import Pair
from reverie.index import Anchors
from reverie.samplers import checked_episode_weights, checked_step_weights
from reverie.samplers.kept import kept, kept_array, kept_integer, kept_number

MOST, MOST_ID = 2**48, 2**61


def pair_of(streams=2):
    return Pair(20 * streams, streams, mean_length=5).grow(*[30] * streams)


def saved(make, boundary="inside"):
    """Return what a sampler saved that has drawn from two streams of 20 steps."""
    pair, sampler = pair_of(), make()
    sampler.draw(Anchors(pair.index, boundary, 2), pair.rng, 20)
    return sampler.save()


def takes(make, state, pair=None):
    """Whether a new sampler loads a state and draws with it; the words of the error if not."""
    pair = pair or pair_of()
    sampler = make()
    try:
        sampler.load(state)
        sampler.draw(Anchors(pair.index, "inside", 2), pair.rng, 3)
    except rv.BadSetting as error:
        return str(error)
    return True


def by_step():
    return rv.VisitBalanced(by="step")


# --- single values ---------------------------------------------------------------------------------------


def test_names_are_those_wanted_and_no_others():
    assert kept({"a": 1, "b": 2}, "a", "b") == {"a": 1, "b": 2}
    for state in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, [1], None, 3):
        with pytest.raises(
            rv.BadSetting, match=r"state of a sampler's state: wanted the names \['a', 'b'\], got"
        ):
            kept(state, "a", "b")
    with pytest.raises(
        rv.BadSetting, match=r"got \['n0', 'n1', 'n2', 'n3', 'n4', 'n5', 'n6', 'n7'\]; it is damaged"
    ):
        kept({f"n{number}": 0 for number in range(9)}, "a")


@pytest.mark.parametrize("value", [3, 5, np.int8(4), np.uint64(3)])
def test_integers_in_their_range_are_taken(value):
    found = kept_integer("place", value, 3, 5)
    assert (found, type(found)) == (int(value), int)


@pytest.mark.parametrize("value", [2, 6, True, 4.0, "4", None])
def test_other_integers_are_not(value):
    with pytest.raises(rv.BadSetting, match="place of a sampler's state: wanted an integer from 3 to 5, got"):
        kept_integer("place", value, 3, 5)
    with pytest.raises(rv.BadSetting, match="got 999"):
        kept_integer("place", 999, 0, 1)


@pytest.mark.parametrize("value", [0.5, 2, 1.25, np.float32(0.5), np.int64(2)])
def test_numbers_in_their_range_are_taken(value):
    found = kept_number("highest", value, 0.5, 2)
    assert (found, type(found)) == (float(value), float)


@pytest.mark.parametrize("value", [0.25, 2.5, True, "1", None, float("nan"), np.array([1.0])])
def test_other_numbers_are_not(value):
    with pytest.raises(rv.BadSetting, match="highest of a sampler's state: wanted a number"):
        kept_number("highest", value, 0.5, 2)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([0, 5, 10], True), (np.array([1, 2, 3], np.int8), True), (np.zeros(3, np.uint32), True),
        (np.zeros(3, np.uint64), "an array of int64, got uint64"), (np.zeros(3), "got float64"), ("abc", "got str"),
        (np.zeros(4, np.int64), r"an array of shape \(3,\), got one of shape \(4,\)"),
        (np.zeros((3, 1), np.int64), r"got one of shape \(3, 1\)"), ([0, 0, 11], "values from 0 to 10, got others"),
        ([-1, 0, 0], "got others"),
    ],
)  # fmt: skip
def test_arrays_are_taken_if_nothing_is_lost(value, wanted):
    value = np.array(value, np.int64) if isinstance(value, list) else value
    if wanted is True:
        found = kept_array("seen", value, np.int64, (3,), 0, 10)
        assert (found.tolist(), found.dtype) == (value.tolist(), np.int64)
        assert not np.shares_memory(found, value)
        kept_array("seen", value, np.int64, (None,), 0, 10)
        return
    with pytest.raises(rv.BadSetting, match=wanted):
        kept_array("seen", value, np.int64, (3,), 0, 10)


def test_arrays_hold_no_nan():
    with pytest.raises(rv.BadSetting, match="wanted values from 0 to 1e"):
        kept_array("weights", np.array([1.0, np.nan]), np.float64, (None,), 0.0, 1e200)


# --- weights ---------------------------------------------------------------------------------------------


def step_weights(**changed):
    return {
        "weights": np.ones(40), "barred": np.zeros(40, np.bool_), "seen": np.array([30, 30]), "kind": None, **changed
    }  # fmt: skip


@pytest.mark.parametrize("changed", [
    {}, {"weights": np.zeros(40)}, {"weights": np.full(40, 1e200)}, {"barred": np.ones(40, np.bool_)},
    {"seen": np.array([0, MOST_ID])}, {"kind": ("inside", 1)}, {"kind": ["cross", MOST]},
    {"kind": ["inside", 2, "chosen episodes"]},
])  # fmt: skip
def test_step_weights_that_fit(changed):
    state = step_weights(**changed)
    weights, barred, seen, kind = checked_step_weights(state, 2, 20)
    for found, name in ((weights, "weights"), (barred, "barred"), (seen, "seen")):
        np.testing.assert_array_equal(found, state[name])
    wanted = state["kind"] and (*state["kind"][:2], len(state["kind"]) == 3)
    assert kind == wanted


@pytest.mark.parametrize("changed", [
    {"weights": np.ones(39)}, {"weights": -np.full(40, 1e-9)}, {"weights": np.full(40, 1e201)}, {"barred": np.zeros(40)},
    {"seen": np.array([-1, 0])}, {"seen": np.array([0, MOST_ID + 1])}, {"seen": np.array([1])}, {"kind": "inside"}, {"kind": ["outside", 2]},
    {"kind": ["inside", 0]}, {"kind": ["inside", MOST + 1]}, {"kind": ["inside"]}, {"kind": ["inside", 2, "some"]}, {"kind": ["inside", 2, "chosen episodes", 1]},
    {"kind": 3}, {"more": 1},
])  # fmt: skip
def test_step_weights_that_do_not(changed):
    with pytest.raises(rv.BadSetting, match="it is damaged, or of another buffer: make a new sampler"):
        checked_step_weights(step_weights(**changed), 2, 20)


def test_episode_weights_are_as_many_as_the_table_has_entries():
    """Fewer are fine: the table grew since. None, and one more than there are entries, are not."""
    state = {"weights": np.ones(64), "begun": np.array([3, 0])}
    weights, begun = checked_episode_weights(state, 2, 64)
    assert (weights.tolist(), begun.tolist()) == ([1.0] * 64, [3, 0])
    assert len(checked_episode_weights({**state, "weights": np.ones(1)}, 2, 64)[0]) == 1
    for wrong in ({"weights": np.ones(65)}, {"weights": np.ones(0)}, {"weights": -np.ones(3)}, {"begun": np.array([1])},
                  {"begun": np.array([-1, 0])}, {"weights": np.full(3, 1e201)}):  # fmt: skip
        with pytest.raises(rv.BadSetting, match="it is damaged"):
            checked_episode_weights({**state, **wrong}, 2, 64)


# --- samplers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "good"), [
    ({}, True), ({"highest": 0}, True), ({"highest": 0.25}, True), ({"highest": 1e40}, True), ({"highest": -0.5}, False),
    ({"highest": 2e40}, False), ({"steps": {}}, True), ({"steps": {"weights": 1}}, False), ({"more": 1}, False),
])  # fmt: skip
def test_priorities(changed, good):
    state = {**saved(rv.Prioritized), **changed}
    assert (takes(rv.Prioritized, state) is True) is good
    if good:
        sampler = rv.Prioritized()
        sampler.load(state)
        assert sampler.save()["highest"] == state["highest"]


def test_what_is_loaded_is_saved_again_before_the_first_draw():
    """A sampler that loads and saves passes on what it got."""
    for make in (rv.Prioritized, rv.VisitBalanced, by_step, rv.Shuffled, rv.Fresh):
        state, sampler = saved(make), make()
        sampler.load(state)
        again = sampler.save()
        assert again.keys() == state.keys()
        assert takes(make, again) is True
    assert rv.Prioritized().save() == {"highest": 1.0, "steps": {}}
    assert rv.VisitBalanced().save() == rv.Shuffled().save() == rv.Uniform().save() == {}
    assert rv.Fresh().save() == {"cursor": None, "turn": 0, "fallback": {}}


@pytest.mark.parametrize("make", [rv.VisitBalanced, by_step])
def test_visits(make):
    """Of steps there is one for each slot; of episodes at most one for each entry of the table; none is negative."""
    state = saved(make)
    visits = state["visits"]
    assert takes(make, state) is True
    assert takes(make, {}) is True
    for wrong in (np.append(visits, 0), visits - 1, visits.astype(float), visits[None]):
        assert "visits of a sampler's state: wanted" in str(takes(make, {**state, "visits": wrong}))
    assert (takes(make, {**state, "visits": visits[:-1]}) is True) is (make is rv.VisitBalanced)
    assert "wanted the names" in takes(make, {**state, "more": 1})
    if make is rv.VisitBalanced:
        assert f"wanted at most {len(visits)}, got {len(visits) + 1}" in takes(
            make, {**state, "visits": np.append(visits, 0)}
        )


def an_epoch(**changed):
    return {
        "stream": np.array([0, 1]), "first": np.array([12, 10]), "counts": np.array([20, 20]), "step": 1, "seed": 5,
        "place": 0, **changed,
    }  # fmt: skip


@pytest.mark.parametrize(("changed", "good"), [
    ({}, True), ({"counts": np.array([1, 1])}, True), ({"counts": np.array([0, 1])}, False),
    ({"counts": np.array([20, 21])}, False), ({"counts": np.array([41, 1])}, False), ({"stream": np.array([0, 2])}, False),
    ({"stream": np.array([-1, 0])}, False), ({"first": np.array([-1, 10])}, False), ({"first": np.array([0, 10])}, True),
    ({"first": np.array([MOST, 10])}, True), ({"first": np.array([MOST + 1, 10])}, False), ({"step": MOST + 1}, False),
    ({"place": 41}, False), ({"place": MOST}, False),
    ({"first": np.array([12])}, False), ({"stream": np.array([0])}, False), ({"step": 1}, True), ({"step": 0}, False),
    ({"seed": 0}, True), ({"seed": 2**63 - 1}, True), ({"seed": 2**63}, False), ({"seed": -1}, False),
    ({"place": -1}, False), ({"place": 39}, True), ({"place": 40}, True), ({"place": MOST + 1}, False), ({"more": 1}, False),
    ({name: np.zeros(0, np.int64) for name in ("stream", "first", "counts")}, False),
])  # fmt: skip
def test_epochs(changed, good):
    """Every count is one at least, and all together at most the steps of the buffer; no stream is unknown."""
    assert (takes(rv.Shuffled, an_epoch(**changed)) is True) is good


def test_an_epoch_goes_on_where_it_was():
    """Of 40 anchors 39 were drawn: the last one comes first, then those of the next epoch."""
    pair = Pair(40, 2, mean_length=1e9).grow(32, 30)
    anchors = Anchors(pair.index, "pad_right", 1)
    order = rv.Shuffled()
    order.load(an_epoch())
    all_of_them = order.draw(anchors, np.random.default_rng(0), 40)
    addresses = set(
        zip(pair.index.stream[all_of_them.episodes].tolist(), all_of_them.ids.tolist(), strict=True)
    )
    assert addresses == {(0, step) for step in range(12, 32)} | {(1, step) for step in range(10, 30)}
    late = rv.Shuffled()
    late.load(an_epoch(place=39))
    assert late.draw(anchors, np.random.default_rng(0), 1).ids == all_of_them.ids[-1:]
    assert late.save()["place"] == 40


@pytest.mark.parametrize(("changed", "good"), [
    ({}, True), ({"cursor": None}, True), ({"turn": 0}, True), ({"turn": MOST}, True), ({"turn": MOST + 1}, False), ({"turn": -1}, False),
    ({"turn": True}, False), ({"cursor": np.zeros((2, 2), np.int64)}, True), ({"cursor": np.zeros((2, 3), np.int64)}, False),
    ({"cursor": np.zeros((3, 2), np.int64)}, False), ({"cursor": np.array([[-1, 0], [0, 0]])}, False),
    ({"cursor": np.full((2, 2), MOST_ID)}, True),
    ({"cursor": np.full((2, 2), MOST_ID + 1)}, False), ({"fallback": {"a": 1}}, False), ({"more": 1}, False),
])  # fmt: skip
def test_cursors(changed, good):
    """A cursor has two rows, and a column for each stream."""
    assert (takes(rv.Fresh, {**saved(rv.Fresh), **changed}) is True) is good


def test_parts_of_a_mixture():
    """As many states as there are parts, in a list."""

    def make():
        return rv.Mixture([(rv.Prioritized(), 1), (rv.Uniform(), 1)])

    state = saved(make)
    assert takes(make, state) is True
    for parts in (state["parts"][:1], [*state["parts"], {}], tuple(state["parts"]), None, {}):
        assert "wanted a list of 2" in takes(make, {"parts": parts})


def test_a_sampler_that_saves_nothing_loads_nothing():
    assert takes(rv.Uniform, {}) is True
    assert "Uniform: wanted nothing to load, got a state" in takes(rv.Uniform, {"a": 1})
