"""Chunks of DreamerV3's replay (Hafner et al., 2023): npz files of rows, each naming the file that follows it."""

from __future__ import annotations

import datetime
import os
import re
import secrets
import string
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError
from reverie.exchange.drafts import folder_draft
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, refuse_loss, spec_of, tell
from reverie.spec import StepSpec
from reverie.values import Tree, tree_leaves, tree_map

Array = npt.NDArray[Any]
Rows = dict[str, Array]

DIGITS = string.digits + string.ascii_letters  # of base 62
NAME = re.compile(r"(\d{8}T\d{6}F\d{6})-([0-9a-zA-Z]{22})-([0-9a-zA-Z]{22})-(\d+)\.npz")
FLAGS = ("is_first", "is_last", "is_terminal")
LOG = "log/"  # so begin keys that the agent is not shown
CHUNK = 1024  # rows of a file that is written


class Chunk(NamedTuple):
    """A file, as its name tells."""

    path: Path
    time: str
    uuid: str
    successor: str
    length: int


class Dreamer:
    """Chunks of DreamerV3's replay: `{time}-{uuid}-{successor}-{length}.npz`.

    A file has rows: `reward`, `is_first`, `is_last`, `is_terminal`, `action`, observations under names of their own,
    and `stepid` (n, 20) uint8, the chunk's uuid and the row's number. A row shows an observation, what came with it,
    and the action taken after it, so the final observation of an episode is a row of its own, as under
    boundary="cross". A stream is a chain of files. Where a file of it is missing the episode is cut, and nothing is
    spliced.

    Keys of `action` are "action" and those that begin with "action/". Keys that begin with "log/", and those named by
    `extras=`, become extra fields; all others are observations.
    """

    name, reads, writes = "dreamer", True, True

    def recognises(self, source: Any) -> bool:
        """Whether it is a folder with a file of such a name."""
        try:
            return isinstance(source, (str, os.PathLike)) and bool(_chunks(Path(source)))
        except FileError:
            return False

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a folder; see Format.

        Args:
            source: the folder.
            **options: `extras`: names of keys that are no observations.
        """
        extras = tuple(options_of(self.name, options, "extras").get("extras", ()))
        chunks = _chunks(Path(source))
        if not chunks:
            raise FileError(f"{source}: wanted a folder of DreamerV3's chunks, got none; check the path")
        return _Source(chunks, extras).incoming()

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a folder; see Format. Each stream of the buffer is a chain.

        Args:
            target: the folder, which is made.
            outgoing: what to write.
            **options: `lossy`: "final_obs" lets the last observation stand in for one that is not known.
        """
        lossy = tuple(options_of(self.name, options, "lossy").get("lossy", ()))
        with folder_draft(Path(target)) as draft:
            return _Target(draft, outgoing, lossy).write()


