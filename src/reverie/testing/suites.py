"""The suite that a sampler of your own passes by subclassing, and what it compares with.

A test file of yours, for pytest:

    from reverie.conformance import SamplerSuite

    class TestOldest(SamplerSuite):
        def make(self):
            return Oldest()

        def distribution(self, twin, boundary, length):  # optional: then the distribution is tested too
            first = min(twin.anchors(boundary, length), default=None)
            return {} if first is None else {first: 1.0}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from reverie.batch import ARRAYS, Batch, SequenceBatch
from reverie.buffer import ReplayBuffer
from reverie.errors import NotEnoughData
from reverie.index import BOUNDARIES, Anchors, Drawn, EpisodeIndex
from reverie.samplers import Sampler
from reverie.spec import Field, StepSpec
from reverie.testing.twin import Address, Distribution, NaiveBuffer, NaiveRows, NaiveWindow, normalised

LEAST_P = 0.001  # a correct distribution falls below this once in a thousand seeds, and the seeds are fixed


class Pair:
    """A buffer and its twin, to which the same messy things happen.

    Episodes have random lengths of `mean_length` on average; some terminate, some are truncated, some are
    cut, and about half of the final observations are missing. Every observation is a different number.
    """

    def __init__(self, capacity: int, streams: int, *, mean_length: float, seed: int = 0) -> None:
        spec = StepSpec(Field((), "int64"), Field((), "int64"), {"tag": Field((), "float32")})
        self.buffer = ReplayBuffer(spec, capacity, streams=streams, seed=seed)
        self.twin = NaiveBuffer(capacity, streams)
        self.rng = np.random.default_rng(seed)
        self._ends = 1.0 / mean_length
        self._number = 1  # not 0, which is what padding shows

    def add(self, stream: int) -> None:
        """Add one step to one stream, and perhaps end its episode."""
        number, kind = self._number, self.rng.random() / self._ends
        self._number += 1
        final = -number if self.rng.random() < 0.5 else None
        step: dict[str, Any] = {
            "obs": number,
            "action": 2 * number,
            "reward": float(number % 1000) + 0.5,
            "tag": number % 97,
            "terminated": kind < 0.5,
            "truncated": 0.4 < kind < 0.8,
            "stream": stream,
        }
        if kind < 0.8:
            step["final_obs"] = final
        self.buffer.add(**step)
        self.twin.add(**step)
        if 0.8 <= kind < 1:
            self.buffer.cut(stream, final_obs=final)
            self.twin.cut(stream, final_obs=final)

    def grow(self, *steps: int) -> Pair:
        """Add these many steps to the streams, a random one after the other; return self."""
        turns = np.repeat(np.arange(len(steps)), steps)
        for stream in self.rng.permutation(turns).tolist():
            self.add(stream)
        return self

    @property
    def index(self) -> EpisodeIndex:
        """The integers of the buffer."""
        return self.buffer.engine.index


class SamplerSuite:
    """Tests that every sampler passes: override `make`, and `distribution` if it can be written down.

    Attributes:
        boundaries: the rules it is tested with; lengths: the windows asked for.
        draws: how many, where the distribution is tested.
    """

    boundaries: ClassVar[Iterable[str]] = tuple(BOUNDARIES)
    lengths: ClassVar[Iterable[int]] = (1, 4, 30)
    draws: ClassVar[int] = 20_000

    def make(self) -> Sampler:
        """Return a new sampler; called once for every buffer."""
        raise NotImplementedError

    def distribution(self, twin: NaiveBuffer, boundary: str, length: int) -> Distribution | None:
        """Return the probability of each anchor in the first draw of a new sampler, or None to skip that."""
        return None

    def chooses(self, twin: NaiveBuffer, address: Address) -> bool:
        """Return whether a step lies in an episode that `make` lets its sampler draw from by `where=`."""
        return True

    def test_only_valid_anchors_come_while_steps_come_and_go(self) -> None:
        """No drawn anchor is evicted, not settled yet, or too close to an end, after any adds and evictions."""
        for boundary in self.boundaries:
            for length in self.lengths:
                pair, sampler = Pair(60, 2, mean_length=9), self.make()
                for _ in range(25):
                    pair.grow(*pair.rng.integers(0, 12, 2))
                    valid = self._support(pair.twin, boundary, length)
                    anchors = Anchors(pair.index, boundary, length)
                    try:
                        drawn = sampler.draw(anchors, pair.rng, 8)
                    except NotEnoughData:
                        assert not valid, "it could have drawn"
                    else:
                        assert set(addresses(pair.index, drawn)) <= valid
                        assert len(drawn.ids) == len(drawn.episodes) == 8

    def test_the_distribution_is_the_one_it_states(self) -> None:
        """Many draws agree with `distribution` by a chi-square test."""
        for boundary in self.boundaries:
            for length in self.lengths:
                pair = Pair(120, 3, mean_length=12).grow(70, 5, 40)
                wanted = self._stated(pair.twin, boundary, length)
                if wanted:
                    drawn = self.make().draw(Anchors(pair.index, boundary, length), pair.rng, self.draws)
                    p = chi_square_p(addresses(pair.index, drawn), wanted)
                    assert p > LEAST_P, f"{boundary}, length {length}: p = {p}"

    def test_any_count_is_met(self) -> None:
        """One draw, and more draws than there are anchors, give as many as were asked for."""
        for boundary in self.boundaries:
            pair, sampler = Pair(60, 2, mean_length=9).grow(50, 40), self.make()
            for count in (1, 2, 700):
                drawn = sampler.draw(Anchors(pair.index, boundary, 2), pair.rng, count)
                assert drawn.episodes.shape == drawn.ids.shape == (count,)
                assert drawn.weight is None or drawn.weight.shape == (count,)
                assert drawn.weight is None or (np.isfinite(drawn.weight) & (drawn.weight > 0)).all()

    def test_the_given_generator_decides(self) -> None:
        """Equal generators give equal draws, others give others, and the global one plays no part."""
        for boundary in self.boundaries:
            pair = Pair(60, 2, mean_length=9).grow(50, 40)
            anchors, before = Anchors(pair.index, boundary, 2), np.random.get_state()  # noqa: NPY002
            once, again, other = (
                self.make().draw(anchors, np.random.default_rng(seed), 50).ids.tolist() for seed in (1, 1, 2)
            )
            assert once == again
            assert len(set(once)) == 1 or sorted(once) == sorted(other) or once != other
            after = np.random.get_state()  # noqa: NPY002
            assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))

    def test_what_it_saves_is_enough_to_go_on(self) -> None:
        """A new sampler that loads a saved state draws what the old one draws, while steps come and go."""
        for boundary in self.boundaries:
            pair, old = Pair(60, 2, mean_length=9).grow(50, 40), self.make()
            anchors = Anchors(pair.index, boundary, 3)
            for round_ in range(6):
                old.draw(anchors, pair.rng, 7)
                state = old.save()
                assert_plain(state)
                new = self.make()
                new.load(state)
                if round_ % 2:
                    pair.grow(4, 9)
                mine, theirs = (
                    sampler.draw(anchors, np.random.default_rng(round_), 11) for sampler in (old, new)
                )
                for ours, others in zip(mine, theirs, strict=True):
                    np.testing.assert_array_equal(ours, others)
                old = new

    def test_too_little_data_is_refused(self) -> None:
        """Where no anchor is valid, NotEnoughData is raised; nothing is made up."""
        for boundary in self.boundaries:
            if boundary in ("inside", "cross"):  # the rules that pad need no more than a step
                pair = Pair(60, 2, mean_length=3).grow(20, 10)
                try:
                    self.make().draw(Anchors(pair.index, boundary, 50), pair.rng, 3)
                except NotEnoughData:
                    continue
                raise AssertionError(f"{boundary}: wanted NotEnoughData, got anchors that cannot be")

    def _support(self, twin: NaiveBuffer, boundary: str, length: int) -> set[Address]:
        if not len(twin):
            return set()
        stated = self._stated(twin, boundary, length)
        if stated is not None:
            return set(stated)
        return {address for address in twin.anchors(boundary, length) if self.chooses(twin, address)}

    def _stated(self, twin: NaiveBuffer, boundary: str, length: int) -> Distribution | None:
        """Return the distribution, given that the anchor lies in a chosen episode."""
        stated = self.distribution(twin, boundary, length)
        if stated is None:
            return None
        return normalised({one: share for one, share in stated.items() if self.chooses(twin, one)})


def assert_shows(batch: Batch, twin: NaiveBuffer, length: int, boundary: str, burn_in: int = 0) -> None:
    """Assert that every row of a batch has a valid anchor and shows exactly what the twin says."""
    valid = twin.anchors(boundary, length)
    for row, (stream, anchor) in enumerate(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)):
        assert (stream, anchor) in valid
        if isinstance(batch, SequenceBatch):
            offset = anchor - batch.start.item(row) - burn_in
            assert 0 <= offset < length
            wanted: NaiveWindow | NaiveRows = twin.window(stream, anchor, length, boundary, burn_in, offset)
        else:
            wanted = twin.row_window(stream, anchor, length, burn_in)
        in_time = (array.name for array in ARRAYS[type(batch)] if array.more is not None)
        for name in ("obs", "action", *in_time, "extras"):
            _assert_equal(getattr(batch, name), getattr(wanted, name), row, name)


def _assert_equal(got: Any, wanted: Any, row: int, name: str) -> None:
    if isinstance(got, Mapping):
        for key, array in got.items():
            values = wanted[key] if isinstance(wanted, Mapping) else [value[key] for value in wanted]
            _assert_equal(array, values, row, f"{name}/{key}")
    else:
        same = np.array_equal(got[row], wanted)
        assert same, f"{name} of row {row}: wanted {np.array(wanted).tolist()}, got {got[row].tolist()}"


def assert_plain(state: Any) -> None:
    """Assert that a saved state is made of what a file can hold: arrays, numbers, strings, lists and dicts."""
    if isinstance(state, Mapping):
        assert all(isinstance(key, str) for key in state)
        for value in state.values():
            assert_plain(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            assert_plain(value)
    else:
        assert state is None or isinstance(state, (bool, int, float, str, np.ndarray)), repr(state)


def addresses(index: EpisodeIndex, drawn: Drawn) -> list[Address]:
    """Return (stream, id) of drawn anchors."""
    return list(zip(index.stream[drawn.episodes].tolist(), drawn.ids.tolist(), strict=True))


def chi_square_p(drawn: Iterable[Address], wanted: Distribution) -> float:
    """Return the p-value of draws under a distribution; 0 when one has no probability at all.

    Anchors of which fewer than 5 are expected are counted together. The tail of the chi-square distribution
    is that of Wilson and Hilferty (1931), good to about a tenth of the p-value.
    """
    counts = dict.fromkeys(wanted, 0)
    for address in drawn:
        if address not in counts:
            return 0.0
        counts[address] += 1
    total = sum(counts.values())
    cells = [(counts[address], total * probability) for address, probability in wanted.items()]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5]
    if rare and cells and sum(expected for _, expected in rare) < 5:
        rare.append(cells.pop(cells.index(min(cells, key=lambda cell: cell[1]))))
    if rare:
        cells.append((sum(count for count, _ in rare), sum(expected for _, expected in rare)))
    if len(cells) < 2:
        return 1.0
    free = len(cells) - 1
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    spread = 2.0 / (9.0 * free)
    return 0.5 * math.erfc((math.cbrt(statistic / free) - 1.0 + spread) / math.sqrt(2.0 * spread))
