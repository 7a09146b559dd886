"""Episodes of IRIS (Micheli et al., 2023) and Δ-IRIS (Micheli et al., 2024): a folder of `.pt` files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.episode import Episode
from reverie.errors import BadSetting, FileError, need
from reverie.exchange.drafts import folder_draft
from reverie.exchange.format import Incoming, Outgoing
from reverie.exchange.names import REWARD_EXTRA, are_exact, options_of, spec_of, tell
from reverie.exchange.tensors import check_integer_actions, load_tensors, numbered
from reverie.spec import Field, StepSpec

Array = npt.NDArray[Any]
KEYS = ("observations", "actions", "rewards", "ends")
PADDING = "mask_padding"


class Iris:
    """IRIS's episodes: `{id}.pt`, a dict of tensors.

    `observations` (T, 3, 64, 64) uint8, `actions` (T,) int64, `rewards` (T,) float32, `ends` (T,) int64 and
    `mask_padding` (T,) bool, whose rows that are False are left out. There is no final observation and no truncation:
    an episode without an end is cut when it is read, and one that was truncated is written without an end.
    """

    name, reads, writes = "iris", True, True
    keys: tuple[str, ...] = (*KEYS, PADDING)

    def recognises(self, source: Any) -> bool:
        """Whether it is a folder of numbered files whose first one has these tensors and no others."""
        if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
            return False
        try:
            paths = _paths(Path(source))
            return bool(paths) and load_tensors(paths[0]).keys() == set(self.keys)
        except (FileError, ImportError):
            return False

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a folder; see Format. All files are looked at once, for how many steps there are."""
        options_of(self.name, options)
        folder = Path(source)
        paths = _paths(folder)
        if not paths:
            raise FileError(f"{folder}: wanted a folder of files such as 0.pt, got none; check the path")
        steps, exact = 0, True
        for path in paths:
            tensors = self._tensors(path)
            steps, exact = steps + len(tensors["rewards"]), exact and are_exact(tensors["rewards"])
        first = self._episode(paths[0], exact)
        spec = spec_of(first.obs, first.action, first.extras)
        return Incoming(spec, (self._episode(path, exact) for path in paths), steps)

    def _tensors(self, path: Path) -> dict[str, Array]:
        """Return the arrays of a file, of the steps that are no padding."""
        tensors = load_tensors(path)
        lengths = {len(tensors[name]) for name in KEYS if name in tensors}
        if not set(KEYS) <= tensors.keys() or len(lengths) != 1:
            raise FileError(
                f"{path}: wanted tensors {list(self.keys)} of one length, got {sorted(tensors)}; it is another format's"
            )
        real = tensors.pop(PADDING, np.ones(lengths.pop(), np.bool_)).astype(np.bool_)
        return {name: tensors[name][real] for name in KEYS}

    def _episode(self, path: Path, exact: bool) -> Episode:
        tensors = self._tensors(path)
        ends = tensors["ends"].astype(np.bool_)
        if ends[:-1].any():
            raise FileError(f"{path}: wanted an end at the last step only, got one before; it is damaged")
        rewards = tensors["rewards"]
        return Episode(
            obs=tensors["observations"],
            action=tensors["actions"],
            reward=rewards.astype(np.float32),
            terminated=bool(ends[-1:].any()),
            extras={} if exact else {REWARD_EXTRA: rewards.astype(np.float64)},
        )

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a folder; see Format. Observations have to be one array, and actions one integer."""
        options_of(self.name, options)
        _check(outgoing.spec, self.name)
        lost: Counter[str] = Counter()
        with folder_draft(Path(target)) as draft:
            for number, episode in enumerate(outgoing.episodes):
                self._put(draft / f"{number}.pt", episode)
                lost.update(_lost(episode))
        return tell(lost)

    def _put(self, path: Path, episode: Episode) -> None:
        need("torch")
        import torch

        steps = len(episode)
        ends = np.zeros(steps, np.int64)
        ends[-1:] = episode.terminated
        rows = {
            "observations": episode.obs,
            "actions": np.asarray(episode.action, np.int64),
            "rewards": episode.reward,
            "ends": ends,
            PADDING: np.ones(steps, np.bool_),
        }
        torch.save({name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in self.keys}, path)


class DeltaIris(Iris):
    """Δ-IRIS's episodes: those of IRIS without `mask_padding`."""

    name = "delta-iris"
    keys = KEYS


def _paths(folder: Path) -> list[Path]:
    """Return the files of a folder by number."""
    return numbered(folder, folder.iterdir)


def _check(spec: StepSpec, name: str) -> None:
    if not isinstance(spec.obs, Field) or spec.obs.dtype != np.uint8:
        raise BadSetting(
            f"{name}: wanted observations that are one uint8 array, got {spec.obs!r}; choose another format"
        )
    check_integer_actions(spec.action, name)


def _lost(episode: Episode) -> Iterator[str]:
    """Yield what IRIS's files cannot hold of an episode."""
    if episode.final_obs is not None:
        yield "final observations have no place"
    if episode.truncated:
        yield "truncations: none is told from the other flag, and from no end"
    if not (episode.terminated or episode.truncated):
        yield "episodes were cut, or run, and have no end"
    if episode.extras:
        yield "episodes have extra fields: they have no place"
    if episode.metadata:
        yield "episodes have metadata: it has no place"
    if not episode.is_whole:
        yield "episodes have lost their first steps in the buffer"
