"""The README's promises about itself: its examples run, its commands and files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
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
    modules = re.search(r"```\nsrc/reverie/\n(.*?)```", README, re.DOTALL)
    assert modules is not None
    for name in re.findall(r"\b(\w+\.py|\w+/)", modules[1]):
        assert (ROOT / "src/reverie" / name).exists(), name
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`(tests/[\w/]+\.py|tests/\w+/)`", contributing):
        assert (ROOT / name).exists(), name


def test_every_make_target_exists():
    """Commands that the README and CONTRIBUTING name are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"`?\bmake (\w+)", (ROOT / page).read_text()):
            if f"`make {target}" in (ROOT / page).read_text():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
