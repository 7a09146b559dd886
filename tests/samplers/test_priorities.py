"""Prioritized sampling: probabilities, importance weights, updates early and late, and the tree beneath."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import LEAST_P, Pair, chi_square_p
from reverie.index import Anchors, replacement
from reverie.samplers.sumtree import SumTree
from support.buffers import scalar_spec


def one_stream(steps: int, capacity: int = 100, **settings) -> tuple[rv.ReplayBuffer, rv.Prioritized]:
    """A buffer of one running episode whose observations are the step ids, and a sampler for it."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, seed=0)
    more(buffer, steps)
    return buffer, rv.Prioritized(**settings)


def more(buffer: rv.ReplayBuffer, steps: int) -> None:
    for _ in range(steps):
        head = int(buffer.episodes["stop"].max(initial=0))
        buffer.add(obs=head, action=0, reward=0.0, terminated=False, truncated=False)


def weights(buffer: rv.ReplayBuffer, sampler: rv.Prioritized) -> list[float]:
    """What stands in the tree before barring, by slot: priority ** alpha."""
    return sampler.save()["steps"]["weights"][: buffer.capacity].tolist()


def batch_of(buffer, sampler, ids, length=1, boundary="pad_right", burn_in=0):
    """A batch with these anchors in some order: drawn again and again until they are all there."""
    while True:
        batch = buffer.sample(len(ids), length, boundary=boundary, sampler=sampler, burn_in=burn_in)
        if sorted(batch.anchor.tolist()) == sorted(ids):
            return batch


# --- importance weights ----------------------------------------------------------------------------------


def test_weights_are_one_while_all_priorities_are_equal():
    """Nothing to correct: exactly 1 for every window, under every boundary, barred steps or not."""
    pair, sampler = Pair(300, 3, mean_length=6).grow(150, 20, 90), rv.Prioritized(beta=1.0)
    for boundary in ("pad_right", "pad_both", "cross", "inside", "inside", "inside"):
        assert (pair.buffer.sample(400, 4, boundary=boundary, sampler=sampler).weight == 1.0).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_are_n_p_to_the_minus_beta(beta):
    """With N drawable steps of probability P, the weight of a window is (N P(anchor)) ** -beta."""
    buffer, sampler = one_stream(50, alpha=0.5, beta=beta, epsilon=0.0)
    rng, priority = np.random.default_rng(1), dict.fromkeys(range(50), 1.0)
    for _ in range(10):
        batch = buffer.sample(20, 1, boundary="pad_right", sampler=sampler)
        errors = rng.random(20) * 3 + 0.1
        buffer.update_priorities(batch, errors)
        priority.update(zip(batch.anchor.tolist(), errors.tolist(), strict=True))
    mass = np.array([priority[step] ** 0.5 for step in range(50)])
    batch = buffer.sample(500, 6, boundary="pad_left", sampler=sampler)
    wanted = (50 * mass[batch.anchor] / mass.sum()) ** -beta
    np.testing.assert_allclose(batch.weight, wanted, rtol=1e-6)


