"""Whole runs: what an epoch does, and that an interrupted run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_games import Lights

from reverie import BadSetting, EpisodeUniform, FileError, Mixture
from reverie.iris.config import Optimisation, TokenizerConfig, TokenizerLoss
from reverie.iris.run import CHECKPOINT, Metrics, Run, read_checkpoint
from reverie.iris.settings import Collection, Config, Sampling, config_from_json, config_to_json, presets


@pytest.fixture
def config(config: Config) -> Config:
    """The small configuration with a tokenizer that is quicker still."""
    lean = TokenizerConfig(
        frame=(3, 16, 16), patch=8, lean=True, channels=32, levels=1, attention_at=(), codebook_size=32,
        token_dim=16, codebook="average",
    )  # fmt: skip
    loss = TokenizerLoss(pixel_weight=1.0, revive_every=2)
    return replace(config, tokenizer=lean, tokenizer_loss=loss)


def lights(training: bool) -> Lights:
    return Lights(life=7, lives=2 if training else 1)


def untimed(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not name.endswith("_s")}


def test_phases_begin_when_the_schedule_says(config: Config, tmp_path: Path) -> None:
    """Components learn in turn, each after its own epoch; tests come every second epoch and at the end."""
    run = Run.start(tmp_path, replace(config, epochs=3), lights)
    told: list[str] = []
    metrics = [run.epoch(lambda phase, done, total: told.append(phase)) for _ in range(3)]
    run.close()
    assert list(dict.fromkeys(told)) == ["play", "tokenizer", "world_model", "test", "actor_critic"]
    phases = [{name.partition("/")[0] for name in epoch if "/" in name} for epoch in metrics]
    assert phases == [{"play"}, {"play", "tokenizer", "world_model", "test"},
                      {"play", "tokenizer", "world_model", "actor_critic", "test"}]  # fmt: skip
    assert [epoch["steps"] for epoch in metrics] == [20, 40, 60]
    assert metrics[2]["test/length"] == 7
    assert 1 <= metrics[2]["tokenizer/perplexity"] <= 32
    assert {"actor_critic/entropy", "actor_critic/mean_value", "actor_critic/mean_reward"} <= metrics[
        2
    ].keys()


def test_collection_stops_and_training_goes_on(config: Config, tmp_path: Path) -> None:
    """After the last collecting epoch nothing more is played."""
    config = replace(config, collection=replace(config.collection, until=2), epochs=3)
    run = Run.start(tmp_path, config, lights)
    metrics = [run.epoch() for _ in range(3)]
    run.close()
    assert "play/steps_per_s" not in metrics[2]
    assert run.steps == 40
    assert "actor_critic/total" in metrics[2]


@pytest.mark.parametrize(("stops", "seed"), [((2,), 0), ((1, 2, 3), 5)])
def test_a_resumed_run_equals_one_that_was_never_stopped(
    config: Config, tmp_path: Path, stops: tuple[int, ...], seed: int
) -> None:
    """Weights, optimisers, replay, metrics and chance are the same to the last bit, wherever it stopped."""
    whole = Run.start(tmp_path / "whole", config, lights, seed=seed)
    wanted = [untimed(whole.epoch()) for _ in range(4)]
    run = Run.start(tmp_path / "parts", config, lights, seed=seed)
    got = []
    for epoch in range(4):
        if epoch in stops:
            run.collector.collect(6, epsilon=0.5)  # an epoch that is lost
            torch.rand(3)
            run.close()
            run = Run.resume(tmp_path / "parts", lights)
        got.append(untimed(run.epoch()))
    assert got == wanted
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, run.agent.state_dict()[name]), name
    assert whole.buffer.episodes.tolist() == run.buffer.episodes.tolist()
    one, two = (each.buffer.sample(32, 5, boundary="pad_both") for each in (whole, run))
    assert (one.anchor == two.anchor).all()
    assert (one.obs == two.obs).all()
    for each in (whole, run):
        each.close()
    states = [read_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    assert states[0]["collector"] == states[1]["collector"]
    assert torch.equal(states[0]["chance"], states[1]["chance"])
    for name in ("tokenizer", "world_model", "actor_critic"):
        moments = [state["optimisers"][name]["state"] for state in states]
        for number, moment in moments[0].items():
            assert all(torch.equal(value, moments[1][number][key]) for key, value in moment.items())


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_run import lights
from reverie.iris.run import Run
from reverie.iris.settings import Config
import pickle
config = pickle.loads({config!r})
run = Run.start(Path({folder!r}), config, lights)
run.epoch()
run.epoch()
def die(phase, done, total):
    if phase == {phase!r} and done:
        os.kill(os.getpid(), signal.SIGKILL)
run.epoch(die)
"""


def test_a_killed_run_loses_the_epoch_it_was_in(config: Config, tmp_path: Path) -> None:
    """Killed without warning amid the third epoch, it goes on from the second as if nothing had happened."""
    import pickle

    code = KILLED.format(
        tests=str(Path(__file__).parent),
        config=pickle.dumps(config),
        folder=str(tmp_path / "killed"),
        phase="actor_critic",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    whole = Run.start(tmp_path / "whole", config, lights)
    wanted = [untimed(whole.epoch()) for _ in range(3)][2]
    run = Run.resume(tmp_path / "killed", lights)
    assert run.done == 2
    assert untimed(run.epoch()) == wanted
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, run.agent.state_dict()[name]), name
    run.close()
    whole.close()


