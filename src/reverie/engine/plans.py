"""What draws have in common as long as the same is asked for: a training loop asks thousands of times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from reverie.engine.layout import Layout, Layouts
from reverie.engine.selection import Wanted, wanted
from reverie.index import Anchors, EpisodeIndex, anchors_of
from reverie.spec import StepSpec


class Plan(NamedTuple):
    """The anchors that there are to draw from, and where the arrays of a batch lie."""

    wanted: Wanted
    anchors: Anchors
    layout: Layout


class Plans:
    """Checks what is asked for, and keeps the last plan.

    Args:
        spec, index, layouts: of the buffer.
    """

    __slots__ = ("_asked", "_index", "_layouts", "_plan", "_spec")

    def __init__(self, spec: StepSpec, index: EpisodeIndex, layouts: Layouts) -> None:
        self._spec, self._index, self._layouts = spec, index, layouts
        # The arguments of the last call of `wanted`, and what it returned.
        self._asked: tuple[Any, ...] = (object(),)
        self._plan: Plan | None = None

    def wanted(
        self,
        batch_size: object,
        length: object,
        boundary: object,
        sampler: object,
        burn_in: object,
        fields: Iterable[str] | None,
        stride: object,
    ) -> Wanted:
        """Return what `sample` was asked for, checked; raises what `selection.wanted` does."""
        last = self._asked
        # The same objects: True equals 1, and is refused. Those that are accepted do not change, but for `fields`.
        if (
            batch_size is last[0]
            and length is last[1]
            and boundary is last[2]
            and sampler is last[3]
            and burn_in is last[4]
            and stride is last[5]
            and fields is None
        ):
            again: Wanted = last[6]
            return again
        found = wanted(self._spec, batch_size, length, boundary, sampler, burn_in, fields, stride)
        if fields is None:
            self._asked = batch_size, length, boundary, sampler, burn_in, stride, found
        return found

    def plan(self, wanted: Wanted, out: object) -> Plan:
        """Return the plan for what is wanted now, in a turn to read.

        Raises:
            BadSetting: `out` is not None and no batch of this kind, or a length that no stream keeps.
            NotEnoughData: nothing is live. TooLarge: memory cannot hold such a batch.
        """
        plan, index = self._plan, self._index
        if plan is None or plan.wanted is not wanted or index.gone or plan.anchors.choice is not None:
            anchors = anchors_of(index, wanted.boundary, wanted.span, wanted.stride)
            layout = self._layouts.get(wanted.cross, wanted.batch_size, wanted.shown, out, wanted.fields)
            plan = self._plan = Plan(wanted, anchors, layout)
            return plan
        if index.is_empty():
            raise plan.anchors.not_enough()
        if out is not None:
            plan.layout.check(out)
        return plan
