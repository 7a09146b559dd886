"""What samplers and generators remember, as JSON and named arrays, and whose it is after a resume."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.codec import Codec
from reverie.draws import Sampler
from reverie.errors import BadSetting

Arrays = dict[str, npt.NDArray[Any]]
PackedArrays = dict[str, tuple[str, bytes]]  # name -> dtype and shape as a text, packed bytes
Remembered = tuple[dict[str, Any], PackedArrays]  # named JSON values, and named arrays


def to_json(name: str, value: Any, arrays: Arrays) -> Any:
    """Return `value` as JSON; its arrays go to `arrays`, named by where they stand."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {str(key): to_json(f"{name}/{key}", child, arrays) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(f"{name}/{place}", child, arrays) for place, child in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BadSetting(
        f"{name}: wanted arrays, numbers, strings, lists and dicts of such from Sampler.save, "
        f"got {type(value).__name__}; return plain values"
    )


def from_json(value: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return what `to_json` took, with lists in place of tuples."""
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: from_json(child, arrays) for key, child in value.items()}
    return [from_json(child, arrays) for child in value] if isinstance(value, list) else value


def pack_arrays(arrays: Arrays, codec: Codec) -> PackedArrays:
    """Return arrays as the file keeps them."""
    return {
        name: (
            " ".join([array.dtype.str, *map(str, array.shape)]),
            codec.pack(np.ascontiguousarray(array)) if array.size else b"\0",
        )
        for name, array in arrays.items()
    }


def unpack_arrays(packed: PackedArrays, codec: Codec) -> Arrays:
    """Return what `pack_arrays` took.

    Raises:
        ValueError: these are no such bytes.
    """
    arrays = {}
    for name, (form, data) in packed.items():
        dtype, *shape = form.split(" ")
        arrays[name] = codec.unpack(data, tuple(map(int, shape)), np.dtype(dtype)).copy()
    return arrays


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a Philox generator as JSON: four counters, two keys, and what is left of a block."""
    state: Any = rng.bit_generator.state
    return {"counter": state["state"]["counter"].tolist(), "key": state["state"]["key"].tolist(),
            "buffer": state["buffer"].tolist(), "buffer_pos": int(state["buffer_pos"]),
            "has_uint32": int(state["has_uint32"]), "uinteger": int(state["uinteger"])}  # fmt: skip


def generator_from(state: Mapping[str, Any]) -> np.random.Generator:
    """Return the generator whose state this is."""
    philox = np.random.Philox(0)
    inner: Any = {name: np.array(state[name], np.uint64) for name in ("counter", "key")}
    philox.state = {"bit_generator": "Philox", "state": inner,
                    "buffer": np.array(state["buffer"], np.uint64), "buffer_pos": state["buffer_pos"],
                    "has_uint32": state["has_uint32"], "uinteger": state["uinteger"]}  # fmt: skip
    return np.random.Generator(philox)


class SamplerStates:
    """The samplers that a buffer was asked to draw with, and the states of those it has yet to meet again.

    A state that was saved belongs to the first sampler of its kind that is used after the resume, the second
    one of a kind to the second: whoever makes the same samplers in the same order goes on where they were.
    The last few samplers are kept alive, so that one made inside of a function is still there to be saved.
    """

    KEPT = 8  # of a training loop's; whoever makes a new sampler for every batch must not fill the memory

    def __init__(self) -> None:
        self._last: deque[Sampler] = deque(maxlen=self.KEPT)
        self._met: dict[int, weakref.ref[Sampler]] = {}  # id -> sampler, in the order of first use
        self._waiting: list[tuple[str, Any]] = []  # kind and state
        self._before: tuple[Any, Any] | None = None  # both, as they were before the last one was met

    def meet(self, sampler: Sampler) -> None:
        """Take note of a sampler; give it the state that waits for it."""
        known = self._met.get(id(sampler))
        if known is not None and known() is sampler:
            return
        self._before = self._met, self._waiting
        kind = kind_of(sampler)
        for place, (waiting, state) in enumerate(self._waiting):
            if waiting == kind:
                sampler.load(state)
                self._waiting = self._waiting[:place] + self._waiting[place + 1 :]
                break
        self._met = {key: ref for key, ref in self._met.items() if ref() is not None}
        self._met[id(sampler)] = weakref.ref(sampler)
        self._last.append(sampler)

    def keep(self) -> None:
        """The sampler that was met has drawn."""
        self._before = None

    def rewind(self) -> None:
        """The sampler that was met has not drawn: its state waits again."""
        if self._before is not None:
            self._met, self._waiting = self._before
            self._before = None

    def save(self) -> list[tuple[str, Any]]:
        """Return (kind, state) of every sampler that remembers something."""
        met = [sampler for ref in self._met.values() if (sampler := ref()) is not None]
        states = [(kind_of(sampler), sampler.save()) for sampler in met]
        return [*[(kind, state) for kind, state in states if state], *self._waiting]

    def load(self, states: list[tuple[str, Any]]) -> None:
        """Let these states wait for their samplers."""
        self._met = {}
        self._last.clear()
        self._waiting = [(kind, state) for kind, state in states]


def kind_of(sampler: Sampler) -> str:
    """Return what tells samplers apart that cannot have each other's state: class, parts and modes.

    Numbers do not count: an exponent that is annealed may differ after a resume.
    """
    inner: list[str] = []
    for name, value in sorted(vars(sampler).items()):
        parts = value if isinstance(value, (list, tuple)) else [value]
        inner += [kind_of(part) for part in parts if isinstance(part, Sampler)]
        if not name.startswith("_") and isinstance(value, (bool, str)):
            inner.append(f"{name}={value}")
    return f"{type(sampler).__qualname__}({', '.join(inner)})"
