"""The tree of weights beneath Prioritized and VisitBalanced: sums, draws, bars and marks, in C and in NumPy."""

import numpy as np
import pytest

from reverie.samplers import sumtree
from reverie.samplers.sumtree import SumTree

SIZES = [1, 2, 15, 16, 17, 1000, 1024, 1025, 16_384, 16_385, 300_000]


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _reckoned_in(request, monkeypatch):
    """Run every test with the kernel in C, where it is there, and with NumPy."""
    if request.param == "NumPy":
        monkeypatch.setattr(sumtree, "native", None)


@pytest.mark.parametrize("size", [1, 7, 1024, 1025, 16_401])
def test_a_tree_does_what_a_list_of_weights_does(size):
    """Set, barred, released, marked and gone back: whole numbers, so that sums and places are exact."""
    rng, tree = np.random.default_rng(size), SumTree(size)
    weights, barred = [0.0] * size, set()
    kept = None
    assert (tree.total, tree.barred) == (0.0, 0)
    for number in range(60):
        some = rng.choice(size, min(size, int(rng.integers(1, 40))), replace=False)
        action = ("set", "bar", "set", "bar", "mark", "release", "bar", "rewind", "set")[number % 9]
        if action == "set":
            values = rng.integers(0, 4, len(some)).astype(float)
            tree.set(some, values)
            for place, value in zip(some.tolist(), values.tolist(), strict=True):
                weights[place] = value
            barred -= set(some.tolist())
        elif action == "bar":
            some = np.array([place for place in some.tolist() if place not in barred], np.int64)
            tree.bar(some)
            barred |= {place for place in some.tolist() if weights[place] > 0}
        elif action == "release":
            tree.release()
            barred = set()
        elif action == "mark":
            tree.mark()
            kept = list(weights), set(barred)
        else:
            tree.rewind()
            weights, barred = list(kept[0]), set(kept[1])
        line = [place for place in range(size) if place not in barred for _ in range(int(weights[place]))]
        assert (tree.total, tree.barred) == (len(line), len(barred))
        assert tree.weights.tolist() == weights
        assert set(np.flatnonzero(tree.are_barred()).tolist()) == barred
        signed = [-weights[place] if place in barred else weights[place] for place in some.tolist()]
        assert tree.leaves_at(some).tolist() == signed
        assert tree.weights_at(some).tolist() == [abs(value) for value in signed]
        assert tree.find(np.arange(len(line)) + 0.0).tolist() == line
        assert tree.find(np.arange(len(line)) + 0.5).tolist() == line
        tree.check()


def test_a_tree_takes_eight_bytes_a_weight_and_a_sixteenth_more_a_level():
    """1,024 weights are the root and its running sums; one more makes nodes of sixteen, whose sums are the root."""
    assert SumTree(1024).nbytes == 8 * 2 * 1024
    assert SumTree(1025).nbytes == 8 * (65 * 16 + 65 + 65)
    assert SumTree(16_385).nbytes == 8 * (1025 * 16 + 65 * 16 + 65 + 65)
    assert len(SumTree(1025).weights) == 1025


@pytest.mark.parametrize("spoil", ["a leaf", "how many are barred", "the root"])
def test_a_tree_that_is_not_the_sum_of_its_leaves_is_noticed(spoil):
    tree = SumTree(2000)
    tree.set(np.arange(2000), 1.0)
    tree.bar(np.arange(10))
    tree.check()
    if spoil == "a leaf":
        tree._leaves[1999] = 2.0
    elif spoil == "the root":
        tree._root_sums[3] += 1.0
    else:
        tree.barred += 1
    with pytest.raises(AssertionError):
        tree.check()


