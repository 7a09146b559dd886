"""The replay buffer: how it is made, new or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from reverie.buffer.reading import Reading
from reverie.buffer.writing import Writing
from reverie.checks import seed_number
from reverie.engine import (
    Engine,
    Intake,
    RateCount,
    RateLimit,
    check_limit,
    describe,
    limit_rate,
    quick_ways,
    restore_gate,
)
from reverie.file import ReplayFile, Settings, check_settings, generator, read_settings
from reverie.spec import StepSpec


class ReplayBuffer(Writing, Reading):
    """A ring of steps for each stream, from which exact sequences are drawn.

    Every method may be called from any thread: a reader never sees a half-written step.

    Args:
        spec: what a step looks like.
        capacity: steps kept in all. Each stream keeps its newest `capacity // streams`. With `max_bytes` it
            may be left out.
        streams: environments that write here, one stream each.
        seed: fixes every random choice; None takes one from the operating system.
        residency: where the bytes live: "ram" in plain arrays; "packed" in compressed runs of steps, many
            times smaller for frames of a game and several times slower to draw from; "disk" in the replay
            file alone, with only the index in memory. The answers are the same, bit for bit.
        path: a new replay file that everything added goes to, whatever the residency; `reverie.open` resumes it.
        durability: what survives a killed process: "step" (None means that) every step whose `add` has
            returned; "chunk" the runs of steps that are sealed, and what was flushed, at less cost a step.
            What survives a loss of power is what was there at the last `flush`, or more.
        max_bytes: bytes that may be taken, of memory ("packed", by `nbytes`) or of the file ("disk"): the
            oldest steps go when it is reached. Without `capacity` there is room for the steps that would fit
            if they became 32 times smaller.
        rate_limit: lets adding and drawing wait for each other; see `limit_rate`.

    Attributes:
        engine: memory, file and samplers, for what is built around a buffer; not part of the public interface.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a capacity that streams do not divide.
        TooLarge: the capacity does not fit into memory; nothing is allocated then. How small packed runs
            become is not known beforehand: with "packed" only what does not depend on it is counted.
        FileTaken: there is something at `path` already. FileError: the file cannot be made.
    """

    _instead = "pass its path, or that of a copy made by save_as, and reverie.open(path, mode='r') there"

    def __init__(
        self,
        spec: StepSpec,
        capacity: int | None = None,
        *,
        streams: int = 1,
        seed: int | None = None,
        residency: str = "ram",
        path: str | os.PathLike[str] | None = None,
        durability: str | None = None,
        max_bytes: int | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        settings = check_settings(spec, capacity, streams, residency, path, durability, max_bytes)
        rng = generator(seed_number(seed))
        check_limit(rate_limit)
        self._prepare(settings)
        self.engine = Engine.create(self, settings, rng, None if path is None else Path(path))
        self._quick, self._quick_lanes = quick_ways(self.engine)
        if rate_limit is not None:
            self.limit_rate(rate_limit)

    @classmethod
    def of_file(
        cls,
        file: ReplayFile,
        residency: str | None,
        seed: int | None,
        episodes: str,
        open_again: Callable[..., ReplayBuffer],
    ) -> Self:
        """Return the buffer that an open file keeps; see `reverie.open`, which checks the arguments.

        A reader travels as a call of `open_again`.
        """
        settings, rng = read_settings(file, residency, seed)
        self = cls.__new__(cls)
        self._prepare(settings)
        if file.db.mode == "r":
            self._again = open_again, (file.db.path.absolute(), residency, "r")
        self.engine = Engine.of_file(self, settings, rng, file)
        self._quick, self._quick_lanes = quick_ways(self.engine)
        self.engine.resume(episodes)
        if file.db.mode != "r":
            restore_gate(self.engine, file.db.path)
        return self

    def _prepare(self, settings: Settings) -> None:
        self.spec, self.capacity, self.streams = settings.spec, settings.capacity, settings.streams
        self.residency, self.max_bytes = settings.residency, settings.max_bytes
        self._intake, self._all_streams = Intake(self.spec), np.arange(self.streams)

    @property
    def rate(self) -> RateCount | None:
        """The rate limit and the sums under it as they are now, or None: `limit`, `inserts`, `samples`, `error`."""
        engine = self.engine
        if engine.gate is None:
            return None
        with engine.lock:
            gate = engine.gate
            return None if gate is None else gate.snapshot(engine.index)

    def limit_rate(self, limit: RateLimit | None) -> None:
        """Let adding and drawing wait for each other from now on; None lets them wait no more.

        Steps that are there count towards `min_size`, and no further. The limit and its sums are kept by the file, and
        `reverie.open` goes on with them. Readers of the file, and copies of the buffer in forks, draw without it.

        Args:
            limit: in place of the one there was; the sums begin anew.

        Raises:
            BadSetting: this is no RateLimit. FileError: the buffer is open for reading.
            BufferClosed: the buffer was closed.
        """
        check_limit(limit)
        with self.engine.lock:
            self.engine.check_writable()
            limit_rate(self.engine, limit)

    def __repr__(self) -> str:
        what = describe(self.engine.columns, self.engine.index, self.capacity, self.nbytes)
        gate = self.engine.gate
        where = "" if gate is None else f", {gate.snapshot(self.engine.index)}"
        where += f", {self.residency}" * (self.residency != "ram") + (f", {self.path}" if self.path else "")
        return f"ReplayBuffer({what}{where}{', closed' if self.engine.closed else ''})"

    def _repr_html_(self) -> str:
        return str(import_module("reverie.report").html_of_buffer(self))

    def report(self, target: str | os.PathLike[str], **options: Any) -> Path:
        """Write one HTML file about what is in the buffer, and return its path.

        Args:
            target: such as "report.html".
            **options: of `reverie.report.report`, which says more.
        """
        # The room lies above this one; it is looked up as a plug-in is, and brings packages that few need.
        room = import_module("reverie.report")
        return Path(room.report(self, target, **options))
