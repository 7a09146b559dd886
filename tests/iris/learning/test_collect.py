"""Playing: what reaches the replay, whose weights and which frames the policy acts with, and fair tests."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import reverie
from reverie import BadSetting, Field, ReplayBuffer, Shuffled, StepSpec
from reverie.iris.config import ActorCriticLoss
from reverie.iris.learning.collect import Collector, Played, evaluate
from reverie.iris.learning.games import Lane
from reverie.iris.learning.train import to_frames
from reverie.iris.models.agent import Agent
from support.games import FromOne, Lights, Wandering

SPEC = StepSpec(Field((3, 16, 16), "uint8"), Field((), "int64"))


def start(agent: Agent, games: int = 2, **shape: int) -> tuple[Collector, ReplayBuffer, list[Lights]]:
    buffer = ReplayBuffer(SPEC, 400 * games, streams=games, seed=0)
    lights = [Lights(**shape) for _ in range(games)]
    return Collector(agent, lights, buffer, seed=7), buffer, lights


def stored(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """Every step of the buffer, in the order of streams and ids."""
    batch = buffer.sample(len(buffer), 1, boundary="pad_right", sampler=Shuffled())
    order = np.lexsort((batch.anchor, batch.stream))
    columns = {name: getattr(batch, name)[order] for name in ("obs", "action", "reward", "terminated")}
    return {name: column[:, 0] for name, column in columns.items()}


def test_a_lost_life_ends_the_episode_and_not_the_game(agent: Agent) -> None:
    """Episodes are lives; a new game, with a seed of its own, begins only when the last life is lost."""
    collector, buffer, lights = start(agent, life=5, lives=2)
    played = collector.collect(46, epsilon=0.0)
    assert played.lengths == (5,) * 8
    assert [game.resets for game in lights] == [5, 5]
    seeds = [seed for game in lights for seed in game.seeds]
    assert len(set(seeds)) == len(seeds) == 6
    assert buffer.episodes["ended"].tolist().count("terminated") == 8
    steps = stored(buffer)
    assert steps["terminated"].reshape(2, 23)[0].nonzero()[0].tolist() == [4, 9, 14, 19]
    assert steps["obs"][:23, 0, 8, 8].tolist() == [20 * (step % 5) for step in range(23)]
    assert played.returns == tuple(
        steps["reward"].reshape(2, 23)[lane, 5 * n : 5 * n + 5].sum() for n in range(4) for lane in range(2)
    )


def test_episodes_grow_from_call_to_call(agent: Agent) -> None:
    """A call that ends within an episode leaves it running; the next one goes on with it."""
    collector, buffer, _ = start(agent, games=1, life=9, lives=1)
    assert collector.collect(4, epsilon=0.0).lengths == ()
    assert buffer.episodes["length"].tolist() == [4]
    assert collector.collect(7, epsilon=0.0).lengths == (9,)
    assert buffer.episodes["length"].tolist() == [9, 2]
    assert buffer.episodes["ended"].tolist() == ["terminated", "running"]


def test_each_call_rebuilds_the_memory_with_the_present_weights(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first memory of a call is what the newest frames of the episode leave behind now, at most `burn_in`."""
    collector, buffer, _ = start(agent, games=1, life=50, lives=1)
    memories = []
    look = Agent.look

    def spy(self: Agent, frames: torch.Tensor, memory: object) -> object:
        memories.append(memory)
        return look(self, frames, memory)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "look", spy)
    for steps, known in ((2, 0), (3, 2), (1, 3)):  # burn_in is 3
        memories.clear()
        with torch.no_grad():
            agent.actor_critic.actor.bias.add_(0.1)
            next(agent.actor_critic.parameters()).mul_(1.1)
        frames = to_frames(
            stored(buffer)["obs"][-known:] if known else np.zeros((0, 3, 16, 16), np.uint8), agent.device
        )
        wanted = agent.recall(frames[None], torch.ones(1, len(frames), dtype=torch.bool))
        collector.collect(steps, epsilon=0.0)
        assert torch.allclose(memories[0].cell, wanted.cell, atol=1e-6)  # type: ignore[attr-defined]
        assert len(memories) == steps


