"""Windows that lie in one piece are copied in pieces: the same bytes as row by row, for rows of any size."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import Runs
from reverie.spec import Column
from reverie.store.plain import SLICE_ROW, SPAN_ROW, Ring

SIZES = (1, SPAN_ROW, SPAN_ROW + 1, SLICE_ROW - 1, SLICE_ROW)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("streams", [1, 3])
def test_spans_are_their_rows(size, streams):
    """From the first slot to the last, in any order, some twice."""
    ring = Ring([Column("x", rv.Field((size,), "uint8"))], Runs(streams, 12))
    ring.columns["x"][:] = np.random.default_rng(0).integers(0, 256, (12 * streams, size), np.uint8)
    for rows in (1, 5, 12):
        first = np.array([0, 12 * streams - rows, 3 % (12 - rows + 1), 0])
        spans, one_by_one = np.empty((2, 4, rows, size), np.uint8)
        ring.gather_spans("x", first, spans)
        ring.gather("x", first[:, None] + np.arange(rows), one_by_one)
        np.testing.assert_array_equal(spans, one_by_one)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("final", [True, False])
def test_whole_windows_show_their_steps_wherever_they_lie(size, final):
    """A ring that went round twice: every window, those at its seam and at episodes' ends included."""
    spec = rv.StepSpec(rv.Field((size,), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 24, seed=0)
    for number in range(60):
        ends = number % 7 == 6
        buffer.add(obs=np.full(size, number, np.uint8), action=-number, reward=1.0, terminated=ends,
                   truncated=False, final_obs=np.full(size, 100 + number, np.uint8) if ends and final else None)  # fmt: skip
    starts = set()
    for _ in range(200):
        batch = buffer.sample(2, 4)  # few at a time: with one at the seam among them all go row by row
        starts |= set(batch.start.tolist())
        for window in range(2):
            first = int(batch.start[window])
            successor = 103 + first if final else first + 3
            shown = [*range(first, first + 4), successor if (first + 3) % 7 == 6 else first + 4]
            assert batch.obs[window].tolist() == [[value] * size for value in shown]
            assert batch.action[window].tolist() == [-value for value in shown[:4]]
            assert batch.obs_mask[window].tolist() == [*[True] * 4, final or (first + 3) % 7 != 6]
    wanted = {first for first in range(36, 56) if first % 7 <= 3}
    assert starts == wanted
