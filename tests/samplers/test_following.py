"""How samplers follow a buffer: the weights they keep beside a dictionary, and what they need not look at again."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import Pair
from reverie.index import Anchors, Choice
from reverie.samplers.episode_weights import EpisodeWeights
from reverie.samplers.weights import StepWeights
from support.buffers import scalar_spec


def plain_buffer(capacity, streams=1):
    return rv.ReplayBuffer(scalar_spec(), capacity, streams=streams, seed=0)


def add(buffer, stream=0, steps=1, ends=False):
    for step in range(steps):
        buffer.add(
            obs=0, action=0, reward=0.0, terminated=ends and step == steps - 1, truncated=False, stream=stream
        )


def ended_episodes(*lengths, capacity=100):
    """Return a buffer of one stream with episodes of these lengths."""
    buffer = plain_buffer(capacity)
    for length in lengths:
        add(buffer, steps=length, ends=True)
    return buffer


# --- weights of steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 6])
def test_weights_of_steps_are_those_a_dictionary_keeps(streams):
    """Steps enter at the weight of the call, those evicted early lose theirs, in any number of streams."""
    rng, capacity = np.random.default_rng(streams), 11
    buffer, weights, known = plain_buffer(capacity * streams, streams), StepWeights(), {}
    index, seen = buffer.engine.index, [0] * streams
    for number in range(80):
        for stream in rng.choice(streams, rng.integers(0, streams + 1), replace=False).tolist():
            add(buffer, stream, int(rng.integers(1, 15)), ends=bool(rng.random() < 0.3))
        if number % 3 == 2:
            stream = int(rng.integers(streams))
            tail, head = int(index.tail[stream]), int(index.head[stream])
            index.evict(stream, int(rng.integers(tail, head + 1)))
        fresh = weights.follow(index, 1.0 + number)
        entered = []
        for stream in range(streams):
            tail, head = int(index.tail[stream]), int(index.head[stream])
            known = {step: weight for step, weight in known.items() if step[0] != stream or step[1] >= tail}
            for step in range(max(seen[stream], tail), head):
                known[stream, step] = 1.0 + number
                entered.append(stream * capacity + step % capacity)
            seen[stream] = head
        assert sorted(fresh.tolist()) == sorted(entered)
        wanted = np.zeros(capacity * streams)
        for (stream, step), weight in known.items():
            wanted[stream * capacity + step % capacity] = weight
        np.testing.assert_array_equal(weights.tree.weights, wanted)
        assert weights.mass(None, False) == wanted.sum()


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_importance_weights_are_one_after_an_early_eviction(streams):
    """Steps that a budget of bytes let go of count in no mean: with equal priorities all weights stay 1."""
    buffer, sampler = plain_buffer(40 * streams, streams), rv.Prioritized(beta=1.0)
    for stream in range(streams):
        add(buffer, stream, 30)
    buffer.sample(10, 1, boundary="pad_right", sampler=sampler)
    for stream in range(streams):
        buffer.engine.index.evict(stream, 12)
    batch = buffer.sample(50, 1, boundary="pad_right", sampler=sampler)
    assert (batch.weight == 1.0).all()
    assert sampler.scale(Anchors(buffer.engine.index, "pad_right", 1)) == (18.0 * streams, 18 * streams)


def test_steps_that_are_gone_lose_their_weight_when_they_are_drawn():
    """A slot whose step was evicted for one that was never written is found once, and not again."""
    for streams in (1, 2):
        buffer, weights = plain_buffer(10 * streams, streams), StepWeights()
        for stream in range(streams):
            add(buffer, stream, 10)
        index = buffer.engine.index
        weights.follow(index, 1.0)
        for stream in range(streams):
            index.make_room(stream)
        anchors = Anchors(index, "pad_right", 1)
        weights.prepare(anchors, np.zeros(0, np.int64))
        rng = np.random.default_rng(0)
        episodes, ids, good = weights.propose(anchors, rng, 200)
        assert not good.all()
        assert set(ids[good].tolist()) == set(range(1, 10))
        assert weights.tree.total == 9.0 * streams
        assert weights.propose(anchors, rng, 200)[2].all()
        assert len(episodes) == 200


@pytest.mark.parametrize(("boundary", "barred"), [("inside", 3), ("pad_right", 0), ("cross", 0)])
@pytest.mark.parametrize("streams", [1, 2])
def test_a_step_is_barred_once_it_can_never_be_an_anchor(boundary, barred, streams):
    """The last three steps of an ended episode open no window of four inside it; those of a running one may yet."""
    buffer, weights = plain_buffer(40 * streams, streams), StepWeights()
    add(buffer, steps=12, ends=True)
    for stream in range(streams):
        add(buffer, stream, steps=7)
    index = buffer.engine.index
    anchors = Anchors(index, boundary, 4)
    weights.prepare(anchors, weights.follow(index, 1.0))
    for _ in range(3):
        weights.propose(anchors, np.random.default_rng(0), 1000)
    assert weights.barred == barred
    wanted = {9, 10, 11} if barred else set()
    assert set(np.flatnonzero(weights.tree.are_barred()).tolist()) == wanted
    assert weights.mass(anchors, False) == 12 + 7 * streams - barred
    weights.prepare(Anchors(index, boundary, 3), np.zeros(0, np.int64))
    assert weights.barred == 0, "another length: all may be drawn again"


def test_steps_of_episodes_that_are_not_chosen_are_barred_before_a_draw():
    """Also those that come later; they are released with another choice, and without one."""
    buffer, weights = ended_episodes(4, 5, 6), StepWeights()
    index = buffer.engine.index

    def bars(*chosen):
        mask = np.zeros(len(index.start), np.bool_)
        mask[list(chosen)] = True
        choice = Choice(mask) if chosen else None
        weights.prepare(Anchors(index, "pad_right", 1, choice), weights.follow(index, 1.0))
        return set(np.flatnonzero(weights.tree.are_barred()).tolist())

    assert bars(0, 2) == set(range(4, 9))
    assert bars(1) == {*range(4), *range(9, 15)}
    add(buffer, steps=3)
    assert bars(1) == {*range(4), *range(9, 18)}
    assert bars(1, 3) == {*range(4), *range(9, 15)}
    assert bars() == set()


# --- weights of episodes -----------------------------------------------------------------------------------


def test_episodes_enter_at_one_and_lose_their_weight_when_found_gone():
    """The table grows past 64 entries; weights stay with their episodes; what was dropped goes when it is drawn."""
    buffer, weights = ended_episodes(*[1] * 60, capacity=80), EpisodeWeights()
    index = buffer.engine.index
    anchors = Anchors(index, "pad_right", 1)
    assert sorted(weights.follow(index).tolist()) == sorted(index.live_episodes().tolist())
    assert weights.tree.size == 64
    weights.tree.set(index.live_episodes()[:3], 5.0)
    for _ in range(15):
        add(buffer, ends=True)
    assert len(weights.follow(index)) == 15
    assert weights.tree.size == len(index.start) > 64
    assert weights.tree.weights_at(index.live_episodes()).tolist() == [5.0] * 3 + [1.0] * 72
    assert len(weights.follow(index)) == 0
    index.evict(0, 10)
    assert weights.tree.total == 3 * 5.0 + 72
    rng = np.random.default_rng(0)
    episodes, live = weights.propose(anchors, rng, 2000)
    assert not live.all()
    np.testing.assert_array_equal(live, index.is_live(episodes))
    assert weights.tree.total == 65.0
    assert weights.propose(anchors, rng, 2000)[1].all()
    assert weights.tree.total == 65.0
    weights.tree.set(index.live_episodes(), 0.0)
    with pytest.raises(rv.NoWeight):
        weights.propose(anchors, rng, 1)


def test_episodes_that_were_dropped_unseen_never_enter():
    """Of those that began and were dropped between two calls nothing is known; one row is one episode."""
    buffer, weights = ended_episodes(2, 2, capacity=6), EpisodeWeights()
    index = buffer.engine.index
    weights.follow(index)
    for _ in range(7):
        add(buffer, steps=2, ends=True)
    fresh = weights.follow(index)
    assert sorted(fresh.tolist()) == sorted(index.live_episodes().tolist())
    assert len(fresh) == 3


def test_episodes_that_are_not_chosen_are_barred():
    """Until another choice is obeyed, or none is there."""
    buffer, weights = ended_episodes(4, 5, 6, 7), EpisodeWeights()
    index = buffer.engine.index
    weights.follow(index)
    live = index.live_episodes()
    weights.tree.set(live, [1.0, 2.0, 3.0, 4.0])

    def barred(*chosen):
        mask = np.zeros(len(index.start), np.bool_)
        mask[live[list(chosen)]] = True
        weights.obey(Anchors(index, "pad_right", 1, Choice(mask) if chosen else None))
        return [number for number, episode in enumerate(live) if weights.tree.are_barred()[episode]]

    assert barred(0, 2) == [1, 3]
    assert weights.tree.total == 4.0
    assert barred(1) == [0, 2, 3]
    assert barred(1, 3) == [0, 2]
    assert barred() == []
    assert weights.tree.weights_at(live).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert barred(0) == [1, 2, 3], "the choice of before is forgotten where there is none"


def test_a_loaded_tree_forgets_episodes_that_are_gone():
    """It does not know what was barred: with a choice, entries that hold no live episode have no weight."""
    buffer, weights = ended_episodes(4, 5, 6, capacity=15), EpisodeWeights()
    index = buffer.engine.index
    weights.follow(index)
    state = weights.save()
    index.evict(0, 4)
    loaded = EpisodeWeights()
    loaded.load(state, index)
    assert loaded.tree.total == 3.0
    loaded.obey(Anchors(index, "pad_right", 1, Choice(np.ones(len(index.start), np.bool_))))
    assert loaded.tree.total == 2.0
    assert loaded.save()["begun"].tolist() == [3]


# --- conditions --------------------------------------------------------------------------------------------


def shown(buffer, sampler):
    """Return the episodes, by their order, that 300 draws come from."""
    anchors = Anchors(buffer.engine.index, "pad_right", 1)
    drawn = sampler.draw(anchors, np.random.default_rng(0), 300)
    return set(buffer.engine.index.order[drawn.episodes].tolist())


def test_two_conditions_hold_at_once_and_each_may_change():
    """A part of a mixture obeys its own condition and the mixture's, whichever of them changes."""
    buffer, lengths = ended_episodes(2, 3, 4, 5), {"least": 3}
    for order in (1, 2, 3):
        buffer.annotate(episode=order, good=True)
    part = rv.Prioritized(where={"good": True})
    sampler = rv.Mixture([(part, 1.0)], where=lambda episodes: episodes["length"] >= lengths["least"])
    assert shown(buffer, sampler) == {1, 2, 3}
    lengths["least"] = 4
    buffer.annotate(episode=0, touched=True)
    assert shown(buffer, sampler) == {2, 3}
    buffer.annotate(episode=3, good=False)
    assert shown(buffer, sampler) == {2}
    lengths["least"] = 1
    buffer.annotate(episode=0, good=True)
    assert shown(buffer, sampler) == {0, 1, 2}
    buffer.discard([1])
    assert shown(buffer, sampler) == {0, 2}


