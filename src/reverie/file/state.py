"""What samplers and the random generator remember: as JSON and arrays in the file, and given back by `open`."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, FileError
from reverie.file.failures import DOUBTS
from reverie.file.tables import Tables
from reverie.index import EpisodeIndex, TableRows, most_episodes, table_rows
from reverie.samplers import (
    EPISODE_WEIGHTS,
    STEP_WEIGHTS,
    Sampler,
    checked_episode_weights,
    checked_step_weights,
)
from reverie.store import pack, unpack
from reverie.values import array_form, integer, integers, most_array_bytes

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


def pack_arrays(arrays: Arrays) -> PackedArrays:
    """Return arrays as the file keeps them."""
    return {
        name: (
            " ".join([array.dtype.str, *map(str, array.shape)]),
            pack(np.ascontiguousarray(array)) if array.size else b"\0",
        )
        for name, array in arrays.items()
    }


def unpack_arrays(packed: PackedArrays, most: int) -> Arrays:
    """Return what `pack_arrays` took.

    Args:
        packed: by name.
        most: bytes that they may take, all in all.

    Raises:
        ValueError: these are no such bytes, or tell of more.
    """
    forms = {name: array_form(form) for name, (form, _) in packed.items()}
    size = sum(nbytes for *_, nbytes in forms.values())
    if size > most:
        raise ValueError(f"its arrays take {size:,} bytes, more than {most:,}")
    return {name: unpack(packed[name][1], shape, dtype).copy() for name, (dtype, shape, _) in forms.items()}


def sampler_entries(value: Any) -> list[tuple[str, Any]]:
    """Return the kinds and states of samplers, as the file has them.

    Raises:
        ValueError: this is no list of them.
    """
    if type(value) is not list:
        raise ValueError("the samplers are no list")
    for entry in value:
        if not is_sampler_entry(entry):
            raise ValueError(f"a sampler is no kind and state, but {str(entry)[:80]}")
    return [(kind, state) for kind, state in value]


def is_sampler_entry(entry: Any) -> bool:
    """Whether this is the kind and the state of a sampler."""
    return type(entry) is list and len(entry) == 2 and type(entry[0]) is str


def wrong_sampler(state: Any, arrays: Arrays, size: tuple[int, int] | None) -> Iterator[str]:
    """Yield what is wrong with the state of a sampler, as the file has it.

    Args:
        state: as JSON; arrays: those that are whole.
        size: streams, and steps that each of them keeps; None if they are not known.
    """
    try:
        state = from_json(state, arrays)
    except DOUBTS as error:
        yield f"its array {error} is missing, or damaged"
        return
    if size is not None:
        yield from _wrong_weights(state, *size)


def _wrong_weights(state: Any, streams: int, each: int) -> Iterator[str]:
    """Yield what is wrong with the weights that a sampler keeps, wherever they stand in its state."""
    if isinstance(state, list):
        for child in state:
            yield from _wrong_weights(child, streams, each)
    if not isinstance(state, dict):
        return
    try:
        if state.keys() == STEP_WEIGHTS:
            checked_step_weights(state, streams, each)
        elif state.keys() == EPISODE_WEIGHTS:
            checked_episode_weights(state, streams, most_episodes(streams, each))
    except BadSetting as error:
        yield str(error)
    for child in state.values():
        yield from _wrong_weights(child, streams, each)


def generator(seed: int | None) -> np.random.Generator:
    """Return a new generator: of a counter and a key, so that its state is small."""
    return np.random.Generator(np.random.Philox(seed))


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a Philox generator as JSON: four counters, two keys, and what is left of a block."""
    state: Any = rng.bit_generator.state
    return {
        "counter": state["state"]["counter"].tolist(),
        "key": state["state"]["key"].tolist(),
        "buffer": state["buffer"].tolist(),
        "buffer_pos": int(state["buffer_pos"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def generator_from(state: Mapping[str, Any]) -> np.random.Generator:
    """Return the generator whose state this is.

    Raises:
        KeyError, TypeError, ValueError: it is none. NumPy checks nothing, and reads from wherever `buffer_pos` says.
    """
    philox = np.random.Philox(0)
    inner: Any = {
        name: np.array(integers(state[name], count, 2**64), np.uint64)
        for name, count in (("counter", 4), ("key", 2))
    }
    philox.state = {
        "bit_generator": "Philox",
        "state": inner,
        "buffer": np.array(integers(state["buffer"], 4, 2**64), np.uint64),
        "buffer_pos": integer(state["buffer_pos"], 5),
        "has_uint32": integer(state["has_uint32"], 2),
        "uinteger": integer(state["uinteger"], 2**32),
    }
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
        self._source = ""  # how an error about a state that waits begins
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
                try:
                    sampler.load(state)
                except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
                    raise FileError(
                        f"{self._source}wanted the state of a {kind}, got one that is none ({error}); "
                        f"restore the file from a copy made by save_as, or draw with another kind of sampler"
                    ) from error
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

    def load(self, states: list[tuple[str, Any]], source: str = "") -> None:
        """Let these states wait for their samplers; `source` is how an error about one of them begins."""
        self._source = source
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


# --- all of it together --------------------------------------------------------------------------------------


def remember(
    rng: np.random.Generator, samplers: SamplerStates, index: EpisodeIndex, notes: Mapping[str, Any]
) -> Remembered:
    """Return all that a buffer knows beside its steps and episodes.

    Args:
        rng: its generator.
        samplers: those it drew with.
        index: in whose rows samplers keep their weights.
        notes: what a class around it wants kept: JSON values by name.
    """
    arrays: Arrays = {f"index/{name}": array for name, array in table_rows(index)._asdict().items()}
    states = [
        [kind, to_json(f"samplers/{place}", state, arrays)]
        for place, (kind, state) in enumerate(samplers.save())
    ]
    size, most = sum(array.nbytes for array in arrays.values()), most_array_bytes(len(index.episode_of_slot))
    if size > most:
        raise BadSetting(
            f"samplers: wanted at most {most:,} bytes to remember, got {size:,}; let Sampler.save return less"
        )
    return remember_rest(rng, index, notes) | {"samplers": states}, pack_arrays(arrays)


def remember_rest(rng: np.random.Generator, index: EpisodeIndex, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `remember` does, but what samplers remember and where episodes lie."""
    ends = [index.tail.tolist(), index.head.tolist()]
    return {"rng": generator_state(rng), "notes": dict(notes), "ends": ends}


def recall(file: Tables, samplers: SamplerStates) -> tuple[dict[str, Any], TableRows | None]:
    """Give `samplers` back what was remembered; return the notes, and the rows of the index if known."""
    notes: dict[str, Any] = file.meta("notes")
    with file.db.reading():
        arrays = unpack_arrays(file.arrays(), most_array_bytes(file.meta("capacity")))
        states = [(kind, from_json(state, arrays)) for kind, state in sampler_entries(file.meta("samplers"))]
        samplers.load(states, f"{file.db.path}: ")
        if "index/row" not in arrays:
            return notes, None
        return notes, TableRows(*(arrays[f"index/{name}"] for name in TableRows._fields))
