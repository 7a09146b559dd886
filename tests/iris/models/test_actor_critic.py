"""The actor-critic: sizes, memory, returns, losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reverie import BadSetting
from reverie.iris.config import ActorCriticConfig, ActorCriticLoss, presets
from reverie.iris.models.actor_critic import (
    ActorCritic,
    ActorCriticLosses,
    Judged,
    Memory,
    actor_critic_losses,
    lambda_returns,
    lessons_of,
)

FRAME = (3, 16, 16)
SMALL = ActorCriticConfig(channels=(4, 8), strides=(4, 2), width=16)


def small(**changes: object) -> ActorCritic:
    return ActorCritic(replace(SMALL, **changes), frame=FRAME, actions=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("actions", [3, 18])
def test_the_paper_preset_has_the_published_number_of_parameters(actions: int) -> None:
    """There are 3,215,905 parameters and 513 for every action."""
    network = ActorCritic(presets["paper"].actor_critic, frame=(3, 64, 64), actions=actions)
    assert sum(p.numel() for p in network.parameters()) == 3_215_905 + 513 * actions


def test_an_untrained_policy_is_nearly_uniform() -> None:
    """Its entropy begins near the logarithm of the number of actions."""
    network = ActorCritic(presets["paper"].actor_critic, frame=(3, 64, 64), actions=18)
    judged = network(torch.rand(4, 3, 64, 64), network.initial_memory(4))
    entropy = torch.distributions.Categorical(logits=judged.logits).entropy()
    assert entropy.mean().item() == pytest.approx(torch.tensor(18.0).log().item(), abs=0.02)


def test_careful_heads_begin_undecided_and_without_hope() -> None:
    """The policy is all but uniform and every value is zero."""
    network = small(careful_heads=True, recurrent=False)
    judged = network(torch.rand(5, *FRAME), network.initial_memory(5))
    assert judged.logits.abs().max() < 0.2
    assert torch.equal(judged.value, torch.zeros(5))


def test_unrolling_equals_looking_frame_by_frame() -> None:
    """A whole sequence at once gives the same answers as one frame after the other."""
    network, frames = small(), torch.rand(2, 5, *FRAME)
    memory = Memory(torch.randn(2, 16), torch.randn(2, 16))
    whole = network.unroll(frames, memory)
    for step in range(5):
        one = network(frames[:, step], memory)
        memory = one.memory
        assert torch.allclose(one.logits, whole.logits[:, step], atol=1e-6)
        assert torch.allclose(one.value, whole.value[:, step], atol=1e-6)
    assert torch.allclose(memory.hidden, whole.memory.hidden, atol=1e-6)
    assert torch.allclose(memory.cell, whole.memory.cell, atol=1e-6)


@pytest.mark.parametrize("padding", [0, 1, 4, 6])
def test_padding_on_the_left_leaves_the_memory_untouched(padding: int) -> None:
    """Whatever stands on padding, the memory is that of the true frames alone; all padding leaves zeros."""
    network = small()
    true = torch.rand(2, 6 - padding, *FRAME)
    padded = torch.cat((torch.rand(2, padding, *FRAME), true), 1)
    mask = (torch.arange(6) >= padding).expand(2, 6)
    memory = network.recall(padded, mask)
    alone = network.recall(true, torch.ones(2, 6 - padding, dtype=torch.bool))
    for part, wanted in zip(memory, alone, strict=True):
        assert torch.allclose(part, wanted, atol=1e-6)
        assert bool(part.any()) == (padding < 6)
    assert not memory.hidden.requires_grad


def test_gradient_flows_through_time_and_stops_at_the_memory() -> None:
    """The last frame's value depends on the first frame; what the memory was made of gets no gradient."""
    network = small()
    frames = torch.rand(1, 4, *FRAME, requires_grad=True)
    context = torch.rand(1, 3, *FRAME, requires_grad=True)
    memory = network.recall(context, torch.ones(1, 3, dtype=torch.bool))
    network.unroll(frames, memory).value[0, -1].backward()  # type: ignore[no-untyped-call]
    assert frames.grad is not None
    assert frames.grad[0, 0].abs().sum() > 0
    assert context.grad is None


def test_the_network_without_an_lstm_sees_the_present_alone() -> None:
    """Its answers do not depend on the memory, which stays what it was."""
    network, frames = small(recurrent=False, pooled=False), torch.rand(2, *FRAME)
    zero = network.initial_memory(2)
    other = Memory(torch.randn(2, 16), torch.randn(2, 16))
    assert torch.equal(network(frames, zero).logits, network(frames, other).logits)
    assert torch.equal(network(frames, other).memory.cell, other.cell)


