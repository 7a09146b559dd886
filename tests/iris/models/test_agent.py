"""The whole agent: what it imagines, from which frames, with whose weights, and what learning from it moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reverie import BadSetting, Field, ReplayBuffer, StepSpec
from reverie.iris.config import ActorCriticLoss, Config, Optimisation, presets
from reverie.iris.learning.train import History, new_optimiser, train_actor_critic
from reverie.iris.models.agent import Agent, Imagine
from reverie.iris.models.transformer import Cache

PAPER = presets["paper"]


def some_frames(batch: int = 3, length: int = 4) -> tuple[Tensor, Tensor]:
    """Frames of 16×16 and a mask with 0, 1, 2, … frames of padding on the left."""
    mask = torch.arange(length) >= torch.arange(batch).clamp(max=length - 1).unsqueeze(1)
    return torch.rand(batch, length, 3, 16, 16), mask


@pytest.fixture
def buffer() -> ReplayBuffer:
    """Six episodes of ten steps."""
    buffer = ReplayBuffer(StepSpec(Field((3, 16, 16), "uint8"), Field((), "int64")), 60, seed=0)
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), np.uint8)
    for step in range(60):
        buffer.add(obs=frames[step], action=step % 3, reward=0.0, terminated=step % 10 == 9, truncated=False)
    return buffer


def test_the_paper_preset_has_three_parts_of_the_published_sizes() -> None:
    """Tokenizer, world model and actor-critic together, for any number of actions."""
    agent = Agent(PAPER, num_actions=4)
    sizes = [
        sum(p.numel() for p in part.parameters())
        for part in (agent.tokenizer, agent.world_model, agent.actor_critic)
    ]
    assert sizes == [4_027_523, 8_446_469 + 256 * 4, 3_215_905 + 513 * 4]


def test_the_published_horizon_never_makes_the_world_model_forget(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty frames fit into twenty blocks; a context is cleared once, at the start, and again only beyond."""
    cleared: list[int] = []
    clear = Cache.clear
    monkeypatch.setattr(Cache, "clear", lambda cache: (cleared.append(cache.size), clear(cache))[1])
    assert PAPER.actor_critic_loss.horizon == PAPER.world_model.blocks
    frames, mask = some_frames()
    for horizon, clearings in ((6, 1), (7, 2)):
        agent.config = replace(agent.config, actor_critic_loss=ActorCriticLoss(horizon=horizon, burn_in=3))
        cleared.clear()
        agent.imagine(frames, mask)
        assert len(cleared) == clearings, horizon


