"""Whole runs: what an epoch does, and that an interrupted run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reverie import BadSetting, EpisodeUniform, FileError, Mixture, ReplayBuffer, Sampler, Uniform
from reverie.iris.config import (
    Collection,
    Config,
    Optimisation,
    Sampling,
    TokenizerConfig,
    TokenizerLoss,
    config_from_json,
    config_to_json,
    presets,
)
from reverie.iris.learning.drawing import Drawing
from reverie.iris.learning.folder import CHECKPOINT, read_checkpoint
from reverie.iris.learning.learner import Metrics
from reverie.iris.learning.run import Run
from support.games import Lights, Wandering


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


REMEMBERING = Sampling(over="steps", recent_share=0.5, windows="priority", starts="priority")


@pytest.mark.parametrize(
    ("stops", "seed", "sampling"),
    [
        ((2,), 0, Sampling()),
        ((1, 2, 3), 5, Sampling()),
        ((2, 3), 0, REMEMBERING),
        ((3,), 0, replace(REMEMBERING, starts="visits")),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    config: Config, tmp_path: Path, stops: tuple[int, ...], seed: int, sampling: Sampling
) -> None:
    """Weights, optimisers, replay, metrics and chance are the same to the last bit, wherever it stopped."""
    config = replace(config, sampling=sampling)
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
            assert run.cut == []
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


def test_a_game_that_does_not_repeat_itself_is_cut_when_its_run_resumes(
    config: Config, tmp_path: Path
) -> None:
    """No window joins what was played before with another game; the cut is told, and the run goes on."""
    chance = np.random.default_rng(3)

    def wandering(training: bool) -> Wandering:
        return Wandering(chance, life=7, lives=2)

    run = Run.start(tmp_path, config, wandering)
    run.epoch()  # ten steps of each game: amid the second life
    run.close()
    run = Run.resume(tmp_path, wandering)
    assert run.cut == [0, 1]
    assert run.buffer.episodes["ended"].tolist() == ["terminated", "terminated", "cut", "cut"]
    run.epoch()
    assert run.buffer.episodes["length"].tolist() == [7, 7, 3, 3, 7, 7, 3, 3]
    windows = run.buffer.sample(500, 3)
    named = windows.obs[:, :, 1, 8, 8]  # which game it is
    assert (named == named[:, :1]).all()
    run.close()


def test_a_finished_run_can_be_prolonged(config: Config, tmp_path: Path) -> None:
    """With more epochs it goes on, and they are kept; fewer than are done are refused."""
    config = replace(config, epochs=1)
    run = Run.start(tmp_path, config, lights)
    run.epoch()
    run.close()
    run = Run.resume(tmp_path, lights)
    with pytest.raises(BadSetting, match="resume the run with more epochs"):
        run.epoch()
    run.close()
    run = Run.resume(tmp_path, lights, epochs=3)
    assert (run.done, run.config) == (1, replace(config, epochs=3))
    run.epoch()
    run.close()
    assert config_from_json(read_checkpoint(tmp_path)["config"]).epochs == 3
    with pytest.raises(BadSetting, match="at least the 2 that are done, got 1"):
        Run.resume(tmp_path, lights, epochs=1)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("wrong", ["missing", "../outside", "absolute", "link", "other", "number"])
def test_a_checkpoint_whose_replay_is_not_there_costs_no_other(
    config: Config, tmp_path: Path, wrong: str
) -> None:
    """A missing replay, or a name that leads out of the folder, is told before anything in it is touched."""
    folder, outside = tmp_path / "run", tmp_path / "outside"
    run = Run.start(folder, config, lights)
    run.epoch()
    run.epoch()
    run.close()
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    replay = folder / state["replay"]
    shutil.copyfile(replay, outside)
    names = {"../outside": "../outside", "absolute": str(outside), "other": CHECKPOINT, "number": 7}
    if wrong in names:
        torch.save({**state, "replay": names[wrong]}, folder / CHECKPOINT)
    else:
        replay.unlink()
        if wrong == "link":
            replay.symlink_to(outside)
    before = files_of(folder)
    for open_it in (Run.resume, Run.read):
        with pytest.raises(FileError, match="restore the folder" if wrong != "link" else "leads out of it"):
            open_it(folder, lights)  # type: ignore[operator]
    assert files_of(folder) == before


def test_old_replays_go_when_the_next_checkpoint_is_there(config: Config, tmp_path: Path) -> None:
    """Until then every file stays, also when a run begins where one has lost its checkpoint; then two at most are left."""
    run = Run.start(tmp_path, config, lights)
    run.epoch()
    run.epoch()
    run.close()
    before = {path.name for path in tmp_path.glob("replay-*")}
    assert len(before) == 2
    run = Run.resume(tmp_path, lights)
    assert before < {path.name for path in tmp_path.glob("replay-*")}
    run.close()
    assert before == {path.name for path in tmp_path.glob("replay-*")}
    (tmp_path / CHECKPOINT).unlink()
    run = Run.start(tmp_path, config, lights)
    assert before == {path.name for path in tmp_path.glob("replay-*")}
    run.epoch()
    run.close()
    assert [path.name for path in tmp_path.glob("replay-*")] == [read_checkpoint(tmp_path)["replay"]]
    assert not before & {read_checkpoint(tmp_path)["replay"]}


def test_a_folder_has_one_trainer_and_any_number_of_readers(config: Config, tmp_path: Path) -> None:
    """While a run goes on no other does; reading one changes no file, and gives the agent as it was kept."""
    run = Run.start(tmp_path, config, lights)
    run.epoch()
    for another in (lambda: Run.resume(tmp_path, lights), lambda: Run.resume(tmp_path, lights, epochs=9)):
        with pytest.raises(BadSetting, match="where another process does"):
            another()
    before = files_of(tmp_path)
    reader = Run.read(tmp_path, lights)
    assert reader.test(episodes=2) == run.test(episodes=2)
    with pytest.raises(BadSetting, match="got one from read"):
        reader.epoch()
    reader.close()
    assert files_of(tmp_path) == before
    run.epoch()
    run.close()
    Run.resume(tmp_path, lights).close()


def test_a_game_that_does_not_fit_is_refused_before_anything_starts(config: Config, tmp_path: Path) -> None:
    """Other frames, in play or in tests, and another number of actions leave no folder and no game open."""
    made: list[Lights] = []

    def wrong_in(training: bool) -> Callable[[bool], Lights]:
        def make(asked: bool) -> Lights:
            game = Lights()
            if asked is training:
                game._frame = lambda: np.zeros((3, 10, 10), np.uint8)  # type: ignore[method-assign]
            made.append(game)
            return game

        return make

    for training in (True, False):
        with pytest.raises(BadSetting, match=r"wanted frames shaped \(3, 16, 16\).*got \(3, 10, 10\)"):
            Run.start(tmp_path / "none", config, wrong_in(training))
    assert not (tmp_path / "none").exists()
    run = Run.start(tmp_path / "run", config, lights)
    run.epoch()
    run.close()
    before = files_of(tmp_path / "run")

    def more_actions(training: bool) -> Lights:
        game = lights(training)
        game.action_space.n = 4
        made.append(game)
        return game

    with pytest.raises(BadSetting, match="wanted the 3 actions that the agent knows, got 4"):
        Run.resume(tmp_path / "run", more_actions)
    assert files_of(tmp_path / "run") == before
    assert made
    assert all(game.closed for game in made)


KILLED = """
import os, signal, sys
sys.path[:0] = {tests!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_run import lights
from reverie.iris.learning.run import Run
from reverie.iris.config import Config
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
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[2])],
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


