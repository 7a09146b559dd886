"""What runs in the actor: one replay file, what learners draw from it, and what writers append to it."""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from reverie.buffer import ReplayBuffer
from reverie.buffer import open as open_file
from reverie.errors import BadSetting, FileError, SpecMismatch
from reverie.ray.lent import Tray
from reverie.ray.messages import Asked, Flat, Sent
from reverie.ray.notes import read_note, write_note
from reverie.spec import StepSpec
from reverie.union import Answer, LocalPart

LEARNERS = 16  # whose samplers a shard keeps; the one that was away longest teaches its own again
LOOK_S = 0.1  # how often a shard looks whether its file is free


class Facts(NamedTuple):
    """What a shard is made from, the same for all but the number.

    Attributes:
        run: of the whole, a name that no other run has: notes about writers are good in their run alone.
        number, shards: which shard this is, of how many.
        spec, capacity, streams, residency, durability, seed: of its buffer.
        directory: where its file lies, on the machine of the actor.
        lock_s: how long it waits for another process to let go of the file.
    """

    run: str
    number: int
    shards: int
    spec: StepSpec
    capacity: int
    streams: int
    residency: str
    durability: str
    seed: int
    directory: str
    lock_s: float

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return Path(self.directory) / f"shard-{self.number:03d}-of-{self.shards:03d}.replay"


class Piece(NamedTuple):
    """Steps of one stream that follow each other; an episode ends at most with the last one.

    Attributes:
        steps: how many. rows: what `extend` takes of them.
        cut: whether the stream is cut after them; final_obs: what a cut showed.
    """

    steps: int
    rows: dict[str, Any]
    cut: bool = False
    final_obs: Any = None


