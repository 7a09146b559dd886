"""Diagnoses: what is recorded, what is measured of each part and where, and that nothing of the run changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reverie import BadSetting
from reverie.cli.main import main
from reverie.iris.app import commands, diagnosis
from reverie.iris.app.diagnosis import AGENT, CHANCES, ENDS, MODEL, TOKENIZER, Insight, diagnose
from reverie.iris.app.pictures import draw_panels
from reverie.iris.app.recording import Recording, new_lanes, record
from reverie.iris.config import Config
from reverie.iris.learning.run import Run
from reverie.iris.models.agent import Agent
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import Predictions, WorldModel
from support.games import Lights

LIFE = 12


def lights(training: bool) -> Lights:
    return Lights(life=LIFE, lives=2)


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Iterator[Run]:
    """A run of the small agent, which has learned nothing, in a game of two lives of twelve steps."""
    with closing(Run.start(tmp_path / "run", config, lights, seed=5)) as run:
        run.save()
        yield run


@pytest.fixture
def played(run: Run) -> Recording:
    """Seven episodes that three lanes played."""
    return record(run, new_lanes(run, 3), episodes=7)


def test_a_recording_counts_what_was_and_what_is_to_come(played: Recording) -> None:
    """Depth, steps left and discounted rewards of every step, summed up the slow way."""
    assert len(played) == 7 * LIFE
    assert played.end.nonzero()[0].tolist() == [LIFE * n - 1 for n in range(1, 8)]
    for episode in played.episodes:
        for step in range(episode.start, episode.stop):
            assert played.depth[step] == np.count_nonzero(played.reward[episode.start : step])
            assert played.left[step] == episode.stop - step
            worth = sum(0.995 ** (later - step) * played.reward[later] for later in range(step, episode.stop))
            assert played.worth[step] == pytest.approx(worth)
    assert 0 < played.depth.max() < LIFE


def test_what_the_agent_thought_is_kept(run: Run, played: Recording) -> None:
    """Value and entropy are those of the frame after the memory that is kept with it."""
    for step in (0, 5, LIFE + 3):
        memory = type(played.memory)(*(part[step : step + 1] for part in played.memory))
        frame = torch.from_numpy(played.frames[step : step + 1]).float() / 255
        judged = run.agent.look(frame, memory)
        assert played.value[step] == pytest.approx(float(judged.value), abs=1e-5)
        chances = judged.logits.softmax(1)
        assert played.entropy[step] == pytest.approx(float(-(chances * chances.log()).sum()), abs=1e-5)
    assert not played.memory.hidden[LIFE].any()  # a new episode knows of nothing
    assert played.memory.hidden[LIFE + 1].any()


def test_an_endless_episode_is_broken_off(run: Run) -> None:
    """Where a test would stop, the recording does; that is no end, and the critic says what was to come."""
    run.config = replace(run.config, evaluation=replace(run.config.evaluation, max_steps=8))
    played = record(run, new_lanes(run, 2), episodes=3)
    assert len(played) == 24
    assert not played.end.any()
    assert not any(episode.ended for episode in played.episodes)
    assert played.worth[7] == pytest.approx(played.reward[7] + 0.995 * played.value[7])


def test_games_come_back_to_where_they_were(run: Run) -> None:
    """A lane that is put back some steps before an end shows the frame of that step, in either life."""
    lanes = new_lanes(run, 2)
    played = record(run, lanes, episodes=4)
    for episode in played.episodes:
        for steps in (1, 6, LIFE):
            lanes[episode.lane].load(episode.state_before(steps))
            assert np.array_equal(lanes[episode.lane].obs, played.frames[episode.stop - steps])


class Oracle:
    """An imagined game that goes as the recording does; or one in which nothing ever moves."""

    def __init__(self, played: Recording, asked: Any, *, moves: bool) -> None:
        self.played, self.asked, self.moves = played, asked, moves

    def reset(self, frame: Tensor) -> Tensor:
        shown = (255 * frame).round().byte().numpy()
        self.step_of = self.asked.copy()
        assert np.array_equal(shown, self.played.frames[self.step_of])
        return frame

    def step(self, action: Tensor) -> Any:
        last = len(self.played) - 1
        if self.moves:
            assert np.array_equal(action.numpy(), self.played.action[np.minimum(self.step_of, last)])
            self.step_of = self.step_of + 1
        frame = torch.from_numpy(self.played.frames[np.minimum(self.step_of, last)]).float() / 255
        return SimpleNamespace(frame=frame)


@pytest.mark.parametrize("moves", [True, False])
def test_imagined_frames_are_compared_with_those_that_came(
    run: Run, played: Recording, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """A perfect model is right everywhere; a still one where the game shows the same again. Ends are not crossed."""
    some = np.arange(0, len(played), 3)
    oracle = Oracle(played, some, moves=moves)
    monkeypatch.setattr(Agent, "new_game", lambda self, generator=None: oracle)
    sights = {"light": lambda shown, real: (shown[:, 0, 0, 0] == real[:, 0, 0, 0]).astype(np.float64)}
    told = diagnosis._imagined(run.agent, played, some, sights, 0)
    assert list(told) == [
        f"{what}, {ahead} ahead" for ahead in (1, 4, 8) for what in ("frame exact", "light")
    ]
    for ahead in (1, 4, 8):
        for row, step in enumerate(some):
            exact, light = told[f"frame exact, {ahead} ahead"][row], told[f"light, {ahead} ahead"][row]
            if played.left[step] <= ahead:
                assert np.isnan(exact)
                assert np.isnan(light)
            else:
                now, then = played.frames[step if not moves else step + ahead], played.frames[step + ahead]
                close = np.abs(now.astype(int) - then).max() <= 32
                assert exact == close
                assert light == (now[0, 0, 0] == then[0, 0, 0])


def test_means_stand_in_their_columns() -> None:
    """Each value counts at its depth; what is not known counts nowhere, and an empty column has no mean."""
    means = diagnosis._by_column({"a": np.array([1.0, 3.0, np.nan, 5.0])}, np.array([0, 0, 0, 2]), 4)
    assert np.array_equal(means["a"], [2.0, np.nan, 5.0, np.nan], equal_nan=True)


def test_rare_depths_are_measured_as_thoroughly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each column so many steps are drawn, or all that there are and that are asked for."""
    monkeypatch.setattr(diagnosis, "PER_DEPTH", 3)
    column = np.array([0] * 50 + [2] * 2 + [3] * 5)
    among = np.ones(57, np.bool_)
    among[50] = False
    steps = diagnosis._balanced(column, among, 0)
    assert np.bincount(column[steps]).tolist() == [3, 0, 1, 3]
    assert 51 in steps