@pytest.mark.parametrize("outer", [True, False], ids=["outer", "inner"])
def test_one_of_two_conditions_may_change(outer):
    """The other's choice stays the same object, and is joined with the new one."""
    buffer, most = ended_episodes(2, 3, 4), {"length": 4}
    add(buffer)

    def short(episodes):
        return episodes["length"] <= most["length"]

    sampler = rv.Mixture(
        [(rv.VisitBalanced(where={} if outer else short), 1.0)], where=short if outer else {}
    )
    assert shown(buffer, sampler) == {0, 1, 2, 3}
    most["length"] = 3
    add(buffer)
    assert shown(buffer, sampler) == {0, 1, 3}
    most["length"] = 2
    add(buffer)
    assert shown(buffer, sampler) == {0}


def test_a_choice_is_made_again_only_where_the_mask_differs():
    """Steps that come do not make another choice of the same mask: whoever obeyed it need not do so again."""
    buffer = ended_episodes(2, 3, 4)
    index = buffer.engine.index
    outer, inner = rv.Uniform(where=lambda episodes: episodes["start"] < 5), rv.Uniform(where={})

    def choices():
        anchors = outer.narrow(Anchors(index, "inside", 1))
        both = inner.narrow(anchors)
        assert inner.narrow(both) is both
        assert outer.narrow(anchors) is anchors
        return anchors.choice, both.choice

    add(buffer)
    first = choices()
    assert choices() == first
    add(buffer)
    assert choices() == first, "a step came, and the mask is the same"
    buffer.annotate(episode=0, touched=1)
    assert choices()[0] is not first[0], "metadata may count"
    second = choices()
    buffer.cut()
    add(buffer)
    third = choices()
    assert third[0] is not second[0]
    assert third[1] is not second[1]


