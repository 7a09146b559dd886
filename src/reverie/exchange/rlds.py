"""RLDS data sets (Ramos et al., 2021), as TensorFlow Datasets stores them: one record an episode. Read only."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, need
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.hdf5_files import is_json
from reverie.exchange.names import options_of, our_names, refuse_loss, spec_of, tell
from reverie.exchange.records import records_of, values_of
from reverie.values import Tree, tree_map

Array = npt.NDArray[Any]
STEPS, ABOUT = "steps/", "episode_metadata/"
FLAGS = ("is_first", "is_last", "is_terminal")
KNOWN = (*FLAGS, "reward", "observation", "action")


@dataclass(frozen=True)
class Feature:
    """What `features.json` says of a value.

    Attributes:
        shape: of one of it; dtype: of its numbers.
        encoding: "jpeg" or "png" of an image, "text" of a string, else "".
    """

    shape: tuple[int, ...]
    dtype: str
    encoding: str = ""


class Rlds:
    """RLDS data sets: TFRecord files with one `tf.train.Example` an episode, beside `features.json`.

    A step has `observation/…`, `action`, `reward`, `discount` and flags. Under RLDS the step that `is_last` holds the
    final observation alone: its action and reward mean nothing. Where no `is_last` is set the record is the episode,
    its last step is a step, and the episode is cut. `last=` says it where a data set means something else. Text that is
    the same in all steps of an episode is metadata, as `episode_metadata/…` is; all other values are extra fields.

    JPEG has changed images before they came here: they are read with `lossy=("jpeg",)`.
    """

    name, reads, writes = "rlds", True, False

    def recognises(self, source: Any) -> bool:
        """Whether it is a TFRecord file, or a folder with some."""
        try:
            return bool(_files(source, None))
        except (FileError, BadSetting):
            return False

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a folder or a file; see Format. Every file is read twice, first for how many steps there are.

        Args:
            source: its path.
            **options: `split`: read the files of this split alone, such as "train"; `last`: "observation" or "step",
                what the last step of a record is; `lossy`.
        """
        given = options_of(self.name, options, "split", "last", "lossy")
        last = given.get("last")
        if last not in (None, "observation", "step"):
            raise BadSetting(
                f"last: wanted 'observation' or 'step', got {last!r}; choose one, or leave it out"
            )
        files = _files(source, given.get("split"))
        if not files:
            raise FileError(f"{source}: wanted TFRecord files, got none; check the path and the split")
        return _Source(files, last, tuple(given.get("lossy", ()))).incoming()

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Refuse: it is read only."""
        raise BadSetting("rlds: wanted a format that is written, got this one; npz and minari are")


def _files(source: Any, split: str | None) -> list[Path]:
    """Return the TFRecord files that a path means, in the order of their names."""
    if not isinstance(source, (str, os.PathLike)):
        return []
    path = Path(source)
    try:
        found = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise FileError(f"{path}: wanted a folder, got none ({error.strerror}); check the path") from error
    return [
        one
        for one in found
        if ".tfrecord" in one.name and (split is None or f"-{split}.tfrecord" in one.name)
    ]


class _Source:
    """Files that are open for reading.

    Args:
        files: in order; last: what the last step is; lossy: what may be lost.
    """

    def __init__(self, files: list[Path], last: str | None, lossy: tuple[str, ...]) -> None:
        self._files, self._last, self._lost = files, last, Counter[str]()
        self._features = _features(files[0].parent)
        self._first: dict[str, Any] | None = None
        self._steps = 0
        for values in self._records():
            self._first = values if self._first is None else self._first
            ended = values.get(f"{STEPS}is_last", np.zeros(0))
            self._steps += _count(values, files[0]) - self._drops(bool(ended[-1:].any()))
        if self._features is None and self._first is not None:
            self._features = _guessed(self._first, files[0])
            self._lost[
                "data set: it has no features.json, so shapes are told from the lists, with one axis each"
            ] = 1
        self._about: dict[str, Any] = {}
        features = self._features or {}
        steps = {name.removeprefix(STEPS): one for name, one in features.items() if name.startswith(STEPS)}
        if any(one.encoding == "jpeg" for one in steps.values()):
            refuse_loss(lossy, "jpeg", "images that were made JPEG of, with other values than were recorded")
            self._lost["data set: JPEG has changed the values of its images before they came here"] = 1
        self._kinds = steps
        self._text = [name for name, one in steps.items() if one.encoding == "text"]
        numbers = [name for name in steps if name not in self._text]
        self._obs = _below("observation", numbers)
        self._action = _below("action", numbers)
        rest = [name for name in numbers if name.split("/")[0] not in KNOWN]
        self._extras = our_names(sorted(rest))
        if not self._obs or not self._action:
            raise FileError(f"{files[0]}: wanted steps/observation and steps/action, got {sorted(steps)}")

    def _drops(self, ended: bool) -> int:
        """Return how many steps of a record are no steps."""
        return int(self._last == "observation" or (self._last is None and ended))

    def _records(self) -> Iterator[dict[str, Any]]:
        for path in self._files:
            for data in records_of(path):
                yield values_of(data, path)

    def incoming(self) -> Incoming:
        """Return what there is."""
        names = {f"extras/{ours}": name for name, ours in self._extras.items() if name != ours}
        for part, known in (("obs", self._obs), ("action", self._action)):
            names |= {f"{part}/{ours}": name for name, ours in known.items() if name.split("/")[-1] != ours}
        numbers = {name: one for name, one in self._kinds.items() if one.encoding != "text"}
        none = {name: np.zeros((0, *one.shape), one.dtype) for name, one in numbers.items()}
        extras = {ours: none[name] for name, ours in self._extras.items()}
        spec = spec_of(_tree(self._obs, none), _tree(self._action, none), extras)
        incoming = Incoming(spec, iter(()), self._steps, names)
        incoming.episodes = self._episodes(incoming.lost)
        return incoming

    def _episodes(self, lost: list[str]) -> Iterator[Episode]:
        for path in self._files:
            for data in records_of(path):
                episode = self._episode(values_of(data, path), path)
                if len(episode):
                    yield episode
                else:
                    self._lost["records have a final observation alone, and so no step: left out"] += 1
        lost += tell(self._lost)

    def _episode(self, values: dict[str, Any], path: Path) -> Episode:
        count = _count(values, path)
        rows = {name: _decoded(values.get(STEPS + name), one, count, f"{path}: {name}")
                for name, one in self._kinds.items() if one.encoding != "text" and STEPS + name in values}  # fmt: skip
        for name in [*self._obs, *self._action, *self._extras]:
            if name not in rows:
                raise FileError(
                    f"{path}: wanted {STEPS}{name} in every record, got one without; it is damaged"
                )
        if "reward" not in rows:
            self._lost["records have no reward, and zeros stand in its place"] += 1
        flags = {name: rows.get(name, np.zeros(count)).astype(np.bool_) for name in FLAGS}
        ended = bool(flags["is_last"][-1:].any())
        terminal = bool(flags["is_terminal"][-1:].any())
        steps = count - self._drops(ended)
        here = {name: part[:steps] for name, part in rows.items()}
        final = None
        if steps < count:
            final = tree_map(
                lambda leaf: leaf[0], _tree(self._obs, {name: part[steps:] for name, part in rows.items()})
            )
        return Episode(
            obs=_tree(self._obs, here),
            action=_tree(self._action, here),
            reward=here.get("reward", np.zeros(steps)).astype(np.float32).reshape(steps),
            terminated=terminal,
            truncated=ended and not terminal,
            final_obs=final,
            extras={ours: here[name] for name, ours in self._extras.items()},
            metadata=self._metadata(values),
        )

    def _metadata(self, values: dict[str, Any]) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for name in self._text:
            said = values.get(STEPS + name, [])
            if len(set(said)) == 1 and _text(said[0]) is not None:
                metadata[name] = _text(said[0])
            elif said:
                self._lost[f"episodes have a {name} that changes from step to step"] += 1
        for name, value in values.items():
            if name.startswith(ABOUT):
                told = [_text(one) for one in value] if isinstance(value, list) else value.tolist()
                plain = told[0] if len(told) == 1 else told
                if is_json(plain) and None not in told and len(str(plain)) < 10_000:
                    metadata[name.removeprefix(ABOUT)] = plain
                else:
                    self._lost[f"episodes have {name}, which is no text or too long for metadata"] += 1
        return metadata


def _count(values: dict[str, Any], path: Path) -> int:
    """Return how many steps a record has: as many as flags, which every step has one of."""
    for name in (*FLAGS, "reward", "discount"):
        if STEPS + name in values:
            return len(values[STEPS + name])
    raise FileError(f"{path}: wanted steps with is_first, is_last or is_terminal, got {sorted(values)[:8]}")


def _below(part: str, names: list[str]) -> dict[str, str]:
    """Return the values of a part by name, and our names: "" where the part is one value."""
    if part in names:
        return {part: ""}
    inner = our_names([name[len(part) + 1 :] for name in names if name.startswith(f"{part}/")])
    return {f"{part}/{name}": ours for name, ours in inner.items()}


def _tree(names: dict[str, str], rows: dict[str, Array]) -> Tree:
    if list(names.values()) == [""]:
        return rows[next(iter(names))]
    return {ours: rows[name] for name, ours in names.items()}


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _decoded(values: Any, feature: Feature, count: int, what: str) -> Array:
    """Return the values of all steps as one array."""
    try:
        if feature.encoding in ("jpeg", "png"):
            images = [_image(one) for one in values]
            return (
                np.stack(images).reshape(count, *feature.shape)
                if images
                else np.zeros((0, *feature.shape), np.uint8)
            )
        return np.asarray(values).astype(feature.dtype).reshape(count, *feature.shape)
    except (ValueError, TypeError, OSError) as error:
        raise FileError(
            f"{what}: wanted {count} of {feature.shape}, got others ({error}); it is damaged"
        ) from error


def _image(data: bytes) -> Array:
    from io import BytesIO

    need("PIL")
    from PIL import Image

    return np.asarray(Image.open(BytesIO(data)))


def _features(folder: Path) -> dict[str, Feature] | None:
    """Return what `features.json` says, by name; None if it is not there.

    Raises:
        FileError: it cannot be read, or has a value that is stored in another way.
    """
    path = folder / "features.json"
    if not path.exists():
        return None
    try:
        return dict(_walk(json.loads(path.read_text()), "", path))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise FileError(f"{path}: wanted features of TensorFlow Datasets, got others ({error})") from error


def _walk(node: dict[str, Any], name: str, path: Path) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in node:
        for key, child in node["featuresDict"]["features"].items():
            yield from _walk(child, f"{name}/{key}" if name else key, path)
    elif "sequence" in node:
        if name != STEPS[:-1]:
            raise FileError(f"{path}: wanted steps as the only sequence, got {name}; it cannot be read")
        yield from _walk(node["sequence"]["feature"], name, path)
    elif "text" in node or node.get("tensor", {}).get("dtype") == "string":
        yield name, Feature((), "O", "text")
    elif "image" in node:
        encoding = node["image"].get("encodingFormat") or "png"
        yield name, Feature(_shape(node["image"]), node["image"].get("dtype", "uint8"), encoding)
    elif "tensor" in node:
        if node["tensor"].get("encoding", "none") not in ("none", ""):
            raise FileError(
                f"{path}: wanted plain numbers, got {name} packed as {node['tensor']['encoding']}"
            )
        yield name, Feature(_shape(node["tensor"]), node["tensor"]["dtype"])
    elif "classLabel" in node:
        yield name, Feature((), "int64")
    else:
        raise FileError(
            f"{path}: wanted numbers, images or text, got {name} of another kind; it cannot be read"
        )


def _shape(node: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in node.get("shape", {}).get("dimensions", ()))


def _guessed(values: dict[str, Any], path: Path) -> dict[str, Feature]:
    """Return what a record tells of its values by itself."""
    count = _count(values, path)
    found: dict[str, Feature] = {}
    for name, listed in values.items():
        if not name.startswith(STEPS):
            continue
        if isinstance(listed, list):
            kind = (
                "jpeg" if listed[0][:2] == b"\xff\xd8" else "png" if listed[0][:4] == b"\x89PNG" else "text"
            )
            found[name] = Feature(() if kind == "text" else _image(listed[0]).shape, "uint8", kind)
        elif name.removeprefix(STEPS) in FLAGS:
            found[name] = Feature((), "bool")
        else:
            width = len(listed) // max(count, 1)
            found[name] = Feature(() if width == 1 else (width,), listed.dtype.name)
    return found