def test_what_is_imagined_equals_the_game_played_without_any_cache(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame for frame, with the likeliest of everything, it equals a plain loop over whole sequences."""
    for module in ("reverie.iris.models.agent", "reverie.iris.models.imagination"):
        monkeypatch.setattr(f"{module}.draw", lambda logits, *_: logits.argmax(1))
    frames, mask = some_frames()
    played = agent.imagine(frames, mask)
    for row in range(3):
        context = agent.tokenizer.encode_decode(frames[row : row + 1, :-1][:, mask[row, :-1]])
        memory = agent.actor_critic.initial_memory(1)
        for frame in context[0]:
            memory = agent.actor_critic(frame[None], memory).memory
        sequence = agent.tokenizer.encode(frames[row : row + 1, -1]).tokens
        for step in range(4):
            shown = agent.tokenizer.decode_tokens(sequence[:, -4:])
            assert torch.allclose(played.frames[row, step], shown[0], atol=1e-4)
            if step == 3:
                break
            logits, _, memory = agent.actor_critic(shown, memory)
            sequence = torch.cat((sequence, logits.argmax(1, keepdim=True)), 1)
            predicted = agent.world_model(sequence)
            assert played.action[row, step] == sequence[0, -1]
            assert played.reward[row, step] == predicted.reward[0, -1].argmax() - 1
            assert played.end[row, step] == predicted.end[0, -1].argmax()
            for _ in range(4):
                token = agent.world_model(sequence).observation[:, -1].argmax(1, keepdim=True)
                sequence = torch.cat((sequence, token), 1)


def test_the_world_model_sees_the_last_real_frame_alone(agent: Agent) -> None:
    """Other context changes the memory and not the first frame; padding changes nothing at all."""
    frames, mask = some_frames(2)
    changed = frames.clone()
    changed[:, 0] = torch.rand(2, 3, 16, 16)
    torch.manual_seed(5)
    one = agent.imagine(frames, mask)
    torch.manual_seed(5)
    other = agent.imagine(changed, mask)
    assert torch.equal(one.frames[:, 0], other.frames[:, 0])
    assert not torch.equal(one.memory.cell[0], other.memory.cell[0])
    assert torch.equal(one.memory.cell[1], other.memory.cell[1])  # the second row's first frame is padding


def test_memory_comes_from_reconstructions_under_the_present_weights(agent: Agent) -> None:
    """It is what the actor-critic makes of decoded frames, and it changes when any weight on the way does."""
    frames, mask = some_frames(2, 3)
    before = agent.recall(frames, mask)
    shown = agent.tokenizer.encode_decode(frames)
    assert torch.equal(before.cell, agent.actor_critic.recall(shown, mask).cell)
    assert not torch.allclose(before.cell, agent.actor_critic.recall(frames, mask).cell)
    for part in (agent.actor_critic, agent.tokenizer.decoder):
        with torch.no_grad():
            next(part.parameters()).add_(0.3)
        after = agent.recall(frames, mask)
        assert not torch.allclose(before.cell, after.cell)
        before = after


def test_judging_again_gives_the_logits_that_the_actions_were_drawn_from(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look, with gradient, starts from the same memory and sees the same frames."""
    drawn: list[Tensor] = []

    def spy(logits: Tensor, *_: object) -> Tensor:
        drawn.append(logits)
        return logits.argmax(1)

    monkeypatch.setattr("reverie.iris.models.agent.draw", spy)
    played = agent.imagine(*some_frames())
    judged = agent.actor_critic.unroll(played.frames, played.memory)
    assert torch.allclose(judged.logits[:, :-1], torch.stack(drawn, 1), atol=1e-6)
    assert judged.logits.requires_grad
    assert not played.frames.requires_grad


def test_imagining_never_waits_for_the_device(config: Config) -> None:
    """On tensors without contents, where any look at a number fails, a whole rollout goes through."""
    agent = Agent(config, 3).to("meta")
    frames, mask = some_frames()
    played = Imagine(agent)((255 * frames).byte().to("meta"), mask.to("meta"))
    assert played.frames.shape == (3, 4, 3, 16, 16)
    assert played.end.shape == (3, 3)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(played.end.any())  # what the test above would not survive


def test_batches_of_other_sizes_may_come_between(agent: Agent) -> None:
    """A rollout does not depend on what was imagined before, of whatever size."""
    frames, mask = some_frames()

    game = agent.new_game()

    def play(batch: int) -> Tensor:
        torch.manual_seed(3)
        return agent.imagine(frames[:batch], mask[:batch], game).frames

    first = play(3)
    play(1)
    assert torch.equal(play(3), first)


def test_expected_rewards_are_the_mean_of_sampled_ones(agent: Agent) -> None:
    """They lie between -1 and 1 and equal the average of many draws."""
    settings = agent.config.actor_critic_loss
    start = torch.rand(1, 1, 3, 16, 16).expand(2000, 1, 3, 16, 16)
    mask = torch.ones(2000, 1, dtype=torch.bool)
    means = []
    for reward in ("sampled", "expected"):
        loss = replace(settings, reward=reward, horizon=2)  # type: ignore[arg-type]
        agent.config = replace(agent.config, actor_critic_loss=loss)
        means.append(agent.imagine(start, mask).reward)
    assert set(means[0].flatten().tolist()) == {-1.0, 0.0, 1.0}
    assert means[1].unique().numel() <= 3  # one for each action
    assert means[0].mean().item() == pytest.approx(means[1].mean().item(), abs=0.06)


def test_learning_from_dreams_moves_the_actor_critic_alone(agent: Agent, buffer: ReplayBuffer) -> None:
    """Not a weight of tokenizer or world model moves or gets a gradient, and dropout is off throughout."""
    imagine = Imagine(agent)
    agent.train()  # after the dreamer was made
    seen: list[bool] = []
    agent.world_model.drop.register_forward_hook(lambda module, *_: seen.append(module.training))
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    history = History()
    for progress in train_actor_critic(
        agent, buffer, Optimisation(steps=2, batch_size=4, learning_rate=0.01), imagine=imagine
    ):
        history.add(progress)
    moved = Counter(
        name.partition(".")[0]
        for name, value in agent.state_dict().items()
        if not torch.equal(value, before[name])
    )
    assert set(moved) == {"actor_critic"}
    assert moved["actor_critic"] == len(list(agent.actor_critic.parameters()))
    for part in (agent.tokenizer, agent.world_model):
        assert all(parameter.grad is None for parameter in part.parameters())
        assert all(not module.training for module in part.modules())
    assert seen
    assert not any(seen)
    assert set(history.losses) >= {"policy", "value", "entropy", "mean_value", "mean_reward"}


@pytest.mark.parametrize(("passes", "steps"), [(1, 30), (3, 12)])
def test_the_policy_learns_what_the_world_model_rewards(
    agent: Agent, buffer: ReplayBuffer, passes: int, steps: int
) -> None:
    """Where the world model pays for the second action alone, the policy comes to take it; sooner in several passes."""
    loss = replace(agent.config.actor_critic_loss, passes=passes)
    agent.config = replace(agent.config, actor_critic_loss=loss)
    head = agent.world_model.reward_head
    actions = agent.world_model.action_tokens.weight.data
    with torch.no_grad():
        for parameter in agent.world_model.transformer.parameters():
            parameter.mul_(0.05)  # what was read is mostly what stands there
        agent.world_model.transformer.norm.weight.fill_(1.0)
        actions[...] = torch.nn.functional.one_hot(torch.arange(3), 32) * 20.0
        for layer, weight in ((head[0], torch.eye(32)), (head[2], torch.zeros(3, 32))):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(weight)
            layer.bias.zero_()
        assert isinstance(head[2], nn.Linear)
        head[2].weight[2, 1] = 10.0
    settings = Optimisation(steps=steps, batch_size=16, learning_rate=0.01)
    history, optimiser = History(), new_optimiser(agent.actor_critic, settings)
    for progress in train_actor_critic(agent, buffer, settings, optimiser=optimiser):
        history.add(progress)
    assert history.recent("mean_reward", 3) > 0.8 > history.losses["mean_reward"][0]
    assert optimiser.state[agent.actor_critic.actor.weight]["step"] == passes * steps


@pytest.mark.parametrize("part", ["tokenizer", "world_model"])
def test_half_precision_gives_the_same_tokens_in_every_phase(config: Config, part: str) -> None:
    """Training, use and an outer autocast region agree on tokens; logits and frames stay float32."""
    settings = replace(config, **{part: replace(getattr(config, part), precision="bfloat16")})  # type: ignore[arg-type]
    agent = Agent(settings, 3)
    frames = torch.rand(8, 3, 16, 16)
    tokens = agent.tokenizer.train().encode(frames).tokens
    assert torch.equal(agent.tokenizer.eval().encode(frames).tokens, tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=False), torch.no_grad():
        assert torch.equal(agent.tokenizer.encode(frames).tokens, tokens)
    assert agent.tokenizer.decode_tokens(tokens).dtype == torch.float32
    assert agent.world_model(tokens).observation.dtype == torch.float32
    played = agent.eval().imagine(*some_frames())
    assert played.frames.dtype == played.reward.dtype == torch.float32


def test_a_rollout_is_captured_only_on_an_accelerator(agent: Agent) -> None:
    """Asking for it elsewhere is refused with the remedy."""
    with pytest.raises(BadSetting, match="switch it off"):
        Imagine(agent, captured=True)
