"""Fresh shows every new step once and soon; Shuffled shows every anchor once in an epoch."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

import reverie as rv
from reverie.conformance import LEAST_P, Pair, addresses, assert_shows
from reverie.index import BOUNDARIES, Anchors, Drawn
from support.buffers import scalar_spec

ALL = sorted(BOUNDARIES)


class Marked(rv.Uniform):
    """Draws uniformly and marks its rows by a weight of 0.5, so that they can be told from new ones."""

    def draw(self, anchors, rng, count):
        drawn = super().draw(anchors, rng, count)
        return Drawn(drawn.episodes, drawn.ids, np.full(count, 0.5))


def shown(pair: Pair, batch, new_only: bool) -> Counter:
    """Count the steps (stream, id) that the rows of a batch show; closing rows count as (stream, id + 0.5)."""
    seen = Counter()
    for row in range(len(batch)):
        if new_only and batch.weight[row] == 0.5:
            continue
        stream, previous = int(batch.stream[row]), None
        for place, step in enumerate(batch.step_ids()[row].tolist()):
            if isinstance(batch, rv.RowBatch) and batch.is_last[row, place]:
                seen[stream, previous + 0.5] += 1
            elif batch.mask[row, place]:
                seen[stream, step] += 1
            previous = step
    return seen


def drain(pair: Pair, sampler, boundary, length, batch_size=5):
    """Draw until a batch brings nothing new; return how often each step was shown."""
    seen = Counter()
    while True:
        batch = pair.buffer.sample(batch_size, length, boundary=boundary, sampler=sampler)
        assert_shows(batch, pair.twin, length, boundary)
        new = shown(pair, batch, new_only=True)
        if not new:
            return seen
        assert (batch.weight[: int((batch.weight == 1).sum())] == 1).all(), "new ones come first"
        seen += new


@pytest.mark.parametrize("boundary", ALL)
@pytest.mark.parametrize("length", [1, 3, 5])
def test_every_new_step_comes_once_and_soon(boundary, length):
    """As soon as it is whole each tile is drawn, before anything else, and never again."""
    pair, sampler = Pair(3000, 3, mean_length=6, seed=length), rv.Fresh(Marked())
    pair.grow(8, 8, 8)
    seen = Counter()
    for number in range(40):
        pair.grow(*(3, 0, 9) if number % 2 else (1, 5, 2))
        seen += drain(pair, sampler, boundary, length)
        for stream, record in enumerate(pair.twin.streams):
            waiting = [step for step in range(len(record.steps)) if not seen[stream, step] and
                       (boundary != "inside" or long_enough(pair, stream, step, length))]  # fmt: skip
            assert len(waiting) <= length, "a step waits for its tile only"
            assert waiting == list(range(len(record.steps)))[len(record.steps) - len(waiting) :], "in order"
    for (stream, step), times in seen.items():
        if boundary in ("pad_right", "pad_both"):
            assert times == 1
        elif boundary != "cross":
            assert times <= 2
            if times == 2:  # the last tile of its episode was moved back
                end = next(last for last in range(step, 10**6) if not pair.twin.follows(stream, last))
                assert end - step < length
        elif step % 1 == 0.5:
            assert times == 1
        elif times > 1:  # moved back to show the closing row after it
            assert (times, pair.twin.follows(stream, step), seen[stream, step + 0.5]) == (2, False, 1)


def long_enough(pair, stream, step, length):
    """Whether the step's episode has `length` settled steps, or may still get them."""
    twin = pair.twin
    own = [other for other in range(len(twin.streams[stream].steps))
           if twin.episode_of(stream, other) is twin.episode_of(stream, step)]  # fmt: skip
    return len(own) >= length or not twin.episode_of(stream, step).ended


@pytest.mark.parametrize(("steps", "length"), [(6, 3), (6, 2), (4, 4), (5, 3), (3, 8)])
def test_no_end_is_lost_between_two_tiles_of_rows(steps, length):
    """Every closing row, with the last reward and is_terminal, is shown once, also where tiles end just before it."""
    pair, sampler = Pair(3000, 1, mean_length=1e9), rv.Fresh(Marked())
    for number in range(steps * 12 + length):
        step = {"obs": number, "action": 1, "reward": 1.0, "tag": 0.0, "terminated": number % steps == steps - 1,
                "truncated": False}  # fmt: skip
        pair.buffer.add(**step)
        pair.twin.add(**step)
    seen = drain(pair, sampler, "cross", length)
    for number in range(12):
        assert seen[0, number * steps + steps - 0.5] == 1


