"""The part of docs/benchmarks.md that shows shards on Ray, made from the JSON and from nothing else."""

from __future__ import annotations

from pathlib import Path

from benchmarks.shards.figures import read, show

PAGE = Path("docs/benchmarks.md")
RESULTS = Path("benchmarks/results/shards.json")
BEGIN, END = "<!-- shards -->\n", "<!-- /shards -->"


def with_tables(page: str, results: Path) -> str:
    """Return a page with the tables put in between their marks."""
    machine, tables = read(results)
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, NumPy "
        f"{machine['numpy']}, Ray {machine['ray']}. When it began, {machine['load']:.0f} processes of others wanted "
        "the cores.",
    ]
    for table in tables.values():
        lines += ["", f"**{table.title}**", "", *show(table)]
    return f"{before}{BEGIN}" + "\n".join(lines) + f"\n{END}{after}"


def put_tables(page: Path, results: Path) -> None:
    """Write the tables into the page."""
    page.write_text(with_tables(page.read_text(), results))