class Shard:
    """One shard. An actor's calls come one at a time.

    It opens its file at once, since who draws may wait for it. What is wrong with the file is said when it is tried
    again, with the first call: so it reaches who called.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._opened: ReplayBuffer | None = None
        self._tray = Tray()
        self._learners: OrderedDict[str, tuple[str, LocalPart]] = OrderedDict()
        self._note = facts.path.with_suffix(".writers")
        self._writers: dict[str, str] = {}
        with suppress(Exception):  # the first call tries again, and waits for whoever has the file
            self._buffer(wait_s=0.0)

    def facts(self) -> tuple[Facts, int]:
        """Return what this shard was made from, and its process, once its file is open."""
        self._buffer()
        return self._facts, os.getpid()

    # --- learners --------------------------------------------------------------------------------------

    def join(self, learner: str) -> str:
        """Know a learner from now on; return a name for what is known of it."""
        life = secrets.token_hex(8)
        self._learners[learner] = life, LocalPart(self._buffer(), owned=False, allocate=self._tray.allocate)
        while len(self._learners) > LEARNERS:
            self._learners.popitem(last=False)
        return life

    def ask(self, flat: Flat) -> Flat:
        """Do for a learner what a part of a union does.

        Args:
            flat: what is asked, from `Asked.flat`.

        Returns:
            Whether the learner is known, the answer, and, if that has a batch, None and `Sent.flat` instead. If the
            learner is not known, nothing was done: it joins again, and teaches all its samplers.
        """
        asked = Asked.from_flat(flat)
        known, part = self._learners.get(asked.learner, ("", None))
        if part is None or known != asked.life:
            return [False, None, None]
        self._learners.move_to_end(asked.learner)
        for what, key, sampler in asked.news:  # twice is fine: what failed after them comes again with them
            if what == "forget":
                part.samplers.pop(key, None)
            elif sampler is not None and what == "imitate":
                part.imitate(key, sampler)
            elif sampler is not None and key not in part.samplers:
                part.learn(key, sampler)
        self._tray.use(asked.loan)
        found = getattr(part, asked.name)(*asked.args)()
        if isinstance(found, Answer) and found.batch is not None:
            return [
                True,
                None,
                Sent(found._replace(batch=None), len(found.batch), self._tray.to_send()).flat(),
            ]
        return [True, found, None]

    def episodes_at(self, ranks: list[int] | None) -> list[Any]:
        """Return live episodes by their places in the table."""
        return list(self._buffer().read_episodes(ranks))

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._buffer().flush()

    def close(self) -> None:
        """Flush and close the file."""
        if self._opened is not None:
            self._opened.close()

    # --- writers ---------------------------------------------------------------------------------------

    def claim(self, stream: int, writer: str, take_over: bool) -> int:
        """Give a stream to a writer, cut it, and return the id of its next step.

        Raises:
            BadSetting: another writer has it, and `take_over` is false.
        """
        buffer = self._buffer()
        owner = self._writers.get(str(stream))
        if owner not in (None, writer) and not take_over:
            raise BadSetting(
                f"stream: wanted one that nobody writes to, got stream {self._named(stream)}, which another writer "
                f"has; choose another, close that writer, or pass take_over=True if its process is gone"
            )
        if owner != writer:
            buffer.cut(stream)
            self._own({**self._writers, str(stream): writer})
        return self._head(stream)

    def release(self, stream: int, writer: str) -> None:
        """Take a stream back from a writer, if it has it."""
        if self._writers.get(str(stream)) == writer:
            self._own({key: value for key, value in self._writers.items() if key != str(stream)})

    def append(self, stream: int, writer: str, first: int, pieces: list[Piece], safe: bool) -> int:
        """Store steps with the ids from `first` on, those that are there already left out.

        Args:
            stream, writer: who writes where.
            first: the id of the first step.
            pieces: the steps.
            safe: whether they, and all before them, are to be on the disk then.

        Returns:
            The id of the stream's next step: below `first`, if steps are missing in between and nothing was stored.

        Raises:
            BadSetting: the stream is not this writer's any more.
        """
        buffer = self._buffer()
        if self._writers.get(str(stream)) != writer:
            raise BadSetting(
                f"stream: wanted a writer's own stream, got stream {self._named(stream)}, which another writer took "
                f"over; make a new writer for a stream of its own"
            )
        for piece in pieces:
            head, stop = self._head(stream), first + piece.steps
            if head < first:
                return head
            if head < stop:
                there = head - first
                final = piece.rows.get("final_obs")
                rows = _without(piece.rows, there)
                buffer.extend(stream=stream, **(rows if final is None else {**rows, "final_obs": final}))
            if piece.cut and head <= stop:
                buffer.cut(stream, final_obs=piece.final_obs)
            first = stop
        if safe:
            buffer.flush()
        return self._head(stream)

    def _head(self, stream: int) -> int:
        return int(self._buffer().engine.index.head.item(stream))

    def _named(self, stream: int) -> int:
        return self._facts.number * self._facts.streams + stream

    def _own(self, writers: dict[str, str]) -> None:
        """Note who writes where: a shard that is started again must know it."""
        write_note(self._note, {"run": self._facts.run, "writers": writers})
        self._writers = writers

    # --- the file --------------------------------------------------------------------------------------

    def _buffer(self, wait_s: float | None = None) -> ReplayBuffer:
        if self._opened is None:
            self._opened = self._open(self._facts.lock_s if wait_s is None else wait_s)
            with suppress(OSError, ValueError, KeyError, TypeError):  # no note: no writer, who will say so
                noted = read_note(self._note)
                if noted["run"] == self._facts.run:
                    self._writers = dict(noted["writers"])
        return self._opened

    def _open(self, wait_s: float) -> ReplayBuffer:
        facts, deadline = self._facts, time.monotonic() + wait_s
        folder = Path(facts.directory)
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(folder.glob("shard-*-of-*.replay"))
        odd = [path.name for path in others if not path.name.endswith(f"-of-{facts.shards:03d}.replay")]
        if odd:
            raise BadSetting(
                f"directory: wanted files of {facts.shards} shards, got {odd[0]} in {folder}; pass shards= as it was "
                f"when the files were made, or another directory"
            )
        while True:
            try:
                if facts.path.exists():
                    return self._checked(open_file(facts.path, facts.residency))
                return ReplayBuffer(
                    facts.spec,
                    facts.capacity,
                    streams=facts.streams,
                    seed=facts.seed,
                    residency=facts.residency,
                    path=facts.path,
                    durability=facts.durability,
                )
            except FileError as error:
                if not isinstance(error.__cause__, BlockingIOError | PermissionError):
                    raise
                if time.monotonic() > deadline:
                    raise FileError(
                        f"{error} (shard {facts.number} waited {wait_s:g} seconds for it; is another cluster "
                        f"using the directory?)"
                    ) from error
            time.sleep(LOOK_S)

    def _checked(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the buffer of a file, if it is as this shard's must be."""
        facts, settings = self._facts, buffer.engine.settings
        if buffer.spec == facts.spec and (buffer.capacity, buffer.streams, settings.durability) == (
            facts.capacity,
            facts.streams,
            facts.durability,
        ):
            return buffer
        buffer.close()
        raise SpecMismatch(
            f"{facts.path}: wanted a capacity of {facts.capacity} in {facts.streams} streams, durability "
            f"{facts.durability!r} and {facts.spec}, got {settings.capacity} in {settings.streams}, "
            f"{settings.durability!r} and {settings.spec}; pass what the files were made with, or another directory"
        )


def _without(rows: dict[str, Any], there: int) -> dict[str, Any]:
    """Return rows without the first ones."""

    def rest(tree: Any) -> Any:
        return {key: rest(value) for key, value in tree.items()} if isinstance(tree, dict) else tree[there:]

    return {name: rest(value) for name, value in rows.items() if name != "final_obs"}
