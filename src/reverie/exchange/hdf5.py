"""HDF5 files of offline data: d4rl, robomimic, and stable-worldmodel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.hdf5_files import datasets_of, has_datasets, is_json, open_hdf5, plain_value
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, refuse_loss, spec_of, tell
from reverie.values import tree_leaves

Array = npt.NDArray[Any]
PIECE = 4096  # steps of a long episode that are in memory at once
MOST_NOTE = 10_000  # characters of an attribute that goes into metadata


class _ReadOnly:
    """The part of a format that refuses to write."""

    name: str
    reads, writes = True, False

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Refuse: it is read only."""
        raise BadSetting(f"{self.name}: wanted a format that is written, got this one; npz and minari are")


class D4rl(_ReadOnly):
    """Data sets of D4RL (Fu et al., 2020): one HDF5 file of flat arrays.

    `observations` (N, …), `actions`, `rewards`, `terminals`, `timeouts`, maybe `next_observations`; whatever else has N
    rows is an extra field, and `metadata/…` belongs to the data set. An episode ends where `terminals` or `timeouts` is
    set. Its final observation is known where there are `next_observations`; then it is cut, too, where the next row
    shows another observation than was told. Without these and without `timeouts`, nothing says where a truncated
    episode ends: this is refused unless `max_episode_steps=` tells it, or `lossy=("timeouts",)` lets episodes run
    together.
    """

    name = "d4rl"

    def recognises(self, source: Any) -> bool:
        """Whether it is an HDF5 file with these arrays."""
        return has_datasets(source, "observations", "actions", "rewards", "terminals")

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a file; see Format.

        Args:
            source: its path.
            **options: `max_episode_steps`: an episode of so many steps was truncated there; `lossy`: see above.
        """
        given = options_of(self.name, options, "lossy", "max_episode_steps")
        file = open_hdf5(source)
        try:
            return _Flat(
                file, source, tuple(given.get("lossy", ())), given.get("max_episode_steps")
            ).incoming()
        except BaseException:
            file.close()
            raise


class _Flat:
    """An open file of D4RL."""

    def __init__(self, file: Any, source: Any, lossy: tuple[str, ...], most: int | None) -> None:
        self._file, self._source, self._lost = file, source, list[str]()
        found = dict(datasets_of(file))
        try:
            self._rewards = found.pop("rewards")[()].astype(np.float64).reshape(-1)
            self._terminals = found.pop("terminals")[()].astype(np.bool_).reshape(-1)
            self._obs, self._actions = found.pop("observations"), found.pop("actions")
        except (KeyError, OSError, ValueError) as error:
            raise FileError(
                f"{source}: wanted arrays of D4RL, got others ({error}); it is damaged"
            ) from error
        count = len(self._rewards)
        self._timeouts = np.zeros(count, np.bool_)
        self._next = found.pop("next_observations", None)
        if "timeouts" in found:
            self._timeouts = found.pop("timeouts")[()].astype(np.bool_).reshape(-1)
        elif most is None and self._next is None:
            refuse_loss(lossy, "timeouts", "a data set that does not tell where truncated episodes end")
            self._lost.append(
                "timeouts: none are told, so an episode that was truncated runs into the next one"
            )
        lengths = {len(one) for one in (self._terminals, self._timeouts, self._obs, self._actions)}
        if lengths - {count}:
            raise FileError(
                f"{source}: wanted {count} rows in each array, got {sorted(lengths)}; it is damaged"
            )
        if most is not None:
            _truncate(self._terminals, self._timeouts, most)
        self._extras = self._columns(found, count)
        self._wide = not are_exact(self._rewards)

    def _columns(self, found: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return the data sets that have a row for each step; take note of the others."""
        self._about: dict[str, Any] = {}
        kept = {}
        for name, dataset in found.items():
            if (
                dataset.shape[:1] == (count,)
                and dataset.dtype.kind in "biuf"
                and not name.startswith("metadata/")
            ):
                kept[name] = dataset
            elif dataset.shape == () and is_json(plain_value(dataset[()])):
                self._about[name.removeprefix("metadata/")] = plain_value(dataset[()])
            else:
                self._lost.append(f"{name}: no number for each step")
        return kept

    def incoming(self) -> Incoming:
        """Return what there is."""
        names = our_names(list(self._extras))
        self._named = {ours: self._extras[name] for name, ours in names.items()}
        spec = spec_of(self._obs, self._actions, self._extra(slice(0, 0)))
        told = {f"extras/{ours}": name for name, ours in names.items() if name != ours}
        count = len(self._rewards)
        return Incoming(spec, self._episodes(), count, told, self._about, self._lost, self._file.close)

    def _bounds(self) -> list[int]:
        """Return where episodes begin, and the end of the last one."""
        count = len(self._rewards)
        ends = {0, count, *(np.flatnonzero(self._terminals | self._timeouts) + 1).tolist()}
        if self._next is not None:
            for first in range(0, count - 1, PIECE):
                stop = min(first + PIECE, count - 1)
                goes_on = self._next[first:stop] == self._obs[first + 1 : stop + 1]
                ends |= set(
                    (np.flatnonzero(~goes_on.reshape(stop - first, -1).all(axis=1)) + first + 1).tolist()
                )
        return sorted(ends)

    def _episodes(self) -> Iterator[Episode]:
        for first, stop in pairwise(self._bounds()):
            for at in range(first, stop, PIECE):
                yield self._piece(slice(at, min(at + PIECE, stop)), last=at + PIECE >= stop)

    def _piece(self, rows: slice, last: bool) -> Episode:
        try:
            end = rows.stop - 1
            return Episode(
                obs=self._obs[rows],
                action=self._actions[rows],
                reward=self._rewards[rows].astype(np.float32),
                terminated=last and bool(self._terminals[end]),
                truncated=last and bool(self._timeouts[end]),
                running=not last,
                final_obs=self._next[end] if last and self._next is not None else None,
                extras=self._extra(rows),
            )
        except OSError as error:
            raise FileError(f"{self._source}: wanted steps {rows}, got them damaged ({error})") from error

    def _extra(self, rows: slice) -> dict[str, Array]:
        extras = {ours: dataset[rows] for ours, dataset in self._named.items()}
        return extras | ({REWARD_EXTRA: self._rewards[rows]} if self._wide else {})


