"""The README's promises about itself: its examples run, its commands and files exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAP = re.search(r"```\nsrc/reverie/\n(.*?)```", README, re.DOTALL)
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_example_runs(number, monkeypatch, tmp_path):
    """Every Python block of the README runs by itself, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {"__name__": "example"})


def test_there_are_examples():
    """The pattern above finds the blocks: at least three."""
    assert len(EXAMPLES) >= 3


def test_every_named_file_exists():
    """Files in the map and in the tables are there."""
    assert MAP is not None
    for name in re.findall(r"\b(\w+\.py|\w+/)", MAP[1]):
        assert (ROOT / "src/reverie" / name).exists(), name
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`(tests/[\w/]+\.py|tests/\w+/)`", contributing):
        assert (ROOT / name).exists(), name


def imported(path):
    """Yield the modules of reverie that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reverie."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "reverie":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("reverie."))


def test_the_map_names_every_room_before_those_that_it_imports():
    """Each room stands on the map once, and imports what stands on its line or below it."""
    package = ROOT / "src/reverie"
    lines = [re.findall(r"\b(\w+)(?:\.py|/)", line) for line in MAP[1].splitlines()]
    named = [name for names in lines for name in names]
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert sorted(named) == sorted(modules | packages)
    line_of = {name: number for number, names in enumerate(lines) for name in names}
    for name, line in line_of.items():
        for path in [package / f"{name}.py"] if name in modules else (package / name).rglob("*.py"):
            for other in imported(path):
                assert line_of.get(other, line) >= line, f"{name} stands below {other}, which it imports"


def test_every_make_target_exists():
    """Commands that the README and CONTRIBUTING name are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"`?\bmake (\w+)", (ROOT / page).read_text()):
            if f"`make {target}" in (ROOT / page).read_text():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
