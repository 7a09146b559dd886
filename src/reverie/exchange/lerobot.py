"""LeRobotDataset v3.0 (Cadene et al., 2024): parquet files of frames, an image in each cell as PNG."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, counted, need
from reverie.exchange.drafts import folder_draft
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.lerobot_target import SIDECAR, Target
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, our_names, refuse_loss, spec_of, tell
from reverie.exchange.plain import arrays_in
from reverie.spec import Field, StepSpec
from reverie.values import Tree, tree_build

Array = npt.NDArray[Any]
Rows = dict[str, Array]

INFO, TASKS, DATA = "meta/info.json", "meta/tasks.parquet", "data"
OBS, ACTION = "observation", "action"
REWARD, DONE, TRUNCATED = "next.reward", "next.done", "next.truncated"
COUNTED = ("timestamp", "frame_index", "episode_index", "index", "task_index")
ROWS = 256  # that are decoded at once


class LeRobot:
    """LeRobotDataset v3.0: `meta/info.json`, tasks and episodes beside it, frames in `data/chunk-000/file-000.parquet`.

    Features `observation.…` are observations, `action` and `action.…` the action, `next.reward`, `next.done` and
    `next.truncated` what came of it; all others are extra fields. The task of an episode is its metadata. The format
    has no final observation, and no place for metadata: what is written keeps these in `meta/reverie.parquet`, which
    LeRobot does not read. Images are PNG, which is exact. Videos are not: a set with some is read without them, with
    `lossy=("video",)`.
    """

    name, reads, writes = "lerobot", True, True

    def recognises(self, source: Any) -> bool:
        """Whether it is a folder whose `meta/info.json` tells of version 3."""
        try:
            return isinstance(source, (str, os.PathLike)) and bool(_info(Path(source)))
        except FileError:
            return False

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a folder; see Format.

        Args:
            source: the folder.
            **options: `lossy`: names of losses that are accepted; "video" is the only one.
        """
        lossy = tuple(options_of(self.name, options, "lossy").get("lossy", ()))
        return _Source(Path(source), lossy).incoming()

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a folder; see Format.

        Args:
            target: the folder, which is made.
            outgoing: what to write.
            **options: `fps`: frames a second, 30 if the data set did not come with a number; `task`: of episodes whose
                metadata has no "task"; `max_file_mb`: where another file of frames begins, 100.
        """
        given = options_of(self.name, options, "fps", "task", "max_file_mb")
        with folder_draft(Path(target)) as draft:
            return Target(draft, outgoing, **given).write()


def _info(folder: Path) -> dict[str, Any]:
    """Return what `meta/info.json` says.

    Raises:
        FileError: it is not there, or tells of another version.
    """
    try:
        info: dict[str, Any] = json.loads((folder / INFO).read_text())
        version = str(info["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder}: wanted {INFO} of LeRobot, got none ({error}); check the path") from error
    if not version.startswith("v3."):
        raise FileError(
            f"{folder}: wanted version v3.0 of LeRobot's format, got {version}; "
            f"convert it with lerobot.datasets.v30.convert_dataset_v21_to_v30"
        )
    return info


class _Source:
    """A folder that is open for reading."""

    def __init__(self, folder: Path, lossy: tuple[str, ...]) -> None:
        need("pyarrow")
        import pyarrow.parquet as pq

        self._pq, self._folder, self._info = pq, folder, _info(folder)
        self._lost = Counter[str]()
        self._features: dict[str, dict[str, Any]] = dict(self._info.get("features", {}))
        videos = sorted(name for name, one in self._features.items() if one.get("dtype") == "video")
        if videos:
            refuse_loss(
                lossy, "video", f"the videos {videos}, which are not read, and whose frames are not exact"
            )
            self._lost[f"data sets have videos: {videos} are not read"] = 1
        found = sorted((folder / DATA).glob("chunk-*/file-*.parquet"))
        self._files = [(path, self._opened(path)) for path in found]
        self._tasks = self._read_tasks()
        self._kept = self._read_sidecar()
        names = [name for name in self._features if name not in (*COUNTED, *videos, REWARD, DONE, TRUNCATED)]
        odd = [name for name in names if self._features[name].get("dtype") == "string"]
        for name in odd:
            self._lost[f"data sets have text: {name!r} has no place"] = 1
        self._columns = [name for name in names if name not in odd]
        self._wide = any(not are_exact(rows[REWARD]) for rows in self._only(REWARD))
        self._sort_columns()

    def _opened(self, path: Path) -> Any:
        try:
            return self._pq.ParquetFile(path)
        except Exception as error:  # pyarrow raises many kinds
            raise FileError(
                f"{path}: wanted a parquet file, got a damaged one ({error}); was the recording finalized?"
            ) from error

    def _only(self, name: str) -> Iterator[Rows]:
        if name in self._features:
            for _, file in self._files:
                yield {name: file.read(columns=[name]).column(0).to_numpy()}

    def _read_tasks(self) -> dict[int, str]:
        path = self._folder / TASKS
        if not path.exists():
            return {}
        table = self._opened(path).read()
        texts = table.column("task" if "task" in table.column_names else table.column_names[-1])
        return dict(zip(table.column("task_index").to_pylist(), texts.to_pylist(), strict=True))

    def _read_sidecar(self) -> dict[str, Any] | None:
        """Return what reverie kept beside the data set, if it wrote it."""
        path = self._folder / SIDECAR
        if not path.exists():
            return None
        table = self._opened(path).read()
        told = json.loads((table.schema.metadata or {})[b"reverie"].decode())
        return {"spec": StepSpec.from_json(told["spec"]), "columns": told["columns"], "names": told["names"],
                "about": told["about"], "rows": {one["episode_index"]: one for one in table.to_pylist()}}  # fmt: skip

    def _sort_columns(self) -> None:
        """Tell observations, the action and extra fields apart: foreign name -> our flat name."""
        if self._kept is not None:
            self._ours = {
                name: ours for ours, name in self._kept["columns"].items() if name in self._features
            }
            return

        def below(part: str) -> dict[str, str]:
            inner = our_names(
                [name[len(part) + 1 :] for name in self._columns if name.startswith(f"{part}.")]
            )
            return {f"{part}.{name}": ours for name, ours in inner.items()}

        obs, action = below(OBS), below(ACTION)
        self._ours = {name: f"obs/{ours}" for name, ours in obs.items()}
        self._ours |= {name: "obs" for name in self._columns if name == OBS}
        self._ours |= (
            {name: f"action/{ours}" for name, ours in action.items()}
            if ACTION not in self._columns
            else {ACTION: "action"}
        )
        rest = our_names([name for name in self._columns if name not in self._ours])
        self._ours |= {name: f"extras/{ours}" for name, ours in rest.items()}
        if not any(ours.startswith("obs") for ours in self._ours.values()) or not any(
            ours.startswith("action") for ours in self._ours.values()
        ):
            raise FileError(
                f"{self._folder}: wanted observations and an action, got {sorted(self._features)}"
            )

    def incoming(self) -> Incoming:
        """Return what there is."""
        about = {name: self._info[name] for name in ("fps", "robot_type") if self._info.get(name) is not None}
        if self._kept is not None:
            spec, names, about = self._kept["spec"], self._kept["names"], {**self._kept["about"], **about}
        else:
            none = {
                ours: np.zeros((0, *self._shape(name)), self._dtype(name))
                for name, ours in self._ours.items()
            }
            spec = spec_of(_tree("obs", none), _tree("action", none), _extras(none) | (
                {REWARD_EXTRA: np.zeros(0)} if self._wide else {}))  # fmt: skip
            names = {ours: name for name, ours in self._ours.items()}
        if REWARD not in self._features:
            self._lost["data sets have no next.reward, and zeros stand in its place"] = 1
        self._spec = spec
        incoming = Incoming(
            spec, iter(()), sum(file.metadata.num_rows for _, file in self._files), names, about
        )
        incoming.episodes = self._episodes(incoming.lost)
        incoming.close = self._close
        return incoming

    def _close(self) -> None:
        for _, file in self._files:
            file.close()

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._features[name]["shape"])
        return () if shape == (1,) else shape

    def _dtype(self, name: str) -> str:
        dtype = str(self._features[name]["dtype"])
        return "uint8" if dtype == "image" else dtype

    def _episodes(self, lost: list[str]) -> Iterator[Episode]:
        wanted, seen, frames = self._info.get("total_frames"), set[int](), 0
        for number, rows in self._by_episode():
            if number in seen:
                raise FileError(
                    f"{self._folder}: wanted the frames of episode {number} together, got more elsewhere"
                )
            seen.add(number)
            frames += len(rows["frame_index"])
            yield self._episode(number, rows)
        if wanted is not None and frames != wanted:
            raise FileError(
                f"{self._folder}: wanted {counted(wanted, 'frame')}, as {INFO} says, got {frames:,}; files are missing"
            )
        lost += tell(self._lost)

    def _by_episode(self) -> Iterator[tuple[int, Rows]]:
        """Yield the frames of each episode, as its own index says: a file may begin in the middle of one."""
        number, parts = -1, list[Rows]()
        for path, file in self._files:
            for batch in file.iter_batches(ROWS):
                rows = self._decoded(batch, path)
                index = rows["episode_index"]
                bounds = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
                for first, stop in pairwise(bounds):
                    if first == stop:
                        continue
                    part = {name: one[first:stop] for name, one in rows.items()}
                    if parts and index[first] != number:
                        yield number, _joined(parts)
                        parts = []
                    number = int(index[first])
                    parts.append(part)
        if parts:
            yield number, _joined(parts)

    def _decoded(self, batch: Any, path: Path) -> Rows:
        try:
            rows = {name: batch.column(name).to_numpy(zero_copy_only=False)
                    for name in (*COUNTED, REWARD, DONE, TRUNCATED) if name in batch.schema.names}  # fmt: skip
            for name in self._ours:
                rows[name] = self._values(name, batch.column(name), batch.num_rows)
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise FileError(
                f"{path}: wanted the features of {INFO}, got others ({error}); it is damaged"
            ) from error
        return rows

    def _values(self, name: str, column: Any, count: int) -> Array:
        shape, dtype = self._shape(name), self._dtype(name)
        if self._features[name]["dtype"] == "image":
            images = [_image(cell["bytes"], self._folder, cell.get("path")) for cell in column.to_pylist()]
            found = np.stack(images) if images else np.zeros((0, *shape), np.uint8)
            if found.ndim == 3:
                found = found[..., None]
            return found if found.shape[1:] == shape else found.transpose(0, 3, 1, 2).reshape(count, *shape)
        while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
            column = column.flatten()
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype).reshape(count, *shape)

    def _episode(self, number: int, rows: Rows) -> Episode:
        steps = len(rows["frame_index"])
        if not np.array_equal(rows["frame_index"], np.arange(steps)):
            raise FileError(
                f"{self._folder}: wanted frames 0 to {steps - 1} of episode {number}, got others; it is damaged"
            )
        reward = rows.get(REWARD, np.zeros(steps))
        done, cut = (bool(rows[name][-1:].any()) if name in rows else False for name in (DONE, TRUNCATED))
        values = {ours: rows[name] for name, ours in self._ours.items()}
        if f"extras/{REWARD_EXTRA}" in dict(self._spec.columns()):
            values[f"extras/{REWARD_EXTRA}"] = reward.astype(np.float64)
        episode = Episode(
            obs=_tree("obs", values),
            action=_tree("action", values),
            reward=reward.astype(np.float32),
            terminated=done and not cut,
            truncated=cut,
            extras=_extras(values),
            metadata=self._metadata(rows),
        )
        return episode if self._kept is None else self._restored(number, values, episode)

    def _metadata(self, rows: Rows) -> dict[str, Any]:
        tasks = [self._tasks.get(int(one)) for one in np.unique(rows.get("task_index", np.zeros(0)))]
        told = [task for task in tasks if task is not None]
        if len(told) > 1:
            self._lost["episodes have several tasks: which frame has which is not kept"] += 1
        return {} if not told else {"task": told[0]} if len(told) == 1 else {"tasks": told}

    def _restored(self, number: int, values: Rows, episode: Episode) -> Episode:
        """Return an episode with what was kept beside the data set."""
        assert self._kept is not None
        spec, row = self._kept["spec"], self._kept["rows"].get(number)
        if row is None:
            raise FileError(
                f"{self._folder / SIDECAR}: wanted episode {number}, got none; it is of another data set"
            )
        fields = dict(spec.columns())
        values = {name: _fitted(values[name], field) for name, field in fields.items()}
        final = arrays_in(row["final"]) if row["final"] is not None else None
        return Episode(
            obs=tree_build("obs", spec.obs, values),
            action=tree_build("action", spec.action, values),
            reward=episode.reward,
            terminated=row["terminated"],
            truncated=row["truncated"],
            final_obs=None if final is None else tree_build("obs", spec.obs, final),
            extras=_extras(values),
            metadata=json.loads(row["metadata"]),
        )


def _joined(parts: list[Rows]) -> Rows:
    return (
        parts[0]
        if len(parts) == 1
        else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    )


def _tree(part: str, values: Mapping[str, Array]) -> Tree:
    """Return the only value of a part, or a dict of all."""
    if part in values:
        return values[part]
    return {name.partition("/")[2]: rows for name, rows in values.items() if name.startswith(f"{part}/")}


def _extras(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name.partition("/")[2]: rows for name, rows in values.items() if name.startswith("extras/")}


def _fitted(rows: Array, field: Field) -> Array:
    """Return the rows of a column as its field has them: the channels of an image may come first there."""
    if rows.ndim == 4 and rows.shape[1:] != field.shape:
        rows = rows.transpose(0, 3, 1, 2)
    return rows.astype(field.dtype).reshape(len(rows), *field.shape)


def _image(data: bytes | None, folder: Path, path: str | None) -> Array:
    from io import BytesIO

    need("PIL")
    from PIL import Image

    with Image.open(BytesIO(data) if data is not None else folder / str(path)) as image:
        if image.format not in ("PNG", None):
            raise BadSetting(
                f"{folder}: wanted images as PNG, got {image.format}, which is not exact; convert them first"
            )
        return np.asarray(image)
