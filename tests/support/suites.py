"""Suites that every boundary rule and every store passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from reverie.conformance import Pair, addresses
from reverie.index import Boundary, Drawn, Windows
from reverie.spec import Column, Field
from reverie.testing import Address, NaiveBuffer


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
