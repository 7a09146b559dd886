"""Ctrl-C between any two lines of a write: the step is stored whole or not at all, and nothing breaks."""

import numpy as np
import pytest
from helpers import assert_row_equals, interrupted, scalar_spec

import reverie as rv
from reverie.testing import NaiveBuffer

INNER = ("episodes.py", "lengths.py", "ring.py")


SPARED = ("_take_back", "_derive_anew")


def check(buffer: rv.ReplayBuffer, twin: NaiveBuffer) -> None:
    for length in (1, 3):
        wanted = twin.windows(length)
        assert buffer.count_windows(length) == len(wanted)
        if wanted and length <= twin.stream_capacity:
            batch = buffer.sample(6, length)
            for row, address in enumerate(zip(batch.stream.tolist(), batch.start.tolist(), strict=True)):
                assert address in wanted
                assert_row_equals(batch, row, twin.window(*address, length))


def prepared(streams: int, steps: int) -> tuple[rv.ReplayBuffer, NaiveBuffer]:
    """A buffer that has wrapped, with episodes of length 1, 2 and 3, and one running in each stream."""
    buffer, twin = (
        rv.ReplayBuffer(scalar_spec(), 6 * streams, streams=streams, seed=0),
        NaiveBuffer(6 * streams, streams),
    )
    for number in range(steps):
        for stream in range(streams):
            ends = number % 6 in (0, 2, 5) and number < steps - 1
            for target in (buffer, twin):
                target.add(obs=number, action=0, reward=1.0, terminated=ends, truncated=False, stream=stream,
                           final_obs=number + 500 if ends else None)  # fmt: skip
    return buffer, twin


@pytest.mark.parametrize("steps", [1, 11, 14])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", ["add", "add_batch", "cut"])
def test_a_write_that_is_interrupted_is_whole_or_not_there(kind, ends, steps):
    """Interrupt the write before each of its lines in turn; then go on, beside the twin."""
    streams = 2 if kind == "add_batch" else 1
    line, came = 0, True
    while came:
        line += 1
        buffer, twin = prepared(streams, steps)
        heads, running = (
            [len(record.steps) for record in twin.streams],
            int((buffer.episodes["ended"] == "running").sum()),
        )
        before = len(buffer)

        def write(target, streams=streams):
            for stream in range(streams):
                target.add(obs=77, action=1, reward=2.0, terminated=ends, truncated=False, stream=stream,
                           final_obs=88 if ends else None)  # fmt: skip

        if kind == "cut":
            came = interrupted(
                lambda buffer=buffer: buffer.cut(0, final_obs=99 if ends else None), line, INNER, SPARED
            )
            done = int((buffer.episodes["ended"] == "running").sum()) < running
            if done:
                twin.cut(0, final_obs=99 if ends else None)
        else:

            def call(buffer=buffer, write=write):
                if kind == "add":
                    write(buffer)
                    return
                lanes = np.full(2, ends)
                buffer.add_batch(obs=np.full(2, 77), action=np.ones(2, np.int64), reward=np.full(2, 2.0), terminated=lanes,
                                 truncated=np.zeros(2, bool), final_obs=np.full(2, 88) if ends else None)  # fmt: skip

            came = interrupted(call, line, INNER, SPARED)
            stored = buffer._index.head.tolist() != heads
            assert stored or len(buffer) <= before
            if stored:
                write(twin)
            # The oldest step may be gone and the new one not there; the next step makes both equal again.
        if buffer._index.tail.tolist() == [live.start for live in map(twin.live_ids, range(streams))]:
            check(buffer, twin)
        for number in range(200, 209):
            for stream in range(streams):
                for target in (buffer, twin):
                    target.add(
                        obs=number,
                        action=0,
                        reward=0.0,
                        terminated=number % 4 == 0,
                        truncated=False,
                        stream=stream,
                    )
            if number % 3 == 2:
                check(buffer, twin)
    assert line > 5, "the write has lines to interrupt"
