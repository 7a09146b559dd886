"""The three batches that IRIS trains on, asked for in the buffer's words: distributions and padding, exactly."""

import numpy as np
import pytest
from scipy import stats

import reverie as rv
from reverie.conformance import LEAST_P, Pair, assert_shows, chi_square_p
from reverie.testing import NaiveBuffer

pytestmark = pytest.mark.long


def episodes(lengths, running=0, capacity=5000) -> tuple[rv.ReplayBuffer, NaiveBuffer]:
    """Episodes of these lengths, then `running` steps of one that goes on."""
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    buffer, twin = rv.ReplayBuffer(spec, capacity, seed=0), NaiveBuffer(capacity)
    for number, length in enumerate([*lengths, running]):
        for place in range(length):
            step = {"obs": 1000 * number + place, "action": place, "reward": 0.0, "truncated": False,
                    "terminated": place == length - 1 and number < len(lengths)}  # fmt: skip
            buffer.add(**step)
            twin.add(**step)
    return buffer, twin


def draw(buffer, batches, *shape, **settings):
    return [buffer.sample(*shape, sampler=rv.EpisodeUniform(), **settings) for _ in range(batches)]


def test_the_tokenizer_batch():
    """256 single frames: frame t of episode e with probability 1 / (episodes * length of e); nothing is padded."""
    lengths = [3, 50, 7, 1, 120]
    buffer, twin = episodes(lengths, running=4)
    batches = draw(buffer, 200, 256, 1, boundary="pad_right")
    wanted = {(0, step): 1 / (6 * length) for length, start in zip([*lengths, 4], np.cumsum([0, *lengths]), strict=True)
              for step in range(start, start + length)}  # fmt: skip
    assert wanted == pytest.approx(twin.episode_uniform("pad_right", 1))
    assert (
        chi_square_p([(0, anchor) for batch in batches for anchor in batch.anchor.tolist()], wanted) > LEAST_P
    )
    assert all(batch.mask.all() for batch in batches)
    assert batches[0].obs.shape == (256, 2)


@pytest.mark.parametrize("length", [20, 21, 57, 200])
def test_the_world_model_batch(length):
    """64 windows of 20 from a uniform start: padded right, with S - S (S - 1) / (2 T) real steps on average."""
    buffer, _ = episodes([length])
    batches = draw(buffer, 150, 64, 20, boundary="pad_right")
    start = np.concatenate([batch.start for batch in batches])
    assert stats.chisquare(np.bincount(start, minlength=length)).pvalue > LEAST_P
    valid = np.concatenate([batch.mask.sum(axis=1) for batch in batches])
    np.testing.assert_array_equal(valid, np.minimum(20, length - start))
    every_start = buffer.sample(length, 20, boundary="pad_right", sampler=rv.Shuffled())
    assert every_start.mask.sum() / length == pytest.approx(20 - 20 * 19 / (2 * length), abs=1e-12)
    for batch in batches[:20]:
        assert batch.mask[:, 0].all()
        assert (np.diff(batch.mask.astype(int), axis=1) <= 0).all(), "padding lies on the right only"
        assert ((batch.terminated.sum(axis=1) == 1) == (batch.start + 20 >= length)).all()


@pytest.mark.parametrize("length", [21, 30, 200])
def test_the_actor_critic_batch(length):
    """20 frames of context and a uniform last one: padded left, the last element always valid."""
    buffer, twin = episodes([length])
    batches = draw(buffer, 150, 64, 1, boundary="pad_left", burn_in=20)
    anchor = np.concatenate([batch.anchor for batch in batches])
    assert stats.chisquare(np.bincount(anchor, minlength=length)).pvalue > LEAST_P
    for batch in batches[:20]:
        assert batch.mask.shape == (64, 21)
        assert batch.mask[:, -1].all()
        assert (np.diff(batch.mask.astype(int), axis=1) >= 0).all(), "padding lies on the left only"
        np.testing.assert_array_equal(batch.mask.sum(axis=1), np.minimum(21, batch.anchor + 1))
        np.testing.assert_array_equal(batch.train_mask.sum(axis=1), 1)
    assert_shows(batches[0], twin, 1, "pad_left", burn_in=20)
    every = buffer.sample(length, 21, boundary="pad_left", sampler=rv.Shuffled())
    assert every.mask.sum() / length == pytest.approx(21 - 21 * 20 / (2 * length), abs=1e-12)


def test_context_and_length_split_a_left_padded_window_anywhere():
    """20 + 1 and 0 + 21 steps under pad_left are the same windows; only train_mask tells them apart."""
    pair = Pair(300, 2, mean_length=15).grow(200, 90)
    other = Pair(300, 2, mean_length=15).grow(200, 90)
    one = pair.buffer.sample(64, 1, boundary="pad_left", burn_in=20, sampler=rv.EpisodeUniform())
    two = other.buffer.sample(64, 21, boundary="pad_left", sampler=rv.EpisodeUniform())
    for name in ("obs", "action", "mask", "obs_mask", "is_first", "stream", "start", "anchor"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert two.train_mask.sum() == two.mask.sum()


def test_short_episodes_are_over_sampled_as_in_iris():
    """The episode is chosen first: one step in an episode of its own comes as often as a hundred together."""
    buffer, _ = episodes([100], running=1)
    anchor = np.concatenate([batch.anchor for batch in draw(buffer, 100, 64, 20, boundary="pad_right")])
    assert (anchor == 100).mean() == pytest.approx(0.5, abs=0.03)
    assert (rv.EpisodeUniform().weights, rv.Uniform().save()) == (None, {})


def test_the_batches_of_its_siblings():
    """Δ-IRIS's and DIAMOND's windows around a random anchor, and DreamerV3's rows, have the stated distributions."""
    pair = Pair(400, 2, mean_length=12, seed=7).grow(260, 120)
    weights = (0.1, 0.1, 0.1, 0.7)
    for sampler, wanted in (
        (rv.VisitBalanced(5.0), pair.twin.visit_balanced("pad_both", 20, {}, 5.0)),
        (rv.EpisodeUniform(weights), pair.twin.episode_uniform("pad_both", 20, weights)),
        (rv.Uniform(), pair.twin.uniform("pad_both", 20)),
    ):
        batch = pair.buffer.sample(20_000, 20, boundary="pad_both", sampler=sampler)
        drawn = list(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True))
        assert chi_square_p(drawn, wanted) > LEAST_P
        assert stats.chisquare(np.bincount(batch.anchor - batch.start, minlength=20)).pvalue > LEAST_P
    batch = pair.buffer.sample(16, 64, boundary="cross", sampler=rv.Fresh(rv.Uniform()))
    assert_shows(batch, pair.twin, 64, "cross")
    assert batch.is_first[:, 1:].any()
