"""Arrays by name, and dicts of such: one of them, and what all of them look like."""

from __future__ import annotations

from typing import Any

from reverie.batch.absent import lacking, not_read
from reverie.values import tree_leaves


def named(batch: Any, name: str) -> Any:
    """Return what stands in a batch under a name, in which a slash leads into a dict.

    Raises:
        FieldNotRead: the batch was drawn without it.
        KeyError: there is nothing of that name.
    """
    trees = batch.as_dict()
    found: Any = trees
    first, *rest = str(name).split("/")
    if first not in trees and first in lacking(type(batch)):
        raise not_read(batch, first)
    for part in (first, *rest):
        if not isinstance(found, dict) or part not in found:
            there = sorted(path[1:] for path, _ in tree_leaves("", trees))
            raise KeyError(
                f"wanted one of {there}, got {name!r}; what fields= leaves out is not there either"
            )
        found = found[part]
    return found


def shown_trees(head: str, trees: dict[str, Any]) -> str:
    """Return what a batch is, and a line for the shape and dtype of each of its arrays."""
    rows = [(path[1:], leaf) for path, leaf in tree_leaves("", trees)]
    width = max(len(path) for path, _ in rows)
    lines = [
        f"  {path:{width}}  {tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
        for path, leaf in rows
    ]
    return "\n".join([f"{head}:", *lines]) + ")"
