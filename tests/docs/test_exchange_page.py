"""docs/exchange.md: its examples run, and it names every format and every public name."""

import os
import re
import shlex
from pathlib import Path

import pytest

from reverie import exchange
from reverie.cli import main

PAGE = (Path(__file__).parents[2] / "docs/exchange.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_example_runs(number, monkeypatch, tmp_path):
    """Every block of Python runs by itself, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"exchange.md, block {number}", "exec"), {"__name__": "example"})


@pytest.mark.skipif(
    "REVERIE_DATA" not in os.environ, reason="REVERIE_DATA names no folder with the real files"
)
def test_the_real_files_are_all_there(monkeypatch, tmp_path, capsys):
    """The page's own commands print what its table shows: steps, episodes and checksums."""
    commands = re.findall(r"^reverie (import .* --checksum)$", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| (\S+) \| ([\d,]+) \| ([\d,]+) \| `(.*?)` \| `(\w{64})` \|$", PAGE, re.MULTILINE)
    assert len(commands) == len(rows) == 3
    monkeypatch.chdir(tmp_path)
    for command, (name, steps, episodes, part, digest) in zip(commands, rows, strict=True):
        (tmp_path / name).symlink_to(Path(os.environ["REVERIE_DATA"], name).resolve())
        assert main(shlex.split(command)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"imported  {steps} steps in {episodes} episodes"
        assert f"sha256    {digest} {part}" in lines


def test_nothing_is_left_out():
    """Every format has a row, and every public name but what a format returns is on the page."""
    assert len(EXAMPLES) == 2
    cells = re.findall(r"^\| (`.+?`) \|", PAGE, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert rows == set(exchange.formats()) - {"ones", "csv"}  # those that tests have registered
    for name in set(exchange.__all__) - {"Outgoing", "formats"}:
        assert name in PAGE, name
