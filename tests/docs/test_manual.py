"""The tutorial, the how-tos and the tour: the code of each page runs, from its first block to its last, in an empty directory."""

import code
import importlib
import inspect
import re
from pathlib import Path

import pytest

import reverie as rv
import reverie.errors

DOCS = Path(__file__).parents[2] / "docs"
RUN_WHOLE = [f"how-to/{path.name}" for path in sorted((DOCS / "how-to").glob("*.md"))]
TOUR = re.findall(r"```python\n(.*?)```", (DOCS / "tour.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["start.md", *RUN_WHOLE])
def test_the_page_can_be_pasted(name, monkeypatch, tmp_path, capsys):
    """Line by line, as into Python's own prompt: a block that goes on to the next line without a pause would break there."""
    monkeypatch.chdir(tmp_path)
    console = code.InteractiveConsole({"__name__": "example"})
    for block in re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        for line in [*block.splitlines(), ""]:
            console.push(line)
    told = capsys.readouterr()
    assert "Error" not in told.err
    assert name != "start.md" or "5500 steps" in told.out or "5000 steps" in told.out


@pytest.mark.parametrize("number", range(len(TOUR)))
def test_the_block_of_the_tour_runs(number, monkeypatch, tmp_path):
    """Every block runs by itself."""
    monkeypatch.chdir(tmp_path)
    exec(compile(TOUR[number], f"tour.md, block {number}", "exec"), {"__name__": "example"})


# The doors that programs import from: the names of each that are for them, where not all of its `__all__` are.
DOORS = {
    "reverie": [*(name for name in rv.__all__ if name != "__version__"), "open"], "samplers": ["Anchors", "Drawn", "Sampler"],
    "gymnasium": None, "exchange": None, "torch": None, "jax": None, "conformance": None, "report": ["report", "show"], "ray": None,
    "compat": ["IRISOnPolicyBuffer", "IRISReplayBuffer"],
    "errors": [name for name in reverie.errors.__all__ if name[0].isupper()],
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_in_the_reference_and_has_a_docstring(door):
    """A new name needs a line on the page of its door, and words of its own."""
    path = "reverie" if door == "reverie" else f"reverie.{door}"
    module = importlib.import_module(path)
    names = sorted(DOORS[door] or module.__all__)
    page = (DOCS / f"reference/{door}.md").read_text()
    assert sorted(re.findall(rf"^::: {re.escape(path)}\.(\w+)$", page, re.MULTILINE)) == names
    for name in names:
        one = getattr(module, name)
        if inspect.isclass(one) or inspect.isroutine(one):
            assert inspect.getdoc(one), name
            members = vars(one).items() if inspect.isclass(one) else ()
            for member, value in members:
                if not member.startswith("_") and inspect.isroutine(value) and value.__name__ == member:
                    assert inspect.getdoc(getattr(one, member)), f"{name}.{member}"


def test_every_page_is_in_the_navigation():
    """And every page that the navigation names is there; the README and the CHANGELOG become two of them."""
    named = set(re.findall(r"([\w/-]+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "results" not in path.parts}
    assert named == there | {"index.md", "changes.md"}
