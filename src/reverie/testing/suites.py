"""Suites that a sampler, a boundary rule or a store of your own passes by subclassing.

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
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, SequenceBatch
from reverie.buffer import ReplayBuffer
from reverie.errors import NotEnoughData
from reverie.index import BOUNDARIES, Anchors, Boundary, Drawn, EpisodeIndex, Windows
from reverie.samplers import Sampler
from reverie.spec import Column, Field, StepSpec
from reverie.testing.twin import Address, Distribution, NaiveBuffer, NaiveRows, NaiveWindow

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
                wanted = self.distribution(pair.twin, boundary, length)
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
        stated = self.distribution(twin, boundary, length)
        return twin.anchors(boundary, length) if stated is None else set(stated)


class BoundarySuite:
    """Tests that every boundary rule passes: override `make`, and `anchors` if they can be written down."""

    lengths: ClassVar[Iterable[int]] = (1, 2, 5, 13)

    def make(self) -> Boundary:
        """Return the rule."""
        raise NotImplementedError

    def anchors(self, twin: NaiveBuffer, length: int) -> set[Address] | None:
        """Return every valid anchor, or None to skip the comparison."""
        return None

    def test_all_ways_to_the_anchors_agree(self) -> None:
        """`bounds`, `accept`, `count` and `at_rank` speak of the same anchors, whatever happened before."""
        rule = self.make()
        for pair in self._pairs():
            index, live = pair.index, pair.twin.live_steps()
            stream, ids = (np.array(column, np.int64) for column in zip(*live, strict=True))
            rows = index.episodes_at(stream, ids)
            for length in self.lengths:
                good = rule.accept(index, rows, ids, length)
                first, stop = rule.bounds(index, rows, length)
                np.testing.assert_array_equal(good, (first <= ids) & (ids < stop))
                accepted = {address for address, fine in zip(live, good.tolist(), strict=True) if fine}
                assert rule.count(index, length) == len(accepted)
                if accepted:
                    ranked = rule.at_rank(index, length, np.arange(len(accepted)))
                    assert sorted(addresses(index, Drawn(*ranked))) == sorted(accepted)
                wanted = self.anchors(pair.twin, length)
                assert wanted is None or wanted == accepted

    def test_windows_show_live_steps_and_their_anchor(self) -> None:
        """Every window has its size, shows its anchor, and of real steps only live ones, context included."""
        rule = self.make()
        for pair in self._pairs():
            index, rng = pair.index, np.random.default_rng(0)
            for length in self.lengths:
                for burn_in in (0, 3) if rule.count(index, length) else ():
                    rank = np.arange(rule.count(index, length))
                    drawn = Drawn(*rule.at_rank(index, length, rank))
                    windows = rule.windows(index, drawn, length, burn_in, rng)
                    if isinstance(windows, Windows):
                        assert windows.length == burn_in + length
                        ids = windows.start[:, None] + np.arange(windows.length)
                        mask = (ids >= windows.first[:, None]) & (ids < windows.stop[:, None])
                        assert (windows.start + burn_in <= drawn.ids).all()
                    else:
                        assert windows.id.shape == (len(rank), burn_in + length)
                        ids, mask = windows.id - windows.closing, windows.mask
                    stream = np.broadcast_to(windows.stream[:, None], ids.shape)
                    assert ((ids >= index.tail[stream]) & (ids < index.head[stream]))[mask].all()
                    assert (mask & (ids == drawn.ids[:, None])).any(axis=1).all()

    def _pairs(self) -> list[Pair]:
        return [
            Pair(20 * streams, streams, mean_length=mean_length, seed=seed).grow(*([steps] * streams))
            for seed, (streams, mean_length, steps) in enumerate(
                (streams, mean_length, steps)
                for streams in (1, 3)
                for mean_length in (1.5, 6, 100)
                for steps in (2, 15, 45)
            )
        ]


class Store(Protocol):
    """Where the bytes lie: rows of columns, addressed by slot, which is `stream * capacity + id % capacity`."""

    def write(self, slot: Any, values: Mapping[str, Any]) -> None:
        """Store one step, or one step for each of several streams, each in the next slot of its stream."""

    def rewrite(self, slots: npt.NDArray[np.int64], values: Mapping[str, Any]) -> None:
        """Store new values for steps that lie there already."""

    def gather(self, name: str, slots: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """Copy the rows at `slots` into `out`, whose leading axes are those of `slots`."""


class StoreSuite:
    """Tests that every store passes: override `make`."""

    columns: ClassVar[tuple[Column, ...]] = (
        Column("obs/camera", Field((3, 9, 8), "uint8")),
        Column("obs/touch", Field((), "bool")),
        Column("action", Field((2,), "float32")),
        Column("reward", Field((), "float32")),
        Column("extras/state", Field((70,), "float32")),
    )
    streams: ClassVar[int] = 3
    capacity: ClassVar[int] = 75

    def make(self, columns: tuple[Column, ...], streams: int, capacity: int) -> Store:
        """Return an empty store of `capacity` slots for each stream."""
        raise NotImplementedError

    def test_what_was_written_last_is_read(self) -> None:
        """Each slot shows its last write or rewrite, from one write to two rounds of the ring, in any order."""
        rng, store = np.random.default_rng(0), self.make(self.columns, self.streams, self.capacity)
        head, written = np.zeros(self.streams, np.int64), dict[int, dict[str, Any]]()

        def some(slots: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
            values = {
                column.name: (rng.random((len(slots), *column.field.shape)) * 250).astype(column.field.dtype)
                for column in self.columns
            }
            for lane, slot in enumerate(slots.tolist()):
                written[slot] = {name: value[lane] for name, value in values.items()}
            return values

        while head.min() < 2 * self.capacity + 5:
            which = rng.permutation(self.streams)[: rng.integers(1, self.streams + 1)]
            slots = which * self.capacity + head[which] % self.capacity
            head[which] += 1
            values = some(slots)
            if len(slots) == 1:
                store.write(int(slots[0]), {name: value[0] for name, value in values.items()})
            else:
                store.write(slots, values)
            if rng.random() < 0.1:
                slots = np.array(sorted(written))[rng.permutation(len(written))[:5]]
                store.rewrite(slots, some(slots))
            self._compare(store, written, rng.choice(sorted(written), (4, 3)))
        self._compare(store, written, np.arange(self.streams * self.capacity).reshape(self.streams, -1))

    def _compare(
        self, store: Store, written: dict[int, dict[str, Any]], slots: npt.NDArray[np.int64]
    ) -> None:
        for name, field in self.columns:
            out = np.empty((*slots.shape, *field.shape), field.dtype)
            store.gather(name, slots, out)
            wanted = np.stack([written[slot][name] for slot in slots.ravel().tolist()])
            assert np.array_equal(out, wanted.reshape(out.shape)), f"{name} of slots {slots.tolist()}"


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
        for name, value in vars(wanted).items():
            _assert_equal(getattr(batch, name), value, row, name)


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
