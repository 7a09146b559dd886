"""How many modules and rooms there are, and how long they, their classes and their functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Part:
    """A module, a class or a function, and how many lines it has: blank lines, comments and docstrings count."""

    name: str
    lines: int


def modules(source: Path) -> list[Part]:
    """Return every module below a folder, named by its path."""
    return [
        Part(path.relative_to(source).as_posix(), len(path.read_text().splitlines()))
        for path in sorted(source.rglob("*.py"))
    ]


def classes(source: Path) -> list[Part]:
    """Return every class, from its first decorator to its last line."""
    return list(_definitions(source, ast.ClassDef))


def functions(source: Path) -> list[Part]:
    """Return every function and method, nested ones too, from its first decorator to its last line."""
    return list(_definitions(source, ast.FunctionDef, ast.AsyncFunctionDef))


def largest(parts: list[Part]) -> Part:
    """Return the part that has the most lines."""
    return max(parts, key=lambda part: part.lines)


def median_lines(parts: list[Part]) -> float:
    """Return the median of the parts' lines."""
    return median(part.lines for part in parts)


def lines_of(parts: list[Part]) -> int:
    """Return the lines of all parts together."""
    return sum(part.lines for part in parts)


def top(source: Path) -> tuple[list[str], list[str]]:
    """Return the modules and the packages that lie in the folder itself; `__init__` is a module."""
    packages = [path.parent.name for path in sorted(source.glob("*/__init__.py"))]
    return [path.stem for path in sorted(source.glob("*.py"))], packages


def _definitions(source: Path, *kinds: type[Definition]) -> Iterator[Part]:
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                name = f"{path.relative_to(source).as_posix()}: {node.name}"
                yield Part(name, (node.end_lineno or first) - first + 1)
