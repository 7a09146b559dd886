"""A part of a union: what it is asked, and how a buffer of this process answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch
from reverie.buffer import ReplayBuffer
from reverie.engine import Chosen, Fields, Layout, Layouts, span_of
from reverie.episode import Episode
from reverie.errors import BadSetting
from reverie.index import Anchors, Bools, Drawn, Ints
from reverie.samplers import Sampler, Scale
from reverie.spec import StepSpec
from reverie.store import Blocks

Floats = npt.NDArray[np.float64]
Said = TypeVar("Said")
Asked = ParamSpec("Asked")
Owner = TypeVar("Owner")
Later: TypeAlias = Callable[[], Said]  # waits for an answer, and returns it


def all_said(answers: Iterable[Later[Said]]) -> list[Said]:
    """Return what several parts answer, which were all asked before the first answer is waited for."""
    return [answer() for answer in list(answers)]


def at_once(
    method: Callable[Concatenate[Owner, Asked], Said],
) -> Callable[Concatenate[Owner, Asked], Later[Said]]:
    """Let a method that answers at once look like one whose answer is waited for."""

    @wraps(method)
    def ask(self: Owner, /, *args: Asked.args, **named: Asked.kwargs) -> Later[Said]:
        said = method(self, *args, **named)
        return lambda: said

    return ask


@dataclass(frozen=True)
class Request:
    """What windows a union wants, and which sampler is to draw them.

    Attributes:
        length, boundary, burn_in, fields, stride: as for `sample`, checked.
        key: which of the union's samplers; each part has one of its own for it.
        path: where in that sampler the one stands that draws: numbers of parts of a `Mixture`, -1 for the fallback
            of a `Fresh`. Each one on the way narrows what is drawn from.
        exact: no try may be in vain, however long that takes.
    """

    length: int
    boundary: str
    burn_in: int
    key: int
    path: tuple[int, ...] = ()
    exact: bool = False
    fields: Fields = None
    stride: int = 1

    def below(self, place: int) -> Request:
        """Return the request for a sampler in the sampler."""
        return replace(self, path=(*self.path, place))

    def layout(self, layouts: Layouts, rows: int) -> Layout:
        """Return where the arrays of a batch of so many windows lie."""
        return layouts.get(self.boundary == "cross", rows, self.burn_in + self.length, fields=self.fields)


class Answer(NamedTuple):
    """What a part answered.

    Attributes:
        mass: at that moment.
        batch: what was drawn, as a batch of the part; None if nothing was.
        scale: what the batch's importance weights are told from.
        broken: the mass was above the envelope, and nothing was drawn.
        own: whether the batch lies in memory of its own. If not, it is to be copied; its weights may be written to.
    """

    mass: float
    batch: Batch | None = None
    scale: Scale | None = None
    broken: bool = False
    own: bool = True


class Part(Protocol):
    """What a union asks of each of its parts.

    A method that returns a `Later` begins at once: all parts are asked before the first answer is waited for. What it
    does is one moment of the part.

    Attributes:
        spec: its fields. streams: how many it has.
    """

    spec: StepSpec
    streams: int

    @property
    def capacity(self) -> int:
        """Steps that it keeps in all."""

    def sizes(self) -> Later[tuple[int, int]]:
        """Return how many steps are live, and the bytes of memory they take."""

    def episodes(self) -> Later[npt.NDArray[np.void]]:
        """Return a table of its own of the live episodes."""

    def read_episodes(self, ranks: list[int] | None) -> Iterator[Episode]:
        """Read live episodes by their places in that table; None means all."""

    def count_windows(self, length: int, boundary: str, stride: int) -> Later[int]:
        """Return how many anchors there are for such windows."""

    def learn(self, key: int, sampler: Sampler) -> None:
        """Draw with this sampler, which is the part's own from now on, when asked for `key`."""

    def imitate(self, key: int, sampler: Sampler) -> None:
        """Let the part's sampler take over the settings of the one that the user holds."""

    def forgetting(self) -> Callable[[int], Any]:
        """Return what lets the sampler of a key go; it does not keep the part."""

    def common(self, key: int) -> Later[Any]:
        """Return what the samplers of this key have in common in all parts."""

    def agree(self, key: int, commons: Sequence[Any]) -> Later[None]:
        """Let the sampler take over what they have in common."""

    def update(self, key: int, streams: Ints, anchors: Ints, priorities: Floats) -> Later[None]:
        """Give the live ones of these anchors checked priorities."""

    def rewrite(self, streams: Ints, mask: Bools, ids: Ints, values: dict[str, Any]) -> Later[None]:
        """Store checked values of extra fields for those steps of windows, (B, L), that are real and live."""

    def close(self) -> None:
        """Let go of what the union opened."""

    def mass(self, request: Request) -> Later[float]:
        """Return the weight of all that a try may give."""

    def draw(self, request: Request, rng: np.random.Generator, tries: int, envelope: float) -> Later[Answer]:
        """Return what comes of tries, each of which succeeds with probability mass / envelope."""

    def take_back(self, request: Request) -> Later[None]:
        """Let the sampler forget the last draw."""

    def tiles(self, request: Request, count: int) -> Later[Answer]:
        """Return up to `count` tiles that a `Fresh` has not shown yet."""

    def left(self, request: Request) -> Later[int]:
        """Return how many windows of the epoch of a `Shuffled` were not taken yet."""

    def begin(self, request: Request, rng: np.random.Generator) -> Later[int]:
        """Begin an epoch of a `Shuffled`, if there is a window; return how many there are."""

    def take(self, request: Request, rng: np.random.Generator, count: int) -> Later[Answer]:
        """Return the next `count` windows of the epoch, but those that were evicted meanwhile."""

    def sample(self, request: Request, rng: np.random.Generator, count: int) -> Later[Answer]:
        """Return `count` windows as the part alone would draw them."""