def test_weights_make_the_mean_unbiased():
    """With beta 1, the weighted mean over draws is the plain mean over steps, for any function of the step."""
    buffer, sampler = one_stream(60, alpha=1.0, beta=1.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        buffer.update_priorities(
            buffer.sample(40, 1, boundary="pad_right", sampler=sampler), rng.random(40) + 0.05
        )
    batch = buffer.sample(100_000, 1, boundary="pad_right", sampler=sampler)
    value = np.sin(np.arange(60.0))
    assert (batch.weight * value[batch.anchor]).mean() == pytest.approx(value.mean(), abs=0.02)
    assert batch.weight.mean() == pytest.approx(1.0, abs=0.02)


def test_steps_that_no_window_can_open_on_do_not_count_in_n():
    """Once they were drawn in vain, N is the number of the others, and they come back for shorter windows."""
    buffer, sampler = one_stream(0, epsilon=0.0, alpha=1.0, beta=1.0)
    for number in range(50):
        buffer.add(obs=number, action=0, reward=0.0, terminated=number % 10 == 9, truncated=False)
    buffer.sample(5000, 4, sampler=sampler)  # 7 of 10 steps can open a window of 4
    batch = batch_of(buffer, sampler, [21, 35], 4, "inside")
    buffer.update_priorities(batch, np.where(batch.anchor == 21, 3.0, 1.0))
    drawn = buffer.sample(4000, 4, sampler=sampler)
    np.testing.assert_allclose(
        drawn.weight, (35 * np.where(drawn.anchor == 21, 3, 1) / 37) ** -1.0, rtol=1e-6
    )
    assert (drawn.anchor == 21).mean() == pytest.approx(3 / 37, abs=0.02)
    drawn = buffer.sample(4000, 1, sampler=sampler)
    assert set(drawn.anchor.tolist()) == set(range(50))
    np.testing.assert_allclose(
        drawn.weight, (50 * np.where(drawn.anchor == 21, 3, 1) / 52) ** -1.0, rtol=1e-6
    )


def test_the_newest_steps_of_a_running_episode_are_drawn_as_soon_as_they_may_be():
    """Drawn in vain while their windows are not settled, they have their full share once the episode goes on."""
    buffer, sampler = one_stream(10)
    for _ in range(5):
        assert set(buffer.sample(500, 4, sampler=sampler).anchor.tolist()) == set(range(6))
    more(buffer, 10)
    drawn = [(0, step) for step in buffer.sample(20_000, 4, sampler=sampler).anchor.tolist()]
    assert chi_square_p(drawn, {(0, step): 1 / 16 for step in range(16)}) > LEAST_P


# --- updates ---------------------------------------------------------------------------------------------


def test_new_steps_enter_at_the_highest_priority_so_far():
    """1 at first, then the highest ever given, also after that step is gone or was lowered again."""
    buffer, sampler = one_stream(3, capacity=6, alpha=0.5, epsilon=0.0)
    batch = batch_of(buffer, sampler, [0, 1, 2])
    assert weights(buffer, sampler)[:3] == [1, 1, 1]
    buffer.update_priorities(batch, 0.25 * (batch.anchor + 1))
    more(buffer, 1)
    batch_of(buffer, sampler, [3])
    assert weights(buffer, sampler)[:4] == [0.5, 0.5**0.5, 0.75**0.5, 1.0]
    buffer.update_priorities(batch_of(buffer, sampler, [3]), [16.0])
    buffer.update_priorities(batch_of(buffer, sampler, [3]), [4.0])
    more(buffer, 4)
    buffer.sample(1, 1, boundary="pad_right", sampler=sampler)
    assert weights(buffer, sampler) == [4.0, 4.0, 0.75**0.5, 2.0, 4.0, 4.0]


def test_steps_that_came_before_an_update_do_not_profit_from_it():
    """A step enters at the highest priority at the time it was added, not at one that was learned later."""
    buffer, sampler = one_stream(2, alpha=1.0, epsilon=0.0)
    batch = batch_of(buffer, sampler, [0, 1])
    more(buffer, 1)
    buffer.update_priorities(batch, [8.0, 8.0])
    more(buffer, 1)
    buffer.sample(1, 1, boundary="pad_right", sampler=sampler)
    assert weights(buffer, sampler)[:4] == [8, 8, 1, 8]


def test_a_window_has_the_mixture_of_maximum_and_mean_of_its_errors():
    """eta * max + (1 - eta) * mean + epsilon over |error|, without padding and context, even if these are NaN."""
    buffer, sampler = one_stream(10, alpha=1.0, eta=0.75, epsilon=0.125)
    batch = batch_of(buffer, sampler, [9], 4, "pad_right", burn_in=2)
    assert batch.train_mask.tolist() == [[False, False, True, False, False, False]]
    nan = float("nan")
    buffer.update_priorities(batch, [[nan, 100.0, -2.0, nan, nan, 7.0]])
    assert weights(buffer, sampler)[9] == 2.125
    batch = batch_of(buffer, sampler, [4], 4, "inside")
    buffer.update_priorities(batch, np.array([[1, -5, 2, 0]], np.int32))
    assert weights(buffer, sampler)[4] == 0.75 * 5 + 0.25 * 2 + 0.125
    batch = batch_of(buffer, sampler, [7], 4, "cross") if buffer.count_windows(4, "cross") > 7 else None
    assert batch is None, "no four rows follow step 7"
    buffer.update_priorities(batch_of(buffer, sampler, [5], 3, "cross"), [-6.0])
    assert weights(buffer, sampler)[5] == 6.125


def test_late_updates_for_evicted_steps_are_ignored():
    """A step keeps its slot's new tenant safe: priorities for an evicted id change nothing."""
    buffer, sampler = one_stream(10, capacity=10, alpha=1.0, epsilon=0.0)
    batch = batch_of(buffer, sampler, [1, 2, 6, 8])
    more(buffer, 5)  # ids 0..4 are gone, and ids 10..14 lie in their slots
    buffer.update_priorities(batch, 0.5 * batch.anchor)
    assert weights(buffer, sampler) == [1, 1, 1, 1, 1, 1, 3.0, 1, 4.0, 1]
    more(buffer, 10)
    buffer.update_priorities(batch, [99.0] * 4)
    buffer.sample(1, 1, boundary="pad_right", sampler=sampler)
    assert weights(buffer, sampler) == [4.0] * 10, "all entered at the highest so far, which 99 never was"


def test_of_a_window_that_is_there_twice_the_later_row_counts():
    """A batch may hold an anchor twice; the later priority stays."""
    buffer, sampler = one_stream(1, alpha=1.0, epsilon=0.0)
    batch = buffer.sample(3, 1, boundary="pad_right", sampler=sampler)
    buffer.update_priorities(batch, [5.0, 7.0, 3.0])
    assert weights(buffer, sampler)[0] == 3.0


def test_a_priority_of_zero_is_never_drawn():
    """With epsilon 0 an error of 0 takes its window out; when all are out, that is said."""
    buffer, sampler = one_stream(20, alpha=1.0, epsilon=0.0)
    batch = batch_of(buffer, sampler, [3, 4, 5])
    buffer.update_priorities(batch, [0.0] * 3)
    assert not {3, 4, 5} & set(buffer.sample(2000, 1, boundary="pad_right", sampler=sampler).anchor.tolist())
    for _ in range(200):
        try:
            batch = buffer.sample(20, 1, boundary="pad_right", sampler=sampler)
        except rv.NotEnoughData:
            break
        buffer.update_priorities(batch, np.zeros(20))
    with pytest.raises(rv.NotEnoughData):
        buffer.sample(1, 1, boundary="pad_right", sampler=sampler)


@pytest.mark.parametrize(
    "errors",
    [[1.0], [1.0] * 5, 1.0, [[1.0] * 3] * 4, [[1.0]] * 4, [[[1.0] * 2]] * 4, [], ["a"] * 4, [1.0, float("nan"), 1.0, 1.0],
     [1.0, 2.0, float("inf"), 1.0], [1.0, 2.0, 1e300, 1.0], [[1.0, float("nan")]] * 4, [1j] * 4, [None] * 4],
)  # fmt: skip
def test_errors_that_do_not_fit_are_refused_and_change_nothing(errors):
    """Wrong shapes, NaN, infinity, what no float32 could be, and things that are no numbers."""
    buffer, sampler = one_stream(20)
    batch = buffer.sample(4, 2, sampler=sampler)
    before = weights(buffer, sampler)
    with pytest.raises(rv.SpecMismatch, match="td_errors: wanted"):
        buffer.update_priorities(batch, errors)
    assert weights(buffer, sampler) == before


def test_priorities_need_a_sampler_that_keeps_some():
    """A batch drawn by another sampler is refused, and the message names it and the remedy."""
    buffer, _ = one_stream(20)
    for sampler in (None, rv.Shuffled(), rv.Fresh(), rv.Mixture([(rv.Uniform(), 1)])):
        batch = buffer.sample(4, 2, sampler=sampler)
        with pytest.raises(rv.BadSetting, match=r"got one drawn by \w+; pass sampler=Prioritized"):
            buffer.update_priorities(batch, [1.0] * 4)
    for thing in (buffer.sample_steps(4), None, "batch"):
        with pytest.raises(rv.BadSetting, match="batch: wanted"):
            buffer.update_priorities(thing, [1.0] * 4)
        with pytest.raises(rv.BadSetting, match="batch: wanted"):
            buffer.write_back(thing)


@pytest.mark.parametrize("wrap", [
    lambda inner: rv.Fresh(inner), lambda inner: rv.Mixture([(inner, 1)]),
    lambda inner: rv.Mixture([(rv.Uniform(), 1), (rv.Fresh(), 1), (rv.Mixture([(rv.Shuffled(), 1)]), 1), (inner, 1)]),
])  # fmt: skip
def test_priorities_reach_the_sampler_inside(wrap):
    """Fresh and Mixture hand priorities on to the one that keeps them, whichever part drew the window."""
    buffer, inner = one_stream(30, alpha=1.0, epsilon=0.0)
    sampler = wrap(inner)
    buffer.sample(40, 1, boundary="pad_right", sampler=sampler)
    batch = buffer.sample(64, 1, boundary="pad_right", sampler=sampler)
    buffer.update_priorities(batch, 2.0 + batch.anchor)
    kept = weights(buffer, inner)
    assert {step: kept[step] for step in set(batch.anchor.tolist())} == {
        step: 2.0 + step for step in set(batch.anchor.tolist())
    }


def test_a_batch_filled_again_belongs_to_the_sampler_that_filled_it():
    """With out=, priorities go to the last sampler, not to the one that drew the batch first."""
    buffer, first = one_stream(10, alpha=1.0, epsilon=0.0)
    second = rv.Prioritized(1.0, epsilon=0.0)
    batch = buffer.sample(4, 1, boundary="pad_right", sampler=first)
    buffer.sample(4, 1, boundary="pad_right", sampler=second, out=batch)
    buffer.update_priorities(batch, [9.0] * 4)
    assert max(weights(buffer, first)) == 1.0
    assert max(weights(buffer, second)) == 9.0


def test_a_used_sampler_forgets_all_when_it_loads():
    """load() replaces everything: also what an unused sampler saved, also on another buffer."""
    for make in (
        rv.Prioritized,
        rv.VisitBalanced,
        lambda: rv.VisitBalanced(by="step"),
        rv.Fresh,
        rv.Shuffled,
    ):
        used, unused = make(), make()
        pair = Pair(60, 2, mean_length=9).grow(50, 40)
        for _ in range(3):
            pair.buffer.sample(30, 2, sampler=used)
        used.load(unused.save())
        one, other = (Pair(60, 2, mean_length=9, seed=5).grow(30, 40).buffer for _ in range(2))
        for _ in range(3):
            assert (one.sample(8, 2, sampler=used).anchor == other.sample(8, 2, sampler=unused).anchor).all()


def test_beta_may_be_annealed():
    """Setting beta between draws changes the weights and nothing else."""
    buffer, sampler = one_stream(2, alpha=1.0, beta=1.0, epsilon=0.0)
    batch = batch_of(buffer, sampler, [0, 1])
    buffer.update_priorities(batch, np.where(batch.anchor == 0, 3.0, 1.0))
    for beta in (1.0, 0.5, 0.0):
        sampler.beta = beta
        batch = buffer.sample(50, 1, boundary="pad_right", sampler=sampler)
        np.testing.assert_allclose(batch.weight, np.where(batch.anchor == 0, 1.5, 0.5) ** -beta, rtol=1e-6)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("make", [rv.Prioritized, lambda: rv.VisitBalanced(by="step"), rv.VisitBalanced])
def test_a_slot_without_a_live_step_is_never_drawn(make, streams):
    """After an add that was interrupted between eviction and writing, and after the content was replaced."""
    buffer, sampler = Pair(10 * streams, streams, mean_length=4).grow(*[20] * streams).buffer, make()
    index = buffer.engine.index

    def drawn():
        return {int(step) for _ in range(40) for step in
                buffer.sample(50, 2, boundary="pad_right", sampler=sampler).anchor[:]}  # fmt: skip

    assert drawn() == set(range(10, 20))
    for stream in range(streams):
        index.make_room(stream)
    assert drawn() == set(range(11, 20))
    for stream in range(streams):
        replacement(index, stream, 4, 0, [(0, 4, 1, -1, 0.0)])()
    assert drawn() == set(range(4))


def test_turns_of_different_windows_cost_what_was_drawn_in_vain():
    """Asking in turn for two lengths keeps both distributions exact: barred steps come back at once."""
    pair, sampler = Pair(300, 3, mean_length=6).grow(150, 20, 90), rv.Prioritized(1.0, epsilon=0.0)
    for number in range(12):
        batch = pair.buffer.sample(300, (1, 5)[number % 2], sampler=sampler)
        assert (batch.weight == 1).all()
        sampler._steps.tree.check()
    drawn = [address for _ in range(20) for batch in [pair.buffer.sample(1000, 1, sampler=sampler)]
             for address in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)]  # fmt: skip
    assert chi_square_p(drawn, pair.twin.uniform("inside", 1)) > LEAST_P


