"""What a team of players needs, without the processes: how games are shared out, and tokens that are drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.errors import BadSetting, FileError
from reverie.iris.learning.players import Streams, Team, team_of
from reverie.iris.learning.run import Run
from reverie.iris.learning.tokens import TOKENS, DrawnTokens, mirror_tokens, tokens_of
from support.games import Lights


def test_games_are_shared_out_evenly(config):
    """Two environments go to one or two players and shards, and to no other number of them."""
    Team(1).check(config)
    Team(2, 2).check(config)
    for team, name in ((Team(0), "ray_actors"), (Team(3), "ray_actors"), (Team(2, 4), "ray_shards")):
        with pytest.raises(BadSetting, match=f"{name}: wanted a number that divides the 2 environments"):
            team.check(config)
    odd = replace(config, collection=replace(config.collection, environments=3, steps=21, capacity=201 + 3))
    Team(3, 3).check(odd)
    uneven = replace(config, collection=replace(config.collection, environments=4, capacity=204, steps=20))
    Team(4, 4).check(uneven)


def test_a_run_keeps_its_kind(tmp_path):
    """One of a team goes on with its shards and any players; one of one process does not become a team."""
    alone, team = json.dumps({"lanes": []}), json.dumps({"players": 4, "shards": 2})
    assert team_of(tmp_path, alone, None) is None
    assert team_of(tmp_path, team, None) == Team(4, 2)
    assert team_of(tmp_path, team, Team(2, 2)) == Team(2, 2)
    with pytest.raises(BadSetting, match="started without them"):
        team_of(tmp_path, alone, Team(4))
    with pytest.raises(BadSetting, match="ray_shards: wanted 2"):
        team_of(tmp_path, team, Team(4, 1))
    for damaged in ("", "[]x", json.dumps({"players": "many", "shards": 1})):
        with pytest.raises(FileError, match="wanted the checkpoint of a run"):
            team_of(tmp_path, damaged, None)


def test_shards_that_no_checkpoint_names_are_refused(tmp_path, config):
    """They may be of another game; they stay as they are."""
    (tmp_path / "shards").mkdir()
    with pytest.raises(BadSetting, match="wanted a folder without shards"):
        Run.start(tmp_path, config, lambda training: None, team=Team(2))
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, FileError])
def test_a_team_that_kept_no_epoch_takes_its_shards_with_it(tmp_path, config, monkeypatch, error):
    """Nobody could go on with them, and the same command would refuse them. What else is there stays."""

    def players(agent, games, spec, folder, team, seed):
        folder.mkdir()
        (folder / "shard-000-of-001.replay").touch()
        (tmp_path / "notes").touch()
        raise error("interrupted")

    monkeypatch.setattr("reverie.iris.learning.run.Players", players)
    with pytest.raises(error):
        Run.start(tmp_path, config, lambda training: Lights(life=7, lives=2), team=Team(2))
    assert not (tmp_path / "shards").exists()
    assert (tmp_path / "notes").exists()


class Noted:
    """A writer that notes what it is told."""

    def __init__(self):
        self.told = []

    def add(self, **step):
        self.told.append(step)

    def cut(self):
        self.told.append("cut")

    def flush(self):
        self.told.append("flush")

    def claim(self):
        return sum(isinstance(each, dict) for each in self.told)


def test_each_writer_gets_the_steps_of_its_game():
    """A step of two games is one step for each writer; a head is told after a flush."""
    writers = [Noted(), Noted()]
    streams = Streams(writers)
    assert streams.streams == 2
    streams.add_batch(
        obs=np.array([[1], [2]]),
        action=np.array([3, 4]),
        reward=np.array([0.5, 1.5]),
        terminated=np.array([False, True]),
        truncated=np.array([False, False]),
    )
    streams.cut(1)
    assert streams.heads() == [1, 1]
    first, second = (writer.told[0] for writer in writers)
    assert (first["obs"].tolist(), first["action"], first["reward"], first["terminated"]) == (
        [1],
        3,
        0.5,
        False,
    )
    assert (second["obs"].tolist(), second["action"], second["reward"], second["terminated"]) == (
        [2],
        4,
        1.5,
        True,
    )
    assert [writer.told[1:] for writer in writers] == [["flush"], ["cut", "flush"]]


def test_drawn_tokens_are_those_of_a_mirror(config, tokenizer):
    """The same windows of the same buffer get the same tokens, made anew or kept."""
    tokenizer.eval()

    def filled():
        spec = rv.StepSpec(rv.Field(config.tokenizer.frame, "uint8"), rv.Field((), "int64"))
        buffer, rng = rv.ReplayBuffer(spec, 40, seed=3), np.random.default_rng(0)
        for step in range(40):
            buffer.add(
                obs=rng.integers(0, 256, config.tokenizer.frame, np.uint8),
                action=step % 3,
                reward=0.0,
                terminated=step % 10 == 9,
                truncated=False,
            )
        return buffer

    asked = {"boundary": "inside", "sampler": None, "obs": TOKENS}
    kept = mirror_tokens(tokenizer, filled()).sample(4, 5, **asked)
    drawn = DrawnTokens(tokenizer, filled()).sample(4, 5, **asked)
    known = kept.obs_mask
    assert drawn.obs.shape == kept.obs.shape == (4, 6, 4)
    assert torch.equal(drawn.obs[known], kept.obs[known])
    assert torch.equal(drawn.action, kept.action)
    assert not drawn.obs.requires_grad
    assert isinstance(tokens_of(tokenizer, rv.Union([filled(), filled()])), DrawnTokens)