@pytest.mark.parametrize("size", SIZES)
def test_sums_stay_exact_over_any_history(size):
    """A tree after thousands of updates has exact sums and equals, bit for bit, one made anew."""
    rng, tree = np.random.default_rng(size), SumTree(size)
    for number in range(300):
        places = rng.integers(0, size, rng.integers(1, 200))
        tree.set(places, rng.random(len(places)) ** 8 * 10.0 ** rng.integers(-6, 7))
        if number % 50 == 0:
            tree.check()
    tree.check()
    fresh, other_way = SumTree(size), SumTree(size)
    fresh.set(np.arange(size), tree.weights[:size])
    for place in rng.permutation(size)[:2000].tolist():
        other_way.set(np.array([place]), tree.weights[place])
    other_way.set(np.arange(size), tree.weights[:size])
    targets = rng.random(5000) * tree.total
    for other in (fresh, other_way):
        assert other.total == tree.total
        np.testing.assert_array_equal(other.find(targets), tree.find(targets))
        for mine, theirs in zip(tree._levels, other._levels, strict=True):
            assert mine.tobytes() == theirs.tobytes()
    assert tree.total == pytest.approx(tree.weights.sum(), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_place_is_found_by_its_share_of_the_line(size):
    """find() agrees with a running sum over all places, and never names one without weight."""
    rng, tree = np.random.default_rng(size), SumTree(size)
    weights = np.where(rng.random(size) < 0.7, 0, rng.integers(1, 5, size)).astype(float)
    weights[rng.integers(size)] = 3.0
    tree.set(np.arange(size), weights)
    ends = np.cumsum(weights)
    targets = np.concatenate([np.floor(rng.random(2000) * ends[-1]), rng.random(2000) * ends[-1]])
    found = tree.find(targets)
    np.testing.assert_array_equal(found, np.searchsorted(ends, targets, side="right"))
    assert (tree.weights[found] > 0).all()
    assert tree.find(np.array([np.nextafter(ends[-1], 0)])) == np.flatnonzero(weights)[-1]


@pytest.mark.parametrize("size", [16_385, 16_500, 300_000])
def test_the_last_target_finds_a_place_however_the_sums_round(size):
    """The largest target below the total never falls off the end of the tree."""
    rng = np.random.default_rng(size)
    for _ in range(200):
        tree = SumTree(size)
        tree.set(np.arange(size - 40, size), rng.random(40))
        assert tree.find(np.nextafter([tree.total], 0)) >= size - 40


def test_no_place_without_weight_is_found_where_sums_round():
    """Weights over forty orders of magnitude, and targets on and beside every running sum: never a zero."""
    rng = np.random.default_rng(0)
    for size in (20, 2000, 40_000):
        tree = SumTree(size)
        tree.set(np.arange(size), np.where(rng.random(size) < 0.5, 0, 10.0 ** rng.uniform(-20, 20, size)))
        ends = np.cumsum(tree.weights[:size])
        targets = np.concatenate(
            [ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf), rng.random(20_000) * tree.total]
        )
        targets = targets[(targets >= 0) & (targets < tree.total)]
        assert (tree.weights[tree.find(targets)] > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_barred_weight_is_kept_and_never_found(size):
    """Barring takes a weight out of all sums; releasing or setting it puts it back, bit for bit."""
    rng, tree = np.random.default_rng(size), SumTree(size)
    weights = rng.random(size) + 0.5
    tree.set(np.arange(size), weights)
    total, barred = tree.total, rng.permutation(size)[: size // 2]
    tree.bar(barred)
    tree.check()
    assert tree.barred == tree.are_barred().sum() == size // 2
    np.testing.assert_array_equal(tree.weights, weights)
    assert not np.isin(tree.find(rng.random(2000) * tree.total), barred).any()
    tree.set(np.repeat(barred[:1], 3), 2.0)
    tree.check()
    assert tree.barred == max(size // 2 - 1, 0)
    tree.release()
    tree.check()
    tree.set(barred[:1], weights[barred[:1]])
    assert (tree.total, tree.barred) == (total, 0)


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_goes_back_to_its_mark(size):
    """Whatever was set, barred and released since, all weights and sums are those of the mark. Twice is fine."""
    rng, tree = np.random.default_rng(size), SumTree(size)
    tree.set(np.arange(size), rng.random(size) + 0.5)
    tree.bar(rng.permutation(size)[: size // 3])
    before = tree.weights, tree.are_barred(), tree.total
    tree.mark()
    tree.set(rng.integers(0, size, 50), rng.random(50))
    tree.release()
    tree.bar(rng.permutation(size)[: size // 2])
    for _ in range(2):
        tree.rewind()
        tree.check()
        for mine, theirs in zip(before, (tree.weights, tree.are_barred(), tree.total), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_target_beyond_the_last_weight_of_a_node_steps_back_to_it():
    """Sixteen children add up to less one after the other than at once: the largest target lies between the sums."""
    rng, stepped = np.random.default_rng(0), 0
    for _ in range(200):
        weights = rng.random(16) / 10
        weights[rng.integers(8, 15) + 1 :] = 0.0
        tree = SumTree(1025)
        tree.set(np.arange(16), weights)
        target = np.nextafter(tree.total, 0)
        stepped += target >= np.cumsum(weights)[-1]
        assert tree.find(np.array([0.0, target])).tolist() == [0, np.flatnonzero(weights)[-1]]
    assert stepped > 5
