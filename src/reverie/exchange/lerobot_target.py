"""What is written for LeRobot: frames in parquet, and what tells of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import number
from reverie.episode import Episode
from reverie.errors import BadSetting, need
from reverie.exchange.format import Outgoing
from reverie.exchange.names import REWARD_EXTRA, tell
from reverie.exchange.plain import bytes_of
from reverie.spec import Field, StepSpec
from reverie.values import tree_leaves

Array = npt.NDArray[Any]

SIDECAR = "meta/reverie.parquet"
VERSION = "v3.0"
CHUNKS = 1000  # files in a folder
NO_TASK = "no task was noted"


class Target:
    """Writes the files of a data set.

    Args:
        folder: where; outgoing: what to write.
        fps, task, max_file_mb: as `LeRobot.save` has them.
    """

    def __init__(
        self,
        folder: Path,
        outgoing: Outgoing,
        fps: float | None = None,
        task: str = NO_TASK,
        max_file_mb: float = 100,
    ) -> None:
        self._folder, self._out = folder, outgoing
        given = outgoing.about.get("fps", 30) if fps is None else fps
        self._fps = number("fps", given, 1e-6, 1e6)
        self._task, self._most = task, number("max_file_mb", max_file_mb, 1e-6, 1e6) * 1e6
        self._names = _names_of(outgoing.spec, outgoing.names)
        self._fields = {name: field for name, field in outgoing.spec.columns() if name in self._names}
        self._exact = REWARD_EXTRA in outgoing.spec.extras
        self._stats = {
            foreign: _Stats(_is_image(self._fields[name])) for name, foreign in self._names.items()
        }
        self._stats |= {name: _Stats(False) for name in ("next.reward", "timestamp")}
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []
        self._lost = Counter[str]()
        self._frames = 0

    def write(self) -> list[str]:
        """Write all files; return what LeRobot will not see."""
        need("pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa, self._schema = pa, self._frame_schema(pa)
        file, writer = 0, None
        try:
            for index, episode in enumerate(self._out.episodes):
                if writer is None:
                    path = self._folder / self._place(file)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = pq.ParquetWriter(path, self._schema, compression="snappy")
                writer.write_table(self._table(index, episode), row_group_size=max(len(episode), 1))
                self._note(index, episode, file)
                if path.stat().st_size >= self._most:
                    writer.close()
                    writer, file = None, file + 1
        finally:
            if writer is not None:
                writer.close()
        if not self._episodes:  # LeRobot looks for a file
            path = self._folder / self._place(0)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self._schema.empty_table(), path)
        self._write_meta(pa, pq)
        return tell(self._lost)

    def _place(self, file: int) -> str:
        return f"data/chunk-{file // CHUNKS:03}/file-{file % CHUNKS:03}.parquet"

    def _frame_schema(self, pa: Any) -> Any:
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = [(foreign, image if _is_image(self._fields[name]) else _arrow_type(pa, self._fields[name]))
                   for name, foreign in self._names.items()]  # fmt: skip
        columns += [("next.reward", pa.float64() if self._exact else pa.float32()), ("next.done", pa.bool_()),
                    ("next.truncated", pa.bool_()), ("timestamp", pa.float32())]  # fmt: skip
        columns += [(name, pa.int64()) for name in ("frame_index", "episode_index", "index", "task_index")]
        return pa.schema(columns)

    def _table(self, index: int, episode: Episode) -> Any:
        pa, steps = self._pa, len(episode)
        values = dict([*tree_leaves("obs", episode.obs), *tree_leaves("action", episode.action)])
        values |= {f"extras/{name}": rows for name, rows in episode.extras.items()}
        reward = values.pop(f"extras/{REWARD_EXTRA}", episode.reward)
        columns = []
        for name, foreign in self._names.items():
            field, rows = self._fields[name], np.asarray(values[name])
            if _is_image(field):
                rows = rows if _is_last(field) else rows.transpose(0, 2, 3, 1)
                columns.append(
                    pa.array(
                        [{"bytes": _png(one), "path": None} for one in rows], self._schema.field(foreign).type
                    )
                )
            else:
                columns.append(_arrow_array(pa, rows, self._schema.field(foreign).type))
            self._stats[foreign].add(rows)
        frame = np.arange(steps)
        done, cut = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
        done[-1:], cut[-1:] = episode.terminated or episode.truncated, episode.truncated
        timestamp = (frame / self._fps).astype(np.float32)
        self._stats["next.reward"].add(np.asarray(reward))
        self._stats["timestamp"].add(timestamp)
        task = self._task_of(episode)
        number = self._tasks.setdefault(task, len(self._tasks))
        columns += [
            pa.array(reward, self._schema.field("next.reward").type),
            pa.array(done),
            pa.array(cut),
            pa.array(timestamp),
        ]
        columns += [
            pa.array(one)
            for one in (frame, np.full(steps, index), frame + self._frames, np.full(steps, number))
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _task_of(self, episode: Episode) -> str:
        told = episode.metadata.get("task", episode.metadata.get("language_instruction"))
        return told if isinstance(told, str) and told else self._task

    def _note(self, index: int, episode: Episode, file: int) -> None:
        steps = len(episode)
        self._episodes.append({
            "episode_index": index, "tasks": [self._task_of(episode)], "length": steps,
            "data/chunk_index": file // CHUNKS, "data/file_index": file % CHUNKS, "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + steps, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        })  # fmt: skip
        final = None if episode.final_obs is None else bytes_of(dict(tree_leaves("obs", episode.final_obs)))
        self._kept.append({"episode_index": index, "terminated": episode.terminated, "truncated": episode.truncated,
                           "final": final, "metadata": json.dumps(episode.metadata)})  # fmt: skip
        self._frames += steps
        unseen = f"lie in {SIDECAR}, which LeRobot does not read"
        self._lost[f"final observations {unseen}"] += final is not None
        self._lost[f"episodes have metadata: all but the task {unseen.replace('lie', 'lies', 1)}"] += bool(
            episode.metadata.keys() - {"task"}
        )
        self._lost["episodes have lost their first steps in the buffer"] += not episode.is_whole
        self._lost["episodes run, and will come back as cut"] += episode.running
        self._lost = +self._lost

    # --- what tells of the frames ----------------------------------------------------------------------

    def _write_meta(self, pa: Any, pq: Any) -> None:
        meta = self._folder / "meta"
        (meta / "episodes/chunk-000").mkdir(parents=True)
        episodes = pa.schema([(name, pa.list_(pa.string()) if name == "tasks" else pa.int64()) for name in (
            "episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index",
            "dataset_to_index", "meta/episodes/chunk_index", "meta/episodes/file_index")])  # fmt: skip
        table = pa.Table.from_pylist(self._episodes, schema=episodes)
        pq.write_table(table, meta / "episodes/chunk-000/file-000.parquet")
        pq.write_table(_task_table(pa, self._tasks), meta / "tasks.parquet")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=2))
        stats = {name: one.told() for name, one in self._stats.items() if one.count}
        (meta / "stats.json").write_text(json.dumps(stats, indent=2))
        told = {
            "spec": self._out.spec.to_json(),
            "columns": self._names,
            "names": dict(self._out.names),
            "about": dict(self._out.about),
        }
        columns = [("episode_index", pa.int64()), ("terminated", pa.bool_()), ("truncated", pa.bool_())]
        columns += [("final", pa.binary()), ("metadata", pa.string())]
        kept = pa.schema(columns, metadata={"reverie": json.dumps(told)})
        pq.write_table(pa.Table.from_pylist(self._kept, schema=kept), self._folder / SIDECAR)

    def _info(self) -> dict[str, Any]:
        features = {foreign: _feature(self._fields[name]) for name, foreign in self._names.items()}
        features["next.reward"] = _scalar("float64" if self._exact else "float32")
        features |= {name: _scalar("bool") for name in ("next.done", "next.truncated")}
        features["timestamp"] = _scalar("float32")
        features |= {
            name: _scalar("int64") for name in ("frame_index", "episode_index", "index", "task_index")
        }
        fps = int(self._fps) if self._fps == int(self._fps) else self._fps
        return {
            "codebase_version": VERSION, "robot_type": self._out.about.get("robot_type"),
            "total_episodes": len(self._episodes), "total_frames": self._frames, "total_tasks": len(self._tasks),
            "chunks_size": CHUNKS, "data_files_size_in_mb": 100, "video_files_size_in_mb": 500, "fps": fps,
            "splits": {"train": f"0:{len(self._episodes)}"}, "video_path": None, "features": features,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        }  # fmt: skip


class _Stats:
    """Least, largest, mean and spread of a feature, frame by frame; of images by channel, from 0 to 1."""

    def __init__(self, is_image: bool) -> None:
        self._is_image, self.count = is_image, 0
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._sum: Any = 0.0
        self._squares: Any = 0.0
        self._values = 0

    def add(self, rows: Array) -> None:
        """Take in some frames; images are (T, H, W, C)."""
        if not len(rows):
            return
        self.count += len(rows)
        axes = (0, 1, 2) if self._is_image else (0,)
        wide = rows.astype(np.float64) / (255 if self._is_image else 1)
        self._low, self._high = (
            np.minimum(self._low, wide.min(axis=axes)),
            np.maximum(self._high, wide.max(axis=axes)),
        )
        self._sum, self._squares = self._sum + wide.sum(axis=axes), self._squares + (wide**2).sum(axis=axes)
        self._values += rows.size // max(np.size(self._sum), 1)

    def told(self) -> dict[str, Any]:
        """Return what stands in `stats.json`."""
        mean = self._sum / self._values
        spread = np.sqrt(np.maximum(self._squares / self._values - mean**2, 0))
        told = {"min": self._low, "max": self._high, "mean": mean, "std": spread}
        shaped = {
            name: np.reshape(one, (-1, 1, 1)) if self._is_image else np.atleast_1d(one)
            for name, one in told.items()
        }
        return {name: one.tolist() for name, one in shaped.items()} | {"count": [self.count]}


def _names_of(spec: StepSpec, names: Mapping[str, str]) -> dict[str, str]:
    """Return the feature of each column.

    Raises:
        BadSetting: two columns would be one feature.
    """
    found: dict[str, str] = {}
    taken = {
        "next.reward",
        "next.done",
        "next.truncated",
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    }
    for name, field in spec.columns():
        if name == f"extras/{REWARD_EXTRA}":
            continue
        part, _, inner = name.partition("/")
        inner = inner.replace("/", ".")
        plain = {"obs": f"observation.{inner or ('image' if _is_image(field) else 'state')}",
                 "action": f"action.{inner}" if inner else "action", "extras": inner}[part]  # fmt: skip
        foreign = names.get(name, plain).replace("/", ".")
        if part == "obs" and not foreign.startswith("observation"):
            foreign = f"observation.{foreign}"
        if foreign in taken:
            raise BadSetting(
                f"lerobot: wanted a feature for each column, got {foreign!r} twice; name {name!r} otherwise"
            )
        taken.add(foreign)
        found[name] = foreign
    return found


def _is_image(field: Field) -> bool:
    shape = field.shape
    return field.dtype == np.uint8 and len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3))


def _is_last(field: Field) -> bool:
    """Whether the channels of an image come last."""
    return field.shape[-1] in (1, 3)


def _png(frame: Array) -> bytes:
    need("PIL")
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[-1] == 1 else frame)).save(
        stream, "PNG", compress_level=1
    )
    return stream.getvalue()


def _arrow_type(pa: Any, field: Field) -> Any:
    kind = pa.from_numpy_dtype(field.dtype)
    if len(field.shape) == 1 and field.shape != (1,):
        return pa.list_(kind, field.shape[0])
    for _ in field.shape if field.shape != (1,) else ():
        kind = pa.list_(kind)
    return kind


def _arrow_array(pa: Any, rows: Array, kind: Any) -> Any:
    """Return the rows of a column, (T, …), as lists in lists."""
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    if not hasattr(kind, "value_type"):
        return flat
    if len(rows.shape) == 2:
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    for axis in range(rows.ndim - 1, 0, -1):
        count = int(np.prod(rows.shape[:axis]))
        flat = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * rows.shape[axis], flat)
    return flat


def _feature(field: Field) -> dict[str, Any]:
    if _is_image(field):
        shape = field.shape if _is_last(field) else (*field.shape[1:], field.shape[0])
        return {"dtype": "image", "shape": list(shape), "names": ["height", "width", "channels"]}
    return {"dtype": field.dtype.name, "shape": list(field.shape) or [1], "names": None}


def _scalar(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "names": None}


def _task_table(pa: Any, tasks: Mapping[str, int]) -> Any:
    """Return the tasks as pandas would write them, with the task as the index."""
    columns = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
               for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))]  # fmt: skip
    told = {"index_columns": ["task"], "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode",
            "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}], "columns": columns,
            "creator": {"library": "pyarrow", "version": pa.__version__}, "pandas_version": "2.2.0"}  # fmt: skip
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(told)}
    )
    return pa.table([list(tasks.values()), list(tasks)], schema=schema)