def test_it_computes_in_single_precision_under_autocast() -> None:
    """Inside an autocast region its answers are the same, bit for bit."""
    network, frames = small(), torch.rand(2, *FRAME)
    plain = network(frames, network.initial_memory(2))
    with torch.autocast("cpu", torch.bfloat16):
        inside = network(frames, network.initial_memory(2))
    assert inside.logits.dtype == torch.float32
    assert torch.equal(inside.logits, plain.logits)
    assert torch.equal(inside.memory.cell, plain.memory.cell)


def slow_returns(reward: Tensor, value: Tensor, end: Tensor, gamma: float, lam: float) -> Tensor:
    """λ-returns by their definition: a mixture of all n-step returns, each a sum of its own."""
    batch, steps = reward.shape
    out = torch.zeros(batch, steps, dtype=torch.float64)
    for row in range(batch):
        for start in range(steps):

            def n_step(n: int, row: int = row, start: int = start) -> float:
                total, discount = 0.0, 1.0
                for step in range(start, start + n):
                    total += discount * float(reward[row, step])
                    discount *= gamma
                    if end[row, step]:
                        return total
                return total + discount * float(value[row, start + n])

            last = steps - start
            mixture = sum((1 - lam) * lam ** (n - 1) * n_step(n) for n in range(1, last))
            out[row, start] = mixture + lam ** (last - 1) * n_step(last)
    return out


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lambda_returns_equal_their_definition(lam: float, seed: int) -> None:
    """The backward recursion equals the mixture of all n-step returns, ends included."""
    torch.manual_seed(seed)
    reward, value = torch.randn(6, 7), torch.randn(6, 8)
    end = torch.rand(6, 7) < 0.2
    got = lambda_returns(reward, value, end, gamma=0.9, lam=lam)
    assert torch.allclose(got.double(), slow_returns(reward, value, end, 0.9, lam), atol=1e-5)


def test_lambda_returns_at_their_extremes() -> None:
    """λ = 0 looks one step ahead, λ = 1 sums to the end, and nothing after an end counts."""
    reward, value = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    never = torch.zeros(1, 3, dtype=torch.bool)
    one_step = lambda_returns(reward, value, never, gamma=0.5, lam=0.0)
    assert one_step.tolist() == [[1 + 0.5 * 20, 2 + 0.5 * 30, 4 + 0.5 * 40]]
    summed = lambda_returns(reward, value, never, gamma=0.5, lam=1.0)
    assert summed.tolist() == [[1 + 0.5 * (2 + 0.5 * 24), 2 + 0.5 * 24, 24.0]]
    ended = torch.tensor([[False, True, False]])
    assert lambda_returns(reward, value, ended, gamma=0.5, lam=1.0).tolist() == [[2.0, 2.0, 24.0]]


def game(batch: int = 3, steps: int = 4) -> tuple[Judged, Tensor, Tensor, Tensor]:
    memory = Memory(torch.zeros(batch, 1), torch.zeros(batch, 1))
    judged = Judged(
        torch.randn(batch, steps + 1, 3, requires_grad=True),
        torch.randn(batch, steps + 1, requires_grad=True),
        memory,
    )
    action, reward = torch.randint(3, (batch, steps)), torch.randn(batch, steps)
    return judged, action, reward, torch.zeros(batch, steps, dtype=torch.bool)


def losses_of(
    judged: Judged, action: Tensor, reward: Tensor, end: Tensor, settings: ActorCriticLoss
) -> ActorCriticLosses:
    """Return the losses of the first pass."""
    return actor_critic_losses(judged, lessons_of(judged, action, reward, end, settings), settings)


def test_the_losses_are_the_documented_formulas() -> None:
    """Every term equals its formula, computed here step by step; the advantage is not differentiated."""
    judged, action, reward, end = game()
    end[1, 2] = True
    losses = losses_of(judged, action, reward, end, ActorCriticLoss(gamma=0.9, lam=0.8, entropy=0.1))
    returns = lambda_returns(reward, judged.value, end, gamma=0.9, lam=0.8)
    policy = entropy = value = 0.0
    for row in range(3):
        for step in range(4):
            chance = judged.logits[row, step].softmax(0)
            gap = (returns[row, step] - judged.value[row, step]).item()
            policy -= chance[action[row, step]].log().item() * gap / 12
            entropy -= (chance * chance.log()).sum().item() / 12
            value += gap**2 / 12
    assert losses.policy.item() == pytest.approx(policy, abs=1e-5)
    assert losses.entropy.item() == pytest.approx(entropy, abs=1e-5)
    assert losses.value.item() == pytest.approx(value, abs=1e-5)
    assert losses.total.item() == pytest.approx(policy + value - 0.1 * entropy, abs=1e-5)
    by_policy = torch.autograd.grad(losses.policy, judged.value, retain_graph=True, allow_unused=True)
    assert by_policy == (None,)
    (moved,) = torch.autograd.grad(losses.total, judged.logits, retain_graph=True)
    assert not moved[:, -1].any()  # the last frame only closes the returns
    (moved,) = torch.autograd.grad(losses.total, judged.value)
    assert torch.allclose(moved[:, :-1], 2 * (judged.value[:, :-1] - returns).detach() / 12, atol=1e-6)
    assert not moved[:, -1].any()


