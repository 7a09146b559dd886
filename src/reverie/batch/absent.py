"""Fields that a batch has not, since `fields=` left them out when it was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reverie.errors import FieldNotRead

# What `fields=` may leave out of a batch as a whole. Flags, masks and addresses are always there.
MAY_LACK = ("obs", "next_obs", "action", "reward")


class Partial:
    """What may have fewer fields than the spec: the attributes of the others are not set."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker would take every misspelt attribute for one that is there

        def __getattr__(self, name: str) -> Any:
            # Python asks here for what it did not find itself.
            if name in lacking(type(self)):
                raise not_read(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def lacking(kind: Any) -> list[str]:
    """Return what a batch of this kind may lack."""
    return [name for name in MAY_LACK if name in kind.__dataclass_fields__]


def has(batch: Partial, name: str) -> bool:
    """Whether a batch has the field of this name."""
    try:
        object.__getattribute__(batch, name)
    except AttributeError:
        return False
    return True


def not_read(batch: Partial, name: str) -> FieldNotRead:
    """Return the error for a field that a batch was drawn without."""
    there = [one for one in lacking(type(batch)) if has(batch, one)]
    asked = "obs" if name == "next_obs" else name
    return FieldNotRead(
        f"wanted {name!r} of a batch that was drawn without it, got {there}; "
        f"add {asked!r} to fields=, or leave fields= out"
    )
