"""Hypothesis drives every sampler, boundary, priority and write-back on one buffer, beside the naive twin."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import reverie as rv
from reverie.conformance import Pair, assert_plain, assert_shows
from reverie.index import BOUNDARIES

pytestmark = pytest.mark.long

MAKERS = {
    "uniform": rv.Uniform,
    "episodes": rv.EpisodeUniform,
    "episodes by age": lambda: rv.EpisodeUniform((0.25, 0.5, 0.25)),
    "recent": lambda: rv.Recent(half_life=4),
    "prioritized": lambda: rv.Prioritized(0.5, epsilon=0.25),
    "visits of episodes": lambda: rv.VisitBalanced(3),
    "visits of steps": lambda: rv.VisitBalanced(1, by="step"),
    "fresh": rv.Fresh,
    "fresh, then prioritized": lambda: rv.Fresh(rv.Prioritized()),
    "shuffled": rv.Shuffled,
    "tiles": lambda: rv.Shuffled(tiles=True),
    "mixture": lambda: rv.Mixture(
        [(rv.Shuffled(), 1), (rv.Fresh(), 1), (rv.Prioritized(), 2), (rv.VisitBalanced(), 1)]
    ),
}
ENDS = {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}


class SamplersBesideTwin(RuleBasedStateMachine):
    """Whatever is drawn is valid and shown rightly; priorities and extras reach the steps they are for."""

    @initialize(streams=st.integers(1, 3), stream_capacity=st.integers(1, 14), seed=st.integers(0, 5))
    def begin(self, streams, stream_capacity, seed):
        pair = Pair(streams * stream_capacity, streams, mean_length=1e9, seed=seed)
        self.buffer, self.twin, self.index = pair.buffer, pair.twin, pair.index
        self.samplers = {name: make() for name, make in MAKERS.items()}
        self.batches = []
        self.number, self.highest, self.priority = 1, 1.0, {}

    def add(self, stream, end="", final=None):
        terminated, truncated = ENDS.get(end, (False, False))
        step = {"obs": self.number, "action": 2 * self.number, "reward": self.number + 0.5, "tag": self.number % 97,
                "terminated": terminated, "truncated": truncated, "stream": stream, "final_obs": final}  # fmt: skip
        self.number += 1
        for target in (self.buffer, self.twin):
            target.add(**step)
        self.priority[stream, len(self.twin.streams[stream].steps) - 1] = self.highest

    @rule(
        stream=st.integers(0, 2),
        count=st.integers(1, 9),
        end=st.sampled_from(["", *ENDS]),
        final=st.booleans(),
    )
    def add_run(self, stream, count, end, final):
        stream %= self.buffer.streams
        for _ in range(count - 1):
            self.add(stream)
        self.add(stream, end, -self.number if final and end else None)

    @rule(stream=st.integers(0, 2), final=st.booleans())
    def cut(self, stream, final):
        for target in (self.buffer, self.twin):
            target.cut(stream % self.buffer.streams, final_obs=-self.number if final else None)

    @precondition(lambda self: len(self.twin))
    @rule(name=st.sampled_from(sorted(MAKERS)), boundary=st.sampled_from(sorted(BOUNDARIES)), length=st.integers(1, 9),
          burn_in=st.integers(0, 3), count=st.integers(1, 6))  # fmt: skip
    def sample(self, name, boundary, length, burn_in, count):
        ask = {"boundary": boundary, "burn_in": burn_in, "sampler": self.samplers[name]}
        if not self.twin.anchors(boundary, length):
            try:
                self.buffer.sample(count, length, **ask)
            except (rv.NotEnoughData, rv.BadSetting):
                return
            raise AssertionError("a window came out although the twin has none")
        batch = self.buffer.sample(count, length, **ask)
        assert_shows(batch, self.twin, length, boundary, burn_in)
        assert (batch.weight > 0).all()
        assert np.isfinite(batch.weight).all()
        self.batches = [*self.batches[-4:], (name, batch)]

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 4), scale=st.sampled_from([0.0, 1.0, 40.0]), by_step=st.booleans())
    def update_priorities(self, which, scale, by_step):
        name, batch = self.batches[which % len(self.batches)]
        if name not in ("prioritized", "fresh, then prioritized", "mixture"):
            return
        shape = batch.reward.shape if by_step else (len(batch),)
        errors = scale * np.cos(np.arange(np.prod(shape))).reshape(shape)
        self.buffer.update_priorities(batch, errors)
        if name != "prioritized":
            return
        learned = {}
        for row, address in enumerate(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)):
            own = np.abs(errors[row][batch.train_mask[row]]) if by_step else np.abs(errors[[row]])
            if address in self.twin.live_steps():
                learned[address] = 0.9 * own.max() + 0.1 * own.mean() + 0.25
        self.priority |= learned
        # Where a window is there twice, what its earlier row said counts for the highest all the same.
        self.highest = max(self.highest, *self._all_of(batch, errors, by_step), 1.0)
        kept = self.samplers["prioritized"].save()["steps"]["weights"]
        for stream, step in self.twin.live_steps():
            slot = stream * self.twin.stream_capacity + step % self.twin.stream_capacity
            np.testing.assert_allclose(kept[slot], self.priority[stream, step] ** 0.5, rtol=1e-9)
        self.samplers["prioritized"]._steps.tree.check()

    def _all_of(self, batch, errors, by_step):
        for row, address in enumerate(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)):
            own = np.abs(errors[row][batch.train_mask[row]]) if by_step else np.abs(errors[[row]])
            if address in self.twin.live_steps():
                yield 0.9 * own.max() + 0.1 * own.mean() + 0.25
        yield 0.0

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 4))
    def write_back(self, which):
        batch = self.batches[which % len(self.batches)][1]
        values = np.arange(batch.reward.size, dtype=np.float32).reshape(batch.reward.shape) - self.number
        self.buffer.write_back(batch, tag=values)
        ids = batch.step_ids()
        for row, place in zip(*np.nonzero(batch.mask & (ids >= 0)), strict=True):
            self.twin.write_back(
                "tag", int(batch.stream[row]), int(ids[row, place]), float(values[row, place])
            )

    @rule(name=st.sampled_from(sorted(MAKERS)))
    def save_and_load(self, name):
        state = self.samplers[name].save()
        assert_plain(state)
        if name in ("prioritized", "fresh, then prioritized", "mixture"):
            self.batches = [kept for kept in self.batches if kept[0] != name]  # they would update the old one
        self.samplers[name] = MAKERS[name]()
        self.samplers[name].load(state)

    @invariant()
    def same_counts(self):
        if hasattr(self, "buffer"):
            for boundary in BOUNDARIES:
                for length in (1, 4):
                    assert self.buffer.count_windows(length, boundary) == len(
                        self.twin.anchors(boundary, length)
                    )


SamplersBesideTwin.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestSamplersBesideTwin = SamplersBesideTwin.TestCase
