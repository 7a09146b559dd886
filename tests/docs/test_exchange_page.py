"""docs/exchange.md: its examples run, and it names every format and every public name."""

import re
from pathlib import Path

import pytest

from reverie import exchange

PAGE = (Path(__file__).parents[2] / "docs/exchange.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_example_runs(number, monkeypatch, tmp_path):
    """Every block of Python runs by itself, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"exchange.md, block {number}", "exec"), {"__name__": "example"})


def test_nothing_is_left_out():
    """Every format has a row, and every public name but what a format returns is on the page."""
    assert len(EXAMPLES) == 2
    cells = re.findall(r"^\| (`.+?`) \|", PAGE, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert rows == set(exchange.formats()) - {"ones", "csv"}  # those that tests have registered
    for name in set(exchange.__all__) - {"Outgoing", "formats"}:
        assert name in PAGE, name
