"""What an operation may make of arrays that change while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.operations import Scene
from support.twin import Table, Twin


class Broken(AssertionError):
    """A cell whose promise does not hold."""


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return tuple(map(copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def overwrite(value: Any, name: str = "") -> None:
    """Change every array in place, as an environment that goes on in another thread would."""
    if isinstance(value, dict):
        for key, child in value.items():
            overwrite(child, key)
    elif isinstance(value, tuple):
        for child in value:
            overwrite(child)
    elif isinstance(value, np.ndarray):
        if name == "streams":
            value[:] = np.roll(value, 1)
        elif value.dtype == np.bool_ or value.dtype == np.uint8:
            np.invert(value, out=value)
        else:
            value += 1000


def torn(scene: Scene, got: Table, first: Any, second: Any) -> Twin:
    """Return the twin after an operation whose arguments had two values, as far as the buffer shows which it took.

    Raises:
        Broken: it took neither.
    """
    twin = scene.twins[0].copy()
    twin.floor = list(scene.twins[1].floor)
    second = first if second is None else second

    def row_of(stream: int, step: int) -> int:
        found = np.flatnonzero((got["stream"] == stream) & (got["id"] == step))
        if len(found) != 1:
            raise Broken(f"memory: step {step} of stream {stream} is not there")
        return int(found[0])

    def check(name: str, seen: Any, *allowed: Any) -> Any:
        same = np.zeros(np.shape(seen), bool)
        for values in allowed:
            same |= np.asarray(values) == seen
        if not same.all():
            raise Broken(f"memory: {name} is {seen}: neither of two values")
        return seen

    def frames(row: int, which: str, *allowed: Any) -> dict[str, np.ndarray]:
        return {key: check(which, got[f"{which}{key}"][row], *(values[key] for values in allowed if values is not None))
                for key in ("frame", "wide")}  # fmt: skip

    begun = [int(text[1:].split(",")[0]) for text in got["episodes"].tolist()][::-1]
    begun = list(dict.fromkeys(begun))[::-1]  # streams by their newest episodes
    if scene.name.startswith(("add", "extend")):
        many = scene.name == "add_batch"
        # Of lanes that begin an episode, the order is that of the streams at the moment when it was looked at.
        streams = sorted(range(len(twin.heads)), key=begun.index) if many else [first.get("stream", 0)]
        steps = len(first["reward"]) if scene.name.startswith("extend") else 1
        for stream, place in ((stream, place) for stream in streams for place in range(steps)):
            head = twin.heads[stream]
            row = row_of(stream, head)
            both = [first, second]
            if many:
                both = [each[at] for each in map(rows_of, both) for at in each]
            elif scene.name.startswith("extend"):
                both = [rows_of(each)[place] for each in both]
            ended = {
                name: bool(check(name, got[name][row], *(one[name] for one in both)))
                for name in ("terminated", "truncated")
            }
            ends = any(ended.values()) and bool(got["next known"][row])
            twin.add(
                obs=frames(row, "", *(one["obs"] for one in both)), action=check("action", got["action"][row], *(one["action"] for one in both)),
                reward=float(check("reward", got["reward"][row], *(one["reward"] for one in both))), stream=stream, **ended,
                final_obs=frames(row, "next ", *(one["final_obs"] for one in both)) if ends else None,
                **{name: check(name, got[name][row], *(one[name] for one in both)) for name in ("latent", "state")},
            )  # fmt: skip
    elif scene.name == "cut-shown":
        episodes = twin.streams[0].episodes
        if episodes and not episodes[-1].ended:
            twin.cut(0, final_obs=frames(row_of(0, twin.heads[0] - 1), "next ", first, second))
    elif scene.name == "write_back":
        touched: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for stream, step, row, place in first[0]:
            touched.setdefault((stream, step), []).append((row, place))
        for (stream, step), places in touched.items():
            row = row_of(stream, step)
            for name in first[1]:
                allowed = [each[1][name][at] for each in (first, second) for at in places]
                twin.write_back(name, stream, step, check(name, got[name][row], *allowed))
    return twin


def rows_of(batch: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the lanes of `add_batch`, each as the arguments of `add`."""

    def lane(value: Any, at: int) -> Any:
        return (
            None
            if value is None
            else {key: rows[at] for key, rows in value.items()}
            if isinstance(value, dict)
            else value[at]
        )

    return {
        at: {name: lane(value, at) for name, value in batch.items()} for at in range(len(batch["reward"]))
    }
