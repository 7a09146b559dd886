"""Final observations: what the lanes of a vector environment truly saw last, under `AutoresetMode.SAME_STEP`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import SyncVectorEnv, VectorEnv

from reverie.errors import SpecMismatch
from reverie.gymnasium.lanes import own, put, row
from reverie.gymnasium.spaces import stored
from reverie.values import Tree, tree_leaves

Bools = npt.NDArray[np.bool_]


def true_final(env: VectorEnv[Any, Any, Any], obs: Tree, infos: Mapping[str, Any], ended: Bools) -> Tree:
    """Return `obs` with the rows of lanes that ended replaced by what they truly saw last (`SAME_STEP`)."""
    if "final_obs" not in infos:
        raise SpecMismatch(
            f"env: wanted infos['final_obs'] for lanes {np.flatnonzero(ended).tolist()}, which ended, "
            f"got infos with keys {sorted(infos)}; use AutoresetMode.NEXT_STEP, or unwrap what hides it"
        )
    out = own("obs", obs)
    for lane in np.flatnonzero(ended).tolist():
        final = row("final_obs", infos["final_obs"], env.num_envs, lane)
        final = stored("final_obs", env.single_observation_space, final)
        _refuse_overwritten(env, lane, final)
        put("final_obs", out, lane, final)
    return out


def _refuse_overwritten(env: VectorEnv[Any, Any, Any], lane: int, final: Tree) -> None:
    """Refuse a lane of a SyncVectorEnv whose reset observation lies in the memory of its final one."""
    inner = env.unwrapped
    if not isinstance(inner, SyncVectorEnv):
        return
    # Gymnasium keeps each lane's newest observation here, as the lane returned it. It has no public name for that.
    newest = stored("obs", env.single_observation_space, vars(inner)["_env_obs"][lane])
    after = dict(tree_leaves("obs", newest))
    for name, leaf in tree_leaves("obs", final):
        if (
            isinstance(leaf, np.ndarray)
            and isinstance(after[name], np.ndarray)
            and np.shares_memory(leaf, after[name])
        ):
            raise SpecMismatch(
                f"env: wanted lane {lane} to keep its final observation apart from the next reset's, got one "
                f"array for both, already overwritten; return a copy from its reset(), "
                f"or use AutoresetMode.NEXT_STEP"
            )
