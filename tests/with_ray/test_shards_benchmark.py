"""The benchmark of shards on Ray runs, and measures all that its page shows."""

import math

import pytest

pytest.importorskip("ray")
from benchmarks.shards.__main__ import ORDER, SECTIONS, THEIRS, measured
from benchmarks.shards.buffers import Sizes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

TINY = Sizes(
    batch=4,
    length=5,
    steps=320,
    counts=(1,),
    rounds=3,
    written=128,
    writes=1,
    kills=1,
    batches=20,
    small=2,
    short=3,
    store_bytes=100_000_000,
)


def test_every_section_runs():
    """Every figure is a number beside its limit: positive, but for an empty store, and processor time of tiny batches.

    The system counts that in hundredths of a second.
    """
    tables = measured(list(SECTIONS), TINY)
    assert set(tables) == set(ORDER) - {THEIRS}
    for table in tables.values():
        for figure in table.figures:
            least = -1 if "Ray's store" in figure.name or "driver" in figure.note else 0
            assert figure.ratios or "most in use" in figure.name
            assert least < figure.value < math.inf, figure
            for low, middle, high in figure.ratios.values():
                assert least < low <= middle <= high < math.inf, figure
    assert [figure.bound for figure in tables["sample"].figures] == [0.8, None, None, None, None]
