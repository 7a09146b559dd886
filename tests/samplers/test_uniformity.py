"""Every valid window is equally likely: against the exact distribution, not against a look."""

import pytest
from scipy import stats

import reverie as rv
from reverie.testing import NaiveBuffer
from support.buffers import fill, scalar_spec

pytestmark = pytest.mark.long

DRAWS = 200_000


def chi_square(buffer: rv.ReplayBuffer, valid: set[tuple[int, int]], length: int, draws: int) -> float:
    """Draw windows, assert that all are valid and none is missing, and return the p-value."""
    counts = dict.fromkeys(sorted(valid), 0)
    for _ in range(draws // 2000):
        batch = buffer.sample(2000, length)
        for address in zip(batch.stream.tolist(), batch.start.tolist(), strict=True):
            counts[address] += 1
    assert min(counts.values()) > 0, "a valid window was never drawn"
    return float(stats.chisquare(list(counts.values())).pvalue)


@pytest.mark.parametrize("streams", [1, 4])
def test_uniform_over_all_windows_of_a_wrapped_buffer(streams):
    """200,000 windows of 20 steps from 2,000 wrapped steps in episodes of mean length 30: p > 0.001."""
    buffer = rv.ReplayBuffer(scalar_spec(), 2000, streams=streams, seed=11)
    twin = fill(buffer, 3000 // streams, 30.0, seed=12)
    assert chi_square(buffer, twin.windows(20), 20, DRAWS) > 0.001


def test_uniform_when_hardly_any_start_fits():
    """Long windows among short episodes take the counting path; the distribution is the same."""
    buffer = rv.ReplayBuffer(scalar_spec(), 2000, streams=2, seed=13)
    twin = fill(buffer, 1500, 12.0, seed=14)
    valid = twin.windows(45)
    assert 0 < len(valid) < len(buffer) / 8, "the case must take the counting path"
    assert chi_square(buffer, valid, 45, 100_000) > 0.001


def test_streams_of_different_age_are_weighted_by_their_windows():
    """A stream that has little to offer is drawn from as often as it has windows."""
    buffer = rv.ReplayBuffer(scalar_spec(), 900, streams=3, seed=15)
    twin = NaiveBuffer(900, 3)
    for stream, steps in enumerate((5, 120, 450)):
        for number in range(steps):
            step = {
                "obs": number,
                "action": 0,
                "reward": 0.0,
                "terminated": number % 40 == 39,
                "truncated": False,
            }
            for target in (buffer, twin):
                target.add(**step, stream=stream)
    assert buffer.count_windows(4) == len(twin.windows(4))
    assert chi_square(buffer, twin.windows(4), 4, 100_000) > 0.001
