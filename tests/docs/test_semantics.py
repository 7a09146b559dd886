"""docs/semantics.md: its worked examples hold, in order, and it leaves out no boundary and no sampler."""

import re
from pathlib import Path

import pytest

from reverie.index import BOUNDARIES
from support.samplers import NAMES

PAGE = (Path(__file__).parents[2] / "docs/semantics.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_example_holds(number, monkeypatch, tmp_path):
    """Every block runs after the first one, which makes the buffer that all of them look at."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for block in (0, number):
        exec(compile(EXAMPLES[block], f"semantics.md, block {block}", "exec"), names)


def test_nothing_is_left_out():
    """There is an example for each boundary, with assertions, and each sampler is in the table."""
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert set(headings) == set(BOUNDARIES)
    for name in BOUNDARIES:
        assert any(f'"{name}"' in example and "assert" in example for example in EXAMPLES[1:-1]), name
    for name in NAMES:
        assert f"| `{name}(" in PAGE, name
    assert all("assert" in example for example in EXAMPLES[1:])
