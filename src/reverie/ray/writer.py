"""A writer: what a process that collects steps holds of one stream of a shard."""

from __future__ import annotations

import secrets
import time
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from reverie.engine import Intake
from reverie.errors import BufferClosed, FileError, NoAnswer, WrongProcess
from reverie.ray.rate import Limit
from reverie.ray.remote import AGAIN_S, Call, answer_of, fetch
from reverie.ray.shard import Piece
from reverie.spec import StepSpec
from reverie.values import Tree, tree_build

Row = dict[str, Any]  # column -> value of a step
KEPT = 32  # batches that a writer keeps at most until its shard has flushed


class Target(NamedTuple):
    """Where a writer writes, and how."""

    actor: Any
    number: int  # of the shard
    stream: int  # in the shard
    spec: StepSpec
    batch: int
    in_flight: int
    wait_s: float
    take_over: bool
    durability: str
    limit: Limit | None


class Sent(NamedTuple):
    """A batch that a killed shard may lose.

    Attributes:
        first, pieces: the id of its first step, and its steps.
        safe: whether the shard flushes its file after it.
        reference: to the answer, which was not looked at yet.
    """

    first: int
    pieces: list[Piece]
    safe: bool
    reference: Any

    @property
    def stop(self) -> int:
        """The id after its last step."""
        return self.first + sum(piece.steps for piece in self.pieces)


