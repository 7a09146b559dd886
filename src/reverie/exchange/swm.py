"""HDF5 files of stable-worldmodel: a data set for each column, one row a step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, FileTaken, need
from reverie.exchange.drafts import vacant_draft
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.hdf5_files import datasets_of, has_datasets, open_hdf5
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, spec_of, tell
from reverie.spec import StepSpec
from reverie.values import tree_leaves

Array = npt.NDArray[Any]
LENGTH, OFFSET = "ep_len", "ep_offset"
OBS = ("pixels", "observation", "obs", "state", "proprio")  # columns that are observations, if none are named
FLAGS = {"terminated": ("terminated", "done", "terminal"), "truncated": ("truncated", "timeout")}
PIECE = 4096  # steps of a long episode that are in memory at once


class StableWorldModel:
    """Files of stable-worldmodel: a data set (N, …) for each column, and `ep_len` and `ep_offset`, (E,), of episodes.

    Columns are `action`, `reward` (zeros where there is none), `terminated` and `truncated` if they are there, and
    observations: those that `obs=` names, or else `pixels`, `observation`, `obs`, `state`, `proprio` and what begins
    with one of them and a "." or "/". All others are extra fields. There is no final observation. An episode without a
    flag is cut.
    """

    name, reads, writes = "swm", True, True

    def recognises(self, source: Any) -> bool:
        """Whether it is an HDF5 file with these arrays."""
        return has_datasets(source, LENGTH, OFFSET, "action")

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a file; see Format.

        Args:
            source: its path.
            **options: `obs`: the columns that are observations.
        """
        wanted = options_of(self.name, options, "obs").get("obs")
        file = open_hdf5(source)
        try:
            return _Columns(file, source, wanted).incoming()
        except BaseException:
            file.close()
            raise

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a file; see Format."""
        options_of(self.name, options)
        path = Path(target)
        draft = vacant_draft(path)
        try:
            lost = _write(draft, outgoing)
            os.link(draft, path)
        except FileExistsError as error:
            raise FileTaken(
                f"{path}: wanted a path that is free, got one taken meanwhile; choose another"
            ) from error
        except OSError as error:
            raise FileError(f"{path}: wanted to write a file, got {error}; choose another place") from error
        finally:
            draft.unlink(missing_ok=True)
        return lost


class _Columns:
    """An open file."""

    def __init__(self, file: Any, source: Any, wanted: Any) -> None:
        self._file, self._source, self._lost = file, source, list[str]()
        found = dict(datasets_of(file))
        try:
            self._lengths = found.pop(LENGTH)[()].astype(np.int64)
            self._offsets = found.pop(OFFSET)[()].astype(np.int64)
            self._action = found.pop("action")
        except (KeyError, OSError, ValueError) as error:
            raise FileError(f"{source}: wanted columns of stable-worldmodel, got others ({error})") from error
        rows = len(self._action)
        ends = self._offsets + self._lengths
        if self._lengths.shape != self._offsets.shape or (self._lengths < 0).any() or (self._offsets < 0).any() \
                or (ends > rows).any():  # fmt: skip
            raise FileError(f"{source}: wanted episodes among its {rows} rows, got others; it is damaged")
        self._reward = found.pop("reward", None)
        if self._reward is None:
            self._lost.append("reward: there is none, and zeros stand in its place")
        self._flags = {flag: next((found.pop(name) for name in names if name in found), None)
                       for flag, names in FLAGS.items()}  # fmt: skip
        for name in [
            name for name, one in found.items() if one.shape[:1] != (rows,) or one.dtype.kind not in "biuf"
        ]:
            del found[name]
            self._lost.append(f"{name}: no number for each step")
        named = {name.removeprefix("obs/"): name for name in self._observed(found, wanted)}
        self._obs = {named[name]: ours for name, ours in our_names(named).items()}
        self._extras = our_names([name for name in found if name not in self._obs])
        self._found = found
        self._wide = self._reward is not None and not are_exact(self._reward[()])

    def _observed(self, found: Mapping[str, Any], wanted: Any) -> list[str]:
        if wanted is not None:
            names = [wanted] if isinstance(wanted, str) else list(wanted)
            if not names or not set(names) <= found.keys():
                raise BadSetting(
                    f"obs: wanted some of the columns {sorted(found)}, got {names}; choose others"
                )
            return names
        heads = (*OBS, *(f"{name}{mark}" for name in OBS for mark in "./"))
        names = [name for name in found if name in OBS or name.startswith(heads[len(OBS) :])]
        if not names:
            raise BadSetting(f"obs: wanted to know which of {sorted(found)} are observations; pass obs=(…)")
        return names

    def incoming(self) -> Incoming:
        """Return what there is."""
        none = self._piece(slice(0, 0), False)
        spec = spec_of(none.obs, none.action, none.extras)
        names = {f"extras/{ours}": name for name, ours in self._extras.items() if name != ours}
        if len(self._obs) == 1:
            names["obs"] = next(iter(self._obs))
        else:
            names |= {f"obs/{ours}": name for name, ours in self._obs.items()}
        steps = int(self._lengths.sum())
        return Incoming(spec, self._episodes(), steps, names, {}, self._lost, self._file.close)

    def _episodes(self) -> Iterator[Episode]:
        for first, length in zip(self._offsets.tolist(), self._lengths.tolist(), strict=True):
            for at in range(first, first + length, PIECE):
                stop = min(at + PIECE, first + length)
                yield self._piece(slice(at, stop), running=stop < first + length)

    def _piece(self, rows: slice, running: bool) -> Episode:
        try:
            reward = (
                np.zeros(rows.stop - rows.start) if self._reward is None else self._reward[rows].reshape(-1)
            )
            obs = {ours: self._found[name][rows] for name, ours in self._obs.items()}
            extras = {ours: self._found[name][rows] for name, ours in self._extras.items()}
            told = {flag: None if column is None else column[rows] for flag, column in self._flags.items()}
            action = self._action[rows]
        except OSError as error:
            raise FileError(f"{self._source}: wanted steps {rows}, got them damaged ({error})") from error
        flags: dict[str, Any] = {}
        for flag, column in told.items():
            marks = np.zeros(0, np.bool_) if column is None else column.reshape(-1).astype(np.bool_)
            if marks[:-1].any() or (running and marks[-1:].any()):
                raise FileError(
                    f"{self._source}: wanted {flag} at the last step of an episode only, got it before; it is damaged"
                )
            flags[flag] = bool(marks[-1:].any())
        return Episode(
            obs=next(iter(obs.values())) if len(obs) == 1 else obs,
            action=action,
            reward=reward.astype(np.float32),
            running=running,
            extras=extras | ({REWARD_EXTRA: reward.astype(np.float64)} if self._wide else {}),
            **flags,
        )


def _write(draft: Path, outgoing: Outgoing) -> list[str]:
    """Write all columns, an episode at a time; return what has no place."""
    need("h5py")
    import h5py

    lost: Counter[str] = Counter()
    lengths: list[int] = []
    with h5py.File(draft, "w") as file:
        columns = _datasets(file, outgoing.spec, outgoing.names)
        for episode in outgoing.episodes:
            first, steps = sum(lengths), len(episode)
            for name, rows in _rows(episode).items():
                columns[name].resize(first + steps, axis=0)
                columns[name][first:] = rows
            lengths.append(steps)
            lost["final observations have no place"] += episode.final_obs is not None
            lost["episodes have metadata: it has no place"] += bool(episode.metadata)
            lost["episodes have lost their first steps in the buffer"] += not episode.is_whole
            lost["episodes run, and will come back as cut"] += episode.running
        file.create_dataset(LENGTH, data=np.array(lengths, np.int64))
        file.create_dataset(OFFSET, data=np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)])
    return tell(lost)


def _rows(episode: Episode) -> dict[str, Array]:
    """Return the rows of an episode by column, in the names of a spec."""
    extras = dict(episode.extras)
    rows: dict[str, Any] = dict([*tree_leaves("obs", episode.obs), *tree_leaves("action", episode.action)])
    rows["reward"] = extras.pop(REWARD_EXTRA, episode.reward)
    for flag in FLAGS:
        rows[flag] = np.zeros(len(episode), np.bool_)
        rows[flag][-1:] = getattr(episode, flag)
    return rows | {f"extras/{name}": part for name, part in extras.items()}


def _datasets(file: Any, spec: StepSpec, names: Mapping[str, str]) -> dict[str, Any]:
    """Make an empty data set for each column.

    Raises:
        BadSetting: actions that are no single array, or two columns of one name.
    """
    taken = {LENGTH, OFFSET}
    columns = {}
    exact = REWARD_EXTRA in spec.extras
    wanted = [(name, field.shape, field.dtype) for name, field in spec.columns()]
    wanted = [one for one in wanted if one[0] != f"extras/{REWARD_EXTRA}"]
    wanted.append(("reward", (), np.dtype(np.float64 if exact else np.float32)))
    wanted += [(flag, (), np.dtype(np.bool_)) for flag in FLAGS]
    for name, shape, dtype in wanted:
        part, _, inner = name.partition("/")
        if part == "action" and inner:
            raise BadSetting("swm: wanted actions that are one array, got several; choose another format")
        plain = "pixels" if dtype == np.uint8 and len(shape) == 3 else "observation"
        key = names.get(name, plain if name == "obs" else f"obs/{inner}" if part == "obs" else inner or name)
        if key in taken:
            raise BadSetting(
                f"swm: wanted columns of different names, got {key!r} twice; name {name!r} otherwise"
            )
        taken.add(key)
        columns[name] = file.create_dataset(key, (0, *shape), dtype, maxshape=(None, *shape), chunks=True)
    return columns
