"""The measurement of speed: it counts what a run does, measures the same work twice, and needs PyTorch alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie import BadSetting
from reverie.iris.bench import Speed, imagine_without_cache, measure, run_bench, updates_of
from reverie.iris.config import Config, Optimisation, presets
from reverie.iris.models.agent import Agent


def test_a_published_run_has_the_published_number_of_updates() -> None:
    """119,000 of the tokenizer, 115,000 of the world model, 110,000 of the actor-critic."""
    paper = presets["paper"]
    phases = (paper.tokenizer_training, paper.world_model_training, paper.actor_critic_training)
    assert [updates_of(phase, paper.epochs) for phase in phases] == [119_000, 115_000, 110_000]
    assert updates_of(Optimisation(steps=3, first_steps=10, start_after=2), 5) == 16
    assert updates_of(Optimisation(start_after=9), 5) == 0


def test_without_the_cache_the_same_games_are_imagined(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the likeliest of everything, both give the same frames."""
    for module in ("models.agent", "models.imagination", "bench"):
        monkeypatch.setattr(f"reverie.iris.{module}.draw", lambda logits, *_: logits.argmax(1))
    frame = torch.rand(3, 3, 16, 16)
    played = agent.imagine(frame.unsqueeze(1), torch.ones(3, 1, dtype=torch.bool))
    assert torch.allclose(imagine_without_cache(agent, frame), played.frames, atol=1e-4)


def test_all_phases_are_measured(config: Config) -> None:
    """Every time is positive, batches are the share asked for, and whole ones add up to a run; others to nothing."""
    speed = measure(config, device=torch.device("cpu"), share=1.0, repeats=2, captured=False)
    assert speed.batches == (8, 4, 4)
    whole = (9 * speed.tokenizer_s + 9 * speed.world_model_s + 6 * speed.actor_critic_s) / 3600
    assert speed.hours == pytest.approx(whole)
    assert speed.imagined_frames_per_s == pytest.approx(4 * 3 / speed.imagining_s)
    assert speed.uncached_s > 0
    assert len(speed.report().splitlines()) == 7
    assert speed.report().endswith("hours of updates")
    part = measure(config, device=torch.device("cpu"), share=0.5, repeats=1, captured=False)
    assert (part.share, part.batches, part.hours) == (0.5, (4, 2, 2), None)
    assert "cannot be told from batches of 0.5 of the preset's" in part.report()
    assert len(part.report().splitlines()) == 7


@pytest.mark.parametrize(("limit_s", "shares"), [(0.0, [1 / 64]), (1e9, [1 / 64, 1 / 8, 1.0])])
def test_a_processor_measures_whole_batches_where_it_can(
    config: Config, monkeypatch: pytest.MonkeyPatch, limit_s: float, shares: list[float]
) -> None:
    """It tries more and more of each batch until the next try would take too long, and uses the last."""
    tried = []

    def spy(config: Config, **settings: Any) -> Speed:
        tried.append(settings["share"])
        return measure(config, **settings)

    monkeypatch.setitem(presets, "tiny", config)
    monkeypatch.setattr("reverie.iris.bench.measure", spy)
    monkeypatch.setattr("reverie.iris.bench.LIMIT_S", limit_s)
    speed = run_bench(preset="tiny", repeats=1, device="cpu")
    assert tried == shares
    assert speed.share == shares[-1]
    assert (speed.hours is None) == (shares[-1] < 1)


def test_it_writes_its_numbers(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file holds what was printed; unknown presets and senseless numbers are refused."""
    monkeypatch.setitem(presets, "tiny", config)
    speed = run_bench(
        preset="tiny", repeats=1, precision="bfloat16", device="cpu", out=tmp_path / "speed.json"
    )
    told = json.loads((tmp_path / "speed.json").read_text())
    assert told["hours"] == speed.hours
    assert told["precision"] == "bfloat16"
    with pytest.raises(BadSetting, match="wanted one of"):
        run_bench(preset="pape")
    with pytest.raises(BadSetting, match="positive"):
        measure(config, device=torch.device("cpu"), share=0.0, repeats=1, captured=False)


ABSENT = ("gymnasium", "ale_py", "tyro", "rich", "PIL", "zstandard", "matplotlib", "tensorboard", "minatar")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); "


def without(code: str, *args: str) -> str:
    """Return what a program prints where nothing but NumPy and PyTorch is installed."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT + code, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("module", ["reverie.iris.bench", "reverie.iris"])
def test_it_needs_numpy_and_pytorch_alone(module: str) -> None:
    """Where nothing else is installed it can be imported."""
    assert without(f"import {module}; print({module}.__name__)") == f"{module}\n"


def test_it_runs_as_a_module_with_numpy_and_pytorch_alone() -> None:
    """`python -m reverie.iris.bench` measures where nothing else is installed."""
    code = "import runpy; runpy.run_module('reverie.iris.bench', run_name='__main__')"
    flags = ("--preset", "minatar", "--device", "cpu", "--share", "0.01", "--repeats", "1")
    assert "ms an update" in without(code, *flags)
    with pytest.raises(subprocess.CalledProcessError):  # what is absent cannot be imported
        without("import rich")


def test_a_preset_may_name_fewer_updates_than_it_measures(config: Config) -> None:
    """The measured updates are warm-ups and repeats, whatever the schedule says."""
    once = replace(config, tokenizer_training=replace(config.tokenizer_training, first_steps=1))
    speed = measure(once, device=torch.device("cpu"), share=1.0, repeats=1, captured=False)
    assert speed.tokenizer_s > 0
