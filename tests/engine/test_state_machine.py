"""Hypothesis drives the buffer and its naive twin side by side."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import reverie as rv
from reverie.testing import NaiveBuffer
from support.buffers import assert_row_equals, rich_obs, rich_spec, rich_step

pytestmark = pytest.mark.long


class BufferBesideTwin(RuleBasedStateMachine):
    """Whatever is done to the buffer is done to the twin; they must never differ."""

    @initialize(streams=st.integers(1, 3), stream_capacity=st.integers(1, 12), seed=st.integers(0, 5))
    def begin(self, streams, stream_capacity, seed):
        self.buffer = rv.ReplayBuffer(rich_spec(), streams * stream_capacity, streams=streams, seed=seed)
        self.twin = NaiveBuffer(streams * stream_capacity, streams)
        self.number = 0

    def next_step(self, terminated, truncated):
        self.number += 1
        return rich_step(self.number, terminated=terminated, truncated=truncated)

    @rule(data=st.data(), terminated=st.booleans(), truncated=st.booleans(), final=st.booleans())
    def add(self, data, terminated, truncated, final):
        stream = data.draw(st.integers(0, self.buffer.streams - 1))
        step = self.next_step(terminated, truncated)
        if final and (terminated or truncated):
            step["final_obs"] = rich_obs(self.number + 10_000)
        for target in (self.buffer, self.twin):
            target.add(**step, stream=stream)

    @rule(data=st.data(), count=st.integers(1, 15))
    def add_run(self, data, count):
        stream = data.draw(st.integers(0, self.buffer.streams - 1))
        for _ in range(count):
            step = self.next_step(False, False)
            for target in (self.buffer, self.twin):
                target.add(**step, stream=stream)

    @rule(data=st.data(), final=st.booleans())
    def add_batch(self, data, final):
        lanes = data.draw(st.lists(st.integers(0, self.buffer.streams - 1), min_size=1, unique=True))
        kinds = [data.draw(st.sampled_from(["", "terminated", "truncated"])) for _ in lanes]
        steps = [self.next_step(kind == "terminated", kind == "truncated") for kind in kinds]
        finals = [rich_obs(self.number + 20_000 + lane) for lane in lanes]
        for lane, kind, step, last in zip(lanes, kinds, steps, finals, strict=True):
            self.twin.add(**step, stream=lane, final_obs=last if final and kind else None)
        self.buffer.add_batch(**stacked(steps), streams=lanes, final_obs=stacked(finals) if final else None)

    @rule(data=st.data(), final=st.booleans())
    def cut(self, data, final):
        stream = data.draw(st.integers(0, self.buffer.streams - 1))
        last = rich_obs(30_000 + self.number) if final else None
        for target in (self.buffer, self.twin):
            target.cut(stream, final_obs=last)

    @precondition(lambda self: len(self.twin) > 0)
    @rule(length=st.integers(1, 12), batch_size=st.integers(1, 9))
    def sample(self, length, batch_size):
        valid = self.twin.windows(length)
        if length > self.twin.stream_capacity or not valid:
            try:
                self.buffer.sample(batch_size, length)
            except (rv.NotEnoughData, rv.BadSetting):
                return
            raise AssertionError("a window came out although the twin has none")
        batch = self.buffer.sample(batch_size, length)
        for row in range(batch_size):
            address = int(batch.stream[row]), int(batch.start[row])
            assert address in valid
            assert_row_equals(batch, row, self.twin.window(*address, length))

    @invariant()
    def same_counts(self):
        if not hasattr(self, "buffer"):
            return
        assert len(self.buffer) == len(self.twin)
        for length in (1, 2, 5):
            assert self.buffer.count_windows(length) == len(self.twin.windows(length))
        table = self.buffer.episodes
        assert table["live"].sum() == len(self.twin)


def stacked(values):
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    return np.stack([np.asarray(value) for value in values])


BufferBesideTwin.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestBufferBesideTwin = BufferBesideTwin.TestCase
