"""Plain data: lists of dicts of arrays, our own npz files, and the trajectories of the library imitation."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, FileTaken
from reverie.exchange.drafts import vacant_draft
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, spec_of, tell
from reverie.spec import StepSpec
from reverie.values import Tree, tree_build, tree_leaves, tree_map

Array = npt.NDArray[Any]

# Under which names a dict of arrays may have each part of an episode; the first one that is there counts.
OBS, ACTION = ("obs", "observations"), ("action", "actions")
REWARD, FINAL = ("reward", "rewards"), ("final_obs",)
TERMINATED = ("terminated", "terminations", "terminals")
TRUNCATED = ("truncated", "truncations", "timeouts")


class Episodes:
    """Episodes in memory: a list of dicts of arrays, the commonest format there is.

    A dict has `obs` (T, …) or, its final observation included, (T+1, …), an array or a (nested) dict of such; `action`
    (T, …); `reward` (T,); `terminated` and `truncated`, (T,) or of the last step; maybe `final_obs` and `metadata`.
    `observations`, `actions`, `rewards`, `terminations`, `terminals`, `truncations` and `timeouts` are understood, too.
    Whatever else it has is an extra field (T, …). An episode that did neither end is cut.
    """

    name, reads, writes = "episodes", True, False

    def recognises(self, source: Any) -> bool:
        """Whether it is a list of dicts."""
        return isinstance(source, (list, tuple)) and all(isinstance(one, Mapping) for one in source)

    def open(self, source: Any, **options: Any) -> Incoming:
        """Return the episodes; see Format."""
        options_of(self.name, options)
        if not source or not self.recognises(source):
            raise BadSetting(
                "episodes: wanted a list of at least one dict of arrays, got none; pass one an episode"
            )
        known = {*OBS, *ACTION, *REWARD, *FINAL, *TERMINATED, *TRUNCATED, "metadata"}
        names = our_names([name for name in source[0] if name not in known])
        rewards = [np.asarray(_part(one, REWARD, at)) for at, one in enumerate(source)]
        wide = not all(map(are_exact, rewards))
        episodes = [_episode(one, at, names, wide) for at, one in enumerate(source)]
        first = episodes[0]
        return Incoming(
            spec_of(first.obs, first.action, first.extras),
            iter(episodes),
            sum(map(len, episodes)),
            {f"extras/{ours}": name for name, ours in names.items() if name != ours},
        )

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Refuse: `buffer.read_episodes()` gives episodes in memory."""
        raise BadSetting(
            "episodes: wanted a format that is written, got this one; use list(buffer.read_episodes())"
        )


def _part(one: Mapping[str, Any], names: Sequence[str], at: int) -> Any:
    for name in names:
        if name in one:
            return one[name]
    raise BadSetting(f"episode {at}: wanted one of {list(names)}, got {sorted(one)}; give it that name")


def _episode(one: Mapping[str, Any], at: int, names: Mapping[str, str], wide: bool) -> Episode:
    reward = np.asarray(_part(one, REWARD, at))
    steps = len(reward)
    obs = tree_map(np.asarray, _part(one, OBS, at))
    final = one.get(FINAL[0])
    lengths = {len(leaf) for _, leaf in tree_leaves("obs", obs)}
    if lengths == {steps + 1} and final is None:
        final, obs = tree_map(lambda leaf: leaf[-1], obs), tree_map(lambda leaf: leaf[:-1], obs)
    elif lengths != {steps}:
        raise BadSetting(
            f"episode {at}: wanted observations of {steps} steps, or {steps + 1} with the final one, got "
            f"{sorted(lengths)}; there is one reward for each step"
        )
    extras = {ours: np.asarray(_part(one, [name], at)) for name, ours in names.items()}
    return Episode(
        obs=obs,
        action=tree_map(np.asarray, _part(one, ACTION, at)),
        reward=reward.astype(np.float32),
        terminated=_flag(one, TERMINATED, at),
        truncated=_flag(one, TRUNCATED, at),
        final_obs=final,
        extras=extras | ({REWARD_EXTRA: reward.astype(np.float64)} if wide else {}),
        metadata=dict(one.get("metadata", {})),
    )