def test_rewards_and_ends_are_told_by_their_chances(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with fixed opinions gives each reward and end the chance that it gives all of them."""
    reward, end = torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor([0.9, 0.1]).log()

    def fixed(self: WorldModel, tokens: Tensor, cache: object = None) -> Predictions:
        batch = len(tokens)
        return Predictions(torch.zeros(batch, 4, 32), reward.expand(batch, 1, 3), end.expand(batch, 1, 2))

    monkeypatch.setattr(WorldModel, "forward", fixed)
    told = diagnose(run, episodes=6).panels[CHANCES]
    for name, wanted in {
        "chance of the reward that came": 0.3,
        "chance of the reward that came not": 0.5,
        "chance of the end that came": 0.1,
        "chance of the end that came not": 0.1,
    }.items():
        known = told[name][~np.isnan(told[name])]
        assert known == pytest.approx(np.full(len(known), wanted), abs=1e-6)
        assert len(known)


def test_players_meet_the_same_end_in_game_and_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody outlives a life in the game; in a model that knows of no end everybody does."""
    with torch.no_grad():
        run.agent.world_model.end_head[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    asked: list[int] = []

    def expert(frames: Any) -> Any:
        asked.append(len(frames))
        return np.zeros(len(frames), np.int64)

    found = diagnose(run, episodes=6, insight=Insight({}, expert, 2))
    for name in ("expert", "policy", "still"):
        for place, wanted in (("game", 0.0), ("model", 1.0)):
            told = found.panels[ENDS][f"{name}, {place}"]
            assert set(told[~np.isnan(told)]) == {wanted}
    assert set(asked) == {6 * LIFE, 6, 1}  # every frame, all ends in the model, and one game after the other
    assert {"expert", "policy"} <= {name.partition(",")[0] for name in found.panels[ENDS]}
    known = found.panels[AGENT]["acts as the expert"]
    assert ((known >= 0) & (known <= 1))[~np.isnan(known)].all()


def test_the_expert_saves_a_game_that_can_be_saved(config: Config, tmp_path: Path) -> None:
    """From before a real miss it plays on in the real game, and only who acts otherwise misses again."""
    pytest.importorskip("minatar")
    from reverie.iris.app.breakout import INSIGHT
    from reverie.iris.config import presets
    from reverie.iris.learning import games

    small = replace(presets["minatar-columns"], evaluation=config.evaluation)
    with closing(Run.start(tmp_path / "minatar", small, games("minatar:breakout"), seed=1)) as run:
        told = diagnose(run, episodes=30, insight=INSIGHT).panels[ENDS]
        assert told["expert, game"][0] > 0.6  # the paddle may be too far away for anybody
        assert told["still, game"][0] < told["expert, game"][0] - 0.3


def test_a_diagnosis_repeats_itself_and_changes_nothing(run: Run) -> None:
    """Twice the same; weights, PyTorch's generator and the training games stay as they were."""
    before = [parameter.clone() for parameter in run.agent.parameters()]
    chance, playing = torch.get_rng_state(), run.collector.save()[0]
    one, two = (diagnose(run, episodes=5) for _ in range(2))
    assert one.depths == two.depths
    assert one.frames == two.frames
    assert sum(one.frames) == 5 * LIFE
    assert list(one.panels) == [TOKENIZER, MODEL, CHANCES, AGENT, ENDS]
    for part, measures in one.panels.items():
        for name, values in measures.items():
            assert np.array_equal(values, two.panels[part][name], equal_nan=True), name
            assert len(values) == len(one.depths)
    assert all(torch.equal(*pair) for pair in zip(before, run.agent.parameters(), strict=True))
    assert torch.equal(chance, torch.get_rng_state())
    assert run.collector.save()[0] == playing


def test_a_perfect_tokenizer_is_exact(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gives frames back as they are is right everywhere; one that shows black is wrong wherever light is."""
    monkeypatch.setattr(Tokenizer, "encode_decode", lambda self, frames: frames)
    assert diagnose(run, episodes=3).panels[TOKENIZER]["frame exact"].min() == 1.0
    monkeypatch.setattr(Tokenizer, "encode_decode", lambda self, frames: 0 * frames)
    assert diagnose(run, episodes=3).panels[TOKENIZER]["frame exact"].max() < 0.5


def test_the_command_prints_a_table_and_draws_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`reverie eval --diagnose` works on a folder that another process has open, and overwrites nothing unasked."""
    monkeypatch.setattr(commands, "games", lambda name: lights)
    picture = tmp_path / "diagnosis.png"
    asked = ["eval", "--run", str(run.folder), "--episodes", "4", "--diagnose", "-o", str(picture)]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "rewards so far" in told
    assert "chance of the end that came not" in told
    assert max(map(len, told.splitlines()[:-1])) <= 80
    with Image.open(picture) as drawn:
        assert drawn.width > 1000
    assert main(asked) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*asked, "--force"]) == 0
    assert main([*asked[:-1], str(tmp_path / "moves.gif")]) == 2
    assert "ends in .png" in capsys.readouterr().err
    assert main(["eval", "--run", str(run.folder), "-o", str(tmp_path / "no.png")]) == 2
    assert "wanted --diagnose" in capsys.readouterr().err


def test_what_never_happens_is_not_measured(run: Run, tmp_path: Path) -> None:
    """Games without a reward or an end, or too short to go on from before it, leave gaps and nothing else."""
    run.games = lambda training: Lights(life=3, lives=1)
    found = diagnose(run, episodes=3)
    assert found.panels[ENDS] == {}
    assert np.isnan(found.panels[MODEL]["frame exact, 8 ahead"]).all()
    draw_panels(tmp_path / "gaps.png", found.panels, found.depths, "depth", "gaps")
    found.table("gaps")
    run.games = lights
    run.config = replace(run.config, evaluation=replace(run.config.evaluation, max_steps=8))
    found = diagnose(run, episodes=3)
    assert np.isnan(found.panels[CHANCES]["chance of the end that came"]).all()
    assert found.panels[ENDS] == {}


def test_no_episodes_are_refused(run: Run) -> None:
    """At least one is wanted."""
    with pytest.raises(BadSetting, match="episodes: wanted at least 1"):
        diagnose(run, episodes=0)
