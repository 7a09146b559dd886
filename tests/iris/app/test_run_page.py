"""The page of a run: written by train, learn and demo, and by `reverie report FOLDER`; it tells what the run's files tell."""

import json
import re

import numpy as np
import pytest

import reverie as rv
from reverie.cli import main
from reverie.iris.app.page import PAGE, report_run, returns_of
from reverie.report import Curves, Group, run_page


def told_of(page):
    return json.loads(re.search(r'id="told">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_of_curves_and_a_dream(tmp_path):
    """Every row of the dream is there whole; names are escaped; nothing is replaced unasked."""
    rows = {
        "real": np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8),
        "<dream>": np.zeros((5, 3, 8, 8), np.uint8),
    }
    given = {
        "title": "a <b>run</b>", "state": "A run.", "facts": [("game", "Pong")], "dream": rows, "dream_told": "said", "settings": [("seed", "7")],
        "groups": [Group("Returns", "told", [Curves("tests", "steps", "return", {"seed 7": ([1, 2], [0.5, 2.5])}, {"random": (0.1, 0.3)})])],
    }  # fmt: skip
    page = run_page(tmp_path / "a.html", **given).read_text()
    assert "a &lt;b&gt;run&lt;/b&gt;" in page
    [episode] = told_of(page)["episodes"]
    assert set(episode["frames"]) == {"real", "<dream>"}
    assert episode["ids"] == [0, 1, 2, 3, 4]
    assert "seed 7" in page
    with pytest.raises(rv.FileTaken):
        run_page(tmp_path / "a.html", **given)
    assert (
        "no dream"
        in run_page(
            tmp_path / "a.html", **{**given, "dream": None, "dream_told": "no dream"}, force=True
        ).read_text()
    )


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(rv.BadSetting, match=r"wanted a folder with checkpoint\.pt"):
        report_run(tmp_path, tmp_path / PAGE)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "a.html")]) == 2
    assert "checkpoint.pt" in capsys.readouterr().err


def noted(*returns):
    return [{"test/return": value, "steps": 100.0 * at} for at, value in enumerate(returns, 1)]


def test_several_seeds_have_a_mean_and_a_spread():
    """By hand: standard errors of three seeds, lowest and highest of two, none of one; where all seeds were tested."""
    seeds = {"seed-1": noted(1.0, 2.0, 9.0), "seed-2": noted(3.0, 2.0), "seed-3": noted(5.0, 2.0)}
    tests = returns_of(seeds, {}).plots[0]
    assert tests.lines["mean of all seeds"] == ([100, 200], [3.0, 2.0])
    [(name, (xs, lows, highs))] = tests.areas.items()
    half = 1.96 * 2 / 3**0.5  # the standard deviation of 1, 3 and 5 is 2
    assert name == "mean ± 1.96 standard errors"
    assert xs == [100, 200]
    assert lows == pytest.approx([3 - half, 2])
    assert highs == pytest.approx([3 + half, 2])
    del seeds["seed-3"]
    assert returns_of(seeds, {}).plots[0].areas == {
        "lowest to highest seed": ([100, 200], [1.0, 2.0], [3.0, 2.0])
    }
    del seeds["seed-2"]
    alone = returns_of(seeds, {"random": (0.1, 0.3)}).plots[0]
    assert set(alone.lines) == {"seed-1"}
    assert not alone.areas
    assert alone.bands == {"random": (0.1, 0.3)}


def test_a_spread_is_drawn_and_named(tmp_path):
    """Its points and its name reach the page."""
    curves = Curves(
        "tests",
        "steps",
        "return",
        {"mean": ([1, 2], [2.0, 3.0])},
        areas={"around it": ([1, 2], [1.5, 2.5], [2.75, 3.25])},
    )
    page = run_page(
        tmp_path / "a.html", title="a", state="A run.", facts=[], groups=[Group("Returns", "", [curves])], dream=None, dream_told="", settings=[],
    ).read_text()  # fmt: skip
    assert "around it" in page
    assert "[2.75,3.25]" in page.replace(" ", "")
    assert "VArea" in page
