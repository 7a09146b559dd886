"""What every format needs: names that our specs take, a spec from arrays, and rewards that stay exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.spec import RESERVED, Field, StepSpec
from reverie.values import Tree, tree_map

REWARD_EXTRA = "reward_float64"  # an extra field that keeps rewards which float32 does not hold

Array = npt.NDArray[Any]


def our_name(name: str, taken: set[str]) -> str:
    """Return a name for a field that is like `name`, an identifier, and not in `taken`, to which it is added."""
    ours = re.sub(r"\W", "_", name) or "_"
    ours = f"_{ours}" if not ours.isidentifier() or ours in RESERVED else ours
    free, count = ours, 2
    while free in taken:
        free, count = f"{ours}_{count}", count + 1
    taken.add(free)
    return free


def our_names(names: Mapping[str, Any] | list[str]) -> dict[str, str]:
    """Return names that our specs take: foreign name -> ours. A name that fits stays what it is."""
    taken: set[str] = set()
    fits = [name for name in names if name.isidentifier() and name not in RESERVED]
    found = {name: our_name(name, taken) for name in fits}
    found |= {name: our_name(name, taken) for name in names if name not in found}
    return {name: found[name] for name in names}


def field_of(rows: Array) -> Field:
    """Return the field of some steps' values (T, …).

    Raises:
        BadSetting: these are no numbers.
    """
    return Field(rows.shape[1:], rows.dtype)


def spec_of(obs: Tree, action: Tree, extras: Mapping[str, Array]) -> StepSpec:
    """Return the spec of steps with these values, each (T, …)."""
    fields = {name: field_of(rows) for name, rows in extras.items()}
    return StepSpec(tree_map(field_of, obs), tree_map(field_of, action), fields)


def are_exact(rewards: Array) -> bool:
    """Whether float32 holds these rewards."""
    with np.errstate(over="ignore"):
        return bool((rewards.astype(np.float32).astype(np.float64) == rewards.astype(np.float64)).all())


def refuse_loss(lossy: tuple[str, ...], name: str, what: str) -> None:
    """Refuse what would change values, unless the caller has named it.

    Raises:
        BadSetting: it is not in `lossy`.
    """
    if name not in lossy:
        raise BadSetting(
            f"lossy: wanted nothing lost, got {what}; pass lossy=({name!r},) to have it all the same"
        )


def options_of(format: str, given: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """Return the options given to a format, if it knows them all.

    Raises:
        BadSetting: it does not.
    """
    unknown = given.keys() - set(known)
    if unknown:
        raise BadSetting(
            f"{format}: wanted options {sorted(known) or 'none'}, got {sorted(unknown)}; leave it out"
        )
    return dict(given)


# What of a sentence changes where it is about one thing alone.
_ONE = {"episodes": "episode", "rows": "row", "rewards": "reward", "observations": "observation", "records": "record",
        "sets": "set", "attributes": "attribute", "truncations": "truncation", "have": "has", "run": "runs",
        "begin": "begins", "stop": "stops", "do": "does", "follow": "follows", "were": "was", "are": "is",
        "lie": "lies", "they": "it", "their": "its", "them": "it"}  # fmt: skip


def tell(lost: Mapping[str, int]) -> list[str]:
    """Return a line for each thing that was lost, with how many of them there were; the words agree with the number."""
    return [f"{count:,} {line if count != 1 else _singular(line)}" for line, count in lost.items() if count]


def _singular(line: str) -> str:
    # What is quoted is a name, and "does not begin" is right already.
    first, colon, rest = line.partition(":")
    return re.sub(r"'[^']*'|not begin|\w+", lambda word: _ONE.get(word[0], word[0]), first) + colon + rest