def _flag(one: Mapping[str, Any], names: Sequence[str], at: int) -> bool:
    """Return whether an episode ended so; before its last step it cannot have."""
    flags = np.asarray(next((one[name] for name in names if name in one), False)).astype(np.bool_)
    if flags.ndim and flags[:-1].any():
        raise BadSetting(
            f"episode {at}: wanted {names[0]} at its last step only, got it before; split the episode there"
        )
    return bool(flags.reshape(-1)[-1:].any())


# --- our own files -------------------------------------------------------------------------------------------


class Npz:
    """Our own npz file: everything that a buffer holds of its episodes, for whoever has NumPy alone.

    `spec` is JSON in UTF-8: the spec, and how many episodes and steps there are. Episode n has arrays `n/obs` or
    `n/obs/camera`, `n/action`, `n/reward`, `n/extras/…` (T, …), `n/final/obs…` if its final observation is known, and
    `n/about`: JSON with `terminated`, `truncated`, `running` and `metadata`. It is read and written episode by episode.
    """

    name, reads, writes = "npz", True, True

    def recognises(self, source: Any) -> bool:
        """Whether it is a zip file with a spec."""
        return _has_members(source, "spec.npy")

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a file; see Format."""
        options_of(self.name, options)
        file = _load(source)
        try:
            told = _json(file["spec"])
            spec, steps = StepSpec.from_json(told["spec"]), int(told["steps"])
            count = int(told["episodes"])
        except (KeyError, TypeError, ValueError) as error:
            file.close()
            raise FileError(
                f"{source}: wanted a file that export_to wrote, got none or a damaged one"
            ) from error
        return Incoming(
            spec,
            (_read(file, spec, number, source) for number in range(count)),
            steps,
            told["names"],
            told["about"],
            close=file.close,
        )

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a file; see Format."""
        options_of(self.name, options)
        path, begun, running = Path(target), 0, 0
        draft = vacant_draft(path)
        count = steps = 0
        try:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
                for episode in outgoing.episodes:
                    for name, array in _arrays(episode).items():
                        _write(file, f"{count}/{name}", array)
                    count, steps = count + 1, steps + len(episode)
                    begun, running = begun + (not episode.is_whole), running + episode.running
                told = {"spec": outgoing.spec.to_json(), "episodes": count, "steps": steps,
                        "names": dict(outgoing.names), "about": dict(outgoing.about)}  # fmt: skip
                _write(file, "spec", _text(told))
            os.link(draft, path)
        except FileExistsError as error:
            raise FileTaken(
                f"{path}: wanted a path that is free, got one taken meanwhile; choose another"
            ) from error
        except OSError as error:
            raise FileError(
                f"{path}: wanted to write a file, got {error.strerror}; choose another place"
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        lines = {
            "episodes have lost their first steps in the buffer": begun,
            "episodes run, and will come back as cut": running,
        }
        return tell(lines)


def bytes_of(arrays: Mapping[str, Array]) -> bytes:
    """Return arrays by name as the bytes of an npz file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, array in arrays.items():
            _write(file, name, array)
    return stream.getvalue()


def arrays_in(data: bytes) -> dict[str, Array]:
    """Return the arrays that `bytes_of` packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _arrays(episode: Episode) -> dict[str, Array]:
    arrays = dict([*tree_leaves("obs", episode.obs), *tree_leaves("action", episode.action)])
    arrays |= {"reward": episode.reward, **{f"extras/{name}": rows for name, rows in episode.extras.items()}}
    if episode.final_obs is not None:
        arrays |= {f"final/{name}": leaf for name, leaf in tree_leaves("obs", episode.final_obs)}
    about = {"terminated": episode.terminated, "truncated": episode.truncated, "running": episode.running,
             "metadata": episode.metadata}  # fmt: skip
    return {**arrays, "about": _text(about)}


def _write(file: zipfile.ZipFile, name: str, array: Array) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _read(file: Any, spec: StepSpec, number: int, source: Any) -> Episode:
    try:
        values = {name: file[f"{number}/{name}"] for name, _ in spec.columns()}
        about = _json(file[f"{number}/about"])
        final: Tree | None = None
        if f"{number}/final/{next(iter(tree_leaves('obs', spec.obs)))[0]}" in file:
            rows = {name: file[f"{number}/final/{name}"] for name, _ in tree_leaves("obs", spec.obs)}
            final = tree_build("obs", spec.obs, rows)
        return Episode(
            obs=tree_build("obs", spec.obs, values),
            action=tree_build("action", spec.action, values),
            reward=file[f"{number}/reward"],
            terminated=about["terminated"],
            truncated=about["truncated"],
            final_obs=final,
            extras={name: values[f"extras/{name}"] for name in spec.extras},
            metadata=about["metadata"],
        )
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{source}: wanted episode {number}, got a damaged one ({error}); export it again"
        ) from error


