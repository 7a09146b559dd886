"""A shard as its users see it: calls with a deadline, and the part of a union that it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.engine import Layouts
from reverie.episode import Episode
from reverie.errors import NoAnswer, ReplayError
from reverie.ray.lent import Lender, Lent
from reverie.ray.messages import Asked, News, Seed, Sent
from reverie.ray.shard import Facts
from reverie.samplers import Sampler
from reverie.union import Answer, Later, Request

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
AGAIN_S = 0.1  # how long to wait before an actor that is being started again is asked again
READ_AT_ONCE = 4  # episodes that travel together


class Call:
    """A call of a shard that has begun. A shard that is being started again is asked again: every call may come twice.

    Args:
        actor: the shard, or another actor. number: which shard it is, or its name.
        wait_s: how long to wait for the answer, from now on.
        method, *args: what to call.
        patient: whether to ask again. If not, an actor that died is no answer at once. Ray asks again sooner than who
            is told that the actor died, which may take it two seconds.
    """

    def __init__(
        self, actor: Any, number: int | str, wait_s: float, method: str, *args: Any, patient: bool = True
    ) -> None:
        self._method, self._args = getattr(actor, method).options(max_task_retries=-1 if patient else 0), args
        self._number, self._wait_s, self._patient = number, wait_s, patient
        self._deadline = time.monotonic() + wait_s
        self._post()

    def _post(self) -> None:
        self._reference = answer_of(self._method.remote(*self._args))

    def ended(self) -> bool:
        """Return whether there is an answer or an error."""
        return self._reference.done()

    def answer(self) -> Any:
        """Return what the shard answers.

        Raises:
            NoAnswer: it did not answer in time. Errors of the shard are raised as they are.
        """
        while True:
            try:
                return fetch(self._reference, self._number, self._deadline, self._wait_s)
            except NoAnswer:
                if not self._patient or time.monotonic() > self._deadline:
                    raise
            time.sleep(AGAIN_S)
            self._post()


def answer_of(reference: Any) -> Future[Any]:
    """Return a future of what Ray has a reference to. `ray.get` looks every 10 ms where arrays come; this does not."""
    future: Future[Any] = reference.future()
    return future


def fetch(reference: Future[Any], number: int | str, deadline: float, wait_s: float) -> Any:
    """Return what a call came to.

    Raises:
        NoAnswer: the actor died, or the deadline passed.
    """
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return reference.result(max(0.0, deadline - time.monotonic()))
    except RayTaskError as error:
        if isinstance(error.cause, ReplayError | IndexError):
            raise error.cause from error
        raise
    except (TimeoutError, RayActorError) as error:
        who = number if isinstance(number, str) else f"shard {number}"
        raise NoAnswer(
            f"{who}: wanted an answer within {wait_s:g} seconds, got none; see whether its machine and "
            f"process run (ray list actors), and try again or pass a longer wait_s"
        ) from error


class RemotePart:
    """A shard as a part of a union. Its samplers live in the shard; here is a twin of each, to teach it again.

    Args:
        actor: the shard. facts: what it was made from.
        wait_s: how long to wait for an answer.
        others: whether draws go on without it while it does not answer.

    Attributes:
        missed: whether the draw that began last goes on without it.
    """

    def __init__(self, actor: Any, facts: Facts, wait_s: float, others: bool) -> None:
        self.spec, self.streams, self.number = facts.spec, facts.streams, facts.number
        self.missed = False
        self._capacity = facts.capacity
        self._actor, self._wait_s, self._others = actor, wait_s, others
        self._learner, self._life = secrets.token_hex(8), ""
        self._twins: dict[int, Sampler] = {}
        self._told: dict[int, bytes] = {}  # a sampler's settings as the shard knows them
        self._news: News = []
        self._gone: list[int] = []  # keys of samplers that nobody holds any more
        self._layouts, self._lender = Layouts(facts.spec), Lender()
        self._return: Call | None = None  # while the shard does not answer: what it will answer first

    def call(self, method: str, *args: Any) -> Any:
        """Return what a method of the shard returns."""
        return self.begin_call(method, *args)()

    def begin_call(self, method: str, *args: Any) -> Later[Any]:
        """Let the shard do something."""
        return Call(self._actor, self.number, self._wait_s, method, *args).answer

    def _ask(self, name: str, *args: Any, lent: Lent | None = None) -> Later[Any]:
        """Let the shard do something as a part, after it was told what it does not know yet."""
        while self._gone:
            key = self._gone.pop()
            self._twins.pop(key, None)
            self._told.pop(key, None)
            self._news.append(("forget", key, None))
        life, news = self._life, list(self._news)
        asked = Asked(self._learner, life, news, None if lent is None else lent.loan, name, args)
        begun = Call(self._actor, self.number, self._wait_s, "ask", asked.flat(), patient=not self._others)

        def said() -> Any:
            known, found, sent = begun.answer()
            if known:
                self._news = [one for one in self._news if one not in news]
                if sent is not None:
                    return Sent.from_flat(sent)
                return found.copy() if isinstance(found, np.ndarray) else found
            if self._life == life:
                self._join()
            return self._ask(name, *args, lent=lent)()

        return said

    def _join(self) -> None:
        self._life = self.call("join", self._learner)
        self._lender.near = True  # it may have come back on another machine
        self._news = [("learn", key, twin) for key, twin in self._twins.items()]

    def _ask_or(self, absent: Any, name: str, *args: Any, lent: Lent | None = None) -> Later[Any]:
        """Ask, or go on with what stands for a shard that does not answer, if draws go on without it."""
        if not self._others:
            return self._ask(name, *args, lent=lent)
        if self._return is not None and not self._is_back():
            self.missed = True
            return lambda: absent
        answer = self._ask(name, *args, lent=lent)

        def said() -> Any:
            try:
                return answer()
            except NoAnswer:
                self._return, self.missed = self._called_back(), True
                return absent

        return said

    def _ask_rows(
        self, request: Request, most: int, ask: Callable[..., Later[Any]], name: str, *args: Any
    ) -> Later[Answer]:
        """Ask for an answer with a batch of at most so many rows."""
        lent = self._lender.lend(request.layout(self._layouts, most).nbytes) if most else None
        answer = ask(name, request, *args, lent=lent)

        def said() -> Answer:
            found = answer()
            if isinstance(found, Sent):
                layout = request.layout(self._layouts, found.rows)
                return found.answer._replace(batch=self._lender.opened(layout, lent, found.block))
            self._lender.returned(lent)
            empty: Answer = found
            return empty

        return said

    def _called_back(self) -> Call:
        return Call(self._actor, self.number, self._wait_s, "facts", patient=False)

    def _is_back(self) -> bool:
        """Return whether the shard answers again. It is not waited for."""
        if self._return is None or not self._return.ended():
            return self._return is None
        try:
            self._return.answer()
        except NoAnswer:
            self._return = self._called_back()
            return False
        self._return = None
        return True

    # --- what a part is asked --------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return self._capacity

    def sizes(self) -> Later[tuple[int, int]]:
        return self._ask("sizes")

    def episodes(self) -> Later[npt.NDArray[np.void]]:
        return self._ask("episodes")

    def read_episodes(self, ranks: list[int] | None) -> Iterator[Episode]:
        """Read live episodes, a few at a time; what is evicted between the calls shifts the places of the rest."""
        wanted = list(range(len(self.episodes()()))) if ranks is None else ranks
        for first in range(0, len(wanted), READ_AT_ONCE):
            yield from self.call("episodes_at", wanted[first : first + READ_AT_ONCE])

    def count_windows(self, length: int, boundary: str, stride: int) -> Later[int]:
        return self._ask("count_windows", length, boundary, stride)

    def learn(self, key: int, sampler: Sampler) -> None:
        self._twins[key] = sampler
        self._news.append(("learn", key, sampler))

    def imitate(self, key: int, sampler: Sampler) -> None:
        from ray import cloudpickle

        self.missed = False  # every draw begins with this call
        twin = self._twins[key]
        if type(twin).imitate is Sampler.imitate:  # it has no settings that may change
            return
        twin.imitate(sampler)
        settings: bytes = cloudpickle.dumps(twin)
        if settings != self._told.get(key):
            self._told[key] = settings
            self._news.append(("imitate", key, twin))

    def forgetting(self) -> Callable[[int], Any]:
        return self._gone.append

    def common(self, key: int) -> Later[Any]:
        return self._ask_or(None, "common", key)

    def agree(self, key: int, commons: Sequence[Any]) -> Later[None]:
        return self._ask_or(None, "agree", key, commons)

    def update(self, key: int, streams: Ints, anchors: Ints, priorities: Floats) -> Later[None]:
        return self._ask_or(None, "update", key, streams, anchors, priorities)

    def rewrite(
        self, streams: Ints, mask: npt.NDArray[np.bool_], ids: Ints, values: dict[str, Any]
    ) -> Later[None]:
        return self._ask("rewrite", streams, mask, ids, values)

    def close(self) -> None:
        """Nothing: whoever made the shards stops them."""

    def mass(self, request: Request) -> Later[float]:
        return self._ask_or(0.0, "mass", request)

    def draw(self, request: Request, rng: np.random.Generator, tries: int, envelope: float) -> Later[Answer]:
        return self._ask_rows(
            request, tries, partial(self._ask_or, Answer(0.0)), "draw", _branch(rng), tries, envelope
        )

    def take_back(self, request: Request) -> Later[None]:
        return self._ask_or(None, "take_back", request)

    def tiles(self, request: Request, count: int) -> Later[Answer]:
        return self._ask_rows(request, count, partial(self._ask_or, Answer(0.0)), "tiles", count)

    def left(self, request: Request) -> Later[int]:
        return self._ask_or(0, "left", request)

    def begin(self, request: Request, rng: np.random.Generator) -> Later[int]:
        return self._ask_or(0, "begin", request, _branch(rng))

    def take(self, request: Request, rng: np.random.Generator, count: int) -> Later[Answer]:
        return self._ask_rows(request, count, partial(self._ask_or, Answer(0.0)), "take", _branch(rng), count)

    def sample(self, request: Request, rng: np.random.Generator, count: int) -> Later[Answer]:
        return self._ask_rows(request, count, self._ask, "sample", _branch(rng), count)


def _branch(rng: np.random.Generator) -> Seed:
    """Return what the shard makes a generator from: it travels faster than one."""
    return Seed(*rng.integers(2**63, size=2).tolist())