def test_the_fallback_fills_what_new_steps_leave():
    """With three new tiles and a batch of eight, the first three rows are new and five are the fallback's."""
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0)
    sampler = rv.Fresh(Marked())
    for number in range(7):
        buffer.add(obs=number, action=0, reward=0.0, terminated=False, truncated=False)
    batch = buffer.sample(8, 2, sampler=sampler)
    assert batch.start[:3].tolist() == [0, 2, 4]
    assert batch.weight.tolist() == [1.0] * 3 + [0.5] * 5
    assert (buffer.sample(8, 2, sampler=sampler).weight == 0.5).all()
    buffer.add(obs=7, action=0, reward=0.0, terminated=True, truncated=False)
    assert buffer.sample(8, 2, sampler=sampler).start[0] == 6


def test_new_steps_are_shared_out_among_the_streams():
    """Small batches take turns: a busy stream does not keep the others waiting."""
    pair, sampler = Pair(4000, 4, mean_length=1e9).grow(1, 1, 1, 1), rv.Fresh(Marked())
    last_seen = dict.fromkeys(range(4), 0)
    for number in range(60):
        pair.grow(8, 4, 4, 4)
        batch = pair.buffer.sample(3, 4, sampler=sampler)
        assert (batch.weight == 1).all()
        for stream in set(batch.stream.tolist()):
            last_seen[stream] = number
        assert number - min(last_seen.values()) <= 30


@pytest.mark.parametrize("boundary", ALL)
def test_fresh_passes_over_what_was_evicted(boundary):
    """When more is added than is drawn, what was evicted unseen is left out, and what comes is live."""
    pair, sampler = Pair(60, 3, mean_length=6, seed=1), rv.Fresh(Marked())
    new = 0
    for _ in range(30):
        pair.grow(17, 30, 2)
        batch = pair.buffer.sample(4, 3, boundary=boundary, sampler=sampler)
        assert_shows(batch, pair.twin, 3, boundary)
        new += int((batch.weight == 1).sum())
    assert new > 60


@pytest.mark.parametrize("boundary", ALL)
def test_every_anchor_comes_once_in_an_epoch(boundary):
    """Seven epochs, drawn in batches that straddle them, show every anchor exactly seven times."""
    pair = Pair(200, 2, mean_length=9, seed=2).grow(130, 60)
    valid, sampler = pair.twin.anchors(boundary, 4), rv.Shuffled()
    anchors, seen = Anchors(pair.index, boundary, 4), Counter()
    left = 7 * len(valid)
    while left:
        count = min(left, 13)
        seen.update(addresses(pair.index, sampler.draw(anchors, pair.rng, count)))
        left -= count
    assert seen == dict.fromkeys(valid, 7)


@pytest.mark.parametrize("boundary", ALL)
@pytest.mark.parametrize("length", [1, 4, 7])
def test_tiles_share_no_step(boundary, length):
    """The tiles of an epoch overlap nowhere; the padded rules cover every live step, "inside" all that fit."""
    pair = Pair(200, 2, mean_length=9, seed=2).grow(130, 60)
    tiles = pair.twin.shuffled(boundary, length, tiles=True)
    batch = pair.buffer.sample(len(tiles), length, boundary=boundary, sampler=rv.Shuffled(tiles=True))
    assert_shows(batch, pair.twin, length, boundary)
    assert set(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)) == set(tiles)
    seen = shown(pair, batch, new_only=False)
    if boundary == "cross":
        return
    assert max(seen.values()) == 1
    if boundary == "inside":
        assert len(seen) == length * len(tiles)
    else:
        assert set(seen) == set(pair.twin.live_steps())


