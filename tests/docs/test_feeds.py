"""docs/feeds.md: its examples run, each after the first one, and it leaves out no public name."""

import re
from pathlib import Path

import pytest

import reverie.torch

PAGE = (Path(__file__).parents[2] / "docs/feeds.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_example_runs(number):
    """Every block runs after the first one, which makes the buffer that all of them look at."""
    names = {"__name__": "example"}
    for block in (0, number):
        exec(compile(EXAMPLES[block], f"feeds.md, block {block}", "exec"), names)


def test_nothing_is_left_out():
    """Every public name of the bridge is in an example."""
    assert len(EXAMPLES) >= 6
    for name in set(reverie.torch.__all__) - {"Feed"}:
        assert any(re.search(rf"\b{name}\(", example) for example in EXAMPLES), name
