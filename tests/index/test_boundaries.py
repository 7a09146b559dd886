"""What a window shows, under every boundary, with and without context: against the naive twin."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import Pair, assert_shows
from reverie.index import BOUNDARIES, NO_FINAL, TERMINATED, Anchors, EpisodeIndex
from reverie.testing import NaiveBuffer
from support.buffers import rich_obs, rich_spec, rich_step, scalar_spec

ALL = sorted(BOUNDARIES)


@pytest.mark.parametrize("boundary", ALL)
@pytest.mark.parametrize("burn_in", [0, 1, 6])
def test_batches_show_what_the_twin_shows(boundary, burn_in):
    """Windows of 1, 3 and 12 steps from wrapped streams of short and long episodes, every array of them."""
    for seed, mean_length in enumerate((2, 7, 40)):
        pair = Pair(120, 3, mean_length=mean_length, seed=seed).grow(95, 11, 41)
        for length in (1, 3, 12):
            if pair.twin.anchors(boundary, length):
                batch = pair.buffer.sample(60, length, boundary=boundary, burn_in=burn_in)
                assert_shows(batch, pair.twin, length, boundary, burn_in)


@pytest.mark.parametrize("boundary", ALL)
def test_nested_fields_are_padded_with_zeros(boundary):
    """Dict observations, vector actions and extras of several dtypes: zeros of their own dtype outside."""
    buffer, twin = rv.ReplayBuffer(rich_spec(), 40, streams=2, seed=1), NaiveBuffer(40, 2)
    rng = np.random.default_rng(2)
    for number in range(1, 80):
        ends = bool(rng.random() < 0.2)
        step = rich_step(
            number,
            truncated=ends,
            stream=number % 2,
            final_obs=rich_obs(-number) if ends and number % 3 else None,
        )
        buffer.add(**step)
        twin.add(**step)
    for burn_in in (0, 4):
        batch = buffer.sample(80, 5, boundary=boundary, burn_in=burn_in)
        assert_shows(batch, twin, 5, boundary, burn_in)


@pytest.mark.parametrize("boundary", ALL)
def test_out_forgets_what_stood_there(boundary):
    """A batch filled again, from garbage in every array, shows what a new one would."""
    pair = Pair(120, 3, mean_length=5).grow(95, 11, 41)
    out = pair.buffer.sample(50, 4, boundary=boundary, burn_in=3)
    for name in out.__slots__:
        array = getattr(out, name)
        if isinstance(array, np.ndarray):
            array[...] = 1 if array.dtype == bool else 77
    out.extras["tag"][...] = 77
    assert pair.buffer.sample(50, 4, boundary=boundary, burn_in=3, out=out) is out
    assert_shows(out, pair.twin, 4, boundary, burn_in=3)
    assert (out.weight == 1).all()


@pytest.mark.parametrize("boundary", ALL)
def test_one_buffer_serves_all_kinds_of_windows_in_turn(boundary):
    """Batches of different boundaries, lengths and context, one after the other while steps come, never mix."""
    pair = Pair(90, 3, mean_length=5, seed=3).grow(30, 30, 30)
    for number in range(12):
        for other in (boundary, ALL[number % 5]):
            burn_in = number % 3
            assert_shows(
                pair.buffer.sample(9, 3, boundary=other, burn_in=burn_in), pair.twin, 3, other, burn_in
            )
        pair.grow(3, 1, 2)


def all_anchors(index: EpisodeIndex, boundary: str, length: int) -> tuple[set, set]:
    """Return the anchors that trying can reach, and those that counting can."""
    stream = np.repeat(np.arange(index.streams), index.head - index.tail)
    ids = np.concatenate([np.arange(*ends) for ends in zip(index.tail, index.head, strict=True)])
    anchors = Anchors(index, boundary, length)
    rows = index.episodes_at(stream, ids)
    good = anchors.accept(rows, ids)
    first, stop = anchors.bounds(rows)
    assert ((first <= ids) & (ids < stop) == good).all(), "the interval of an episode is what is accepted"
    tried = set(zip(stream[good].tolist(), ids[good].tolist(), strict=True))
    rows, ids = anchors.at_rank(np.arange(anchors.count()))
    counted = list(zip(index.stream[rows].tolist(), ids.tolist(), strict=True))
    assert len(set(counted)) == len(counted), "one rank per anchor"
    return tried, set(counted)


@pytest.mark.parametrize(("capacity", "streams"), [(1, 1), (2, 1), (3, 1), (5, 1), (2, 2), (6, 2)])
def test_every_small_buffer_has_the_anchors_of_the_twin(capacity, streams):
    """For every pattern of ends on up to 9 adds, every boundary and every length, by both paths."""
    adds = 9
    for pattern in range(2**adds):
        index, twin = EpisodeIndex(streams, capacity // streams), NaiveBuffer(capacity, streams)
        for number in range(adds):
            stream, ends = number % streams, bool(pattern >> number & 1)
            slot, _ = index.make_room(stream)
            index.commit(stream, slot, 0.0, TERMINATED * ends, NO_FINAL)
            twin.add(obs=0, action=0, reward=0.0, terminated=ends, truncated=False, stream=stream)
            # Later ends do not matter here: check each prefix once, in the pattern that adds none.
            if pattern >> (number + 1) == 0 and (number == 0 or pattern < 2 ** (number + 1)):
                for length in (1, 2, 4, 7):
                    cross = twin.anchors("cross", length)
                    assert all_anchors(index, "cross", length) == (cross, cross)
        live = twin.anchors("pad_right", 3)
        assert all_anchors(index, "pad_right", 3) == (live, live)


@pytest.mark.parametrize(("capacity", "streams"), [(3, 1), (4, 2)])
@pytest.mark.parametrize("boundary", ALL)
def test_every_small_buffer_shows_the_right_bytes(boundary, capacity, streams):
    """For every pattern of nothing, an end with and without final observation, and a cut on 4 adds."""
    adds = 4
    for pattern in range(4**adds):
        buffer = rv.ReplayBuffer(scalar_spec(), capacity, streams=streams, seed=pattern)
        twin = NaiveBuffer(capacity, streams)
        for number in range(adds):
            stream, kind = number % streams, pattern // 4**number % 4
            step = {"obs": 100 + number, "action": 1 + number, "reward": 0.5 + number, "stream": stream,
                    "terminated": kind == 1, "truncated": kind == 2,
                    "final_obs": 900 + number if kind == 1 else None}  # fmt: skip
            for target in (buffer, twin):
                target.add(**step)
                if kind == 3:
                    target.cut(stream)
        for length, burn_in in ((1, 0), (2, 1), (3, 0)):
            if length > capacity // streams and boundary == "inside":
                continue
            if twin.anchors(boundary, length):
                batch = buffer.sample(4, length, boundary=boundary, burn_in=burn_in)
                assert_shows(batch, twin, length, boundary, burn_in)
            else:
                with pytest.raises(rv.NotEnoughData):
                    buffer.sample(1, length, boundary=boundary, burn_in=burn_in)


def test_count_windows_counts_the_anchors_of_every_boundary():
    """count_windows(length, boundary) is the size of the twin's set, also where it is empty."""
    pair = Pair(90, 3, mean_length=6, seed=4).grow(70, 4, 31)
    for boundary in ALL:
        for length in (1, 5, 20, 31, 45):
            assert pair.buffer.count_windows(length, boundary) == len(pair.twin.anchors(boundary, length))


