"""Every figure of the house, with the aim beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import reverie
from benchmarks.house.calls import every_call
from benchmarks.house.imports import imports_between_modules, imports_between_rooms, is_door, longest_chain
from benchmarks.house.sizes import classes, functions, largest, lines_of, median_lines, modules, top

SOURCE = Path(reverie.__file__).parent


@dataclass(frozen=True)
class Figure:
    """One line of the table: what is there, the most that it should be (None: no aim), and where the most is."""

    name: str
    value: float
    aim: float | None = None
    where: str = ""


def sizes(source: Path = SOURCE) -> list[Figure]:
    """Return the figures of what the source has in it."""
    top_modules, rooms = top(source)
    parts = modules(source)
    inside = [part for part in parts if part.name.startswith("iris/")]
    module, largest_class, every_function = largest(parts), largest(classes(source)), functions(source)
    return [
        Figure("modules at the top", len(top_modules), 12),
        Figure("rooms at the top", len(rooms), 18),
        Figure("largest module, lines", module.lines, 400, module.name),
        Figure("largest class, lines", largest_class.lines, 300, largest_class.name),
        Figure("median function, lines", median_lines(every_function), 10),
        Figure("lines outside iris/", lines_of(parts) - lines_of(inside), 10_000),
        Figure("lines inside iris/", lines_of(inside)),
    ]


def depths() -> list[Figure]:
    """Return the lengths of the longest chains of imports."""
    imports = imports_between_modules()
    modules_on_it = longest_chain(imports)
    rooms_on_it = longest_chain(imports_between_rooms(imports))
    doors = [module for module in modules_on_it if is_door(module, imports)]
    return [
        Figure("longest chain of imports, modules and doors", len(modules_on_it)),
        Figure("longest chain of imports, doors left out", len(modules_on_it) - len(doors)),
        Figure("longest chain of imports, rooms", len(rooms_on_it), 12),
    ]


def paths(source: Path = SOURCE) -> list[Figure]:
    """Return how many files, rooms and crossings between files each call has."""
    figures = []
    for name, watch in every_call(source).items():
        is_open = name.startswith("open")
        figures += [
            Figure(f"{name}: files", len(watch.files), 10 if name == "add with a path" else None),
            Figure(f"{name}: rooms", len(watch.rooms), 7 if is_open else None, " ".join(sorted(watch.rooms))),
            Figure(
                f"{name}: modules beside the rooms", len(watch.words), None, " ".join(sorted(watch.words))
            ),
            Figure(f"{name}: crossings", watch.crossings),
        ]
        if name == "add with a path":
            figures.append(Figure(f"{name}: frames above SQLite", watch.frames, 5))
    return figures


def show(figures: list[Figure]) -> str:
    """Return the table."""
    lines = [f"{'':52}{'now':>8}{'aim':>8}"]
    for figure in figures:
        aim = "" if figure.aim is None else f"{figure.aim:,g}"
        lines.append(f"{figure.name:52}{figure.value:8,g}{aim:>8}  {figure.where}".rstrip())
    return "\n".join(lines)