# --- visit counts ----------------------------------------------------------------------------------------


def test_many_visits_never_exhaust_a_strict_balance():
    """With the largest alpha, a million visits leave every weight above 0."""
    buffer, _ = one_stream(3)
    for by in ("episode", "step"):
        sampler = rv.VisitBalanced(32, by=by)
        for _ in range(5):
            buffer.sample(200_000, 1, boundary="pad_right", sampler=sampler)
        assert sampler.save()["visits"].sum() == 1_000_000


def test_a_new_episode_in_a_reused_row_starts_with_no_visits():
    """Rows of the episode table are used again; counts are not."""
    buffer, sampler = rv.ReplayBuffer(scalar_spec(), 4, seed=0), rv.VisitBalanced(5)
    for number in range(300):
        buffer.add(obs=number, action=0, reward=0.0, terminated=True, truncated=False)
        if number % 2:
            continue
        batch = buffer.sample(40, 1, sampler=sampler)
        assert (batch.anchor >= number - 1).sum() >= 38, "the two new ones, at 20 visits a row before"


def test_sums_are_exact_after_a_hundred_thousand_updates_through_the_buffer():
    """No drift: after 100,000 priorities the tree is what its leaves make it, whatever was added meanwhile."""
    pair, sampler = Pair(3000, 3, mean_length=30).grow(1000, 1000, 1000), rv.Prioritized()
    for number in range(100):
        batch = pair.buffer.sample(1000, 2, boundary="pad_right", sampler=sampler)
        pair.buffer.update_priorities(batch, pair.rng.standard_normal(1000) * 10.0 ** (number % 9 - 4))
        if number % 10 == 0:
            pair.grow(3, 2, 1)
    tree = sampler._steps.tree
    tree.check()
    again = SumTree(tree.size)
    again.set(np.arange(tree.size), sampler.save()["steps"]["weights"][: tree.size])
    assert again.total == tree.total
    assert sampler._steps.barred == 0