def test_steps_after_an_imagined_end_count_only_as_published() -> None:
    """Masked, nothing after the end matters, and the step that ends still does; unmasked, all steps matter."""
    judged, action, reward, end = game()
    end[:, 1] = True
    for masked in (False, True):
        settings = ActorCriticLoss(mask_after_end=masked)
        losses = losses_of(judged, action, reward, end, settings)
        (moved,) = torch.autograd.grad(losses.total, judged.logits, retain_graph=True)
        moves = moved.abs().sum((0, 2)) > 0
        assert moves.tolist() == [True, True, not masked, not masked, False]
    (alone,) = torch.autograd.grad(
        losses_of(
            Judged(judged.logits[:, :3], judged.value[:, :3], judged.memory), action[:, :2], reward[:, :2],
            end[:, :2], settings,
        ).total,
        judged.logits,
    )  # fmt: skip
    assert torch.allclose(moved, alone, atol=1e-6)


def test_scaled_advantages_do_not_depend_on_the_size_of_rewards() -> None:
    """Rewards and values a hundred times as large give the same policy loss."""
    judged, action, reward, end = game()
    settings = ActorCriticLoss(scaled_advantages=True)
    larger = Judged(judged.logits, 100 * judged.value, judged.memory)
    plain = Judged(judged.logits, 10 * judged.value, judged.memory)
    small_loss = losses_of(plain, action, 10 * reward, end, settings).policy
    large_loss = losses_of(larger, action, 100 * reward, end, settings).policy
    assert large_loss.item() == pytest.approx(small_loss.item(), rel=1e-3)


def test_a_later_pass_does_not_move_what_has_moved_far_enough() -> None:
    """A ratio beyond 1 ± 0.2 in the advantage's direction has no gradient; the other way it has, and so within."""
    action, reward = torch.zeros(1, 6, dtype=torch.int64), torch.tensor([[2.0, 1, 1, -1, -1, -1]])
    settings = ActorCriticLoss(gamma=0.0, clip_ratio=0.2)
    memory = Memory(torch.zeros(1, 1), torch.zeros(1, 1))
    before = Judged(torch.zeros(1, 7, 2), torch.zeros(1, 7), memory)
    lessons = lessons_of(before, action, reward, torch.zeros(1, 6, dtype=torch.bool), settings)
    ratio = torch.tensor([1.3, 0.7, 1.1, 0.7, 1.3, 0.9])
    chance = torch.cat((0.5 * ratio, torch.tensor([0.5])))  # of the action, which had 0.5
    logits = torch.stack((chance.log(), (1 - chance).log()), 1)[None].requires_grad_()
    losses = actor_critic_losses(Judged(logits, torch.zeros(1, 7), memory), lessons, settings, again=True)
    assert losses.policy.item() == pytest.approx(-(2.4 + 0.7 + 1.1 - 0.8 - 1.3 - 0.9) / 6)
    (moved,) = torch.autograd.grad(losses.policy, logits)
    assert (moved[0, :6].abs().sum(1) > 0).tolist() == [False, True, True, False, True, True]


def test_a_later_pass_over_an_unchanged_policy_has_the_gradient_of_the_first() -> None:
    """Where nothing has moved yet, the ratio is 1 and both terms have the same gradient."""
    judged, action, reward, end = game()
    settings = ActorCriticLoss()
    lessons = lessons_of(judged, action, reward, end, settings)
    first, later = (
        torch.autograd.grad(
            actor_critic_losses(judged, lessons, settings, again=again).total,
            judged.logits,
            retain_graph=True,
        )[0]
        for again in (False, True)
    )
    assert torch.allclose(first, later, atol=1e-6)
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ActorCriticConfig(strides=(2, 2)), "one for each of the 4 channels"),
        (lambda: ActorCriticConfig(width=0), "width: wanted at least 1"),
        (lambda: ActorCriticLoss(gamma=1.5), "gamma: wanted a number in 0..1"),
        (lambda: ActorCriticLoss(horizon=1), "horizon: wanted at least 2"),
        (lambda: ActorCriticLoss(passes=0), "passes: wanted at least 1"),
        (lambda: ActorCriticLoss(clip_ratio=1.5), "clip_ratio: wanted a number in 0..1"),
        (lambda: ActorCriticLoss(reward="clipped"), "wanted one of"),  # type: ignore[arg-type]
        (lambda: small(strides=(8, 4)), "something left"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: object, message: str) -> None:
    """They are refused when they are given, with a remedy."""
    with pytest.raises(BadSetting, match=message):
        wrong()  # type: ignore[operator]
