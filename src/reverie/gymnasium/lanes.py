"""Lanes: what an environment returns, checked and split into its lanes. Its arrays may be of any framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import SpecMismatch, counted
from reverie.values import Tree, fits, is_foreign, numeric_array, owned, tree_leaves

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


def own(name: str, tree: Tree) -> Tree:
    """Return a copy that nobody else will write to, its arrays as NumPy's."""
    if isinstance(tree, Mapping):
        return {key: own(f"{name}/{key}", child) for key, child in tree.items()}
    return owned(name, tree)


def for_env(name: str, chosen: Tree, obs: Tree) -> Tree:
    """Return an action as the environment takes it: one that shows NumPy's arrays gets no tensors."""
    if any(is_foreign(leaf) for _, leaf in tree_leaves("obs", obs)):
        return chosen
    if isinstance(chosen, Mapping):
        return {key: for_env(f"{name}/{key}", child, obs) for key, child in chosen.items()}
    return numeric_array(name, chosen) if is_foreign(chosen) else chosen


def numbers(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Return the numbers of that shape which an environment gave.

    Raises:
        SpecMismatch: they are no numbers, or of another shape.
    """
    array = numeric_array(name, value)
    if array.shape != shape:
        raise SpecMismatch(
            f"field {name!r}: wanted shape {shape} from env.step, got {array.dtype} of shape {array.shape}; "
            f"wrap the environment so that it returns one number per step and lane"
        )
    return array


def rows(name: str, tree: Tree, count: int, lanes: Ints) -> Tree:
    """Return the rows of `lanes`, each leaf shrinking from (count, …) to (len(lanes), …)."""
    if isinstance(tree, Mapping):
        return {key: rows(f"{name}/{key}", child, count, lanes) for key, child in tree.items()}
    leaf = _leaf(name, tree, count)
    return leaf[lanes] if isinstance(leaf, np.ndarray) else [leaf[lane] for lane in lanes.tolist()]


def row(name: str, tree: Tree, count: int, lane: int) -> Tree:
    """Return the row of one lane, each leaf shrinking from (count, …) to (…)."""
    if isinstance(tree, Mapping):
        return {key: row(f"{name}/{key}", child, count, lane) for key, child in tree.items()}
    return _leaf(name, tree, count)[lane]


def put(name: str, tree: Tree, lane: int, value: Tree) -> None:
    """Write one lane's `value` into row `lane` of `tree`.

    Raises:
        SpecMismatch: it has another shape, or numbers that cannot stand there without loss.
    """
    if isinstance(tree, Mapping):
        if not isinstance(value, Mapping) or value.keys() != tree.keys():
            raise SpecMismatch(
                f"field {name!r}: wanted a dict with keys {sorted(tree)}, got {value!r}; pass exactly these keys"
            )
        for key, child in tree.items():
            put(f"{name}/{key}", child, lane, value[key])
        return
    one = numeric_array(name, value)
    if one.shape != tree[lane].shape or not fits(one, tree.dtype, value):
        raise SpecMismatch(
            f"field {name!r}: wanted shape {tree[lane].shape} and dtype {tree.dtype} as in the observations, "
            f"got {one.shape} and {one.dtype}; a wrapper that changes observations must change "
            f"infos['final_obs'] too"
        )
    tree[lane] = one


def _leaf(name: str, leaf: Any, count: int) -> Array | Sequence[Any]:
    """Return one leaf as something with a row for each of `count` lanes."""
    # A list, and an array of objects such as Gymnasium makes of them, holds what each lane gave.
    listed = isinstance(leaf, (list, tuple)) or (isinstance(leaf, np.ndarray) and leaf.dtype == object)
    held: Any = leaf if listed else numeric_array(name, leaf)
    size = len(held) if isinstance(held, (list, tuple)) or held.ndim else 0
    if size != count:
        raise SpecMismatch(
            f"field {name!r}: wanted a row for each of {counted(count, 'lane')}, got {size}; pass one per lane"
        )
    return list(held) if listed else held
