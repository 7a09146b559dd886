"""n-step returns against a walk along the steps, one position after the other."""

import pytest

import reverie as rv
from reverie.conformance import Pair
from reverie.index import BOUNDARIES


def walk(batch, row: int, t: int, n: int, gamma: float) -> tuple[float, float, int, bool]:
    """Return (sum, discount, position to bootstrap from, whether it may be used) of one position, step by step."""
    total, discount, length = 0.0, 1.0, batch.reward.shape[1]
    rows = isinstance(batch, rv.RowBatch)
    if not batch.mask[row, t] or (rows and (batch.is_last[row, t] or t == length - 1)):
        return 0.0, 0.0, t, False
    for place in range(t, min(t + n, length)):
        if rows:
            if place + 1 == length:
                break
            reward, dies, ends = (
                array[row, place + 1] for array in (batch.reward, batch.is_terminal, batch.is_last)
            )
        else:
            if not batch.mask[row, place]:
                break
            reward, dies = batch.reward[row, place], batch.terminated[row, place]
            ends = dies or batch.truncated[row, place]
        total += discount * float(reward)
        discount *= 0.0 if dies else gamma
        t = place + 1
        if ends:
            break
    return total, discount, t, bool(batch.obs_mask[row, t]) or discount == 0.0


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("burn_in", [0, 3])
def test_every_position_has_the_return_of_a_walk(boundary, burn_in):
    """For n of 1, 3 and more than the window, over terminations, truncations, cuts and unknown final observations."""
    pair = Pair(300, 3, mean_length=5, seed=3).grow(130, 20, 90)
    for n, gamma, length in ((1, 0.9, 6), (3, 0.5, 6), (20, 0.99, 6), (4, 0.0, 3), (2, 1.0, 1)):
        batch = pair.buffer.sample(80, length, boundary=boundary, burn_in=burn_in)
        got = rv.n_step(batch, n, gamma)
        shape = batch.reward.shape
        assert [part.shape for part in got] == [shape] * 4
        assert [part.dtype.name for part in got] == ["float32", "float32", "int64", "bool"]
        for row in range(80):
            for t in range(shape[1]):
                total, discount, place, usable = walk(batch, row, t, n, gamma)
                assert got.returns[row, t] == pytest.approx(total, rel=1e-6)
                assert got.discount[row, t] == pytest.approx(discount, rel=1e-6)
                assert got.bootstrap[row, t] == place
                assert got.mask[row, t] == usable


def small(ends: dict, steps: int = 6) -> rv.SequenceBatch | rv.ReplayBuffer:
    """A buffer of six steps with rewards 1, 2, 4, …, of which some end an episode."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 10, seed=0)
    for number in range(steps):
        end = ends.get(number, "")
        buffer.add(obs=number, action=0, reward=2.0**number, terminated="terminated" in end, truncated="truncated" in end,
                   final_obs=99 if "final" in end else None)  # fmt: skip
        if end == "cut":
            buffer.cut(0)
    return buffer


def test_a_worked_example():
    """Rewards 1, 2, 4, 8 with gamma 1/2 and n = 2: 1 + 2/2, 2 + 4/2, 4 + 8/2, and 8 from the last step alone."""
    batch = small({}).sample(1, 4, sampler=rv.Shuffled())
    while batch.start[0] != 0:
        batch = small({}).sample(1, 4)
    got = rv.n_step(batch, 2, 0.5)
    assert got.returns.tolist() == [[2, 4, 8, 8]]
    assert got.discount.tolist() == [[0.25, 0.25, 0.25, 0.5]]
    assert got.bootstrap.tolist() == [[2, 3, 4, 4]]
    assert got.mask.all()


@pytest.mark.parametrize(("end", "discount", "usable"), [
    ("terminated", 0.0, True), ("terminated final", 0.0, True), ("truncated", 0.5, False), ("truncated final", 0.5, True),
    ("terminated truncated", 0.0, True), ("cut", 0.5, False),
])  # fmt: skip
@pytest.mark.parametrize("boundary", ["inside", "pad_right", "cross"])
def test_what_follows_an_end_depends_on_the_end(end, discount, usable, boundary):
    """Terminated: nothing follows. Truncated or cut: bootstrap from the last observation, if it is known."""
    buffer = small({3: end})
    batch = buffer.sample(60, 2, boundary=boundary)
    row = batch.anchor.tolist().index(3 if boundary == "pad_right" else 2 if boundary == "inside" else 3)
    place = {"inside": 1, "pad_right": 0, "cross": 0}[boundary]
    got = rv.n_step(batch, 3, 0.5)
    assert got.returns[row, place] == 8.0
    assert got.discount[row, place] == discount
    assert got.mask[row, place] == usable
    if usable and discount:
        assert batch.obs[row, got.bootstrap[row, place]] == 99


def test_bad_settings_are_refused():
    """n is a positive integer and gamma a number in 0..1."""
    batch = small({}).sample(1, 4)
    for n, gamma in (
        (0, 0.9),
        (1.5, 0.9),
        (True, 0.9),
        (1, -0.1),
        (1, 1.1),
        (1, float("nan")),
        (1, "high"),
        (1, None),
    ):
        with pytest.raises(rv.BadSetting, match="wanted"):
            rv.n_step(batch, n, gamma)
    with pytest.raises(rv.BadSetting, match="batch"):
        rv.n_step(small({}).sample_steps(3), 1, 0.9)