def test_a_full_disk_is_told_and_costs_no_checkpoint(config: Config, tmp_path: Path) -> None:
    """Where the checkpoint does not fit it names file and reason; with room again the same run can be saved."""
    run = Run.start(tmp_path, config, lights)
    run.epoch()
    before = (tmp_path / CHECKPOINT).read_bytes()
    draft = tmp_path / f"{CHECKPOINT}.draft"
    draft.symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"checkpoint.pt.draft: wanted to write, got No space left"):
        run.epoch()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    draft.unlink()
    run.save()
    run.close()
    assert read_checkpoint(tmp_path)["epoch"] == 2
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="wanted to write, got Not a directory"):
        Run.start(tmp_path / "file" / "run", config, lights)


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
    assert isinstance(run.learner.drawing.sampler(run.buffer, "world_model"), EpisodeUniform)
    run.close()
    recent = replace(config, sampling=Sampling(over="steps", recent_share=0.5))
    run = Run.start(tmp_path / "recent", recent, lights)
    run.epoch()
    sampler = run.learner.drawing.sampler(run.buffer, "world_model")
    assert isinstance(sampler, Mixture)
    batch = run.buffer.sample(4000, 1, boundary="pad_left", sampler=sampler)
    newest = (batch.anchor >= 8).mean()  # ten steps a stream, of which a quarter is two
    assert newest == pytest.approx(0.5 + 0.5 * 0.2, abs=0.04)
    run.close()


def test_imagined_games_may_start_more_recently(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recent_starts` is the newest quarter's share of where imagined games start, and of nothing else."""
    sampling = Sampling(over="steps", recent_starts=0.8)
    run = Run.start(tmp_path, replace(config, sampling=sampling, epochs=3), lights)
    phases = []

    drawn = Drawing(sampling)

    def seen(buffer: ReplayBuffer, phase: str) -> Sampler:
        phases.append(phase)
        return drawn.sampler(buffer, phase)

    monkeypatch.setattr(run.learner.drawing, "sampler", seen)
    for _ in range(3):
        run.epoch()
    assert phases == [*["tokenizer", "world_model"] * 2, "actor_critic"]  # each begins after its own epoch
    assert isinstance(drawn.sampler(run.buffer, "tokenizer"), Uniform)
    batch = run.buffer.sample(4000, 1, boundary="pad_left", sampler=drawn.sampler(run.buffer, "actor_critic"))
    newest = (batch.anchor >= 23).mean()  # thirty steps a stream, of which a quarter is seven
    assert newest == pytest.approx(0.8 + 0.2 * 7 / 30, abs=0.04)
    run.close()
    assert Sampling(recent_share=0.5).recent_in("actor_critic") == 0.5
    assert Sampling(recent_share=0.5, recent_starts=0.0).recent_in("actor_critic") == 0.0


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
        (lambda: Collection(random_stretch=0), "random_stretch: wanted at least 1"),
        (lambda: Sampling(recent_share=1.0), "recent_share: wanted a share below 1"),
        (lambda: Sampling(recent_starts=-0.1), "recent_starts: wanted a share below 1"),
        (lambda: Sampling(over="frames"), "wanted one of"),  # type: ignore[arg-type]
        (lambda: Sampling(starts="first"), "starts: wanted one of"),  # type: ignore[arg-type]
        (lambda: Sampling(windows="first"), "windows: wanted one of"),  # type: ignore[arg-type]
        (lambda: Collection(random_stretch=4, calm_share=1.0), "calm_share: wanted a share below 1"),
        (lambda: Collection(calm_share=0.5), "random_stretch beside it, got 0.5 and random_stretch = None"),
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
        FileError,
        match=r"wanted the (checkpoint of a run|name of a replay file in its folder), got .*; restore the folder",
    ):
        Run.resume(tmp_path, lights)
    assert not list(tmp_path.glob("replay-live-*"))
