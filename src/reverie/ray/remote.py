"""A shard as its users see it: calls with a deadline, and the part of a union that it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import NoAnswer, ReplayError
from reverie.ray.shard import Facts, unpacked
from reverie.samplers import Sampler
from reverie.union import Answer, Request

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
AGAIN_S = 0.1  # how long to wait before an actor that is being started again is asked again
READ_AT_ONCE = 4  # episodes that travel together


def call(actor: Any, number: int, wait_s: float, method: str, *args: Any) -> Any:
    """Return what a shard answers. One that is being started again is asked again: every call may come twice.

    Raises:
        NoAnswer: it did not answer in time. Errors of the shard are raised as they are.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fetch(getattr(actor, method).remote(*args), number, deadline, wait_s)
        except NoAnswer:
            if time.monotonic() > deadline:
                raise
        time.sleep(AGAIN_S)


def fetch(reference: Any, number: int, deadline: float, wait_s: float) -> Any:
    """Return what a call came to.

    Raises:
        NoAnswer: the actor died, or the deadline passed.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        return ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
    except RayTaskError as error:
        if isinstance(error.cause, ReplayError | IndexError):
            raise error.cause from error
        raise
    except (GetTimeoutError, RayActorError) as error:
        raise NoAnswer(
            f"shard {number}: wanted an answer within {wait_s:g} seconds, got none; see whether its machine and "
            f"process run (ray list actors), and try again or pass a longer wait_s"
        ) from error


class RemotePart:
    """A shard as a part of a union. Its samplers live in the shard; here is a twin of each, to teach it again.

    Args:
        actor: the shard. facts: what it was made from.
        wait_s: how long to wait for an answer.
    """

    def __init__(self, actor: Any, facts: Facts, wait_s: float) -> None:
        self.spec, self.streams, self.number = facts.spec, facts.streams, facts.number
        self._capacity = facts.capacity
        self._actor, self._wait_s = actor, wait_s
        self._learner, self._life = secrets.token_hex(8), ""
        self._twins: dict[int, Sampler] = {}
        self._told: dict[int, bytes] = {}  # a sampler's settings as the shard knows them
        self._news: list[tuple[str, int, Sampler | None]] = []
        self._gone: list[int] = []  # keys of samplers that nobody holds any more

    def call(self, method: str, *args: Any) -> Any:
        """Return what a method of the shard returns."""
        return call(self._actor, self.number, self._wait_s, method, *args)

    def _ask(self, name: str, *args: Any) -> Any:
        """Return what the shard does as a part, after it was told what it does not know yet."""
        while self._gone:
            key = self._gone.pop()
            self._twins.pop(key, None)
            self._told.pop(key, None)
            self._news.append(("forget", key, None))
        if not self._life:
            self._join()
        while True:
            known, found = self.call("ask", self._learner, self._life, self._news, name, *args)
            if known:
                self._news = []
                return unpacked(found)
            self._join()

    def _join(self) -> None:
        self._life = self.call("join", self._learner)
        self._news = [("learn", key, twin) for key, twin in self._twins.items()]

    # --- what a part is asked --------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return self._capacity

    def sizes(self) -> tuple[int, int]:
        found: tuple[int, int] = self._ask("sizes")
        return found

    def episodes(self) -> npt.NDArray[np.void]:
        table: npt.NDArray[np.void] = self._ask("episodes")
        return table

    def read_episodes(self, ranks: list[int] | None) -> Iterator[Episode]:
        """Read live episodes, a few at a time; what is evicted between the calls shifts the places of the rest."""
        wanted = list(range(len(self.episodes()))) if ranks is None else ranks
        for first in range(0, len(wanted), READ_AT_ONCE):
            yield from self.call("episodes_at", wanted[first : first + READ_AT_ONCE])

    def count_windows(self, length: int, boundary: str, stride: int) -> int:
        return int(self._ask("count_windows", length, boundary, stride))

    def learn(self, key: int, sampler: Sampler) -> None:
        self._twins[key] = sampler
        self._news.append(("learn", key, sampler))

    def imitate(self, key: int, sampler: Sampler) -> None:
        from ray import cloudpickle

        twin = self._twins[key]
        twin.imitate(sampler)
        settings: bytes = cloudpickle.dumps(twin)
        if settings != self._told.get(key):
            self._told[key] = settings
            self._news.append(("imitate", key, twin))

    def forgetting(self) -> Callable[[int], Any]:
        return self._gone.append

    def common(self, key: int) -> Any:
        return self._ask("common", key)

    def agree(self, key: int, commons: Sequence[Any]) -> None:
        self._ask("agree", key, commons)

    def update(self, key: int, streams: Ints, anchors: Ints, priorities: Floats) -> None:
        self._ask("update", key, streams, anchors, priorities)

    def rewrite(self, streams: Ints, mask: npt.NDArray[np.bool_], ids: Ints, values: dict[str, Any]) -> None:
        self._ask("rewrite", streams, mask, ids, values)

    def close(self) -> None:
        """Nothing: whoever made the shards stops them."""

    def mass(self, request: Request) -> float:
        return float(self._ask("mass", request))

    def draw(self, request: Request, rng: np.random.Generator, tries: int, envelope: float) -> Answer:
        answer: Answer = self._ask("draw", request, _branch(rng), tries, envelope)
        return answer

    def take_back(self, request: Request) -> None:
        self._ask("take_back", request)

    def tiles(self, request: Request, count: int) -> Answer:
        answer: Answer = self._ask("tiles", request, count)
        return answer

    def left(self, request: Request) -> int:
        return int(self._ask("left", request))

    def begin(self, request: Request, rng: np.random.Generator) -> int:
        return int(self._ask("begin", request, _branch(rng)))

    def take(self, request: Request, rng: np.random.Generator, count: int) -> Answer:
        answer: Answer = self._ask("take", request, _branch(rng), count)
        return answer

    def sample(self, request: Request, rng: np.random.Generator, count: int) -> Answer:
        answer: Answer = self._ask("sample", request, _branch(rng), count)
        return answer


def _branch(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator that travels."""
    return np.random.default_rng(rng.integers(2**63, size=2))