@pytest.mark.parametrize("tiles", [False, True])
def test_an_epoch_leaves_out_what_is_evicted_and_lets_new_steps_wait(tiles):
    """What is left of an epoch after adds is what was in it and is still valid, each once."""
    pair, sampler = Pair(120, 2, mean_length=9, seed=3).grow(90, 40), rv.Shuffled(tiles=tiles)
    anchors = Anchors(pair.index, "inside", 3)
    epoch = set(pair.twin.shuffled("inside", 3, tiles))
    seen = set(addresses(pair.index, sampler.draw(anchors, pair.rng, len(epoch) // 3)))
    pair.grow(30, 35)
    left = (epoch - seen) & pair.twin.windows(3)
    assert 0 < len(left) < len(epoch - seen)
    assert set(addresses(pair.index, sampler.draw(anchors, pair.rng, len(left)))) == left
    following = set(pair.twin.shuffled("inside", 3, tiles))
    assert set(addresses(pair.index, sampler.draw(anchors, pair.rng, len(following)))) == following


def test_every_order_of_an_epoch_is_equally_likely():
    """Over 6,000 seeds, the orders of three anchors come equally often."""
    pair, orders = Pair(60, 1, mean_length=1e9).grow(4), Counter()
    for seed in range(6000):
        rng = np.random.default_rng(seed)
        drawn = rv.Shuffled().draw(Anchors(pair.index, "inside", 1), rng, 3)
        orders[tuple(drawn.ids.tolist())] += 1
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > LEAST_P


def test_all_anchors_of_an_epoch_may_vanish():
    """When everything in an epoch was evicted, the next one begins; with nothing valid at all, it says so."""
    pair, sampler = Pair(10, 1, mean_length=1e9).grow(10), rv.Shuffled()
    pair.buffer.sample(2, 3, sampler=sampler)
    pair.grow(50)
    batch = pair.buffer.sample(7, 3, sampler=sampler)
    assert sorted(batch.anchor.tolist()) == list(range(50, 57))
    with pytest.raises(rv.NotEnoughData):
        pair.buffer.sample(1, 10, sampler=rv.Shuffled())


@pytest.mark.parametrize(
    ("where", "tail", "wanted"),
    [(None, 0, [0, 4]), (lambda episodes: episodes.ids != 1, 0, [0, 5]), (None, 4, [5])],
    ids=["all", "not the one before", "the one before has no row left"],
)
def test_a_tile_of_rows_begins_a_step_earlier_only_where_that_step_has_a_row(where, tail, wanted):
    """Of episodes of 2, 3 and 7 steps, six rows end on the second one's last step, whose closing row comes then."""
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0)
    for step in range(12):
        buffer.add(obs=step, action=0, reward=0.0, terminated=step in (1, 4, 11), truncated=False)
    sampler, anchors = rv.Fresh(Marked(), where=where), Anchors(buffer.engine.index, "cross", 6)
    first = sampler.draw(anchors, np.random.default_rng(0), 1)
    assert first.ids.tolist() == [0]
    if tail:
        buffer.engine.index.evict(0, tail)
    second = sampler.draw(anchors, np.random.default_rng(0), 1)
    assert [0, *second.ids.tolist()][-len(wanted) :] == wanted


def a_buffer(*lengths):
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0)
    for length in lengths:
        for step in range(length):
            buffer.add(obs=0, action=0, reward=0.0, terminated=step == length - 1, truncated=False)
    return buffer


def test_what_is_left_before_a_discarded_episode_holds_nothing_up():
    """Of five rows three are shown; the other two are too few, and the next tile lies behind the gap."""
    buffer = a_buffer(4, 3, 5)
    buffer.discard([1])
    sampler, anchors = rv.Fresh(Marked()), Anchors(buffer.engine.index, "cross", 3)
    drawn = sampler.draw(anchors, np.random.default_rng(0), 2)
    assert drawn.ids.tolist() == [0, 7]


def test_tiles_of_steps_leave_no_mark_for_tiles_of_rows():
    """After a tile of steps that ends with its episode, rows begin with the next episode's first step."""
    index, sampler = a_buffer(2, 6).engine.index, rv.Fresh(Marked())
    rng = np.random.default_rng(0)
    assert sampler.draw(Anchors(index, "pad_right", 2), rng, 1).ids.tolist() == [0]
    assert sampler.draw(Anchors(index, "cross", 2), rng, 1).ids.tolist() == [2]
