"""Suitability: whether a buffer can take the steps of an environment, asked before anything is played."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from reverie.buffer import ReplayBuffer
from reverie.errors import BadSetting, SpecMismatch
from reverie.spec import Column, StepSpec

AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]


def count_lanes(env: AnyEnv) -> int:
    """Return how many lanes `env` has; refuse one whose resets cannot be told from its steps."""
    if isinstance(env, VectorEnv):
        mode = autoreset_mode(env)
        inner = env.unwrapped
        if mode is AutoresetMode.NEXT_STEP and isinstance(inner, AsyncVectorEnv) and not inner.shared_memory:
            # Gymnasium's worker clears its pending autoreset in reset() only where memory is shared: after a
            # reset its first "step" may be a reset in disguise, a dead transition that nothing gives away.
            raise BadSetting(
                "env: wanted shared_memory=True in an AsyncVectorEnv that resets on the next step, got False, which "
                "lets a pending autoreset survive reset(); build it with shared_memory=True, "
                "or with another autoreset_mode"
            )
        return int(env.num_envs)
    if isinstance(env, gymnasium.Env):
        return 1
    raise BadSetting(
        f"env: wanted a gymnasium.Env or gymnasium.vector.VectorEnv, got {type(env).__name__}; "
        f"wrap it as one, or add its steps with ReplayBuffer.add"
    )


def autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return when a vector environment resets a lane that ended."""
    # Some vector environments write their mode into the metadata of their class, where the last one built
    # speaks for all; an attribute of the environment itself is the better witness.
    named = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(named)
    except ValueError:
        raise BadSetting(
            f"env: wanted metadata['autoreset_mode'] to be a gymnasium.vector.AutoresetMode, got {named!r}; "
            f"set it to the mode that the environment follows, so that no reset is stored as a step"
        ) from None


def check_fit(env: AnyEnv, lanes: int, buffer: ReplayBuffer) -> None:
    """Refuse a buffer that cannot take the steps of `env`, before anything is played."""
    if buffer.streams != lanes:
        raise BadSetting(
            f"buffer: wanted one stream per lane, {lanes} in all, got {buffer.streams}; "
            f"build it with streams={lanes}"
        )
    wanted = _fields(StepSpec.from_env(env).columns())
    got = _fields(buffer.spec.columns())
    remedy = "build the buffer with StepSpec.from_env(env), or wrap the environment"
    got = {name: field for name, field in got.items() if not name.startswith("extras/")}
    left_out = {name for name in wanted if name.startswith("obs/")} - got.keys()
    if wanted.keys() - left_out != got.keys() or not any(name.partition("/")[0] == "obs" for name in got):
        raise SpecMismatch(f"buffer: wanted the fields {sorted(wanted)}, got {sorted(got)}; {remedy}")
    for name, held in got.items():
        field = wanted[name]
        if field.shape != held.shape or not held.takes(field.dtype):
            raise SpecMismatch(
                f"field {name!r}: wanted {field} as the environment has it, got {held}; {remedy}"
            )


def _fields(columns: tuple[Column, ...]) -> dict[str, Any]:
    return {column.name: column.field for column in columns}
