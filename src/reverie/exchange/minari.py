"""Minari data sets in HDF5 (Farama Foundation, versions 0.4 and 0.5): read, and written exactly.

A data set is a folder `data` with `main_data.hdf5`, one group an episode, and `metadata.json`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, FileTaken, need
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.hdf5_files import datasets_of, is_json, plain_value
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, refuse_loss, spec_of, tell
from reverie.spec import Field, StepSpec
from reverie.values import Tree, tree_leaves, tree_map

Array = npt.NDArray[Any]
VERSION = "0.5.4"  # of the files that are written; Minari reads none of a version that it does not know
ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]/)?[-_\w]+-v\d+")
MAIN, ABOUT = "main_data.hdf5", "metadata.json"


def root() -> Path:
    """Return where Minari keeps its data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


class Minari:
    """Minari's HDF5 files. A source or target is a folder, or the id of a data set such as `mujoco/ant/expert-v0`.

    Observations (T+1, …) hold the final one. Both end flags, seed, options and id of an episode are kept. Numbers in
    `infos` become extra fields; their last row, which belongs to the final observation, is left out. Images that Minari
    has encoded as JPEG are read with `lossy=("jpeg",)` alone, and none are written.
    """

    name, reads, writes = "minari", True, True

    def recognises(self, source: Any) -> bool:
        """Whether there is a folder with both files."""
        return isinstance(source, (str, os.PathLike)) and (_folder(source) / MAIN).is_file()

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a data set; see Format.

        Args:
            source: a folder, or an id.
            **options: `lossy`: names of losses that are accepted; "jpeg" is the only one.
        """
        need("h5py")
        import h5py

        lossy = tuple(options_of(self.name, options, "lossy").get("lossy", ()))
        folder = _folder(source)
        try:
            about = json.loads((folder / ABOUT).read_text())
            file = h5py.File(folder / MAIN, "r")
        except (OSError, ValueError) as error:
            raise FileError(
                f"{folder}: wanted {ABOUT} and {MAIN} of Minari, got none ({error}); check the path"
            ) from error
        try:
            return _Source(file, about, folder, lossy).incoming()
        except BaseException:
            file.close()
            raise

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a data set; see Format.

        Args:
            target: a folder, or an id, which goes below MINARI_DATASETS_PATH.
            outgoing: what to write.
            **options: `lossy`: "final_obs" lets the last observation stand in for one that is not known;
                `dataset_id`, where the target is a folder: its id.
        """
        given = options_of(self.name, options, "lossy", "dataset_id")
        folder = _folder(target)
        dataset_id = str(
            given.get("dataset_id")
            or (outgoing.about.get("dataset_id") if _is_path(target) else target)
            or "reverie/data-v0"
        )
        if not ID.fullmatch(dataset_id):
            raise BadSetting(
                f"dataset_id: wanted one such as 'cartpole/expert-v0', got {dataset_id!r}; choose another"
            )
        if folder.exists():
            raise FileTaken(
                f"{folder}: wanted a place that is free, got one that is taken; choose another, or remove it"
            )
        draft = folder.with_name(f"{folder.name}.new-{os.getpid()}")
        made = [above for above in folder.parents if not above.exists()]
        try:
            draft.mkdir(parents=True)
            lost = _Target(outgoing, tuple(given.get("lossy", ()))).write(draft, dataset_id)
            draft.rename(folder)
        except OSError as error:
            raise FileError(
                f"{folder}: wanted to write a data set, got {error}; choose another place"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            for above in made if not folder.exists() else ():
                with suppress(OSError):
                    above.rmdir()
        return lost


def _is_path(source: Any) -> bool:
    return (
        isinstance(source, os.PathLike)
        or Path(source).is_absolute()
        or (Path(source) / "data").exists()
        or (Path(source) / MAIN).exists()
        or str(source).startswith(".")
    )


def _folder(source: Any) -> Path:
    """Return the folder with the two files of a data set that is named by its path or its id."""
    path = Path(source) if _is_path(source) else root() / str(source)
    return path if (path / MAIN).exists() else path / "data"


# --- reading -------------------------------------------------------------------------------------------------


class _Source:
    """An open file of Minari's.

    Args:
        file: of h5py; about: what `metadata.json` says; folder: where they are.
        lossy: what may be lost.
    """

    def __init__(self, file: Any, about: dict[str, Any], folder: Path, lossy: tuple[str, ...]) -> None:
        self._file, self._about, self._folder = file, about, folder
        numbers = sorted(int(name[8:]) for name in file if re.fullmatch(r"episode_\d+", name))
        self._groups = [file[f"episode_{number}"] for number in numbers]
        self._lost: list[str] = []
        self._space: dict[str, Any] = {}  # of the observations, if images in it are encoded
        space = json.loads(about.get("observation_space") or "{}")
        if about.get("jpeg_encoding", True) and _has_images(space):
            self._space = space
            refuse_loss(
                lossy, "jpeg", "images that Minari has made JPEG of, with other values than were recorded"
            )
            self._lost.append("images: JPEG has changed their values before they came here")
        self._wide = not all(are_exact(group["rewards"][()]) for group in self._groups)
        self._infos = self._numeric_infos()

    def incoming(self) -> Incoming:
        """Return what there is."""
        spec, names = self._spec()
        steps = sum(len(group["rewards"]) for group in self._groups)
        about = {name: value for name, value in self._about.items() if is_json(value)}
        return Incoming(spec, self._episodes(), steps, names, about, self._lost, self._file.close)

    def _numeric_infos(self) -> dict[str, str]:
        """Return the infos that are numbers in every episode, and the names of their extra fields."""
        if not self._groups:
            return {}
        kept: dict[str, Any] = {}
        every = [dict(datasets_of(group["infos"])) if "infos" in group else {} for group in self._groups]
        for name in sorted({name for found in every for name in found}):
            rows = [found.get(name) for found in every]
            kinds = {(one.dtype, one.shape[1:]) for one in rows if one is not None}
            if None not in rows and len(kinds) == 1 and next(iter(kinds))[0].kind in "biuf":
                kept[name] = rows[0]
            else:
                self._lost.append(f"infos/{name}: not numbers of one shape in every episode")
        return our_names(kept)

    def _spec(self) -> tuple[StepSpec, dict[str, str]]:
        names = {f"extras/{ours}": f"infos/{name}" for name, ours in self._infos.items() if name != ours}
        if self._groups:
            episode = self._episode(self._groups[0])
            return spec_of(episode.obs, episode.action, episode.extras), names
        space = (json.loads(self._about[f"{part}_space"]) for part in ("observation", "action"))
        return StepSpec(*map(_tree_of_space, space)), names

    def _episodes(self) -> Iterator[Episode]:
        for group in self._groups:
            yield self._episode(group)

    def _episode(self, group: Any) -> Episode:
        try:
            reward, steps = group["rewards"][()], len(group["rewards"])
            obs = _values(group["observations"], self._space)
            flags = [group[name][()].astype(np.bool_) for name in ("terminations", "truncations")]
            extras = {ours: group["infos"][name][:steps] for name, ours in self._infos.items()}
            action = _values(group["actions"])
        except (KeyError, OSError, ValueError, TypeError) as error:
            raise FileError(f"{self._folder}: wanted {group.name} whole, got it damaged ({error})") from error
        if any(len(leaf) != steps + 1 for _, leaf in tree_leaves("obs", obs)) or any(
            one[:-1].any() for one in flags
        ):
            raise FileError(
                f"{self._folder}: wanted one more observation than rewards in {group.name}, and an end at its last "
                f"step only, got others"
            )
        if self._wide:
            extras[REWARD_EXTRA] = reward.astype(np.float64)
        attributes = {
            name: plain_value(value) for name, value in group.attrs.items() if name != "total_steps"
        }
        metadata = {name: value for name, value in attributes.items() if is_json(value)}
        return Episode(
            obs=tree_map(lambda leaf: leaf[:-1], obs),
            action=action,
            reward=reward.astype(np.float32),
            terminated=bool(flags[0][-1:].any()),
            truncated=bool(flags[1][-1:].any()),
            final_obs=tree_map(lambda leaf: leaf[-1], obs),
            extras=extras,
            metadata=metadata,
        )


def _values(node: Any, space: dict[str, Any] | None = None) -> Any:
    """Return the arrays of a space: a data set is one, a group has those of a Dict or a Tuple.

    Images are encoded where `space` has some: then a data set holds the bytes of a JPEG file for each step.
    """
    if not hasattr(node, "dtype"):
        children = (space or {}).get("subspaces", {})
        if isinstance(children, list):
            children = {f"_index_{number}": child for number, child in enumerate(children)}
        return {name: _values(child, children.get(name)) for name, child in node.items()}
    return np.stack([_decoded(one) for one in node]) if space and _has_images(space) else node[()]


def _decoded(jpeg: Any) -> Array:
    """Return an image that Minari has encoded."""
    from io import BytesIO

    need("PIL")
    from PIL import Image

    return np.asarray(Image.open(BytesIO(np.asarray(jpeg, np.uint8).tobytes())))


def _has_images(space: dict[str, Any]) -> bool:
    """Whether a space has what Minari would encode: a uint8 Box that looks like an image, channels last."""
    if "subspaces" in space:
        children = space["subspaces"]
        return any(map(_has_images, children.values() if isinstance(children, dict) else children))
    shape = space.get("shape") or []
    return (
        space.get("dtype") == "uint8"
        and len(shape) in (2, 3)
        and min(shape[:2]) >= 32
        and (len(shape) == 2 or shape[2] in (1, 3))
    )


def _tree_of_space(space: dict[str, Any]) -> Tree:
    if "subspaces" in space:
        children = space["subspaces"]
        named = (
            children.items()
            if isinstance(children, dict)
            else ((f"_index_{n}", one) for n, one in enumerate(children))
        )
        return {name: _tree_of_space(child) for name, child in named}
    return Field(
        space.get("shape") or (space["n"] if isinstance(space.get("n"), list) else ()),
        space.get("dtype", "int64"),
    )


# --- writing -------------------------------------------------------------------------------------------------


class _Target:
    """Writes the files of a data set.

    Args:
        outgoing: what to write; lossy: what may be lost.
    """

    def __init__(self, outgoing: Outgoing, lossy: tuple[str, ...]) -> None:
        self._out, self._lossy = outgoing, lossy
        self._unknown = self._begun = self._cut = self._steps = self._episodes = 0

    def write(self, folder: Path, dataset_id: str) -> list[str]:
        """Write both files; return what could not be held."""
        need("h5py")
        import h5py

        with h5py.File(folder / MAIN, "w") as file:
            for number, episode in enumerate(self._out.episodes):
                self._put(file.create_group(f"episode_{number}"), number, episode)
        spec, old = self._out.spec, self._out.about
        about = {**old, "total_episodes": self._episodes, "total_steps": self._steps, "data_format": "hdf5",
                 "jpeg_encoding": False, "dataset_id": dataset_id, "minari_version": VERSION}  # fmt: skip
        for part, tree in (("observation", spec.obs), ("action", spec.action)):
            about.setdefault(f"{part}_space", json.dumps(_space_of_tree(tree)))
        (folder / ABOUT).write_text(json.dumps(about))
        lines = {
            "final observations are not known, and the last one stands in for them": self._unknown,
            "episodes have lost their first steps in the buffer": self._begun,
            "episodes were cut, or run: neither flag is set at the last step": self._cut,
        }
        return tell(lines)

    def _put(self, group: Any, number: int, episode: Episode) -> None:
        steps = len(episode)
        final = episode.final_obs
        if final is None:
            refuse_loss(self._lossy, "final_obs", f"episode {number}, whose final observation is not known")
            self._unknown += 1
            final = tree_map(lambda leaf: leaf[-1], episode.obs)
        self._begun += not episode.is_whole
        self._cut += not (episode.terminated or episode.truncated)
        self._steps, self._episodes = self._steps + steps, self._episodes + 1
        ends = dict(tree_leaves("observations", final))
        for name, leaf in tree_leaves("observations", episode.obs):
            group.create_dataset(name, data=np.concatenate([leaf, np.asarray(ends[name])[None]]))
        for name, leaf in tree_leaves("actions", episode.action):
            group.create_dataset(name, data=leaf)
        extras = dict(episode.extras)
        group.create_dataset("rewards", data=extras.pop(REWARD_EXTRA, episode.reward))
        for name, flag in (("terminations", episode.terminated), ("truncations", episode.truncated)):
            flags = np.zeros(steps, np.bool_)
            flags[-1:] = flag
            group.create_dataset(name, data=flags)
        for name, rows in extras.items():
            foreign = self._out.names.get(f"extras/{name}", f"infos/{name}")
            # Infos have a row for the final observation, too, of which nothing is known.
            group.create_dataset(foreign, data=np.concatenate([rows, rows[-1:]]))
        group.attrs["id"], group.attrs["total_steps"] = number, steps
        for name, value in episode.metadata.items():
            if name not in ("id", "total_steps"):
                group.attrs[name] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _space_of_tree(tree: Tree) -> dict[str, Any]:
    """Return a space of Gymnasium as Minari writes it: a Box without bounds, or a Dict of such."""
    if not isinstance(tree, Field):
        return {"type": "Dict", "subspaces": {name: _space_of_tree(child) for name, child in tree.items()}}
    kind = tree.dtype.kind
    if kind == "b":
        return {"type": "MultiBinary", "n": list(tree.shape)}
    limits: Any = np.iinfo(tree.dtype) if kind in "iu" else np.finfo(tree.dtype)
    low, high = (
        limits.min.item() if kind == "f" else int(limits.min),
        limits.max.item() if kind == "f" else int(limits.max),
    )
    bounds = {name: np.full(tree.shape, bound).tolist() for name, bound in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": tree.dtype.name, "shape": list(tree.shape), **bounds}
