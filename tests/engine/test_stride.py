"""Windows of every k-th step: what they show, how many there are, and how they are drawn."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import LEAST_P, Pair, assert_shows
from reverie.index import BOUNDARIES
from reverie.testing import NaiveWindow
from support.distributions import CASES, messy, p_value
from support.strides import assert_shows_thinned, span, thinned

ALL = sorted(BOUNDARIES)


@pytest.mark.parametrize("boundary", ALL)
@pytest.mark.parametrize("stride", [2, 3, 8])
def test_batches_show_every_kth_step_of_what_the_twin_shows(boundary, stride):
    """Windows of 1, 2 and 4 positions, with context and without, of short and long episodes, every array of them."""
    for seed, mean_length in enumerate((2, 7, 40)):
        pair = Pair(120, 3, mean_length=mean_length, seed=seed).grow(95, 11, 41)
        for length, burn_in in ((1, 0), (1, 3), (2, 0), (2, 1), (4, 2)):
            if pair.twin.anchors(boundary, span(length, stride)):
                batch = pair.buffer.sample(60, length, boundary=boundary, burn_in=burn_in, stride=stride)
                assert_shows_thinned(batch, pair.twin, length, boundary, burn_in, stride)
                assert batch.stride == stride


def test_the_rules_by_hand():
    """An episode of five steps, every third one shown: its end belongs to the last position that is shown."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 20, seed=0)
    for step in range(5):
        end = {"terminated": step == 4, "truncated": False, "final_obs": 99 if step == 4 else None}
        buffer.add(obs=10 + step, action=20 + step, reward=step, **end)
    batch = buffer.sample(200, 3, boundary="pad_right", stride=3)
    shown = {
        anchor: (obs, mask, ends)
        for anchor, obs, mask, ends in zip(
            batch.anchor.tolist(),
            batch.obs.tolist(),
            batch.mask.tolist(),
            batch.terminated.tolist(),
            strict=True,
        )
    }
    assert shown == {
        0: (
            [10, 13, 99, 0],
            [True, True, False],
            [False, True, False],
        ),  # step 4 is not shown, and ends step 3's part
        1: ([11, 14, 99, 0], [True, True, False], [False, True, False]),
        2: ([12, 99, 0, 0], [True, False, False], [True, False, False]),
        3: ([13, 99, 0, 0], [True, False, False], [True, False, False]),
        4: ([14, 99, 0, 0], [True, False, False], [True, False, False]),
    }
    batch = buffer.sample(50, 2, stride=3)
    assert set(map(tuple, batch.obs.tolist())) == {
        (10, 13, 14),
        (11, 14, 99),
    }  # last: one step later, not three
    assert set(map(tuple, batch.reward.tolist())) == {(0, 3), (1, 4)}
    batch = buffer.sample(50, 1, boundary="pad_left", burn_in=2, stride=3)
    firsts = dict(zip(batch.anchor.tolist(), batch.is_first.tolist(), strict=True))
    assert firsts[3] == [False, True, False, False]  # step 0 stands at position 1
    assert firsts[4] == [False, True, False, False]  # step 1 does; step 0 lies before it and is not shown
    assert firsts[2] == [False, False, True, False]


@pytest.mark.parametrize("boundary", ALL)
def test_a_stride_of_one_is_none(boundary):
    """The same batches come, and the same random numbers are taken, with stride=1 and without."""
    pairs = [Pair(120, 3, mean_length=6, seed=1).grow(60, 50, 40) for _ in range(2)]
    for _ in range(3):
        first = pairs[0].buffer.sample(30, 4, boundary=boundary, burn_in=2)
        second = pairs[1].buffer.sample(30, 4, boundary=boundary, burn_in=2, stride=1)
        assert first.anchor.tobytes() == second.anchor.tobytes()
        assert first.obs.tobytes() == second.obs.tobytes()
        assert_shows(second, pairs[0].twin, 4, boundary, 2)


@pytest.mark.parametrize("boundary", ALL)
def test_counted_as_windows_of_their_span(boundary):
    """count_windows counts anchors, whatever the stride."""
    pair = Pair(210, 3, mean_length=15).grow(90, 80, 70)
    for length, stride in ((1, 9), (3, 1), (3, 4), (5, 2)):
        wanted = len(pair.twin.anchors(boundary, span(length, stride)))
        assert pair.buffer.count_windows(length, boundary, stride=stride) == wanted


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("boundary", ALL)
def test_draws_follow_the_exact_distribution(case, boundary):
    """Every sampler draws the anchors of windows of 2 positions, 3 steps apart, as the twin says for 4 steps."""
    pair = messy(seed=CASES.index(case) * 10 + ALL.index(boundary))
    sampler, wanted = case(pair, boundary, 4)
    found: dict = {}
    for _ in range(4):
        batch = pair.buffer.sample(4_000, 2, boundary=boundary, stride=3, sampler=sampler, fields=())
        for address in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True):
            found[address] = found.get(address, 0) + 1
        if isinstance(sampler, rv.VisitBalanced):
            break  # it draws otherwise once it has counted these
    assert p_value(found, wanted) > LEAST_P


