"""Steps checked against the spec before any is stored, and what a learner gives back for them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import KEPT, Batch
from reverie.checks import flag, flags, reward_number, reward_numbers
from reverie.errors import BadSetting, SpecMismatch
from reverie.index import TERMINATED, TRUNCATED, Ints
from reverie.samplers import Sampler
from reverie.spec import Field, StepSpec, flatten_value
from reverie.values import Tree, numeric_array, tree_leaves, tree_map

# What others call the observation after a step.
NEXT_OBS = {"next_obs", "next_observation", "obs_next", "new_obs", "next_state"}
# A step that fits: column -> value, the reward included; the reward; how it ended; observation column -> value.
Step = tuple[dict[str, Any], float, int, dict[str, Any] | None]

MOST_FLOAT32 = float(np.finfo(np.float32).max)


class Lanes(NamedTuple):
    """A step for each of several lanes that fit."""

    values: dict[str, Any]  # column -> one row per lane
    rewards: npt.NDArray[np.float32]
    ended: Ints
    final: dict[str, Any] | None


class Steps(NamedTuple):
    """Steps of one stream, one after the other, that fit."""

    lanes: Lanes  # a row for each of them; `final` is not used
    final: dict[str, Any] | None
    rows: Ints  # which row of `final` each step has, if it ended

    def one(self, place: int) -> Step:
        """Return the step at a place."""
        kind, amount = self.lanes.ended.item(place), self.lanes.rewards.item(place)
        values = {name: column[place] for name, column in self.lanes.values.items()}
        values["reward"] = amount
        return values, amount, kind, self.shown(place)

    def shown(self, place: int) -> dict[str, Any] | None:
        """Return the final observation after the step at a place, if there is one."""
        if self.final is None or not self.lanes.ended.item(place):
            return None
        row = self.rows.item(place)
        return {name: column[row] for name, column in self.final.items()}


class Intake:
    """Checks steps against a spec; each method returns what fits or raises SpecMismatch."""

    __slots__ = ("_checks", "_flat", "_obs_columns", "_spec")

    def __init__(self, spec: StepSpec) -> None:
        self._spec = spec
        columns = spec.columns()
        self._obs_columns = [column for column in columns if column.is_obs]
        # Of a finite field no array fits at first sight: its numbers are looked at.
        self._checks = [
            (name, None if field.finite else field.dtype, field.shape, field.integers, field.validate)
            for name, field in columns
        ]
        # One array each and no extras: there are no keys to compare.
        self._flat = type(spec.obs) is type(spec.action) is Field and not spec.extras

    def step(
        self,
        obs: Tree,
        action: Tree,
        reward: float,
        terminated: bool,
        truncated: bool,
        final_obs: Tree | None,
        extras: Mapping[str, object],
    ) -> Step:
        """Check one step."""
        ended = 0
        if terminated is not False or truncated is not False:
            ended = TERMINATED * flag("terminated", terminated) + TRUNCATED * flag("truncated", truncated)
        amount = reward_number(reward)
        values = self._values(obs, action, extras, ())
        values["reward"] = amount
        if final_obs is None:
            return values, amount, ended, None
        if not ended:
            raise SpecMismatch(
                "final_obs: wanted it only with an end, got it with terminated=False and truncated=False; "
                "leave it out, or pass truncated=True if the episode stops here"
            )
        return values, amount, ended, self.final(final_obs)

    def lanes(
        self,
        count: int,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None,
        extras: Mapping[str, object],
    ) -> Lanes:
        """Check a step for each of `count` lanes."""
        lead = (count,)
        ended = TERMINATED * flags("terminated", terminated, lead) + TRUNCATED * flags(
            "truncated", truncated, lead
        )
        rewards = reward_numbers(reward, lead)
        values = self._values(obs, action, extras, lead)
        values["reward"] = rewards
        return Lanes(
            values, rewards, ended, None if final_obs is None else self.final(final_obs, lead, ended > 0)
        )

    def steps(
        self,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None,
        extras: Mapping[str, object],
    ) -> Steps:
        """Check steps of one stream, as many as there are rewards."""
        count = _count(reward, 1)
        lanes = self.lanes(count, obs, action, reward, terminated, truncated, None, extras)
        ends = lanes.ended.nonzero()[0]
        final, rows = None, np.arange(count)
        if final_obs is not None:
            some: dict[str, Any] = {}
            flatten_value("obs", self._spec.obs, final_obs, some)
            if all(np.shape(leaf)[:1] == (count,) for leaf in some.values()):
                final = self.final(final_obs, (count,), lanes.ended > 0)
            else:
                final = self.final(final_obs, (len(ends),))
                rows[ends] = np.arange(len(ends))
        return Steps(lanes, final, rows)

    def rows(
        self,
        count: int,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None,
        extras: Mapping[str, object],
    ) -> list[Lanes]:
        """Check steps of `count` lanes, one after the other, as many as there are rows of rewards."""
        steps = _count(reward, 2)
        given = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
        }
        parts = {**given, "extras": dict(extras), **({} if final_obs is None else {"final_obs": final_obs})}
        for name, leaf in tree_leaves("", parts):
            if len(np.shape(leaf)) < 1 or len(leaf) != steps:
                raise SpecMismatch(
                    f"field {name[1:]!r}: wanted a leading axis of {steps} steps, as there are rows of rewards, got "
                    f"shape {np.shape(leaf)}; pass (T, lanes, …)"
                )
        found = []
        for step in range(steps):
            part = tree_map(itemgetter(step), parts)
            found.append(self.lanes(count, **{"final_obs": None, **part}))
        return found

    def final(self, final_obs: Tree, lead: tuple[int, ...] = (), rows: Any = ...) -> dict[str, Any]:
        """Check a final observation, or one per lane, of which only `rows` will be read."""
        final: dict[str, Any] = {}
        flatten_value("obs", self._spec.obs, final_obs, final)
        for column in self._obs_columns:
            final[column.name] = column.field.validate(f"final_{column.name}", final[column.name], lead, rows)
        return final

    def _values(
        self, obs: Tree, action: Tree, extras: Mapping[str, object], lead: tuple[int, ...]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {"obs": obs, "action": action}
        if not self._flat or extras or isinstance(obs, dict) or isinstance(action, dict):
            values = self._flatten(obs, action, extras)
        for name, dtype, shape, integers, validate in self._checks:
            value = values[name]
            # What comes most often is seen without a call.
            if type(value) is np.ndarray:
                if value.dtype is dtype and value.shape == (lead + shape if lead else shape):
                    continue
            elif type(value) is int and value in integers and not lead:
                continue
            values[name] = validate(name, value, lead)
        return values

    def _flatten(self, obs: Tree, action: Tree, extras: Mapping[str, object]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        flatten_value("obs", self._spec.obs, obs, values)
        flatten_value("action", self._spec.action, action, values)
        wanted = self._spec.extras
        if (extras or wanted) and extras.keys() != wanted.keys():
            unknown, missing = extras.keys() - wanted.keys(), wanted.keys() - extras.keys()
            what = f"unknown {sorted(unknown)}" if unknown else f"none for {sorted(missing)}"
            remedy = "pass exactly the extras that the spec declares"
            if unknown & NEXT_OBS:
                remedy = "the obs of the next step is it; where none follows, pass final_obs= with the step that ends"
            raise SpecMismatch(f"extra fields: wanted {sorted(wanted) or 'none'}, got {what}; {remedy}")
        for name, value in extras.items():
            values[f"extras/{name}"] = value
        return values


def _count(reward: npt.ArrayLike, axes: int) -> int:
    """Return how many steps an array of rewards has; it must have so many axes."""
    shape = numeric_array("reward", reward).shape
    if len(shape) != axes:
        wanted = "(T,)" if axes == 1 else "(T, lanes)"
        raise SpecMismatch(
            f"field 'reward': wanted shape {wanted}, got {shape}; pass one reward for each step, or use add"
        )
    return int(shape[0])


def sampler_of(batch: Batch) -> Sampler:
    """Return the sampler that drew a batch.

    Raises:
        BadSetting: it is not in this process any more.
    """
    sampler = None if batch.origin is None else batch.origin.sampler
    if not isinstance(sampler, Sampler):
        raise BadSetting(
            f"batch: wanted one whose sampler the buffer still knows, got a copy whose sampler was not drawn with for "
            f"long: the last {KEPT} are kept; keep the batch that sample() returned, or use fewer samplers"
        )
    return sampler


def checked_priorities(sampler: Sampler, batch: Batch, td_errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return one priority for each window of a batch, as its sampler makes them of TD errors.

    Raises:
        SpecMismatch: errors of another shape, or one that is not finite.
        BadSetting: the sampler keeps no priorities.
    """
    errors = numeric_array("td_errors", td_errors, form="{}")
    given = errors.shape
    mask = batch.train_mask if errors.ndim == 2 else np.ones((len(batch), 1), np.bool_)
    if errors.ndim == 1:
        errors = errors[:, None]
    if errors.shape != mask.shape:
        raise SpecMismatch(
            f"td_errors: wanted numbers of shape {batch.train_mask.shape} or ({len(batch)},), got "
            f"{errors.dtype} of shape {given}; pass one per step, or one per window"
        )
    priorities = sampler.window_priorities(errors, mask)
    if not np.maximum.reduce(np.abs(priorities)) <= MOST_FLOAT32:  # neither is NaN
        raise SpecMismatch(
            "td_errors: wanted finite float32 numbers, got NaN or infinity; find out where they came from"
        )
    return priorities


def checked_extras(
    extras: Mapping[str, Field], ids: Ints, values: Mapping[str, npt.ArrayLike]
) -> dict[str, Any]:
    """Return new values of extra fields, by column; ids are those of the steps, whose shape they must have.

    Raises:
        SpecMismatch: an unknown field, or a value that does not fit it.
    """
    checked = {}
    for name, value in values.items():
        if name not in extras:
            raise SpecMismatch(
                f"write_back: wanted one of the extra fields {sorted(extras)}, got {name!r}; "
                f"declare it in the spec's extras"
            )
        checked[f"extras/{name}"] = extras[name].validate(name, value, ids.shape)
    return checked