def _chunks(folder: Path) -> dict[str, Chunk]:
    """Return the chunks in a folder by uuid; of several files of one chunk the longest."""
    try:
        found = [(path, NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise FileError(f"{folder}: wanted a folder, got none ({error.strerror}); check the path") from error
    chunks: dict[str, Chunk] = {}
    for path, match in found:
        if match is not None:
            chunk = Chunk(path, match[1], match[2], match[3], int(match[4]))
            if chunk.uuid not in chunks or chunks[chunk.uuid].length < chunk.length:
                chunks[chunk.uuid] = chunk
    return chunks


# --- reading -------------------------------------------------------------------------------------------------


class _Source:
    """A folder that is open for reading.

    Args:
        chunks: by uuid.
        extras: keys that are no observations.
    """

    def __init__(self, chunks: Mapping[str, Chunk], extras: tuple[str, ...]) -> None:
        self._chunks, self._lost = chunks, Counter[str]()
        first = next(iter(chunks.values()))
        rows = _load(first.path)
        keys = rows.keys() - {*FLAGS, "reward", "stepid"}
        if "id" in keys and rows["id"].shape[1:] == (16,):  # what `stepid` was in version 1.5
            keys -= {"id"}
        for name in extras:
            if name not in keys:
                raise BadSetting(
                    f"extras: wanted some of the keys {sorted(keys)}, got {name!r}; choose others"
                )
        self._action = sorted(key for key in keys if key.split("/")[0] == "action")
        more = {key.removeprefix(LOG): key for key in sorted(keys) if key.startswith(LOG) or key in extras}
        self._extras = {more[name]: ours for name, ours in our_names(more).items()}
        self._obs = our_names(sorted(keys - {*self._action, *self._extras}))
        if not self._action or not self._obs:
            raise FileError(f"{first.path}: wanted an action and an observation, got the keys {sorted(keys)}")
        # Every file is looked at, for rewards that float32 does not hold.
        self._wide = not all(are_exact(_load(chunk.path, "reward")["reward"]) for chunk in chunks.values())

    def incoming(self) -> Incoming:
        """Return what there is."""
        rows = {key: rows[:1] for key, rows in _load(next(iter(self._chunks.values())).path).items()}
        spec = spec_of(self._tree(self._obs, rows), self._actions(rows), self._extra(rows))
        names = {f"extras/{ours}": key for key, ours in self._extras.items() if key != LOG + ours}
        if len(self._obs) == 1:
            names["obs"] = next(iter(self._obs))
        else:
            names |= {f"obs/{ours}": key for key, ours in self._obs.items() if key != ours}
        incoming = Incoming(spec, iter(()), None, names)
        incoming.total_steps = sum(chunk.length for chunk in self._chunks.values())
        incoming.episodes = self._episodes(incoming.lost)
        return incoming

    def _episodes(self, lost: list[str]) -> Iterator[Episode]:
        for chain in self._chains():
            rows: Rows = {}
            for chunk in chain:
                rows = _joined(rows, self._read(chunk))
                begins = np.flatnonzero(rows["is_first"])
                bounds = [0, *begins[begins > 0].tolist()]
                for first, stop in pairwise(bounds):
                    yield from self._episode({key: part[first:stop] for key, part in rows.items()})
                rows = {key: part[bounds[-1] :] for key, part in rows.items()}
            yield from self._episode(rows)
        lost += tell(self._lost)

    def _chains(self) -> list[list[Chunk]]:
        """Return the streams: chains of files, each as long as no file is missing."""
        followed = {chunk.successor for chunk in self._chunks.values()}
        heads = [chunk for uuid, chunk in self._chunks.items() if uuid not in followed]
        chains, seen = [], set[str]()
        for head in sorted(heads, key=lambda chunk: (chunk.time, chunk.uuid)):
            chain: list[Chunk] = []
            at: Chunk | None = head
            while at is not None and at.uuid not in seen:
                seen.add(at.uuid)
                chain.append(at)
                at = self._chunks.get(at.successor)
            chains.append(chain)
        if len(seen) < len(self._chunks):
            one = next(chunk for uuid, chunk in self._chunks.items() if uuid not in seen)
            raise FileError(
                f"{one.path}: wanted a chain of chunks, got one that follows itself; it is damaged"
            )
        return chains

    def _read(self, chunk: Chunk) -> Rows:
        rows = _load(chunk.path)
        wanted = {*FLAGS, "reward", *self._action, *self._extras, *self._obs}
        if not wanted <= rows.keys() or any(len(rows[key]) < chunk.length for key in wanted):
            raise FileError(
                f"{chunk.path}: wanted {chunk.length} rows of {sorted(wanted)}, got others; it is damaged"
            )
        return {
            key: rows[key][: chunk.length] for key in wanted
        }  # version 1.5 writes room for more, with no meaning

    def _episode(self, rows: Rows) -> Iterator[Episode]:
        """Yield the episode of these rows, if it has a step."""
        ended, steps = rows["is_last"].astype(np.bool_), len(rows["reward"]) - 1
        if not rows["is_first"][0]:
            self._lost["episodes begin in the middle: what was before is missing"] += 1
        if ended[:-1].any():
            self._lost["rows follow the end of an episode and do not begin another: left out"] += 1
            steps = int(ended.argmax())
        if steps < 1:
            self._lost["episodes have one row, and so no step: left out"] += 1
            return
        if rows["reward"][0] and rows["is_first"][0]:
            self._lost["rewards came with the first observation of an episode: no step has them"] += 1
        reward, is_last = rows["reward"][1 : steps + 1], bool(ended[steps])
        terminal = bool(rows["is_terminal"][steps])
        if not is_last and any(rows[key][steps].any() for key in self._action):
            self._lost["episodes stop without an end: what its last action led to is missing"] += 1
        here = {key: part[:steps] for key, part in rows.items()}
        last = {key: part[steps : steps + 1] for key, part in rows.items()}
        yield Episode(
            obs=self._tree(self._obs, here),
            action=self._actions(here),
            reward=reward.astype(np.float32),
            terminated=is_last and terminal,
            truncated=is_last and not terminal,
            final_obs=tree_map(lambda leaf: leaf[0], self._tree(self._obs, last)),
            extras=self._extra({**here, "reward": reward}),
        )

    def _tree(self, names: Mapping[str, str], rows: Rows) -> Tree:
        """Return the only observation, or a dict of all."""
        if len(names) == 1:
            return rows[next(iter(names))]
        return {ours: rows[key] for key, ours in names.items()}

    def _actions(self, rows: Rows) -> Tree:
        if self._action == ["action"]:
            return rows["action"]
        return {key.partition("/")[2] or key: rows[key] for key in self._action}

    def _extra(self, rows: Rows) -> Rows:
        return {ours: rows[key] for key, ours in self._extras.items()} | (
            {REWARD_EXTRA: rows["reward"].astype(np.float64)} if self._wide else {}
        )


def _joined(before: Rows, rows: Rows) -> Rows:
    return {key: np.concatenate([before[key], part]) for key, part in rows.items()} if before else rows


def _load(path: Path, *names: str) -> Rows:
    """Return the arrays of a file, or some of them."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            rows = {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: wanted a chunk of arrays, got none ({error}); it is damaged") from error
    if not names and not {*FLAGS, "reward"} <= rows.keys():
        raise FileError(f"{path}: wanted {[*FLAGS, 'reward']}, got {sorted(rows)}; it is another format's")
    return rows


# --- writing -------------------------------------------------------------------------------------------------


class _Target:
    """Writes the files of a folder.

    Args:
        folder: where; outgoing: what to write; lossy: what may be lost.
    """

    def __init__(self, folder: Path, outgoing: Outgoing, lossy: tuple[str, ...]) -> None:
        self._folder, self._out, self._lossy = folder, outgoing, lossy
        self._lost = Counter[str]()
        self._keys = _keys_of(outgoing.spec, outgoing.names)
        self._waiting: dict[
            int, tuple[bytes, Rows]
        ] = {}  # stream -> uuid and rows of its chunk that is not full
        self._number = 0  # of the next chunk: their times differ

    def write(self) -> list[str]:
        """Write all files; return what could not be held."""
        for episode in self._out.episodes:
            uuid, rows = self._waiting.pop(episode.stream, (secrets.token_bytes(16), {}))
            rows = _joined(rows, self._rows(episode))
            while len(rows["reward"]) > CHUNK:
                successor = secrets.token_bytes(16)
                self._put(uuid, successor, {key: part[:CHUNK] for key, part in rows.items()})
                uuid, rows = successor, {key: part[CHUNK:] for key, part in rows.items()}
            self._waiting[episode.stream] = uuid, rows
        for uuid, rows in self._waiting.values():
            self._put(uuid, secrets.token_bytes(16), rows)
        return tell(self._lost)

    def _put(self, uuid: bytes, successor: bytes, rows: Rows) -> None:
        length = len(rows["reward"])
        time = datetime.datetime(2000, 1, 1) + datetime.timedelta(seconds=self._number)  # none is told
        self._number += 1
        ids = np.zeros((length, 20), np.uint8)
        ids[:, :16] = np.frombuffer(uuid, np.uint8)
        ids[:, 16:] = np.arange(length, dtype=">u4")[:, None].view(np.uint8)
        name = f"{time:%Y%m%dT%H%M%SF%f}-{_base62(uuid)}-{_base62(successor)}-{length}.npz"
        with (self._folder / name).open("wb") as file:
            np.savez_compressed(file, **rows, stepid=ids)  # type: ignore[arg-type]  # no key is an option's

    def _rows(self, episode: Episode) -> Rows:
        """Return the rows of an episode, the closing one included."""
        final, steps = episode.final_obs, len(episode)
        if final is None:
            refuse_loss(self._lossy, "final_obs", "an episode whose final observation is not known")
            self._lost["final observations are not known, and the last one stands in for them"] += 1
            final = tree_map(lambda leaf: leaf[-1], episode.obs)
        self._note(episode)
        extras = dict(episode.extras)
        reward = extras.pop(REWARD_EXTRA, episode.reward)
        closing = dict(tree_leaves("obs", final))
        rows = {self._keys[name]: np.concatenate([leaf, np.asarray(closing[name])[None]])
                for name, leaf in tree_leaves("obs", episode.obs)}  # fmt: skip
        for name, leaf in [
            *tree_leaves("action", episode.action),
            *((f"extras/{n}", e) for n, e in extras.items()),
        ]:
            rows[self._keys[name]] = np.concatenate([leaf, np.zeros_like(leaf[:1])])
        rows["reward"] = np.concatenate([np.zeros_like(reward[:1]), reward])
        is_last = episode.terminated or episode.truncated
        for name, place, flag in (
            ("is_first", 0, True), ("is_last", steps, is_last), ("is_terminal", steps, episode.terminated)
        ):  # fmt: skip
            rows[name] = np.zeros(steps + 1, np.bool_)
            rows[name][place] = flag
        return rows

    def _note(self, episode: Episode) -> None:
        """Count what the format does not hold of an episode."""
        self._lost["episodes were truncated as they terminated: that is not told"] += (
            episode.terminated and episode.truncated
        )
        self._lost["episodes have metadata: it has no place"] += bool(episode.metadata)
        self._lost["episodes have lost their first steps in the buffer"] += not episode.is_whole
        self._lost["episodes run, and will come back as cut"] += episode.running
        self._lost = +self._lost  # without what never happened


def _keys_of(spec: StepSpec, names: Mapping[str, str]) -> dict[str, str]:
    """Return the key of each column.

    Raises:
        BadSetting: two columns would have one key.
    """
    keys: dict[str, str] = {}
    for name, field in spec.columns():
        part, _, inner = name.partition("/")
        if name == "obs":
            keys[name] = names.get(
                "obs", "image" if field.dtype == np.uint8 and len(field.shape) == 3 else "vector"
            )
        elif part == "extras":
            keys[name] = names.get(name, LOG + inner)
        else:
            keys[name] = names.get(name, inner if part == "obs" else name)
    taken = {*FLAGS, "reward", "stepid"}
    for name, key in keys.items():
        clashes = key in taken or (
            name.startswith("obs/") and (key.split("/")[0] == "action" or key.startswith(LOG))
        )
        if clashes:
            raise BadSetting(
                f"dreamer: wanted columns whose keys differ and are none of DreamerV3's own, got {name!r}, which would "
                f"be {key!r}; name it otherwise"
            )
        taken.add(key)
    return keys


def _base62(uuid: bytes) -> str:
    """Return 16 bytes as 22 digits of base 62."""
    number, digits = int.from_bytes(uuid, "big"), ""
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return digits
