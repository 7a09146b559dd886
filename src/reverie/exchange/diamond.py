"""Episodes of DIAMOND (Alonso et al., 2024): a tree of `.pt` files, and `info.pt` beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
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
KEYS = ("obs", "act", "rew", "end", "trunc")
FINAL = "final_observation"


class Diamond:
    """DIAMOND's episodes: `NNN/NN/N/{id}.pt`, where the folders are the hundreds, tens and ones of the id.

    A file is a dict: `obs` (T, C, H, W) uint8, `act` (T,) int64, `rew` (T,) float32, `end` and `trunc` (T,) uint8, and
    `info`, which may have `final_observation` (C, H, W) float32 in -1..1, as DIAMOND's models see frames. `info.pt`
    counts: num_episodes, num_steps, start_idx, lengths, counter_rew, counter_end. Reading does not need it.
    """

    name, reads, writes = "diamond", True, True

    def recognises(self, source: Any) -> bool:
        """Whether it is a folder with such a tree, whose first file has these tensors."""
        if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
            return False
        try:
            paths = _paths(Path(source))
            return bool(paths) and set(KEYS) <= load_tensors(paths[0], beside="info").keys()
        except (FileError, ImportError):
            return False

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a folder; see Format. All files are looked at once, for how many steps there are."""
        options_of(self.name, options)
        folder = Path(source)
        paths = _paths(folder)
        if not paths:
            raise FileError(
                f"{folder}: wanted a tree of files such as 000/00/0/0.pt, got none; check the path"
            )
        steps, exact, lost = 0, True, Counter[str]()
        for path in paths:
            values = _checked(path)
            steps, exact = steps + len(values["rew"]), exact and are_exact(values["rew"])
            lost.update(
                f"episodes have info of {name!r}: it has no place" for name in values["info"] if name != FINAL
            )
        first = _episode(paths[0], exact)
        spec = spec_of(first.obs, first.action, first.extras)
        lines = tell(lost)
        return Incoming(spec, (_episode(path, exact) for path in paths), steps, lost=lines)

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a folder; see Format. Observations have to be one uint8 array of three axes, actions one integer."""
        options_of(self.name, options)
        _check(outgoing.spec)
        lost: Counter[str] = Counter()
        with folder_draft(Path(target)) as draft:
            self._write(draft, outgoing, lost)
        return tell(lost)

    def _write(self, folder: Path, outgoing: Outgoing, lost: Counter[str]) -> None:
        need("torch")
        import torch

        lengths: list[int] = []
        rewards: Counter[float] = Counter()
        ends: Counter[int] = Counter()
        for number, episode in enumerate(outgoing.episodes):
            values = _values(episode)
            path = folder / _place(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {name: torch.from_numpy(np.ascontiguousarray(values[name])) for name in KEYS}
                | {"info": {name: torch.from_numpy(one) for name, one in values["info"].items()}},
                path,
            )
            lengths.append(len(episode))
            rewards.update(np.sign(values["rew"]).tolist())
            ends.update(values["end"].tolist())
            lost.update(_lost(episode))
        starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)]
        told = {"num_episodes": len(lengths), "num_steps": sum(lengths), "start_idx": starts,
                "lengths": np.array(lengths, np.int64), "counter_rew": rewards, "counter_end": ends}  # fmt: skip
        torch.save(told, folder / "info.pt")


def _place(number: int) -> Path:
    """Return where the file of an episode lies: 1234 in 200/30/4."""
    return Path(f"{number // 100 % 10 * 100:03}/{number // 10 % 10 * 10:02}/{number % 10}/{number}.pt")


def _paths(folder: Path) -> list[Path]:
    """Return the files of episodes by number."""
    return numbered(folder, partial(folder.glob, "*/*/*/*.pt"))


def _checked(path: Path) -> dict[str, Any]:
    values = load_tensors(path, beside="info")
    lengths = {len(values[name]) for name in KEYS if name in values}
    if not set(KEYS) <= values.keys() or len(lengths) != 1:
        raise FileError(
            f"{path}: wanted tensors {list(KEYS)} of one length, got {sorted(values)}; it is another format's"
        )
    if values["end"][:-1].any() or values["trunc"][:-1].any():
        raise FileError(f"{path}: wanted an end at the last step only, got one before; it is damaged")
    return values


def _episode(path: Path, exact: bool) -> Episode:
    values = _checked(path)
    final = values["info"].get(FINAL)
    return Episode(
        obs=values["obs"],
        action=values["act"],
        reward=values["rew"].astype(np.float32),
        terminated=bool(values["end"][-1:].any()),
        truncated=bool(values["trunc"][-1:].any()),
        final_obs=None if final is None else _frame(np.asarray(final), values["obs"].shape[1:], path),
        extras={} if exact else {REWARD_EXTRA: values["rew"].astype(np.float64)},
    )


def _frame(final: Array, shape: tuple[int, ...], path: Path) -> Array:
    """Return a final observation as uint8: DIAMOND keeps it as its models see it, from -1 to 1."""
    if final.size != np.prod(shape):
        raise FileError(f"{path}: wanted a {FINAL} of {shape}, got {final.shape}; it is damaged")
    if final.dtype != np.uint8:
        final = np.rint((final.astype(np.float64) + 1) / 2 * 255).clip(0, 255).astype(np.uint8)
    return final.reshape(shape)


def _values(episode: Episode) -> dict[str, Any]:
    steps = len(episode)
    values: dict[str, Any] = {
        "obs": episode.obs,
        "act": np.asarray(episode.action, np.int64),
        "rew": episode.reward,
    }
    for name, flag in (("end", episode.terminated), ("trunc", episode.truncated)):
        values[name] = np.zeros(steps, np.uint8)
        values[name][-1:] = flag
    values["info"] = {}
    if episode.final_obs is not None:
        values["info"][FINAL] = (np.asarray(episode.final_obs, np.float64) / 255 * 2 - 1).astype(np.float32)
    return values


def _check(spec: StepSpec) -> None:
    obs = spec.obs
    if not isinstance(obs, Field) or obs.dtype != np.uint8 or len(obs.shape) != 3:
        raise BadSetting(
            f"diamond: wanted observations that are one uint8 array (C, H, W), got {obs!r}; choose another format"
        )
    check_integer_actions(spec.action, "diamond")


def _lost(episode: Episode) -> Iterator[str]:
    """Yield what DIAMOND's files cannot hold of an episode."""
    if episode.running:
        yield "episodes run, and will come back as cut"
    if episode.extras:
        yield "episodes have extra fields: they have no place"
    if episode.metadata:
        yield "episodes have metadata: it has no place"
    if not episode.is_whole:
        yield "episodes have lost their first steps in the buffer"