class LocalPart:
    """A buffer of this process.

    Args:
        buffer, owned: see below.
        allocate: makes an empty batch of a layout; None: one in memory of its own.

    Attributes:
        buffer: what is drawn from. owned: whether the union opened it, and closes it.
        samplers: its own, by key.
    """

    def __init__(
        self, buffer: ReplayBuffer, owned: bool, allocate: Callable[[Layout], Batch] | None = None
    ) -> None:
        self.buffer, self.owned = buffer, owned
        self._check_unlimited()
        self.spec, self.streams = buffer.spec, buffer.streams
        self.samplers: dict[int, Sampler] = {}
        self._allocate = partial(_allocated, Blocks()) if allocate is None else allocate

    def _check_unlimited(self) -> None:
        """Refuse a buffer whose rate limit would not hear of what is drawn here."""
        if self.buffer.engine.gate is not None:
            raise BadSetting(
                "parts: wanted buffers without a rate limit, got one with it, which would not count the draws of a "
                "union; end it with buffer.limit_rate(None), or draw from that buffer itself"
            )

    @property
    def capacity(self) -> int:
        return self.buffer.capacity

    @at_once
    def sizes(self) -> tuple[int, int]:
        return len(self.buffer), self.buffer.nbytes

    @at_once
    def episodes(self) -> npt.NDArray[np.void]:
        return np.asarray(self.buffer.episodes)

    def read_episodes(self, ranks: list[int] | None) -> Iterator[Episode]:
        return self.buffer.read_episodes(ranks)

    @at_once
    def count_windows(self, length: int, boundary: str, stride: int) -> int:
        return self.buffer.count_windows(length, boundary, stride=stride)

    def learn(self, key: int, sampler: Sampler) -> None:
        self.samplers[key] = sampler

    def imitate(self, key: int, sampler: Sampler) -> None:
        self.samplers[key].imitate(sampler)

    def forgetting(self) -> Callable[[int], Any]:
        return partial(_forget, self.samplers)

    @at_once
    def common(self, key: int) -> Any:
        return self.samplers[key].common()

    @at_once
    def agree(self, key: int, commons: Sequence[Any]) -> None:
        self.samplers[key].agree(commons)

    @at_once
    def update(self, key: int, streams: Ints, anchors: Ints, priorities: Floats) -> None:
        self.buffer.engine.update(self.samplers[key], streams, anchors, priorities)

    @at_once
    def rewrite(self, streams: Ints, mask: Bools, ids: Ints, values: dict[str, Any]) -> None:
        self.buffer.engine.rewrite(streams, mask, ids, values)

    def close(self) -> None:
        if self.owned:
            self.buffer.close()

    @at_once
    def mass(self, request: Request) -> float:
        self._check_unlimited()
        engine = self.buffer.engine
        with engine.turn:
            engine.check_open()
            sampler, anchors = self._find(request)
            if engine.index.is_empty():
                return 0.0
            engine.memories.drawing(self.samplers[request.key])
            mass = sampler.mass(anchors, request.exact)
            engine.memories.used()
            return mass

    @at_once
    def draw(self, request: Request, rng: np.random.Generator, tries: int, envelope: float) -> Answer:
        with self._drawing(request) as (sampler, anchors):
            mass = 0.0 if anchors.index.is_empty() else sampler.mass(anchors, request.exact)
            if mass > envelope:
                return Answer(mass, broken=True)
            good = tries if mass == envelope else int(rng.binomial(tries, mass / envelope))
            if mass <= 0.0:
                return Answer(mass)
            drawn = sampler.offer(anchors, rng, good, request.exact) if good else None
            batch = None if drawn is None else self._gathered(request, anchors, rng, drawn)
            return Answer(mass, batch, sampler.scale(anchors))

    @at_once
    def take_back(self, request: Request) -> None:
        with self.buffer.engine.turn:
            self.samplers[request.key].rewind()

    @at_once
    def tiles(self, request: Request, count: int) -> Answer:
        with self._drawing(request) as (sampler, anchors):
            drawn = sampler.tiles(anchors, count)
            return Answer(len(drawn.ids), self._gathered(request, anchors, None, drawn))

    @at_once
    def left(self, request: Request) -> int:
        with self._drawing(request) as (sampler, anchors):
            return int(sampler.left(anchors))

    @at_once
    def begin(self, request: Request, rng: np.random.Generator) -> int:
        with self._drawing(request) as (sampler, anchors):
            if anchors.index.is_empty() or not anchors.count():
                return 0
            sampler.begin(anchors, rng)
            return int(sampler.left(anchors))

    @at_once
    def take(self, request: Request, rng: np.random.Generator, count: int) -> Answer:
        with self._drawing(request) as (sampler, anchors):
            drawn = sampler.take(anchors, count)
            return Answer(len(drawn.ids), self._gathered(request, anchors, rng, drawn))

    @at_once
    def sample(self, request: Request, rng: np.random.Generator, count: int) -> Answer:
        with self._drawing(request) as (sampler, anchors):
            if anchors.index.is_empty():
                raise anchors.not_enough()
            drawn = sampler.draw(anchors, rng, count)
            return Answer(count, self._gathered(request, anchors, rng, drawn))

    @contextmanager
    def _drawing(self, request: Request) -> Iterator[tuple[Any, Anchors]]:
        """Hold the part still; what its sampler remembers is as before if anything is raised inside."""
        self._check_unlimited()
        engine = self.buffer.engine
        with engine.turn:
            engine.check_open()
            engine.memories.drawing(self.samplers[request.key])
            yield self._find(request)
            engine.memories.used()

    def _find(self, request: Request) -> tuple[Sampler, Anchors]:
        """Return the sampler that is meant, and the anchors that those on the way to it leave."""
        sampler: Any = self.samplers[request.key]
        span = span_of(request.length, request.stride)
        anchors = Anchors(self.buffer.engine.index, request.boundary, span, stride=request.stride)
        anchors = sampler.narrow(anchors)
        for place in request.path:
            sampler = sampler.fallback if place < 0 else sampler.samplers[place]
            anchors = sampler.narrow(anchors)
        return sampler, anchors

    def _gathered(
        self, request: Request, anchors: Anchors, rng: np.random.Generator | None, drawn: Drawn
    ) -> Batch | None:
        """Return what was drawn as a batch."""
        count, engine = len(drawn.ids), self.buffer.engine
        if not count:
            return None
        windows = anchors.windows(drawn, request.burn_in, np.random.default_rng(0) if rng is None else rng)
        layout = request.layout(engine.layouts, count)
        batch = self._allocate(layout)
        origin = engine.origins.of(self.samplers[request.key])
        engine.gatherer.fill(Chosen(windows, drawn.weight, origin), layout, batch)
        return batch


def _allocated(blocks: Blocks, layout: Layout) -> Batch:
    return layout.allocate(blocks)


def _forget(samplers: dict[int, Sampler], key: int) -> None:
    samplers.pop(key, None)
