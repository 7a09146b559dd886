"""The page of a run: written by train, learn and demo, and by `reverie report FOLDER`; it tells what the run's files tell."""

import json
import re

import numpy as np
import pytest

import reverie as rv
from reverie.cli import main
from reverie.iris.app.page import PAGE, report_run
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
