"""Where a batch comes from: a buffer, and one of its samplers."""

from __future__ import annotations

import secrets
import weakref
from typing import Any

KEPT = 8  # samplers of a buffer that a batch from another process may still name


class Origin:
    """One buffer and one of its samplers.

    Copied and pickled it is the two names alone. Unpickled in the process of the buffer it is the origin that was
    pickled, sampler included; in any other it has no sampler.

    Attributes:
        buffer: the name of the buffer, which no other buffer has, here or elsewhere.
        number: that of the sampler in the buffer.
        sampler: the object itself, if it is in this process.
        missing: shards of the buffer without which it drew.
    """

    __slots__ = ("__weakref__", "buffer", "missing", "number", "sampler")

    def __init__(
        self, buffer: str, number: int, sampler: object = None, missing: tuple[int, ...] = ()
    ) -> None:
        self.buffer, self.number, self.sampler, self.missing = buffer, number, sampler, missing

    def __copy__(self) -> Origin:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.buffer, self.number, self.missing)


# The origins whose samplers are in this process, by buffer and number.
_here: weakref.WeakValueDictionary[tuple[str, int], Origin] = weakref.WeakValueDictionary()


def _found(buffer: str, number: int, missing: tuple[int, ...]) -> Origin:
    origin = _here.get((buffer, number))
    return Origin(buffer, number, missing=missing) if origin is None else origin


class Origins:
    """Gives each batch of one buffer its origin. It keeps the origins of the last samplers; a batch keeps its own.

    Attributes:
        buffer: the name of the buffer.
    """

    __slots__ = ("_count", "_known", "_last", "buffer")

    def __init__(self) -> None:
        self.buffer = secrets.token_hex(16)
        # id of a sampler, which lives as long as it stands here, and missing shards -> its origin
        self._known: dict[tuple[int, tuple[int, ...]], Origin] = {}
        self._last = Origin(self.buffer, 0)
        self._count = 1

    def of(self, sampler: object, missing: tuple[int, ...] = ()) -> Origin:
        """Return the origin of what `sampler` draws now, without the shards that are missing."""
        if self._last.sampler is sampler and self._last.missing == missing:
            return self._last
        key = id(sampler), missing
        origin = self._known.pop(key, None)
        if origin is None:
            origin = Origin(self.buffer, self._count, sampler, missing)
            self._count += 1
            _here[self.buffer, origin.number] = origin
        self._known[key] = self._last = origin  # the last one drawn with stands last
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return origin
