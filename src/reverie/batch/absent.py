"""Fields that a batch has not, since `fields=` left them out when it was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reverie.errors import FieldNotRead

# What `fields=` may leave out of a batch as a whole. Flags, masks and addresses are always there.
MAY_LACK = frozenset({"obs", "next_obs", "action", "reward"})


def not_read(name: str, there: Iterable[str]) -> FieldNotRead:
    """Return the error for a field that was not read; `there` names what was."""
    asked = "obs" if name == "next_obs" else name
    return FieldNotRead(
        f"wanted {name!r} of a batch that was drawn without it, got {sorted(there)}; "
        f"add {asked!r} to fields=, or leave fields= out"
    )


class Partial:
    """What may have fewer fields than the spec: the attributes of the others are not set."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker would take every misspelt attribute for one that is there

        def __getattr__(self, name: str) -> Any:
            # Python asks here for what it did not find itself.
            if name in MAY_LACK:
                raise not_read(name, (one for one in MAY_LACK if has(self, one)))
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def has(batch: Partial, name: str) -> bool:
    """Whether a batch has the field of this name."""
    try:
        object.__getattribute__(batch, name)
    except AttributeError:
        return False
    return True


class PartialTree(dict[str, Any]):
    """A dict of arrays that lacks some of the spec's: asked for one of them, it says so.

    Args:
        name: its own, such as "obs" or "obs/arm".
        there: what it has.
    """

    def __init__(self, name: str, there: Mapping[str, Any]) -> None:
        super().__init__(there)
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise not_read(f"{self._name}/{key}", self)
