"""The comparison of agents that learned with agents that did not: what is compared, and what it leaves behind."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from reverie import BadSetting
from reverie.iris.learn import run_learn
from reverie.iris.pictures import draw_returns
from reverie.iris.settings import Config, presets

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
