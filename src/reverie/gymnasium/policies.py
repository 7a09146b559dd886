"""Policies and transforms: how they are asked, and what they may answer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from reverie.errors import SpecMismatch
from reverie.values import shown

Policy = Callable[..., Any]
Answer = tuple[Any, dict[str, Any]]  # the action, and the extra fields
Transform = Callable[[dict[str, Any]], dict[str, Any]]  # a step -> extra fields of it
REQUIRED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def asked(policy: Policy, space: gymnasium.Space[Any]) -> Callable[[Any, Any], Answer]:
    """Return `policy` as a function of (obs, info) that always answers with action and extras.

    Args:
        policy: takes (obs, info) if it has two positional parameters without a default, else obs alone. A result
            that is a tuple of two, the second a dict, is (action, extras); everything else is the action.
        space: of one lane's actions. If it is a Tuple, every result is the action.
    """
    knows_info, has_extras = _takes_info(policy), not isinstance(space, gymnasium.spaces.Tuple)

    def ask(obs: Any, info: Any) -> Answer:
        chosen = policy(obs, info) if knows_info else policy(obs)
        if has_extras and isinstance(chosen, tuple) and len(chosen) == 2 and isinstance(chosen[1], dict):
            return chosen
        return chosen, {}

    return ask


def at_random(space: gymnasium.Space[Any], seed: int | None) -> Policy:
    """Return a policy that draws from `space`, with a generator of its own."""
    space = copy.deepcopy(space)  # the environment's own generator stays as it is
    # A stream of its own: the environment seeds its generator with the bare number.
    space.seed(None if seed is None else int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    return lambda obs: space.sample()


def _takes_info(policy: Policy) -> bool:
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):  # a callable written in C may not tell
        return False
    return sum(each.kind in REQUIRED and each.default is each.empty for each in parameters) >= 2


def told(transform: Transform | None, step: dict[str, Any]) -> dict[str, Any]:
    """Return the extra fields that a transform makes of a step; none without a transform.

    Raises:
        SpecMismatch: it returns no dict.
    """
    if transform is None:
        return {}
    extras = transform(step)
    if not isinstance(extras, dict):
        raise SpecMismatch(
            f"transform: wanted a dict of extra fields by name, got {shown(extras)}; return {{}} where there is none"
        )
    return extras