def test_memory_is_forgotten_at_an_end_and_only_there(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an end the memory begins with zeros, within a call and between two."""
    zeros = []
    look = Agent.look

    def spy(self: Agent, frames: torch.Tensor, memory: object) -> object:
        zeros.append(not memory.cell.any())  # type: ignore[attr-defined]
        return look(self, frames, memory)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "look", spy)
    one, _, _ = start(agent, games=1, life=3, lives=1)
    one.collect(7, epsilon=0.0)
    assert zeros == [True, False, False, True, False, False, True]
    one, _, _ = start(agent, life=3, lives=1)
    one.collect(6, epsilon=0.0)
    assert one._known.tolist() == [0, 0]
    assert not one._remembered().cell.any()
    one.collect(2, epsilon=0.0)
    assert one._known.tolist() == [1, 1]
    assert one._remembered().cell.any()


def test_the_policy_sees_reconstructions(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that the tokenizer cannot tell apart lead to the same actions."""
    monkeypatch.setattr(type(agent.tokenizer), "encode_decode", lambda self, frames: torch.zeros_like(frames))
    memory = agent.actor_critic.initial_memory(2)
    seen = agent.look(torch.rand(2, 3, 16, 16), memory)
    blind = agent.actor_critic(torch.zeros(2, 3, 16, 16), memory)
    assert torch.equal(seen.logits, blind.logits)


def test_random_play_replaces_all_actions_of_a_step(agent: Agent) -> None:
    """With a policy that only knows one action, epsilon tells how often anything else happens, for all at once."""
    with torch.no_grad():
        agent.actor_critic.actor.bias[:] = torch.tensor([0.0, 100.0, 0.0])
    collector, buffer, _ = start(agent, games=4)
    collector.collect(800, epsilon=0.25)
    action = stored(buffer)["action"].reshape(4, 200)
    at_random = (action != 1).any(0)
    assert at_random.mean() == pytest.approx(0.25 * (1 - 1 / 81), abs=0.08)
    assert (action[:, at_random] != 1).mean() == pytest.approx(2 / 3, abs=0.1)
    collector.collect(40, epsilon=0.0)
    assert (stored(buffer)["action"].reshape(4, -1)[:, -10:] == 1).all()


def test_random_actions_may_be_held(agent: Agent) -> None:
    """With `random_stretch` each game plays at random by itself, and holds an action for one to so many steps."""
    held = replace(agent.config.collection, random_stretch=4)
    agent.config = replace(agent.config, collection=held)
    with torch.no_grad():
        agent.actor_critic.actor.bias[:] = torch.tensor([0.0, 100.0, 0.0])
    collector, buffer, _ = start(agent, games=4, life=1000, lives=1)
    collector.collect(1600, epsilon=0.05)
    action = stored(buffer)["action"].reshape(4, 400)
    assert (action != 1).mean() == pytest.approx(2 / 3 * 2.5 / (2.5 + 1 / 0.05 - 1), abs=0.03)
    assert ((action != 1).any(0) & (action == 1).any(0)).sum() > 0.9 * (action != 1).any(0).sum()
    lengths = [len(list(same)) for row in action for kind, same in groupby(row) if kind != 1]
    assert set(lengths) >= {1, 2, 3, 4}
    assert np.mean(np.array(lengths) <= 4) > 0.9  # two stretches may follow each other
    assert np.mean(lengths) == pytest.approx(2.5, abs=0.4)


def test_some_games_may_be_calm(agent: Agent) -> None:
    """With `calm_share` these play by the policy alone, and the others from a quarter to four times as often at random."""
    changed = replace(agent.config.collection, random_stretch=1, calm_share=0.5)
    assert changed.chances(0.1, 6) == pytest.approx([0, 0, 0, 0.025, 0.1, 0.4])
    assert changed.chances(0.5, 4) == pytest.approx([0, 0, 0.125, 1])  # no chance above 1
    assert changed.chances(0.1, 1) == pytest.approx([0.025])
    assert changed.chances(1.0, 3) == [1, 1, 1]  # an epoch of random play has no calm games
    assert replace(changed, calm_share=0.0).chances(0.1, 3) == [0.1, 0.1, 0.1]
    agent.config = replace(agent.config, collection=changed)
    with torch.no_grad():
        agent.actor_critic.actor.bias[:] = torch.tensor([0.0, 100.0, 0.0])
    collector, buffer, _ = start(agent, games=4, life=1000, lives=1)
    collector.collect(1600, epsilon=0.1)
    at_random = (stored(buffer)["action"].reshape(4, 400) != 1).mean(1)
    assert at_random.tolist() == pytest.approx([0, 0, 2 / 3 * 0.025, 2 / 3 * 0.4], abs=0.03)


def test_a_held_action_ends_with_its_episode(agent: Agent) -> None:
    """A new episode begins with a new draw."""
    agent.config = replace(agent.config, collection=replace(agent.config.collection, random_stretch=100))
    first, buffer, _ = start(agent, games=3, life=6, lives=1)
    first.collect(90, epsilon=1.0)
    lives = stored(buffer)["action"].reshape(3 * 5, 6)
    assert all(len(set(life)) <= 2 for life in lives.tolist())  # few stretches are that short
    assert len({life[0] for life in lives.tolist()}) == 3


def test_temperature_sharpens_the_policy(agent: Agent) -> None:
    """At temperature 0 the likeliest action is taken every time; at 1 all of them are."""
    for temperature, kinds in ((0.0, 1), (1.0, 3)):
        collector, buffer, _ = start(agent)
        agent.actor_critic.actor.weight.data.zero_()
        collector.collect(60, epsilon=0.0, temperature=temperature)
        assert len(set(stored(buffer)["action"].tolist())) == kinds


@pytest.mark.parametrize("stretch", [None, 5])
def test_a_saved_collector_goes_on_exactly(agent: Agent, tmp_path: Path, stretch: int | None) -> None:
    """Loaded into fresh games it plays, step for step, what the saved one plays next, lives and chance included."""
    agent.config = replace(agent.config, collection=replace(agent.config.collection, random_stretch=stretch))
    first, buffer, _ = start(agent, life=7, lives=3)
    first.collect(34, epsilon=0.5)  # amid the third life
    state = first.save()
    buffer.save_as(tmp_path / "replay")
    torch.manual_seed(1)
    played = first.collect(100, epsilon=0.5)
    with reverie.open(tmp_path / "replay", episodes="continue") as copy:
        other = Collector(agent, [Lights(life=7, lives=3) for _ in range(2)], copy, seed=7)
        assert other.load(*state) == []
        torch.manual_seed(1)
        assert other.collect(100, epsilon=0.5) == played
        wanted, got = stored(buffer), stored(copy)
        for name, column in got.items():
            np.testing.assert_array_equal(column, wanted[name])
        assert copy.episodes.tolist() == buffer.episodes.tolist()


@pytest.mark.parametrize("strays", ["its frames", "its replay"])
def test_an_episode_goes_on_only_where_its_game_and_its_replay_agree(
    agent: Agent, tmp_path: Path, strays: str
) -> None:
    """A game that shows other frames than before, or of which the replay lacks steps, is cut and begins anew."""
    buffer = ReplayBuffer(SPEC, 800, streams=2, seed=0)
    chance = np.random.default_rng(0)
    games = [Lights(life=7, lives=2), Wandering(chance, life=7, lives=2)]
    first = Collector(agent, games, buffer, seed=7)
    first.collect(18, epsilon=0.0)  # amid the second life of both
    state = first.save()
    if strays == "its replay":
        first.collect(2, epsilon=0.0)
    buffer.save_as(tmp_path / "replay")
    with reverie.open(tmp_path / "replay", episodes="continue") as copy:
        again = [Lights(life=7, lives=2), Wandering(chance, life=7, lives=2)]
        other = Collector(agent, again, copy, seed=7)
        cut = [1] if strays == "its frames" else [0, 1]
        assert other.load(*state) == cut
        ended = {0: "running", 1: "running"} | dict.fromkeys(cut, "cut")
        assert {e["stream"]: e["ended"] for e in copy.episodes if e["start"] == 7} == ended
        played = other.collect(40, epsilon=0.0)
        assert played.lengths == (7,) * (6 - len(cut))  # of the cut episode nothing is counted
        windows = copy.sample(500, 3)
        assert (windows.obs[:, :, 1, 8, 8] == windows.obs[:, :1, 1, 8, 8])[windows.stream == 1].all()
        bright = windows.obs[:, :, 0, 8, 8].astype(int)
        assert (np.diff(bright)[windows.obs_mask[:, 1:]] == 20).all()


@pytest.mark.parametrize("where", ["step", "reset", "add_batch", "on_step"])
def test_a_call_that_breaks_off_leaves_no_jump(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ctrl-C amid a step, which one game has played and another not, cuts what runs; between two steps it does not."""
    collector, buffer, lights = start(agent, games=3, life=7, lives=2)
    collector.collect(12, epsilon=0.0)
    calls = []

    def breaking(real: Any) -> Any:
        def broken(*args: object, **named: object) -> object:
            came = real(*args, **named)
            calls.append(where)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return came

        return broken

    with monkeypatch.context() as patched:
        if where == "add_batch":
            patched.setattr(buffer, where, breaking(buffer.add_batch))
        elif where != "on_step":
            patched.setattr(lights[1], where, breaking(getattr(lights[1], where)))
        with pytest.raises(KeyboardInterrupt):
            collector.collect(
                300, epsilon=0.0, on_step=breaking(lambda done: None) if where == "on_step" else None
            )
    played = collector.collect(60, epsilon=0.0)
    assert set(played.lengths) == {7}
    assert ("cut" in buffer.episodes["ended"]) == (where in ("step", "add_batch"))
    windows = buffer.sample(500, 3)
    bright = windows.obs[:, :, 0, 8, 8].astype(int)
    assert (np.diff(bright)[windows.obs_mask[:, 1:]] == 20).all()


def test_an_interrupted_call_can_be_saved(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved after an interruption amid a step is cut there, and goes on as it was saved."""
    collector, buffer, lights = start(agent, games=2, life=7, lives=2)
    collector.collect(6, epsilon=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(lights[1], "step", lambda action: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            collector.collect(2, epsilon=0.0)
    state = collector.save()
    buffer.save_as(tmp_path / "replay")
    with reverie.open(tmp_path / "replay", episodes="continue") as copy:
        other = Collector(agent, [Lights(life=7, lives=2) for _ in range(2)], copy, seed=7)
        assert other.load(*state) == []
        assert other.collect(20, epsilon=0.0).lengths == (7, 7)
        assert copy.episodes["ended"].tolist() == [
            "cut",
            "cut",
            "terminated",
            "terminated",
            "running",
            "running",
        ]


def test_a_game_that_ends_elsewhere_is_another_game() -> None:
    """Played again, a game whose lives are shorter is not where it was, though it shows frames like before."""
    lane = Lane(Lights(life=9, lives=1), (3, 0, 0))
    for _ in range(5):
        lane.step(1)
    state = lane.save()
    assert Lane(Lights(life=9, lives=1), (3, 0, 0)).load(state)
    assert not Lane(Lights(life=4, lives=1), (3, 0, 0)).load(state)
    assert not Lane(Lights(life=9, lives=1), (3, 0, 1)).load(state)
    assert not Lane(Lights(life=9, lives=1), (3, 0, 0)).load({**state, "actions": state["actions"][:-1]})


def test_actions_may_begin_with_any_number(agent: Agent) -> None:
    """A game with the actions 1 to 3 is played, put back and tested like one with 0 to 2; the replay holds 0 to 2."""
    actions, asked = [], []
    for kind in (Lights, FromOne):
        buffer = ReplayBuffer(SPEC, 800, streams=2, seed=0)
        games = [kind(life=7, lives=2) for _ in range(2)]
        torch.manual_seed(5)
        collector = Collector(agent, games, buffer, seed=7)
        collector.collect(60, epsilon=0.5)
        actions.append(stored(buffer)["action"].tolist())
        asked += [game.asked for game in games if isinstance(game, FromOne)]
        lane = Lane(kind(life=7, lives=2), (7, 0, 0))
        assert lane.load(collector.lanes[0].save())
        actions[-1].append(evaluate(agent, games, episodes=4, temperature=1.0, seed=0))
    assert actions[0] == actions[1]
    stored_actions = np.array(actions[1][:-1]).reshape(2, 30)
    for lane, its in enumerate(asked):
        np.testing.assert_array_equal(np.array(its[:30]) - 1, stored_actions[lane])


def test_a_lane_plays_every_game_with_a_seed_of_its_own() -> None:
    """Seeds depend on the lane and on how many games it has begun."""
    seeds = []
    for lane in range(2):
        game = Lights(life=1, lives=1)
        playing = Lane(game, (3, 0, lane))
        for _ in range(3):
            playing.step(0)
            playing.next_episode()
        seeds += game.seeds
    assert len(set(seeds)) == 8


def test_every_game_of_a_test_plays_its_share(agent: Agent) -> None:
    """Long games count as often as short ones, although the short ones would end sooner."""
    agent = Agent(agent.config, 3)
    games = [Lights(life=2, lives=1), Lights(life=30, lives=1)]
    played = evaluate(agent, games, episodes=5, temperature=1.0, seed=0)
    assert sorted(played.lengths) == [2, 2, 2, 30, 30]
    assert games[0].resets == 4  # the one after the last game is begun and not played


def test_a_test_is_fixed_by_its_seed_and_leaves_training_alone(agent: Agent) -> None:
    """The same seed gives the same games; PyTorch's generator is not touched; long games are broken off."""

    def play(seed: int) -> Played:
        return evaluate(
            agent,
            [Lights(life=20, lives=1), Lights(life=20, lives=1)],
            episodes=4,
            temperature=0.7,
            seed=seed,
        )

    before = torch.get_rng_state()
    assert play(0) == play(0)
    assert play(0) != play(1)
    assert torch.equal(torch.get_rng_state(), before)
    short = evaluate(agent, [Lights(life=20)], episodes=2, temperature=1.0, seed=0, max_steps=6)
    assert short.lengths == (6, 6)


def test_what_cannot_be_played_is_refused(agent: Agent) -> None:
    """Streams that do not match, uneven steps, and a test without games name the remedy."""
    buffer = ReplayBuffer(SPEC, 100, streams=1)
    with pytest.raises(BadSetting, match="streams=2"):
        Collector(agent, [Lights(), Lights()], buffer, seed=0)
    with pytest.raises(BadSetting, match="multiple of the 2 games"):
        start(agent)[0].collect(3, epsilon=0.0)
    with pytest.raises(BadSetting, match="at least 1"):
        evaluate(agent, [Lights()], episodes=0, temperature=1.0, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_space": SimpleNamespace(shape=(2,), low=-1.0)}, "wanted a Discrete action space"),
        ({"action_space": SimpleNamespace(n=3, shape=(3,))}, "wanted a Discrete action space"),  # MultiBinary
        ({"action_space": SimpleNamespace(n=5)}, "wanted the 3 actions that the agent knows, got 5"),
        (
            {"_frame": lambda: {"camera": np.zeros((3, 16, 16), np.uint8)}},
            "one array as its observation, got a dict",
        ),
        ({"_frame": lambda: np.zeros((1, 16, 16), np.uint8)}, r"shaped \(3, 16, 16\) .* got \(1, 16, 16\)"),
        ({"_frame": lambda: np.zeros((3, 16, 16), np.float32)}, "got .* of dtype float32"),
    ],
)
def test_games_that_the_agent_cannot_play_are_refused(
    agent: Agent, change: dict[str, object], message: str
) -> None:
    """Other frames, other actions and other kinds of spaces are told before the first step, also in a test."""
    game = Lights()
    for name, value in change.items():
        setattr(game, name, value)
    with pytest.raises(BadSetting, match=message):
        Collector(agent, [game], ReplayBuffer(SPEC, 100), seed=0)
    with pytest.raises(BadSetting, match=message):
        evaluate(agent, [game], episodes=1, temperature=1.0, seed=0)


def test_a_policy_without_memory_needs_no_context(agent: Agent) -> None:
    """With burn_in = 0 nothing is kept between calls."""
    agent.config = replace(agent.config, actor_critic_loss=ActorCriticLoss(horizon=4, burn_in=0))
    collector, _, _ = start(agent)
    collector.collect(10, epsilon=0.0)
    assert collector._recent.size == 0
    collector.collect(10, epsilon=0.0)