def test_pads_may_be_longer_than_the_buffer():
    """A padded window may be longer than all that is stored; an inside window may not."""
    pair = Pair(10, 1, mean_length=100).grow(7)
    for boundary in ("pad_right", "pad_left", "pad_both"):
        assert_shows(pair.buffer.sample(20, 40, boundary=boundary, burn_in=5), pair.twin, 40, boundary, 5)
    with pytest.raises(rv.BadSetting, match="pads"):
        pair.buffer.sample(1, 11)
    with pytest.raises(rv.NotEnoughData):
        pair.buffer.sample(1, 40, boundary="cross")


def test_an_empty_buffer_has_no_window_of_any_kind():
    """NotEnoughData before the first step, under every boundary."""
    buffer = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    for boundary in ALL:
        assert buffer.count_windows(2, boundary) == 0
        with pytest.raises(rv.NotEnoughData, match="0 live steps"):
            buffer.sample(1, 2, boundary=boundary)


def test_a_boundary_that_is_none_is_refused():
    """An unknown rule, of any type, is named together with those there are; so is a bad burn_in."""
    pair = Pair(30, 1, mean_length=6).grow(20)
    for boundary in ("outside", "", None, 3, ["inside"]):
        with pytest.raises(rv.BadSetting, match="pad_right"):
            pair.buffer.sample(1, 2, boundary=boundary)
        with pytest.raises(rv.BadSetting, match="pad_right"):
            pair.buffer.count_windows(2, boundary)
    for burn_in in (-1, 1.0, True, None):
        with pytest.raises(rv.BadSetting, match="burn_in"):
            pair.buffer.sample(1, 2, burn_in=burn_in)


def test_out_of_another_kind_is_refused():
    """Rows do not go into a SequenceBatch, nor windows with context into a batch without."""
    pair = Pair(30, 1, mean_length=6).grow(20)
    with pytest.raises(rv.BadSetting, match="RowBatch"):
        pair.buffer.sample(4, 2, boundary="cross", out=pair.buffer.sample(4, 2))
    with pytest.raises(rv.BadSetting, match="out"):
        pair.buffer.sample(4, 2, burn_in=1, out=pair.buffer.sample(4, 2))
