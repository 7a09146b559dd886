"""The comparison of agents that learned with agents that did not: what is compared, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from reverie import BadSetting
from reverie.iris.app.learn import learn, run_learn
from reverie.iris.app.pictures import draw_returns
from reverie.iris.config import Config, config_to_json, presets
from reverie.iris.learning.folder import read_checkpoint
from reverie.iris.learning.games import games
from reverie.iris.learning.run import Run

pytest.importorskip("minatar")


@pytest.fixture
def tiny() -> Config:
    """The preset for MinAtar with next to no training."""
    config = presets["minatar"]
    few = {
        name: replace(getattr(config, name), steps=1, first_steps=2, batch_size=8)
        for name in ("tokenizer_training", "world_model_training", "actor_critic_training")
    }
    collection = replace(config.collection, steps=64, first_steps=640, capacity=6400)
    evaluation = replace(config.evaluation, episodes=5, environments=10)
    return replace(config, collection=collection, evaluation=evaluation, **few)  # type: ignore[arg-type]


def test_it_compares_and_draws_what_was_learned(tiny: Config, tmp_path: Path) -> None:
    """A table, a curve, a dream and every return of as many games as were asked for."""
    screen = io.StringIO()
    (result,) = run_learn(
        tmp_path / "one",
        seeds=(9,),
        epochs=2,
        config=tiny,
        episodes=30,
        console=Console(file=screen, width=160),
    )
    assert [steps for steps, _ in result.curve] == [640, 704]
    assert {len(row) for row in (result.random, result.untrained, result.constant, result.learned)} == {30}
    assert 0.1 < np.mean(result.random) < 0.9  # Breakout at random earns about 0.45
    assert result.random != result.constant
    table = screen.getvalue()
    assert "seed" in table
    assert f"{np.mean(result.learned):.2f} ±" in table
    assert json.loads((tmp_path / "one/learning.json").read_text())[0]["seed"] == 9
    with Image.open(tmp_path / "one/learning.png") as curve, Image.open(tmp_path / "one/dream.gif") as dream:
        assert curve.width > 600
        assert dream.n_frames > 3  # type: ignore[attr-defined]
    page = (tmp_path / "one/report.html").read_text()
    assert "random play" in page
    assert "seed-9" in page
    assert f"{result.curve[-1][1]:.2f}" in page
    assert "world model: observation" in page


def test_seeds_are_different_numbers(tmp_path: Path) -> None:
    """None at all and one twice are refused."""
    for seeds in ((), (3, 3)):
        with pytest.raises(BadSetting, match="different numbers"):
            run_learn(tmp_path, seeds=seeds)


def test_curves_are_drawn_over_bands(tmp_path: Path) -> None:
    """Any number of curves of any length fit into one picture."""
    draw_returns(
        tmp_path / "curves.png", {"a": [(1, 0.5), (2, 1.0)], "b": [(1, 0.2)]}, {"idle": (0.4, 0.1)}, "a game"
    )
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20


INTERRUPTED = """
import functools, sys
from reverie.cli import main
from reverie.iris.app import learn
from reverie.iris.config import config_from_json, presets
if __name__ == "__main__":
    learn.run_learn = functools.partial(learn.run_learn, episodes=2)
    presets["minatar"] = config_from_json({config!r})
    sys.exit(main(["learn", "--out", {out!r}, "--seeds", "3", "5", "--epochs", "100000"]))
"""


@pytest.mark.long
def test_an_interrupt_says_what_is_kept(tiny: Config, tmp_path: Path) -> None:
    """Ctrl-C, which the terminal sends to every process, ends them all at once with one line and no traceback."""
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(config=config_to_json(tiny), out=str(out)))
    (out / "seed-3").mkdir(parents=True)
    os.mkfifo(out / "seed-3/log.txt")  # the first agent tells of its epochs here
    told_to_us = os.open(out / "seed-3/log.txt", os.O_RDWR)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        assert select.select([told_to_us], [], [], 120)[0], "it told of no epoch"
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(told_to_us)
    assert process.returncode == 130
    assert "Traceback" not in told
    (line,) = told.splitlines()
    kept = read_checkpoint(out / "seed-3")["epoch"]
    assert kept >= 1
    assert line.startswith(f"reverie: interrupted; of 100000 epochs seed 3 keeps {kept}, seed 5 keeps ")
    again = f"--out {out} --seeds 3 5 --preset minatar --epochs 100000 --game minatar:breakout"
    assert line.endswith(f"go on with: reverie learn {again}")


def test_runs_go_on_with_more_epochs_and_no_other_change(tiny: Config, tmp_path: Path) -> None:
    """What was learned with other settings is not compared; it is told before a process starts."""
    with closing(
        Run.start(tmp_path / "seed-1", tiny, games("minatar:breakout"), seed=1, game="minatar:breakout")
    ) as run:
        run.epoch()
    other = replace(tiny, collection=replace(tiny.collection, epsilon=0.5))
    with pytest.raises(BadSetting, match=r"collection.epsilon 0.5 \(stored: 0.02\)"):
        run_learn(tmp_path, seeds=(1, 2), config=other)
    result = learn(tmp_path / "seed-1", 1, replace(tiny, epochs=2), "minatar:breakout", 5)
    assert [steps for steps, _ in result.curve][-1] == 704
    assert read_checkpoint(tmp_path / "seed-1")["epoch"] == 2
