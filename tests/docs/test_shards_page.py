"""docs/benchmarks.md shows of shards on Ray what the JSON holds, and says what misses its bound."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.shards import __main__ as main
from benchmarks.shards.buffers import Sizes
from benchmarks.shards.figures import Figure, Table, digits, rates, read, show, times, write
from benchmarks.shards.pages import PAGE, RESULTS, with_tables
from benchmarks.shards.peer import PeerFailed
from benchmarks.shards.plain import Owned

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_the_json_holds():
    """The generated part of the page is what the JSON gives now, and no table is missing."""
    page = (ROOT / PAGE).read_text()
    assert with_tables(page, ROOT / RESULTS) == page
    assert set(read(ROOT / RESULTS)[1]) >= {
        "sample",
        "feed",
        "processors",
        "parts",
        "writers",
        "restarts",
        "memory",
    }


def test_rates_by_hand():
    """A call of half the time has twice the rate; ratios are of single rounds."""
    seconds = {"ours": np.array([2.0, 4.0, 4.0]), "limit": np.array([1.0, 1.0, 4.0])}
    ours, limit = rates(seconds, ["limit"], {"ours": 0.8}, per=8)
    assert (ours.value, ours.rounds, ours.ratios) == (2.0, 3, {"limit": [0.375, 0.5, 0.75]})
    assert ours.is_below()
    assert not limit.is_below()
    assert not rates(seconds, ["limit"], {"ours": 0.5})[0].is_below()
    [slow, _] = times(seconds, "limit", 0.5)
    assert (slow.value, slow.ratios) == (8.0, {"limit": [1.5, 2.0, 3.0]})


def test_a_figure_below_its_bound_is_marked():
    """It says which bound; a figure that stands beside nothing shows none."""
    below = Figure("1 shard", 123.4, 3, {"Ray": [0.5, 0.6, 0.7], "a local buffer": [0.01, 0.012, 1.0]}, 0.8)
    alone = Figure("alone", 0.0, 3, note="of it: nothing")
    assert show(Table("a title", "batches a second", [below, alone])) == [
        "|  | batches a second | beside Ray | beside a local buffer |",
        "| --- | --- | --- | --- |",
        "| 1 shard | 123 | ×0.60 (0.50 to 0.70), **below 0.8** | ×0.012 (0.01 to 1.00) |",
        "| alone | 0 (of it: nothing) | – | – |",
    ]


def test_a_peer_that_does_not_run_has_words(monkeypatch):
    """The title says why, and no line follows it."""

    def fails(sizes):
        raise PeerFailed("No matching distribution found for torchrl")

    monkeypatch.setattr(main, "peer", fails)
    [table] = main.theirs(Sizes()).values()
    assert table.title.endswith("it does not run here: No matching distribution found for torchrl")
    assert show(table) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.012"), (0, "0")]
)
def test_digits(value, shown):
    """Three digits, or two of what is small."""
    assert digits(value) == shown


def test_figures_come_back_from_the_json(tmp_path):
    """What is read is what was written, with the machine."""
    tables = {"one": Table("a title", "ms", [Figure("a", 1.5, 3, {"b": [1.0, 2.0, 3.0]}, 0.8)])}
    write(tmp_path / "kept.json", tables, {"ray": "1"})
    machine, found = read(tmp_path / "kept.json")
    assert found == tables
    assert machine["ray"] == "1"


def test_batches_are_copied_by_turns():
    """A copy stands until as many others were made as there are targets."""
    owned = Owned(4, 2)
    batches = [np.full(4, number, np.uint8) for number in range(3)]
    copies = [owned.copy(batch) for batch in batches]
    assert copies[0] is copies[2]
    assert copies[0].tolist() == [2] * 4
    assert copies[1].tolist() == [1] * 4
