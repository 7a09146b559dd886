"""What is put into a buffer: steps one by one, for several streams at once, and cuts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import distinct_streams, natural, stream_number
from reverie.engine import Face, Intake, adding, annotate, discard
from reverie.errors import BadSetting
from reverie.spec import StepSpec
from reverie.values import Tree, shown


class Writing(Face):
    """The part of a buffer that takes steps. Each method checks, and has the engine do it under its lock."""

    spec: StepSpec
    streams: int
    _intake: Intake
    _quick: Callable[..., bool]  # store at once what fits at first sight, and say whether it did
    _quick_lanes: Callable[..., bool]
    _all_streams: npt.NDArray[np.int64]

    def add(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: float,
        terminated: bool,
        truncated: bool,
        stream: int = 0,
        final_obs: Tree | None = None,
        **extras: object,
    ) -> None:
        """Store one step of one stream. On an error nothing is stored.

        Args:
            obs: what was seen before acting; the spec's shape and dtype, or a dict of such.
            action: what was done.
            reward: a finite number that came after it.
            terminated, truncated: whether the episode ended with this step, and how.
            stream: which environment this is, `0 <= stream < streams`.
            final_obs: what the environment showed after the last step of an episode; only with an end.
            **extras: one value for each extra field of the spec.

        Raises:
            SpecMismatch: a value does not fit its field, or a field is missing or unknown.
            BufferClosed: the buffer was closed. RateLimited: its rate limit held the step up for too long.
        """
        if (
            final_obs is None
            and not extras
            and self.engine.gate is None
            and self._quick(obs, action, reward, terminated, truncated, stream)
        ):
            return
        step = self._intake.step(obs, action, reward, terminated, truncated, final_obs, extras)
        engine = self.engine
        with self._turn(1):
            engine.changes.add(stream_number(stream, self.streams), step)

    def add_batch(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None = None,
        streams: npt.ArrayLike | None = None,
        **extras: object,
    ) -> None:
        """Store one step for each of several streams. On an error nothing is stored.

        Args:
            obs, action, **extras: as in `add`, each with a leading axis of one row per lane.
            reward: (lanes,) finite numbers; terminated, truncated: (lanes,) bool.
            final_obs: like `obs`; only the rows of lanes that end are read. None when none is known.
            streams: (lanes,) the stream of each lane, all different; None means all streams in order.

        Raises:
            SpecMismatch: a value does not fit its field, or a field is missing or unknown.
            BufferClosed: the buffer was closed. RateLimited: its rate limit held the steps up for too long.
        """
        if (
            streams is None
            and not extras
            and self.engine.gate is None
            and self._quick_lanes(obs, action, reward, terminated, truncated, final_obs)
        ):
            return
        which = self._all_streams if streams is None else distinct_streams(streams, self.streams)
        lanes = self._intake.lanes(len(which), obs, action, reward, terminated, truncated, final_obs, extras)
        engine = self.engine
        with self._turn(len(which)):
            engine.changes.add_lanes(which, lanes)

    def extend(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None = None,
        stream: int = 0,
        streams: npt.ArrayLike | None = None,
        **extras: npt.ArrayLike,
    ) -> None:
        """Store T steps of one stream, ends inside included: as T calls of `add`, which are checked beforehand.

        It happens as a whole or not at all, in memory and in the file alike. If a value does not fit or the disk is
        full, nothing is stored; Ctrl-C or a killed process leaves all T steps or none. With `max_bytes` alone the steps
        go in one by one: there the first ones may stay. With a file it holds one more copy of its arguments until it
        returns.

        Args:
            obs, action, **extras: as in `add`, each with a leading axis of T steps.
            reward: (T,) finite numbers; terminated, truncated: (T,) bool.
            final_obs: like `obs`: (T, …), of which only the rows of steps that end are read, or (E, …), one row
                for each of E ends. None when none is known.
            stream: which environment this is, `0 <= stream < streams`.
            streams: (lanes,) several instead, all different: every array is (T, lanes, …) then, and final_obs, too.

        Raises:
            SpecMismatch: a value does not fit its field, or a field is missing or unknown.
            BufferClosed: the buffer was closed. FileError: the file cannot be written.
            RateLimited: its rate limit held the steps up for too long. BadSetting: so many never get through it.
        """
        engine = self.engine
        if streams is None:
            which = stream_number(stream, self.streams)
            steps = self._intake.steps(obs, action, reward, terminated, truncated, final_obs, extras)
            with self._turn(len(steps.rows)):
                engine.extender.extend(which, steps)
            return
        several = distinct_streams(streams, self.streams)
        rows = self._intake.rows(len(several), obs, action, reward, terminated, truncated, final_obs, extras)
        with self._turn(len(several) * len(rows)):
            engine.extender.extend_lanes(several, rows)

    def _turn(self, steps: int) -> AbstractContextManager[Any]:
        """Return the lock of the buffer, or what waits for its rate limit first, for so many steps."""
        engine = self.engine
        return engine.lock if engine.gate is None else adding(engine, steps)

    def annotate(self, *, stream: int = 0, episode: int | None = None, **values: Any) -> None:
        """Set metadata of an episode: its seed, a task, where it came from. It is kept, and goes, with the episode.

        What was set before under other names stays.

        Args:
            stream: whose running episode it is, if `episode` is None.
            episode: the id of a live episode, one of `buffer.episodes.ids`.
            **values: JSON: strings, finite numbers, booleans, None, lists and dicts of such; 65,536 characters of it
                in all for an episode.

        Raises:
            BadSetting: no such episode, or a value that JSON has not.
            BufferClosed: the buffer was closed. FileError: the file cannot be written; nothing has changed.
        """
        number = None if episode is None else natural("episode", episode)
        which = stream_number(stream, self.streams)
        with self.engine.lock:
            self.engine.check_writable()
            annotate(self.engine.index, self.engine.changes, which, number, values)

    def discard(self, episodes: npt.ArrayLike) -> None:
        """Take ended episodes out for good: nothing is drawn from them any more, and `episodes` lists them no more.

        Under "cross" a window that would run on into one is no window any more: what was recorded before it and what
        came after it are never joined. The steps keep their place in the ring until new ones take it.

        Args:
            episodes: an id of `buffer.episodes.ids`, or several, such as
                `buffer.episodes.ids[buffer.episodes["return"] < 0]`.

        Raises:
            BadSetting: one of them is not live, or runs. Then none is discarded.
            BufferClosed: the buffer was closed. FileError: the file cannot be written; nothing has changed.
        """
        numbers = _episode_ids(episodes)
        with self.engine.lock:
            self.engine.check_writable()
            discard(self.engine.index, self.engine.changes, numbers)

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`: the recording stopped here and goes on elsewhere.

        Nothing before the cut is ever joined to what comes after. Without a running episode this does
        nothing. `final_obs` is what the environment showed last, if that is known.

        Raises:
            SpecMismatch: `stream` or `final_obs` does not fit.
            BufferClosed: the buffer was closed.
        """
        final = None if final_obs is None else self._intake.final(final_obs)
        with self.engine.lock:
            self.engine.check_writable()
            self.engine.changes.cut(stream_number(stream, self.streams), final)


def _episode_ids(episodes: npt.ArrayLike) -> list[int]:
    """Return ids of episodes, each once."""
    given = np.atleast_1d(np.asarray(episodes))
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise BadSetting(
            f"discard: wanted an id of buffer.episodes.ids, or several, got {shown(episodes)}; "
            f"a mask chooses them: buffer.episodes.ids[mask]"
        )
    return list(dict.fromkeys(given.tolist()))