def _truncate(terminals: npt.NDArray[np.bool_], timeouts: npt.NDArray[np.bool_], most: int) -> None:
    """Set `timeouts` where an episode has `most` steps."""
    begin = 0
    for stop in [*(np.flatnonzero(terminals | timeouts) + 1).tolist(), len(terminals)]:
        timeouts[begin + most - 1 : stop : most] = True
        begin = stop


# --- robomimic -----------------------------------------------------------------------------------------------


class Robomimic(_ReadOnly):
    """Demonstrations of robomimic (Mandlekar et al., 2021): `data/demo_N/{obs,next_obs,actions,rewards,dones}`.

    The final observation is the last row of `next_obs`. `dones` at the last step says that the demonstration was a
    success, which counts as termination, or as truncation with `dones="truncated"`. Where `dones` is set before
    the last step it is a signal, and an extra field. `states`, and whatever else has a row for each step, are extra
    fields. Attributes and masks are metadata of the episode, `env_args` belongs to the data set.
    """

    name = "robomimic"

    def recognises(self, source: Any) -> bool:
        """Whether it is an HDF5 file with demonstrations."""
        if not has_datasets(source, "data"):
            return False
        with open_hdf5(source) as file:
            return any(re.fullmatch(r"demo_\d+", name) for name in file["data"])

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a file; see Format.

        Args:
            source: its path.
            **options: `dones`: "terminated" or "truncated".
        """
        means = options_of(self.name, options, "dones").get("dones", "terminated")
        if means not in ("terminated", "truncated"):
            raise BadSetting(f"dones: wanted 'terminated' or 'truncated', got {means!r}; choose one")
        file = open_hdf5(source)
        try:
            return _Demos(file, source, means).incoming()
        except (KeyError, AttributeError) as error:
            file.close()
            raise FileError(
                f"{source}: wanted demonstrations, got others ({error}); it is damaged"
            ) from error
        except BaseException:
            file.close()
            raise


class _Demos:
    """An open file of robomimic."""

    def __init__(self, file: Any, source: Any, means: str) -> None:
        self._file, self._source, self._means = file, source, means
        numbers = sorted(int(name[5:]) for name in file["data"] if re.fullmatch(r"demo_\d+", name))
        self._demos = {number: file[f"data/demo_{number}"] for number in numbers}
        if not self._demos:
            raise FileError(f"{source}: wanted data/demo_0 and so on, got none; it has no demonstration")
        self._lost: Counter[str] = Counter()
        self._wide = not all(are_exact(demo["rewards"][()]) for demo in self._demos.values())
        self._signals = any(demo["dones"][:-1].any() for demo in self._demos.values() if "dones" in demo)
        self._masks: dict[str, list[str]] = {}
        for name, members in datasets_of(file["mask"]) if "mask" in file else ():
            for member in members[()]:
                self._masks.setdefault(plain_value(member), []).append(name)
        self._names = our_names(sorted(self._columns()))
        self._obs_names = our_names(sorted(dict(datasets_of(next(iter(self._demos.values()))["obs"]))))

    def _columns(self) -> set[str]:
        """Return the data sets beside observations and rewards that have a row for each step of every demo."""
        common: set[str] | None = None
        every: set[str] = set()
        for demo in self._demos.values():
            steps = len(demo["rewards"])
            found = {
                name: one for name, one in datasets_of(demo) if name.split("/")[0] not in ("obs", "next_obs")
            }
            every |= found.keys()
            fit = {
                name for name, one in found.items() if one.shape[:1] == (steps,) and one.dtype.kind in "biuf"
            }
            common = fit if common is None else common & fit
        kept = (common or set()) - {"actions", "rewards", *(() if self._signals else ("dones",))}
        for name in sorted(every - kept - {"actions", "rewards", "dones"}):
            self._lost[f"{name}: not numbers for each step of every demonstration"] = 1
        return kept

    def incoming(self) -> Incoming:
        """Return what there is."""
        first = self._episode(*next(iter(self._demos.items())))
        spec = spec_of(first.obs, first.action, first.extras)
        steps = sum(len(demo["rewards"]) for demo in self._demos.values())
        names = {f"extras/{ours}": name for name, ours in self._names.items() if name != ours}
        names |= {f"obs/{ours}": name for name, ours in self._obs_names.items() if name != ours}
        about = {name: plain_value(value) for name, value in self._file["data"].attrs.items()}
        about = {name: value for name, value in about.items() if is_json(value)}
        incoming = Incoming(spec, iter(()), steps, names, about, close=self._file.close)
        incoming.episodes = self._episodes(incoming.lost)
        return incoming

    def _episodes(self, lost: list[str]) -> Iterator[Episode]:
        self._lost = Counter({line: 1 for line in self._lost if ": not numbers" in line})
        for number, demo in self._demos.items():
            yield self._episode(number, demo)
        lost += [line for line in self._lost if ": not numbers" in line]
        lost += tell({line: count for line, count in self._lost.items() if ": not numbers" not in line})

    def _episode(self, number: int, demo: Any) -> Episode:
        try:
            steps, rewards = len(demo["rewards"]), demo["rewards"][()]
            obs = self._observations(demo["obs"])
            final = None if "next_obs" not in demo else self._observations(demo["next_obs"], last=True)
            done = bool(demo["dones"][-1:].any()) if "dones" in demo else False
            extras = {ours: demo[name][()] for name, ours in self._names.items()}
            action = demo["actions"][()]
        except (KeyError, OSError) as error:
            raise FileError(
                f"{self._source}: wanted demo_{number} whole, got it damaged ({error})"
            ) from error
        if any(len(leaf) != steps for _, leaf in tree_leaves("obs", obs)) or len(action) != steps:
            raise FileError(
                f"{self._source}: wanted {steps} rows in demo_{number}, got others; it is damaged"
            )
        return Episode(
            obs=obs,
            action=action,
            reward=rewards.astype(np.float32),
            terminated=done and self._means == "terminated",
            truncated=done and self._means == "truncated",
            final_obs=final,
            extras=extras | ({REWARD_EXTRA: rewards.astype(np.float64)} if self._wide else {}),
            metadata=self._metadata(number, demo),
        )

    def _observations(self, group: Any, last: bool = False) -> dict[str, Array]:
        return {ours: group[name][-1] if last else group[name][()] for name, ours in self._obs_names.items()}

    def _metadata(self, number: int, demo: Any) -> dict[str, Any]:
        metadata: dict[str, Any] = {"demo": f"demo_{number}"}
        if f"demo_{number}" in self._masks:
            metadata["masks"] = self._masks[f"demo_{number}"]
        for name, value in demo.attrs.items():
            plain = plain_value(value)
            if is_json(plain) and len(str(plain)) <= MOST_NOTE:
                metadata[name] = plain
            else:
                self._lost[f"attributes {name!r} are too long for metadata, or no JSON"] += 1
        return metadata