def _text(value: Any) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _json(array: Array) -> Any:
    return json.loads(array.tobytes().decode())


def _has_members(source: Any, *names: str) -> bool:
    try:
        with zipfile.ZipFile(source) as file:
            return set(names) <= set(file.namelist())
    except (OSError, TypeError, ValueError, AttributeError, zipfile.BadZipFile):
        return False


def _load(source: Any) -> Any:
    try:
        return np.load(source, allow_pickle=False)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(f"{source}: wanted an npz file, got none ({error}); check the path") from error


# --- imitation -----------------------------------------------------------------------------------------------


class Imitation:
    """Trajectories as the library imitation saved them in npz files, read only.

    They have `obs` of all trajectories, final observations included, `acts`, `rews`, `terminal` and `indices`, where
    the second and later ones begin. One that is not terminal was cut. `infos` are pickled objects: they are never read.
    """

    name, reads, writes = "imitation", True, False

    def recognises(self, source: Any) -> bool:
        """Whether it is a zip file with these arrays."""
        return _has_members(source, "obs.npy", "acts.npy", "indices.npy", "terminal.npy")

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a file; see Format."""
        options_of(self.name, options)
        with _load(source) as file:
            try:
                obs, acts, terminal, indices = (file[name] for name in ("obs", "acts", "terminal", "indices"))
                rewards = file["rews"] if "rews" in file else np.zeros(len(acts), np.float32)
            except (KeyError, ValueError) as error:
                raise FileError(
                    f"{source}: wanted trajectories of imitation, got others ({error})"
                ) from error
            lost = ["infos: pickled objects, which are never read"] if "infos" in file.files else []
            if "rews" not in file:
                lost.append("rewards: there are none, and zeros stand in their places")
        if len(obs) != len(acts) + len(terminal) or len(indices) != len(terminal) - 1:
            raise FileError(
                f"{source}: wanted one more observation than actions in each trajectory, got others"
            )
        extras = {} if are_exact(rewards) else {REWARD_EXTRA: rewards.astype(np.float64)}
        spec = spec_of(obs, acts, extras)
        bounds = [0, *indices.tolist(), len(acts)]

        def episodes() -> Iterator[Episode]:
            for number, (first, stop) in enumerate(pairwise(bounds)):
                yield Episode(
                    obs=obs[first + number : stop + number],
                    action=acts[first:stop],
                    reward=rewards[first:stop].astype(np.float32),
                    terminated=bool(terminal[number]),
                    final_obs=obs[stop + number],
                    extras={name: rows[first:stop] for name, rows in extras.items()},
                )

        return Incoming(spec, episodes(), len(acts), lost=lost)

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Refuse: it is read only."""
        raise BadSetting("imitation: wanted a format that is written, got this one; npz is")
