"""How long the chains of imports are between the modules of reverie, and between its rooms.

An import counts wherever it stands: at the top of a module, inside a function, or under `TYPE_CHECKING`. These are the
imports that `lint-imports` judges. A chain is counted in the modules or rooms on it, its two ends included.
"""

from __future__ import annotations

from collections.abc import Mapping

import grimp

Imports = Mapping[str, set[str]]  # importer -> what it imports


def imports_between_modules(package: str = "reverie") -> Imports:
    """Return what every module of a package imports from the same package."""
    graph = grimp.build_graph(package, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def imports_between_rooms(imports: Imports) -> Imports:
    """Return what every room imports from other rooms; the package's own `__init__` is a room, too."""
    rooms: dict[str, set[str]] = {}
    for importer, imported in imports.items():
        room = room_of(importer)
        rooms.setdefault(room, set()).update({room_of(module) for module in imported} - {room})
    return rooms


def room_of(module: str) -> str:
    """Return the room that a module belongs to: `reverie.index` of `reverie.index.episodes`."""
    return ".".join(module.split(".")[:2])


def is_door(module: str, imports: Imports) -> bool:
    """Return whether a module is the `__init__` of a package."""
    return any(other.startswith(f"{module}.") for other in imports)


def longest_chain(imports: Imports) -> list[str]:
    """Return a longest chain of imports, the importer first.

    Raises:
        ValueError: the imports run in a circle, so that no chain is the longest.
    """
    chains: dict[str, list[str]] = {}
    followed: list[str] = []  # the chain that led here

    def chain_from(module: str) -> list[str]:
        if module in followed:
            raise ValueError(
                f"imports run in a circle: {' -> '.join([*followed[followed.index(module) :], module])}"
            )
        if module not in chains:
            followed.append(module)
            below = [chain_from(imported) for imported in sorted(imports[module])]
            followed.pop()
            chains[module] = [module, *max(below, key=len, default=[])]
        return chains[module]

    return max((chain_from(module) for module in sorted(imports)), key=len)