class Writer:
    """Adds steps to one stream of a sharded buffer; `ShardedBuffer.writer` makes it.

    It may be sent to another process by pickle before it is used. With its first step, or `claim`, the stream is its
    own. Steps go to the shard in batches, of which few are on their way at a time. A batch that may have been lost goes
    again: steps have ids, and the shard leaves out those that it has. With the durability "chunk" a killed shard may
    lose what it has answered, so the writer keeps up to 32 batches until the shard has flushed its file.

    Args:
        target: where, and how.
    """

    def __init__(self, target: Target) -> None:
        self._target, self._intake = target, Intake(target.spec)
        self._dtypes = {column.name: column.field.dtype for column in target.spec.columns()}
        self._name = ""  # none until the stream is claimed
        self._next = 0  # the id of the next step that is sent
        self._rows: list[Row] = []
        self._pieces: list[Piece] = []
        self._steps = 0  # in the batch that is being filled
        self._sent: deque[Sent] = deque()  # on their way
        self._kept: deque[Sent] = deque()  # stored, but not safe
        self._closed = False

    def __reduce__(self) -> Any:
        if self._name:
            raise WrongProcess(
                "Writer: wanted one that was not used yet, got one that has written here; make one with "
                "writer(stream) for the other process"
            )
        return Writer, (self._target,)

    def claim(self) -> int:
        """Make the stream this writer's own; return the id of its next step. The running episode is cut.

        Raises:
            BadSetting: another writer has it. NoAnswer: the shard did not answer in time.
        """
        if self._closed:
            raise BufferClosed(
                "Writer: wanted an open one, got a closed one; make a new one with writer(stream)"
            )
        if not self._name:
            name = secrets.token_hex(8)
            self._next = self._call("claim", self._target.stream, name, self._target.take_over)
            self._name = name
        return self._next

    def add(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: float,
        terminated: bool,
        truncated: bool,
        final_obs: Tree | None = None,
        **extras: object,
    ) -> None:
        """Put one step into the batch; see `ReplayBuffer.add`. It is safe once `flush` has returned.

        Raises:
            SpecMismatch: a value does not fit; nothing is kept of the step.
            BadSetting: the stream is another writer's. NoAnswer: the shard did not answer in time; call `flush` again.
            RateLimited: the buffer's rate limit held the batch up for too long; call `flush` again.
        """
        values, amount, ended, final = self._intake.step(
            obs, action, reward, terminated, truncated, final_obs, extras
        )
        self.claim()
        row: Row = {name: np.array(values[name], dtype) for name, dtype in self._dtypes.items()}
        row |= {"reward": amount, "terminated": bool(terminated), "truncated": bool(truncated)}
        self._rows.append(row)
        self._steps += 1
        if ended:
            self._end_piece({} if final is None else {name: np.array(it)[None] for name, it in final.items()})
        if self._steps >= self._target.batch:
            self._send()

    def cut(self, *, final_obs: Tree | None = None) -> None:
        """End the running episode: the recording stopped here; see `ReplayBuffer.cut`."""
        shown = None
        if final_obs is not None:
            final = {name: np.array(it) for name, it in self._intake.final(final_obs).items()}
            shown = tree_build("obs", self._target.spec.obs, final)
        self.claim()
        self._end_piece({})
        self._pieces.append(Piece(0, {}, True, shown))
        self._send()

    def flush(self) -> None:
        """Return when the shard has acknowledged every step: then no killed process loses one.

        Raises:
            NoAnswer: it did not in time; nothing is lost, and `flush` may be called again.
        """
        self._send(safe=True)
        self._settle(0)

    def close(self) -> None:
        """Flush, and give the stream back. Twice is fine."""
        if not self._closed and self._name:
            self.flush()
            self._call("release", self._target.stream, self._name)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- batches ---------------------------------------------------------------------------------------

    def _call(self, method: str, *args: Any) -> Any:
        return Call(self._target.actor, self._target.number, self._target.wait_s, method, *args).answer()

    def _end_piece(self, final: dict[str, Any]) -> None:
        """Make a piece of the rows."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        spec = self._target.spec
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        given = {name: columns[name] for name in ("reward", "terminated", "truncated")}
        given |= {
            "obs": tree_build("obs", spec.obs, columns),
            "action": tree_build("action", spec.action, columns),
        }
        given |= {name: columns[f"extras/{name}"] for name in spec.extras}
        if final:
            given["final_obs"] = tree_build("obs", spec.obs, final)
        self._pieces.append(Piece(len(rows), given))

    def _send(self, safe: bool = False) -> None:
        """Post the batch, if there is one; with `safe`, also nothing, if that makes earlier ones safe."""
        self._end_piece({})
        chunk = self._target.durability == "chunk"
        unsafe = sum(not sent.safe for sent in (*self._kept, *self._sent)) if chunk else 0
        safe = chunk and (safe or unsafe >= KEPT - 1)
        if not self._pieces and not (safe and unsafe):
            return
        self._settle(self._target.in_flight - 1)
        if self._target.limit is not None and self._steps:
            self._target.limit.insert(self._steps)
        pieces, self._pieces, self._steps = self._pieces, [], 0
        self._sent.append(self._posted(self._next, pieces, safe))
        self._next = self._sent[-1].stop

    def _posted(self, first: int, pieces: list[Piece], safe: bool) -> Sent:
        target = self._target
        sent = target.actor.append.remote(target.stream, self._name, first, pieces, safe)
        return Sent(first, pieces, safe, answer_of(sent))

    def _settle(self, most: int) -> None:
        """Wait until at most so many batches are on their way."""
        target = self._target
        deadline = time.monotonic() + target.wait_s
        while len(self._sent) > most:
            oldest = self._sent[0]
            try:
                head = fetch(oldest.reference, target.number, deadline, target.wait_s)
            except NoAnswer:
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN_S)
                head = -1
            first = self._kept[0].first if self._kept else oldest.first
            if head >= oldest.stop:
                self._arrived(self._sent.popleft())
            elif 0 <= head < first:
                raise FileError(
                    f"shard {target.number}: wanted a file whose next step is {first}, got one that goes on "
                    f"with step {head} and has lost what was acknowledged; see whether another file took its place"
                )
            else:  # all that may be lost goes again, in order
                again, self._kept = (*self._kept, *self._sent), deque()
                self._sent = deque(self._posted(sent.first, sent.pieces, sent.safe) for sent in again)

    def _arrived(self, sent: Sent) -> None:
        if sent.safe:
            self._kept.clear()
        elif self._target.durability == "chunk":
            self._kept.append(sent._replace(reference=None))