@pytest.mark.parametrize(
    "sampler",
    [
        None,
        rv.Mixture(
            [(rv.Uniform(), 0.5), (rv.Recent(50), 0.5)], where=lambda episodes: episodes["length"] > 3
        ),
        rv.Fresh(where=lambda episodes: episodes["length"] > 3),
    ],
    ids=["uniform", "mixture", "fresh"],
)
def test_an_anchor_stands_at_a_random_position_that_is_shown(sampler):
    """Under pad_both each of the 4 positions is as likely as the others, whoever draws."""
    pair = messy(3)
    if isinstance(sampler, rv.Fresh):
        pair.buffer.sample(
            2_000, 4, boundary="pad_both", stride=5, sampler=sampler
        )  # tiles come first, anchors in front
    batch = pair.buffer.sample(20_000, 4, boundary="pad_both", stride=5, sampler=sampler)
    counts = dict(zip(*np.unique(batch.anchor - batch.start, return_counts=True), strict=True))
    assert counts.keys() == {0, 5, 10, 15}
    assert max(abs(count - 5_000) for count in counts.values()) < 4 * np.sqrt(20_000 * 0.25 * 0.75)


def test_a_new_latent_goes_to_the_steps_that_are_shown():
    """step_ids tells them apart, on a copy and in a refilled batch too, and write_back stores there alone."""
    pair = Pair(100, 1, mean_length=30, seed=2).grow(80)
    batch = pair.buffer.sample(5, 4, stride=3)
    wanted = batch.start[:, None] + np.array([0, 3, 6, 9])
    assert batch.step_ids().tolist() == wanted.tolist()
    assert batch.first_forced().step_ids().tolist() == wanted.tolist()
    pair.buffer.write_back(batch, tag=np.full((5, 4), 1000, np.float32))
    changed = {
        pair.buffer.episodes["start"][number] + place
        for number in range(len(pair.buffer.episodes))
        for place in np.flatnonzero(pair.buffer.episode(number).extras["tag"] == 1000).tolist()
    }
    assert changed == set(wanted.ravel().tolist())
    again = pair.buffer.sample(5, 4, out=batch)
    assert again is batch
    assert batch.stride == 1
    assert (np.diff(batch.step_ids()) == 1).all()


def test_priorities_of_windows_with_a_stride():
    """TD errors have one column for each position, and go to the anchors."""
    pair, sampler = Pair(100, 1, mean_length=30).grow(90), rv.Prioritized(alpha=1.0, epsilon=0.0)
    batch = pair.buffer.sample(50, 3, stride=4, sampler=sampler)
    pair.buffer.update_priorities(
        batch, np.where(batch.anchor == batch.anchor[0], 1e6, 1e-6)[:, None] * np.ones((50, 3))
    )
    again = pair.buffer.sample(400, 3, stride=4, sampler=sampler)
    assert np.mean(again.anchor == batch.anchor[0]) > 0.99


def test_n_step_refuses_rewards_that_are_not_there():
    """A sum over steps that are not shown would be wrong."""
    pair = Pair(100, 1, mean_length=30).grow(90)
    with pytest.raises(
        rv.BadSetting, match="got stride=2, and the rewards between are not there; draw with stride=1"
    ):
        rv.n_step(pair.buffer.sample(4, 3, stride=2), 2, 0.9)


@pytest.mark.parametrize("stride", [0, -1, 1.0, True, "2", None, 2**49])
def test_wrong_strides(stride):
    """Only a whole number of at least 1 is a stride, when drawing and when counting."""
    pair = Pair(100, 1, mean_length=30).grow(90)
    for call in (pair.buffer.sample, pair.buffer.count_windows):
        with pytest.raises(rv.BadSetting, match="stride: wanted"):
            call(*([2, 3] if call == pair.buffer.sample else [3]), stride=stride)


def test_too_large_strides():
    """What no stream can hold is refused in words; so is what no integer counts."""
    buffer = Pair(100, 1, mean_length=30).grow(90).buffer
    with pytest.raises(
        rv.BadSetting, match=r"wanted at most the 100 steps that a stream keeps, got 121 with stride=60"
    ):
        buffer.sample(2, 3, stride=60)
    with pytest.raises(rv.NotEnoughData, match="a window of 3 steps with stride=60, which spans 121, with"):
        buffer.sample(2, 3, stride=60, boundary="cross")
    with pytest.raises(rv.BadSetting, match=r"at most 2\*\*48 steps, got 1003 positions"):
        buffer.sample(2, 3, stride=2**45, burn_in=1000, boundary="pad_left")
    batch = buffer.sample(2, 3, stride=2**45, boundary="pad_right")
    assert batch.mask.tolist() == [[True, False, False]] * 2


def test_the_twin_can_be_wrong():
    """The comparison would notice an end that stays with its own step."""
    whole = NaiveWindow(obs=[1, 2, 3, 4], obs_mask=[True] * 4, is_first=[False] * 4, action=[1, 2, 3], reward=[1, 2, 3],
                        terminated=[False, True, False], truncated=[False] * 3, mask=[True, True, False],
                        train_mask=[True, True, False])  # fmt: skip
    assert thinned(whole, 2).terminated == [True, False]
    assert thinned(whole, 2).obs == [1, 3, 0]


@pytest.mark.parametrize("boundary", ALL)
def test_a_union_shows_every_kth_step_of_its_parts(boundary):
    """Streams of the second part follow those of the first; what is shown is what each part would show."""
    pairs = [Pair(120, 3, mean_length=20, seed=seed).grow(95, 30, 41) for seed in (1, 2)]
    with rv.Union([pair.buffer for pair in pairs], seed=0) as union:
        batch = union.sample(80, 2, boundary=boundary, burn_in=1, stride=3)
        assert batch.stride == 3
        assert union.count_windows(2, boundary, stride=3) == sum(
            pair.buffer.count_windows(4, boundary) for pair in pairs
        )
        assert set(batch.stream.tolist()) == set(range(6))
        for number, pair in enumerate(pairs):
            rows = np.flatnonzero(batch.stream // 3 == number)
            part = batch.map(lambda array, rows=rows: array[rows])
            part.stream[...] %= 3
            assert_shows_thinned(part, pair.twin, 2, boundary, 1, 3)
