"""Every small buffer there is: index arithmetic is proved by trying all of it."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import NO_FINAL, TERMINATED, Anchors, EpisodeIndex
from reverie.testing import NaiveBuffer
from support.buffers import assert_row_equals, scalar_spec

pytestmark = pytest.mark.long

SMALL = [(capacity, 1) for capacity in range(1, 7)] + [(capacity, 2) for capacity in (2, 4, 6)]
LARGE = [(7, 1), (8, 1), (9, 1), (8, 2)]


def drawn_by_rank(anchors: Anchors, count: int) -> list[tuple[int, int]]:
    """All windows that the counting path can return, one per rank."""
    rows, ids = anchors.at_rank(np.arange(count))
    return list(zip(anchors.index.stream[rows].tolist(), ids.tolist(), strict=True))


def check_every_length(index: EpisodeIndex, twin: NaiveBuffer) -> None:
    """Both paths to a window, trying and counting, must reach exactly the wanted ones."""
    stream = np.repeat(np.arange(index.streams), index.head - index.tail)
    ids = np.concatenate([np.arange(*ends) for ends in zip(index.tail, index.head, strict=True)])
    rows = index.episodes_at(stream, ids)
    for length in range(1, index.capacity + 2):
        wanted = twin.windows(length)
        anchors = Anchors(index, "inside", length)
        assert anchors.count() == len(wanted)
        good = anchors.accept(rows, ids)
        if not wanted:
            assert not good.any()
            break  # a longer window holds a shorter one: the twin has none either
        assert set(zip(stream[good].tolist(), ids[good].tolist(), strict=True)) == wanted
        by_rank = drawn_by_rank(anchors, len(wanted))
        assert len(by_rank) == len(wanted), "one rank per window"
        assert set(by_rank) == wanted


@pytest.mark.parametrize(
    ("capacity", "streams", "adds"),
    [(*size, 12) for size in SMALL]  # twice around the largest of them
    + [pytest.param(*size, 14, marks=pytest.mark.slow) for size in SMALL + LARGE],
)
def test_drawable_windows_are_those_of_the_twin(capacity, streams, adds):
    """For every pattern of ends on up to 12 or 14 adds and every length, what can be drawn is what the twin lists."""
    for pattern in range(2**adds):
        index = EpisodeIndex(streams, capacity // streams)
        twin = NaiveBuffer(capacity, streams)
        for number in range(adds):
            stream, ends = number % streams, bool(pattern >> number & 1)
            slot, _ = index.make_room(stream)
            index.commit(stream, slot, 0.0, TERMINATED * ends, NO_FINAL)
            twin.add(obs=0, action=0, reward=0.0, terminated=ends, truncated=False, stream=stream)
            # Later ends do not matter here: check each prefix once, in the pattern that adds none.
            if pattern < 2 ** (number + 1):
                check_every_length(index, twin)


@pytest.mark.parametrize(("capacity", "streams"), [(1, 1), (2, 1), (3, 1), (5, 1), (4, 2), (6, 3)])
def test_every_small_buffer_returns_the_right_bytes(capacity, streams):
    """For every pattern of ends and cuts on 5 adds, every sampled row equals the twin's window."""
    adds = 5
    for pattern in range(3**adds):
        buffer = rv.ReplayBuffer(scalar_spec(), capacity, streams=streams, seed=pattern)
        twin = NaiveBuffer(capacity, streams)
        for number in range(adds):
            stream, kind = number % streams, pattern // 3**number % 3
            step = {"obs": 100 + number, "action": number, "reward": float(number), "stream": stream,
                    "terminated": kind == 1, "truncated": False,
                    "final_obs": 900 + number if kind == 1 else None}  # fmt: skip
            for target in (buffer, twin):
                target.add(**step)
                if kind == 2:
                    target.cut(stream)
        for length in range(1, capacity // streams + 1):
            wanted = twin.windows(length)
            if not wanted:
                with pytest.raises(rv.NotEnoughData):
                    buffer.sample(1, length)
                continue
            batch = buffer.sample(12, length)
            for row, address in enumerate(zip(batch.stream.tolist(), batch.start.tolist(), strict=True)):
                assert address in wanted
                assert_row_equals(batch, row, twin.window(*address, length))