def test_a_condition_serves_any_buffer():
    """The mask of one buffer is not used for another."""
    one, other = ended_episodes(2, 3, 4), ended_episodes(4, 3, 2)
    sampler = rv.Uniform(where=lambda episodes: episodes["length"] == 4)
    for _ in range(2):
        assert shown(one, sampler) == {2}
        assert shown(other, sampler) == {0}


# --- what a sampler shows of itself ------------------------------------------------------------------------


def test_defaults_are_those_of_the_papers():
    """A sampler that is made without words has these settings, and shows only others."""
    prioritized = rv.Prioritized()
    assert (prioritized.alpha, prioritized.beta, prioritized.eta, prioritized.epsilon) == (
        0.6,
        0.4,
        0.9,
        1e-6,
    )
    balanced = rv.VisitBalanced()
    assert (balanced.alpha, balanced.by) == (1.0, "episode")
    assert rv.Shuffled().tiles is False
    assert isinstance(rv.Fresh().fallback, rv.Uniform)


def long_ones(episodes):
    return episodes["length"] > 3


@pytest.mark.parametrize(("sampler", "words"), [
    (rv.Uniform(), "Uniform()"), (rv.Prioritized(0.6, beta=0.5), "Prioritized(beta=0.5)"),
    (rv.Uniform(where={"task": 1}), "Uniform(where={'task': 1})"),
    (rv.Recent(5, where=long_ones), "Recent(newest=5, where=long_ones)"),
    (rv.Fresh(where=long_ones), "Fresh(fallback=Uniform(), where=long_ones)"),
    (rv.VisitBalanced(2, by="step"), "VisitBalanced(alpha=2.0, by='step')"), (rv.Shuffled(tiles=True), "Shuffled(tiles=True)"),
    (rv.Mixture([(rv.Uniform(), 1), (rv.Shuffled(), 3)]), "Mixture(parts=[(Uniform(), 0.25), (Shuffled(), 0.75)])"),
])  # fmt: skip
def test_a_sampler_shows_the_call_that_makes_it(sampler, words):
    assert repr(sampler) == words


def test_the_newest_of_each_stream_have_the_same_weight():
    """The age of a step is told from its own stream's newest, also where draws are mostly in vain."""
    pair = Pair(90, 3, mean_length=1e9).grow(30, 5, 12)
    sampler = rv.Recent(half_life=2.0)
    drawn = sampler.draw(Anchors(pair.index, "pad_right", 1), np.random.default_rng(0), 30_000)
    newest = drawn.ids == pair.index.head[pair.index.stream[drawn.episodes]] - 1
    counts = np.bincount(pair.index.stream[drawn.episodes][newest], minlength=3)
    assert counts == pytest.approx([counts.mean()] * 3, rel=0.05)


def test_parts_by_age_follow_episodes_that_go_while_another_runs():
    """No episode begins meanwhile: the oldest one goes, and the one that runs stays within reach."""
    buffer, sampler = ended_episodes(2, 2, 2, capacity=10), rv.EpisodeUniform((0.5, 0.5))
    add(buffer)
    assert shown(buffer, sampler) == {0, 1, 2, 3}
    add(buffer, steps=5)
    assert shown(buffer, sampler) == {1, 2, 3}