@pytest.mark.parametrize("boundary", ["inside", "pad_right", "cross"])
def test_priorities_of_zero_everywhere_have_an_error_of_their_own(boundary):
    """When all priorities are zero NoWeight says so, names the remedy, and the buffer goes on with other samplers."""
    buffer, _ = one_stream(20)
    sampler = rv.Prioritized(epsilon=0.0)
    everything = buffer.sample(400, 2, boundary=boundary, sampler=sampler)
    buffer.update_priorities(everything, np.zeros(400))
    left = buffer.count_windows(2, boundary)
    with pytest.raises(
        rv.NoWeight, match=rf"got {left} windows whose weights are all 0; give them .*epsilon=1e-6"
    ):
        buffer.sample(300, 2, boundary=boundary, sampler=sampler)
    assert issubclass(rv.NoWeight, rv.NotEnoughData)
    buffer.sample(4, 2, boundary=boundary)
    buffer.update_priorities(everything, np.ones(400))
    buffer.sample(4, 2, boundary=boundary, sampler=sampler)


@pytest.mark.parametrize(
    "sampler", [rv.Recent(newest=1), rv.EpisodeUniform((1.0, 0.0))], ids=["recent", "parts"]
)
def test_a_sampler_that_looks_where_no_window_is_says_so(sampler):
    """Windows exist, but not where the sampler looks: the error is not that there are too few steps."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 40, seed=0)
    for step in range(13):
        ended = step in (0, 11, 12)
        buffer.add(obs=step, action=0, reward=0.0, terminated=ended, truncated=False)
    assert buffer.count_windows(5) == 7
    buffer.sample(4, 5)
    with pytest.raises(rv.NoWeight, match=r"got 7 windows whose weights are all 0; .*reach further back"):
        buffer.sample(4, 5, sampler=sampler)


@pytest.mark.parametrize(
    "make",
    [rv.Prioritized, rv.VisitBalanced, lambda: rv.VisitBalanced(by="step"), rv.Fresh, rv.Shuffled,
     lambda: rv.Mixture([(rv.Prioritized(), 1.0), (rv.Shuffled(), 1.0)])],
)  # fmt: skip
def test_an_interrupted_draw_after_load_leaves_what_was_loaded(make):
    """Rewound to before its first draw, a sampler remembers what was loaded, and draws from there."""
    pair = Pair(60, 2, mean_length=6).grow(50, 40)
    anchors = Anchors(pair.index, "inside", 2)

    def draw(sampler):
        drawn = sampler.draw(anchors, np.random.default_rng(7), 12)
        return drawn.episodes.tolist(), drawn.ids.tolist()

    first, again = make(), make()
    for _ in range(3):
        draw(first)
    again.load(first.save())
    for _ in range(2):  # the state is looked at in the first draw, and is known in the second
        for _ in range(2):
            again.mark()
            draw(again)
            again.rewind()
        again.mark()
        assert draw(again) == draw(first)
