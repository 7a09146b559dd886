"""The rate limit of a sharded buffer: one actor keeps the sums, and writers and learners ask it before they go on."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from reverie.engine import RateCount, RateLimit
from reverie.errors import RateLimited, counted
from reverie.ray.notes import read_note, write_note
from reverie.ray.remote import Call

LOOK_S = 0.02  # how often who waits asks again
TICKETS = 1000  # calls that are known if they come twice
Who = tuple[str, int, int]  # a thread: its machine, its process, and its number there


class Permit(NamedTuple):
    """What the limiter answers.

    Attributes:
        missing: steps that the other side is short of; 0: go on.
        alone: whether the one who asks is the only one who ever did what is missing.
        told: the limit and its sums in words.
    """

    missing: int
    alone: bool
    told: str


class Limiter:
    """Keeps the sums of one limit, in memory and in a file that it finds again when it is started again.

    Args:
        limit: the setting; sums of another one are left alone.
        note: the path of the file.
    """

    def __init__(self, limit: RateLimit, note: str) -> None:
        self._note = Path(note)
        self._count = RateCount(limit)
        self._doers: dict[str, set[Who]] = {"insert": set(), "draw": set()}
        self._tickets: OrderedDict[str, None] = OrderedDict()
        with suppress(OSError, ValueError, KeyError, TypeError):  # none yet
            noted = RateCount.from_state(read_note(self._note))
            if noted.limit == limit:
                self._count = noted

    def insert(self, steps: int, ticket: str, who: Who) -> Permit:
        """Let so many steps be added, if the limit does; a ticket counts once."""
        return self._pass("insert", "draw", steps, ticket, who)

    def draw(self, steps: int, ticket: str, who: Who) -> Permit:
        """Let so many steps be drawn, if the limit does; a ticket counts once."""
        return self._pass("draw", "insert", steps, ticket, who)

    def state(self) -> dict[str, Any]:
        """Return the sums, as `RateCount.from_state` takes them."""
        return self._count.state()

    def _pass(self, side: str, other: str, steps: int, ticket: str, who: Who) -> Permit:
        count = self._count
        if ticket in self._tickets:
            return Permit(0, False, "")
        missing = count.missing_samples(steps) if side == "insert" else count.missing_inserts(steps)
        if missing:
            return Permit(missing, self._doers[other] == {who}, self._told())
        if side == "insert":
            count.inserted(steps)
        else:
            count.sampled(steps)
        if side == "draw" or count.inserts > count.limit.min_size:  # prefilling is no adding that goes on
            self._doers[side].add(who)
        self._tickets[ticket] = None
        if len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)
        write_note(self._note, count.state())
        return Permit(0, False, "")

    def _told(self) -> str:
        count = self._count
        return f"{count.inserts:,} were added and {count.samples:,} drawn; {count}"


class Limit:
    """The limiter as a writer or a learner sees it; it travels with them.

    Args:
        actor: the limiter. wait_s: how long to wait for the other side. answer_s: for the actor.
    """

    def __init__(self, actor: Any, wait_s: float, answer_s: float) -> None:
        self.actor, self._wait_s, self._answer_s = actor, wait_s, answer_s

    def insert(self, steps: int) -> None:
        """Return when so many steps may be added.

        Raises:
            RateLimited: nobody else draws, or it took too long. BadSetting: so many are never let through.
        """
        self._pass("insert", steps, "add", "drawn", "draws")

    def draw(self, steps: int) -> None:
        """Return when so many steps may be drawn; errors are those of `insert`."""
        self._pass("draw", steps, "draw", "added", "adds")

    def state(self) -> RateCount:
        """Return the sums as they are now."""
        return RateCount.from_state(self._call("state"))

    def _call(self, method: str, *args: Any) -> Any:
        return Call(self.actor, "the rate limit", self._answer_s, method, *args).answer()

    def _pass(self, side: str, steps: int, does: str, awaited: str, others: str) -> None:
        ticket, who = secrets.token_hex(8), (socket.gethostname(), os.getpid(), threading.get_ident())
        deadline = time.monotonic() + self._wait_s
        while True:
            permit: Permit = self._call(side, steps, ticket, who)
            if not permit.missing:
                return
            wanted = f"wanted to {does} {counted(steps, 'step')}"
            if permit.alone:
                raise RateLimited(
                    f"{wanted}, waited for {permit.missing:,} more to be {awaited}, got no other thread that {others}: "
                    f"{permit.told}; add and draw in different threads or processes, or with a larger tolerance"
                )
            if time.monotonic() > deadline:
                raise RateLimited(
                    f"{wanted}, waited {self._wait_s:g} s for {permit.missing:,} more to be {awaited}, got none: "
                    f"{permit.told}; see whether the process that {others} still runs, or pass a larger wait_s"
                )
            time.sleep(LOOK_S)
