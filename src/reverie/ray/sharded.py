"""The buffer of many shards: what makes them, finds them, and draws from them as from one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie.batch import Batch
from reverie.buffer import ReplayBuffer
from reverie.checks import positive, seed_number, stream_number
from reverie.engine import RateCount, RateLimit, Wanted, check_limit
from reverie.errors import BadSetting, NoAnswer, counted, need
from reverie.file import check_settings
from reverie.ray.rate import Limit, Limiter
from reverie.ray.remote import Call, RemotePart
from reverie.ray.shard import Facts, Shard
from reverie.ray.writer import Target, Writer
from reverie.spec import StepSpec
from reverie.union import Union, all_said
from reverie.values import shown

NAMESPACE = "reverie"  # of the names of actors
WAIT_S = 60.0
LIMIT = "limit"  # the name of the actor that keeps a rate limit
IN_FLIGHT = 2  # draws of a feed
Policy = Literal["wait", "others"]


class ShardedBuffer(Union):
    """A buffer whose shards are actors of Ray, each with a replay file of its own.

    It draws as a union of the shards does: every sampler and boundary has its exact distribution over the whole, while
    writers write. `episodes`, `count_windows`, `update_priorities`, `write_back` and feeds are those of a union, too.
    Ray starts an actor again that dies, and it opens its file again: every step that a writer's `flush` has
    acknowledged is there, once. Episodes that ran in it end there as a cut. Draws wait for it.

    Args:
        spec: what a step looks like.
        capacity: steps kept in all; each stream keeps its share.
        shards: actors. streams_per_shard: streams of each of them; they are numbered through.
        directory: where the files lie, on each actor's machine. Files that are there already are gone on with.
        residency: as for `ReplayBuffer`.
        durability: "step": what a shard has stored survives its process. "chunk": what was flushed does; adding costs
            less, and writers keep what was not. Either way nothing is lost that a writer's `flush` acknowledged.
        seed: fixes the random choices of this object; None draws one from the operating system.
        name: others find the buffer by it, and the actors live on when this process ends. None: neither.
        wait_s: seconds to wait for an answer of a shard, and for a file that another process still has.
        policy: what a draw does while a shard does not answer. "wait": it waits up to `wait_s`, and is exact. "others":
            it goes on with the rest at once if the shard's process has ended, else after `wait_s`, until the shard
            answers again. `missing`, and `missing` of the batch, say which shards it drew without. What the others
            give has their exact distribution; priorities of steps of a missing shard are dropped.
        rate_limit: lets all writers and all learners wait for each other; see `RateLimit`. A writer's batch counts when
            it is sent, a learner's when its draw begins. One actor keeps the sums, and a note of them in `directory`,
            with which the same limit goes on there.
        options: of Ray for each actor, such as `{"resources": {"disk": 1}}`.

    Raises:
        BadSetting: an argument of the wrong kind or range, Ray is not running, the name is taken, or the directory
            holds another number of shards.
        SpecMismatch: the files there were made with another spec or size.
        FileError: a file cannot be opened or made, or another process writes to it.
        NoAnswer: an actor did not start in time.
        ModuleNotFoundError: Ray is not installed.
    """

    _limit: Limit | None
    _instead = "send a writer, or give it a name and call reverie.ray.attach(name) there"

    def __init__(
        self,
        spec: StepSpec,
        capacity: int,
        *,
        shards: int = 1,
        streams_per_shard: int = 1,
        directory: str | os.PathLike[str],
        residency: str = "ram",
        durability: str = "step",
        seed: int | None = None,
        name: str | None = None,
        wait_s: float = WAIT_S,
        policy: Policy = "wait",
        rate_limit: RateLimit | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        ray = _running_ray()
        count, streams = positive("shards", shards), positive("streams_per_shard", streams_per_shard)
        each, rest = divmod(positive("capacity", capacity), count)
        if rest:
            raise BadSetting(
                f"capacity: wanted a multiple of {counted(count, 'shard')}, got {capacity}; pass {each * count}"
            )
        folder = Path(directory).absolute()
        others = _checked_policy(policy)
        check_settings(spec, each, streams, residency, folder / "a", durability, None)
        rng = np.random.default_rng(None if seed is None else seed_number(seed))
        if name is not None and _found(ray, name, 0) is not None:
            raise BadSetting(
                f"name: wanted a new one, got {name!r}, which runs; call reverie.ray.attach({name!r})"
            )
        run = secrets.token_hex(8)
        check_limit(rate_limit)
        actors = []
        for number in range(count):
            seeded = int(rng.integers(2**32))
            facts = Facts(
                run, number, count, spec, each, streams, residency, durability, seeded, str(folder), wait_s
            )
            how = {"max_restarts": -1, "max_task_retries": 0, **(options or {}), **_names(name, number)}
            actors.append(ray.remote(Shard).options(**how).remote(facts))
        try:
            self._meet(actors, rng, wait_s, name, others)
            if rate_limit is not None:
                how = {"max_restarts": -1, "max_task_retries": 0, "num_cpus": 0, **_names(name, LIMIT)}
                note = str(folder / "rate-limit.json")
                self._use(ray.remote(Limiter).options(**how).remote(rate_limit, note))
        except BaseException:
            for actor in actors:
                ray.kill(actor)
            raise

    def _use(self, limiter: Any) -> None:
        """Let the actor that keeps a limit say when to go on."""
        wait_s = Limit(limiter, 0.0, self._wait_s).state().limit.wait_s
        self._limit = Limit(limiter, wait_s, self._wait_s)

    def _meet(
        self, actors: Sequence[Any], rng: np.random.Generator, wait_s: float, name: str | None, others: bool
    ) -> None:
        """Begin with actors, once all have opened their files."""
        # A shard may wait for its file as long as this object waits for the shard: what it says then must arrive.
        calls = [Call(actor, number, wait_s + 10, "facts") for number, actor in enumerate(actors)]
        known = [begun.answer()[0] for begun in calls]
        self._actors, self._wait_s, self.name = list(actors), wait_s, name
        self._limit = None
        self._streams_each, self._durability = known[0].streams, known[0].durability
        # Which shards were missing is noted of one draw at a time.
        self.in_flight = 1 if others else IN_FLIGHT
        self._buffers: tuple[ReplayBuffer, ...] = ()
        shards = zip(actors, known, strict=True)
        self._shards = [RemotePart(actor, facts, wait_s, others) for actor, facts in shards]
        self._begin(known[0].spec, self._shards, None, rng, far=True)

    @classmethod
    def attached(cls, name: str, seed: int | None, wait_s: float, policy: Policy) -> ShardedBuffer:
        """Return one of actors that run; see `attach`."""
        ray, others = _running_ray(), _checked_policy(policy)
        first = _found(ray, name, 0)
        if first is None:
            raise NoAnswer(
                f"name: wanted a sharded buffer that runs, got none of the name {name!r}; make it with "
                f"ShardedBuffer(…, name={name!r}), or see whether this is its cluster"
            )
        facts = Call(first, 0, wait_s, "facts").answer()[0]
        actors = [_found(ray, name, number) for number in range(facts.shards)]
        if None in actors:
            raise NoAnswer(
                f"name: wanted {counted(facts.shards, 'shard')} of {name!r}, got no shard {actors.index(None)}; it was "
                f"stopped: stop the others, too, and make the buffer again in the same directory"
            )
        self = cls.__new__(cls)
        rng = np.random.default_rng(None if seed is None else seed_number(seed))
        self._meet(actors, rng, wait_s, name, others)
        if (limiter := _found(ray, name, LIMIT)) is not None:
            self._use(limiter)
        return self

    def writer(self, stream: int, *, batch: int = 64, in_flight: int = 2, take_over: bool = False) -> Writer:
        """Return what adds steps to a stream; it may be sent to another process.

        Args:
            stream: `0 <= stream < streams`; a stream has one writer at a time.
            batch: steps that go to the shard together.
            in_flight: batches that may be on their way; the writer waits with the next.
            take_over: take the stream from a writer that has it, because its process is gone.

        Raises:
            BadSetting, SpecMismatch: an argument of the wrong kind or range.
        """
        number, own = divmod(stream_number(stream, self.streams), self._streams_each)
        return Writer(
            Target(
                self._actors[number],
                number,
                own,
                self.spec,
                positive("batch", batch),
                positive("in_flight", in_flight),
                self._wait_s,
                bool(take_over),
                self._durability,
                self._limit,
            )
        )

    def begin(self, asked: Wanted) -> Callable[[Batch | None], Batch]:
        """Begin to draw a batch, once the rate limit lets it through; see `Union.begin`."""
        if self._limit is not None:
            self._limit.draw(asked.batch_size * asked.length)
        return super().begin(asked)

    @property
    def rate(self) -> RateCount | None:
        """The rate limit and the sums under it as they are now, or None: `limit`, `inserts`, `samples`, `error`."""
        return None if self._limit is None else self._limit.state()

    def inspect(self) -> list[dict[str, Any]]:
        """Return for each shard its file, its process, its live steps and the bytes of memory they take."""
        known = all_said(part.begin_call("facts") for part in self._shards)
        sizes = all_said(part.sizes() for part in self._shards)
        return [
            {"path": str(facts.path), "process": process, "steps": steps, "nbytes": size}
            for (facts, process), (steps, size) in zip(known, sizes, strict=True)
        ]

    def flush(self) -> None:
        """Make what every shard has acknowledged survive a loss of power."""
        all_said(part.begin_call("flush") for part in self._shards)

    @property
    def missing(self) -> tuple[int, ...]:
        """The shards without which the last draw went on; none with the policy "wait"."""
        return tuple(part.number for part in self._shards if part.missed)

    def close(self) -> None:
        """Let go of the shards. Those without a name are stopped; the others run on. Twice is fine."""
        if self.name is None:
            self.stop()

    def stop(self) -> None:
        """Close all files, and end all actors, whoever uses them. Twice is fine."""
        ray = _running_ray()
        actors, self._actors = self._actors, []
        for number, actor in enumerate(actors):
            Call(actor, number, self._wait_s, "close").answer()
        for actor in actors:
            ray.kill(actor)
        if self._limit is not None and actors:
            ray.kill(self._limit.actor)

    def __repr__(self) -> str:
        named = "" if self.name is None else f" {self.name!r}"
        shards, streams = counted(len(self._shards), "shard"), counted(self.streams, "stream")
        return f"ShardedBuffer{named}({counted(self.capacity, 'step')} at most in {shards}, {streams})"


def attach(
    name: str, *, seed: int | None = None, wait_s: float = WAIT_S, policy: Policy = "wait"
) -> ShardedBuffer:
    """Return a sharded buffer that runs in this cluster, whoever made it.

    Args:
        name: what it was given.
        seed: fixes the random choices of this object; None draws one from the operating system.
        wait_s, policy: as for `ShardedBuffer`, for draws of this object.

    Raises:
        NoAnswer: there is none of this name, or a shard does not answer.
        BadSetting: Ray is not running. ModuleNotFoundError: Ray is not installed.
    """
    return ShardedBuffer.attached(name, seed, wait_s, policy)


def _checked_policy(policy: object) -> bool:
    """Return whether draws go on with the other shards."""
    if policy not in ("wait", "others"):
        raise BadSetting(
            f'policy: wanted "wait" or "others", got {shown(policy)}; choose what a draw does while a shard does not '
            f"answer"
        )
    return policy == "others"


def _running_ray() -> Any:
    need("ray")
    import ray

    if not ray.is_initialized():
        raise BadSetting(
            "ray: wanted a process that is connected to a cluster, got none; call ray.init() first"
        )
    return ray


def _names(name: str | None, number: int | str) -> dict[str, Any]:
    """Return the options of Ray with which others find an actor."""
    return (
        {} if name is None else {"name": f"{name}/{number}", "namespace": NAMESPACE, "lifetime": "detached"}
    )


def _found(ray: Any, name: str, number: int | str) -> Any:
    """Return a named actor, or None."""
    try:
        return ray.get_actor(f"{name}/{number}", namespace=NAMESPACE)
    except ValueError:
        return None
