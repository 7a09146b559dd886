"""From what a user passes to `add` to values that are sure to fit: all of it is checked before any is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.door import flag, flags, reward_number, reward_numbers
from reverie.episodes import TERMINATED, TRUNCATED, Ints
from reverie.errors import SpecMismatch
from reverie.spec import Column, StepSpec, Tree, flatten_value


class Step(NamedTuple):
    """A step that fits."""

    values: dict[str, Any]  # column -> value, the reward included
    reward: float
    ended: int
    final: dict[str, Any] | None  # observation column -> value


class Lanes(NamedTuple):
    """A step for each of several lanes that fit."""

    values: dict[str, Any]  # column -> one row per lane
    rewards: npt.NDArray[np.float32]
    ended: Ints
    final: dict[str, Any] | None


class Intake:
    """Checks steps against a spec; each method returns what fits or raises SpecMismatch."""

    __slots__ = ("_columns", "_obs_columns", "_spec")

    def __init__(self, spec: StepSpec, columns: tuple[Column, ...], obs_columns: tuple[Column, ...]) -> None:
        self._spec = spec
        self._columns = columns
        self._obs_columns = obs_columns

    def step(self, obs: Tree, action: Tree, reward: float, terminated: bool, truncated: bool,
             final_obs: Tree | None, extras: Mapping[str, object]) -> Step:  # fmt: skip
        """Check one step."""
        ended = TERMINATED * flag("terminated", terminated) + TRUNCATED * flag("truncated", truncated)
        amount = reward_number(reward)
        values = self._values(obs, action, extras, ())
        values["reward"] = amount
        if final_obs is None:
            return Step(values, amount, ended, None)
        if not ended:
            raise SpecMismatch(
                "final_obs: wanted it only with an end, got it with terminated=False and truncated=False; "
                "leave it out, or pass truncated=True if the episode stops here"
            )
        return Step(values, amount, ended, self.final(final_obs))

    def lanes(self, count: int, obs: Tree, action: Tree, reward: npt.ArrayLike, terminated: npt.ArrayLike,
              truncated: npt.ArrayLike, final_obs: Tree | None, extras: Mapping[str, object]) -> Lanes:  # fmt: skip
        """Check a step for each of `count` lanes."""
        lead = (count,)
        ended = TERMINATED * flags("terminated", terminated, lead) + TRUNCATED * flags(
            "truncated", truncated, lead
        )
        rewards = reward_numbers(reward, lead)
        values = self._values(obs, action, extras, lead)
        values["reward"] = rewards
        return Lanes(values, rewards, ended, None if final_obs is None else self.final(final_obs, lead))

    def final(self, final_obs: Tree, lead: tuple[int, ...] = ()) -> dict[str, Any]:
        """Check a final observation, or one per lane."""
        final: dict[str, Any] = {}
        flatten_value("obs", self._spec.obs, final_obs, final)
        for column in self._obs_columns:
            final[column.name] = column.field.validate(f"final_{column.name}", final[column.name], lead)
        return final

    def _values(
        self, obs: Tree, action: Tree, extras: Mapping[str, object], lead: tuple[int, ...]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        flatten_value("obs", self._spec.obs, obs, values)
        flatten_value("action", self._spec.action, action, values)
        wanted = self._spec.extras
        if (extras or wanted) and extras.keys() != wanted.keys():
            unknown, missing = extras.keys() - wanted.keys(), wanted.keys() - extras.keys()
            what = f"unknown {sorted(unknown)}" if unknown else f"none for {sorted(missing)}"
            raise SpecMismatch(
                f"extra fields: wanted {sorted(wanted) or 'none'}, got {what}; "
                f"pass exactly the extras that the spec declares"
            )
        for name, value in extras.items():
            values[f"extras/{name}"] = value
        for column in self._columns:
            values[column.name] = column.field.validate(column.name, values[column.name], lead)
        return values
