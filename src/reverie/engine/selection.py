"""Which windows are asked for, checked: how many, how long, and what is to be read of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from reverie.checks import natural, positive
from reverie.errors import BadSetting
from reverie.index import check_boundary
from reverie.samplers import Sampler, check_sampler
from reverie.spec import StepSpec
from reverie.values import MOST, shown

Fields = frozenset[str] | None  # flat names of what is to be read, "reward" included; None: everything


class Wanted(NamedTuple):
    """What `sample` was asked for, checked.

    Attributes:
        batch_size, length, burn_in: windows; positions of each, and of the context before it.
        boundary, sampler: where windows may lie, and who chooses them; None takes every anchor alike.
        fields: what is to be read.
        stride: steps from one position to the next.
    """

    batch_size: int
    length: int
    boundary: str
    sampler: Sampler | None
    burn_in: int
    fields: Fields
    stride: int

    @property
    def cross(self) -> bool:
        """Whether the windows are rows that run across episodes."""
        return self.boundary == "cross"

    @property
    def shown(self) -> int:
        """Positions of a window, context included."""
        return self.burn_in + self.length

    @property
    def span(self) -> int:
        """Steps from the first position of a window to its last one, both included, without context."""
        return span_of(self.length, self.stride)


def wanted(
    spec: StepSpec,
    batch_size: object,
    length: object,
    boundary: object,
    sampler: object,
    burn_in: object,
    fields: Iterable[str] | None = None,
    stride: object = 1,
) -> Wanted:
    """Return what `sample` was asked for, checked.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a name that is none of a field.
    """
    sizes = positive("batch_size", batch_size), positive("length", length)
    context = natural("burn_in", burn_in)
    checked = checked_stride(sizes[1] + context, stride)
    if sampler is not None:
        sampler = check_sampler("sampler", sampler)
    return Wanted(*sizes, check_boundary(boundary), sampler, context, checked_fields(spec, fields), checked)


def span_of(length: int, stride: int) -> int:
    """Return how many steps there are from the first of `length` positions to the last one, both included."""
    return (length - 1) * stride + 1


def checked_stride(length: int, stride: object) -> int:
    """Return `stride` if windows of `length` positions, context included, can have it."""
    checked = positive("stride", stride)
    if span_of(length, checked) > MOST:
        raise BadSetting(
            f"stride: wanted windows of at most 2**48 steps, got {length} positions with {shown(stride)} steps from "
            f"one to the next; take a smaller stride"
        )
    return checked


def checked_fields(spec: StepSpec, fields: Iterable[str] | None) -> Fields:
    """Return the flat names of the fields asked for; None if that is all of them.

    Args:
        spec: the fields that there are.
        fields: names such as "obs", "obs/camera", "action", "reward", "extras" or "extras/latent". A name of a dict
            means everything in it.

    Raises:
        BadSetting: a name that is none.
    """
    if fields is None:
        return None
    names = field_names(fields) or ()
    leaves = [*(column.name for column in spec.columns()), "reward"]
    chosen: set[str] = set()
    for name in names:
        found = [leaf for leaf in leaves if isinstance(name, str) and f"{leaf}/".startswith(f"{name}/")]
        if not found:
            raise BadSetting(
                f"fields: wanted some of {names_of(leaves)}, got {shown(name)}; take these names alone: flags, masks "
                f"and addresses always come with them"
            )
        chosen.update(found)
    return None if len(chosen) == len(leaves) else frozenset(chosen)


def field_names(fields: object) -> tuple[Any, ...] | None:
    """Return what `fields=` was, as a tuple; raise BadSetting where it is no collection of names."""
    if fields is None:
        return None
    if isinstance(fields, str) or not isinstance(fields, Iterable):
        raise BadSetting(
            f"fields: wanted several names, got {shown(fields)}; write fields=({shown(fields)},)"
        )
    return tuple(fields)


def names_of(leaves: Iterable[str]) -> list[str]:
    """Return every name that `fields=` takes: those of the leaves, and of the dicts that they lie in."""
    parts = [leaf.split("/") for leaf in leaves]
    return list(dict.fromkeys("/".join(path[:depth]) for path in parts for depth in range(1, len(path) + 1)))


def is_read(name: str, fields: Fields) -> bool:
    """Whether the column of this flat name is to be read."""
    return fields is None or name in fields
