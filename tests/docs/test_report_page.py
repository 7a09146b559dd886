"""docs/report.md: its example runs, it shows its pictures, and it names every argument."""

import inspect
import re
from pathlib import Path

from reverie.report import report

PATH = Path(__file__).parents[2] / "docs/report.md"
PAGE = PATH.read_text()


def test_the_example_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "report.md", "exec"), {"__name__": "example"})
    assert 1_500_000 < (tmp_path / "carts.html").stat().st_size < 3_000_000


def test_its_pictures_are_there():
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", PAGE)
    assert len(pictures) == 6
    assert all((PATH.parent / name).stat().st_size > 5_000 for name in pictures)


def test_nothing_is_left_out():
    for name in set(inspect.signature(report).parameters) - {"source", "target", "seed", "force"}:
        assert f"{name}=" in PAGE or f"`{name}`" in PAGE, name
