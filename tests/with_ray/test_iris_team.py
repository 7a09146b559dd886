"""A run of IRIS whose games are played by actors of Ray: what it counts, what it keeps, and who may die."""

import os
import signal
import sys

import pytest
import torch

ray = pytest.importorskip("ray")

from reverie.errors import BadSetting  # noqa: E402
from reverie.file import verdict_on  # noqa: E402
from reverie.iris.app.commands import dream_run, evaluate_run  # noqa: E402
from reverie.iris.app.page import report_run  # noqa: E402
from reverie.iris.config import (  # noqa: E402
    ActorCriticConfig,
    ActorCriticLoss,
    Collection,
    Config,
    Evaluation,
    Optimisation,
    TokenizerConfig,
    WorldModelConfig,
)
from reverie.iris.learning import Run, Team  # noqa: E402
from support.games import Lights  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

CONFIG = Config(
    tokenizer=TokenizerConfig(
        frame=(3, 16, 16), patch=8, lean=True, channels=32, levels=1, attention_at=(), codebook_size=32,
        token_dim=16, codebook="average",
    ),
    tokenizer_training=Optimisation(steps=2, batch_size=8),
    world_model=WorldModelConfig(blocks=4, layers=1, heads=2, width=32),
    world_model_training=Optimisation(steps=2, batch_size=4),
    actor_critic=ActorCriticConfig(channels=(4, 8), strides=(4, 2), width=16),
    actor_critic_loss=ActorCriticLoss(horizon=3, burn_in=2),
    actor_critic_training=Optimisation(steps=2, batch_size=4),
    collection=Collection(environments=2, steps=40, capacity=2000),
    evaluation=Evaluation(every=9, episodes=2, environments=2),
    epochs=4,
)  # fmt: skip


def lights(training):
    return Lights(life=7, lives=2)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.cloudpickle.register_pickle_by_value(sys.modules[Lights.__module__])  # actors do not find the tests
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    torch.set_num_threads(1)
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_team_plays_and_a_killed_player_comes_back(tmp_path, monkeypatch, capsys):
    """Every epoch plays as many steps as the settings say, whoever was killed; the run goes on from its shard.

    What looks at a run looks at that of a team, too.
    """
    run = Run.start(tmp_path, CONFIG, lights, team=Team(2))
    first = run.epoch()
    assert first["steps"] == 40
    assert {"tokenizer/total", "world_model/total", "actor_critic/total"} <= set(first)
    os.kill(run.collector.processes[0], signal.SIGKILL)
    run.epoch()  # its steps may have been there before
    third = run.epoch()
    assert third["steps"] == 120
    assert third["play/restarts_0"] == 1
    assert "play/restarts_1" not in third
    run.collector.collect(40, epsilon=0.0)  # which the players had begun for the fourth epoch
    assert len(run.buffer) == 160
    weights = {name: value.clone() for name, value in run.agent.state_dict().items()}
    run.close()
    shard = tmp_path / "shards" / "shard-000-of-001.replay"
    assert not verdict_on(shard).findings

    monkeypatch.setattr("reverie.iris.app.commands.games", lambda name: lights)
    evaluate_run(tmp_path, 1, "cpu")
    assert "after 3 epochs and 120 steps, 1 episode" in capsys.readouterr().out
    assert "imagined" in dream_run(tmp_path, tmp_path / "dream.png", "cpu")
    monkeypatch.setattr("reverie.iris.app.page.games", lambda name: lights)
    assert report_run(tmp_path, tmp_path / "page.html").stat().st_size

    again = Run.resume(tmp_path, lights)
    assert again.collector.team == Team(2)
    assert again.done == 3
    assert len(again.buffer) == 160
    for name, value in again.agent.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert again.epoch()["steps"] == 160
    assert len(again.buffer) == 200  # the steps of the epoch that was not kept are there, too
    again.close()
    with pytest.raises(BadSetting, match=r"wanted 1, as .* was started with, got 2"):
        Run.resume(tmp_path, lights, team=Team(2, 2))