def test_a_failed_save_leaves_the_last_checkpoint_whole(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up amid a checkpoint, the one before it is still there, with its own replay."""
    run = Run.start(tmp_path, config, lights)
    run.epoch()

    def full(state: object, file: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space"):
            run.epoch()
    run.close()
    again = Run.resume(tmp_path, lights)
    assert again.done == 1
    assert len(again.buffer) == 20
    again.close()
    assert not list(tmp_path.glob("replay-live-*"))


def test_a_folder_holds_one_run(config: Config, tmp_path: Path) -> None:
    """A folder without a run is not resumed, one with a run not started anew; a run knows what it is."""
    with pytest.raises(BadSetting, match="start a run there first"):
        Run.resume(tmp_path, lights)
    run = Run.start(tmp_path, config, lights, game="lights")
    run.epoch()
    run.close()
    with pytest.raises(BadSetting, match="resume it, or choose another"):
        Run.start(tmp_path, config, lights)
    assert (tmp_path / CHECKPOINT).exists()
    again = Run.resume(tmp_path, lights)
    assert (again.config, again.seed, again.game) == (config, 0, "lights")
    again.close()


@pytest.mark.parametrize("preset", sorted(presets))
def test_a_configuration_survives_being_written_down(preset: str) -> None:
    """Every preset comes back from JSON as it was; what an older text lacks has its default."""
    assert config_from_json(config_to_json(presets[preset])) == presets[preset]
    assert config_from_json('{"epochs": 3}') == replace(Config(), epochs=3)


def test_batches_are_drawn_as_the_settings_say(config: Config, tmp_path: Path) -> None:
    """By episodes as published; or by steps, with a share from the newest quarter."""
    run = Run.start(tmp_path / "paper", config, lights)
    run.epoch()
    assert isinstance(run._sampler(), EpisodeUniform)
    run.close()
    recent = replace(config, sampling=Sampling(over="steps", recent_share=0.5))
    run = Run.start(tmp_path / "recent", recent, lights)
    run.epoch()
    sampler = run._sampler()
    assert isinstance(sampler, Mixture)
    batch = run.buffer.sample(4000, 1, boundary="pad_left", sampler=sampler)
    newest = (batch.anchor >= 8).mean()  # ten steps a stream, of which a quarter is two
    assert newest == pytest.approx(0.5 + 0.5 * 0.2, abs=0.04)
    run.close()


def test_random_play_fades_as_the_settings_say() -> None:
    """It is constant as published; or total at first, then falling over the first half of the run."""
    assert {Collection().epsilon_in(epoch, 600) for epoch in (1, 2, 300, 600)} == {0.01}
    fading = presets["minatar"].collection
    assert [round(fading.epsilon_in(epoch, 6), 3) for epoch in range(1, 7)] == [
        1.0,
        0.3,
        0.188,
        0.076,
        0.02,
        0.02,
    ]
    assert [fading.steps_in(epoch) for epoch in (1, 2)] == [20_000, 8192]
    assert [Collection().steps_in(epoch) for epoch in (1, 500, 501)] == [200, 200, 0]


def test_learning_rates_follow_the_run() -> None:
    """The first epoch may have its own rate and length; later ones lie on a line over the run."""
    training = Optimisation(
        steps=4, first_steps=2, learning_rate=1.0, first_learning_rate=3.0, final_learning_rate=0.5
    )
    assert training.rates(0.0, 0.5, first=True) == [3.0, 3.0]
    assert training.rates(0.5, 1.0) == [0.75, 0.6875, 0.625, 0.5625]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Collection(environments=3, steps=200), "positive multiple of environments = 3"),
        (lambda: Collection(epsilon=1.5), "epsilon: wanted a probability"),
        (lambda: Sampling(recent_share=1.0), "a share below 1"),
        (lambda: Sampling(over="frames"), "wanted one of"),  # type: ignore[arg-type]
        (lambda: Optimisation(final_learning_rate=0.0), "positive number"),
    ],
)
def test_numbers_that_make_no_run_are_refused(wrong: Callable[[], object], message: str) -> None:
    """They are refused when they are given, by their names."""
    with pytest.raises(BadSetting, match=message):
        wrong()


@pytest.mark.parametrize(
    "kind", ["empty", "junk", "cut short", "list", "other", "weights", "optimiser", "name", "chance"]
)
def test_a_checkpoint_that_is_none_is_refused_with_the_remedy(
    kind: str, config: Config, tmp_path: Path
) -> None:
    """Whatever lies there in its place: one FileError that says what to do, and no game or file is left open."""
    run = Run.start(tmp_path, config, lights, game="lights")
    run.epoch()
    run.close()
    path = tmp_path / CHECKPOINT
    state = read_checkpoint(tmp_path)
    whole = path.read_bytes()
    other: object = {
        "list": [1, 2],
        "other": {"model": torch.zeros(2)},
        "weights": {**state, "agent": {}},
        "optimiser": {**state, "optimisers": {}},
        "name": {**state, "replay": "../replay-0-1"},
        "chance": {**state, "chance": torch.zeros(3, dtype=torch.uint8)},
    }.get(kind)
    if other is None:
        path.write_bytes(
            {"empty": b"", "junk": bytes(range(256)) * 9, "cut short": whole[: len(whole) // 2]}[kind]
        )
    else:
        torch.save(other, path)
    with pytest.raises(
        FileError, match=r"wanted the checkpoint of a run, got .*; restore the folder from a copy"
    ):
        Run.resume(tmp_path, lights)
    assert not list(tmp_path.glob("replay-live-*"))
